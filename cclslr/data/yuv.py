"""From the YUV 4:2:0 planes of a decoded frame straight to an augmented RGB view: one fused pass over the rows.

A view is linear in the planes: bilinear resampling of the crop, then one 3x4 matrix that composes YUV to RGB with the
colour jitter. So the planes are never turned into an RGB frame. For each row of the crop (1 to 3) and of the view (4):

1. chroma: what a sample adds to R, G and B, once for the two rows of luma that share it;
2. luma: what it adds, and the chroma of each two pixels; a pixel is four int16 (R, G, B, unused);
3. resample horizontally: two neighbouring source pixels are one 16-byte load; the row is kept for the next output row;
4. blend two such rows, clamp to uint8, drop the unused channel.

What made it fast: all four steps in explicit vectors of 16-bit integers (vectors.py), where LLVM finds none or wider
ones; horizontal before vertical, so that steps 1 to 3 are done once a source row, of which a crop has fewer than the
view it fills; weights of rows from the nearer one on, which fit 16 bits.

Chroma siting. H.264, HEVC: a chroma sample stands for its 2x2 pixels, as in libswscale's conversion of yuv420p. JPEG,
VP9: the triangle filter of libjpeg ("fancy upsampling") and of DALI's decoders, 3/4 of the nearer and 1/4 of the
farther sample, exact in both axes. Colours outside 0..255 are clamped once, after the jitter; a decoder that makes RGB
first also clamps before it.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numba import carray, float32, njit

from cclslr.codecs.avcodec import FORMATS, NON_REFERENCE
from cclslr.data.native import call, pointer
from cclslr.data.vectors import chroma, finish4, finish16, luma, luma_triangle, resample4, resample16
from cclslr.shards.format import MASK_SIZE

MAX_WIDTH = 2048  # pixels of a frame, by the size of the scratch rows
# Room for a sample before the row and for vectors beyond its end; not a power of two, which would share cache lines.
_ROW = MAX_WIDTH + 16
_UNIT = 16.0  # one grey level, in the int16 pixels between steps 1 and 4; they hold -2047..2047 levels
_EXACT: dict[str, Any] = {"nogil": True, "cache": True, "boundscheck": False, "error_model": "numpy"}
_OPTIONS: dict[str, Any] = {**_EXACT, "fastmath": True}

ViewTables = tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, np.ndarray]  # see view_tables


def yuv_to_rgb(full_range: bool, bt709: bool) -> np.ndarray:
    """The affine map of Y, U, V in 0..255 to R, G, B in 0..255: (3, 4) float64 (ITU-R BT.601 or BT.709)."""
    kr, kb = (0.2126, 0.0722) if bt709 else (0.299, 0.114)
    kg = 1 - kr - kb
    luma, chroma, black = (1.0, 1.0, 0.0) if full_range else (255 / 219, 255 / 224, 16.0)
    red, blue = 2 * (1 - kr) * chroma, 2 * (1 - kb) * chroma
    linear = np.array([[luma, 0, red], [luma, -blue * kb / kg, -red * kr / kg], [luma, blue, 0]])
    return np.hstack([linear, -linear @ [[black], [128.0], [128.0]]])


def compose(colour_V34: np.ndarray, to_rgb_34: np.ndarray) -> np.ndarray:
    """Colour jitter after YUV to RGB as one map: (V, 3, 4) float32."""
    linear = colour_V34[..., :3].astype(np.float64)
    matrix_V34 = linear @ to_rgb_34
    matrix_V34[..., 3] += colour_V34[..., 3]
    return matrix_V34.astype(np.float32)


@njit(**_EXACT)
def _tap(low: float, high: float, position: int, size: int, length: int) -> tuple[int, float]:
    """First of two neighbouring source pixels, and the second's weight: half-pixel centres, clamped to the frame."""
    at = low + (position + 0.5) / size * (high - low) - 0.5
    at = min(max(at, 0.0), length - 1.0)
    first = max(min(int(at), length - 2), 0)  # the second lies in the frame too: what is beside it is arbitrary
    return first, at - first


@njit(**_EXACT)
def _second(weight: float) -> int:
    """The weight of the second of two pixels, less a half, in 1/65536, as vectors.py wants it."""
    return min(int(weight * 65536 + 0.5), 65535) - 32768


@njit(**_EXACT)
def _farther(weight: float) -> int:
    """The weight of the farther of two rows in 1/65536; negative where that is the first."""
    if weight < 0.5:
        return min(int(weight * 65536 + 0.5), 32767)
    return -max(min(int((1 - weight) * 65536 + 0.5), 32767), 1)


@njit(**_EXACT)
def view_tables(crop_V4: np.ndarray, flip_V: np.ndarray, width: int, height: int, size: int) -> ViewTables:
    """Everything about the geometry of a clip's views that does not depend on the frame.

    Returns:
        rows_VS int64: the first of the two source rows of an output row;
        row_weights_VS int16: the weight of the farther, by `_farther`;
        columns_VS int64: the first of the two source pixels of an output pixel;
        column_weights_VS4 int16: the weight of the second, once a channel;
        mask_VS2 int64: row and column of the mask at an output row or column.
    """
    num_views = len(crop_V4)
    rows_VS, columns_VS = np.empty((num_views, size), np.int64), np.empty((num_views, size), np.int64)
    row_weights_VS = np.empty((num_views, size), np.int16)
    column_weights_VS4 = np.empty((num_views, size, 4), np.int16)
    mask_VS2 = np.empty((num_views, size, 2), np.int64)
    for v in range(num_views):
        x0, y0, x1, y1 = float(crop_V4[v, 0]), float(crop_V4[v, 1]), float(crop_V4[v, 2]), float(crop_V4[v, 3])
        if flip_V[v]:
            x0, x1 = x1, x0
        for i in range(size):
            rows_VS[v, i], w = _tap(y0, y1, i, size, height)
            row_weights_VS[v, i] = _farther(w)
            columns_VS[v, i], w = _tap(x0, x1, i, size, width)
            column_weights_VS4[v, i] = _second(w)
            mask_VS2[v, i, 0] = min(
                max(int((y0 + (i + 0.5) * (y1 - y0) / size) * MASK_SIZE / height), 0), MASK_SIZE - 1
            )
            mask_VS2[v, i, 1] = min(max(int((x0 + (i + 0.5) * (x1 - x0) / size) * MASK_SIZE / width), 0), MASK_SIZE - 1)
    return rows_VS, row_weights_VS, columns_VS, column_weights_VS4, mask_VS2


@njit(**_OPTIONS)
def _window(low: int, high: int, length: int) -> tuple[int, int]:
    """Start and count of a run that covers low..high - 1 in a row of `length`: a multiple of 8 where that fits."""
    count = min((high - low + 7) // 8 * 8, length)
    return min(low, length - count), count


@njit(**_EXACT)
def _int16(value: float) -> int:
    """Rounded, and held within 16 bits."""
    return int(min(max(np.rint(value), -32767), 32767))


@njit(**_EXACT)
def _eights(plane_HW: np.ndarray, row: int, start: int, count: int, padded: np.ndarray) -> int:
    """The address of a run of a row, from where whole eights can be read: its own, or that of a copy in `padded`."""
    if count % 8 == 0:
        return plane_HW.ctypes.data + row * plane_HW.shape[1] + start
    for k in range(count):
        padded[k] = plane_HW[row, start + k]
    return padded.ctypes.data


@njit(**_OPTIONS)
def render(
    y_HW: np.ndarray,
    u_HW: np.ndarray,
    v_HW: np.ndarray,
    rows_S: np.ndarray,
    row_weights_S: np.ndarray,
    columns_S: np.ndarray,
    column_weights_S4: np.ndarray,
    matrix_34: np.ndarray,
    width: int,
    triangle: bool,
    out_HWC: np.ndarray,
) -> None:
    """One frame to one view.

    Args:
        y_HW: luma, uint8, rows padded to an even length of at most `MAX_WIDTH`.
        u_HW: chroma of half the size, likewise.
        v_HW: likewise.
        rows_S: and the next three, of one view: see `view_tables`.
        matrix_34: from `compose`; a level of Y, U or V may add up to 8 levels (no jitter comes near).
        width: of the frame without padding.
        triangle: chroma by the triangle filter, else a sample for 2x2 pixels.
        out_HWC: uint8 (S, S, 3), contiguous, S a multiple of 4; is overwritten.
    """
    size = len(rows_S)
    first, last = min(columns_S[0], columns_S[size - 1]), max(columns_S[0], columns_S[size - 1]) + 2
    start, count = _window(first & ~1, last, y_HW.shape[1])
    start_c, count_c = _window(max(start // 2 - 1, 0), (min(last, y_HW.shape[1]) + 1) // 2 + 1, u_HW.shape[1])
    shift_c = start // 2 - start_c

    behind = min((width + 1) // 2 - start_c, count_c)  # the first sample that is no part of the frame

    # Pixels as in vectors.py, 8 bytes each. What chroma adds, in rows of even and of odd number, from sample -1 on:
    shares = np.empty((2, _ROW), np.int64)
    pixels = np.zeros(_ROW, np.int64)  # a row of the source
    resampled = np.empty((2, size), np.int64)  # rows of the source of even and of odd number
    kept, kept_chroma = np.full(2, -1), np.full(2, -1)  # which
    padded_y, padded_u, padded_v = np.zeros((3, _ROW), np.uint8)

    units_34 = matrix_34 * float32(_UNIT)
    # Vectors take levels above 128. To round: what Y, U, V, the triangle and the two blends lose on average.
    lost = 3 * 0.5 + (0.75 if triangle else 0.0) + 0.75 + 0.5
    constant_3 = units_34[:, 3] + 128 * units_34[:, :3].sum(axis=1) + float32(0.5 * _UNIT + lost)
    gains = np.zeros((4, 8, 4), np.int16)
    for c in range(3):
        for plane in range(3):
            gains[plane, :, c] = _int16(256 * units_34[c, plane])
        gains[3, :, c] = _int16(constant_3[c])

    for i in range(size):
        first_row = rows_S[i]
        for row in (first_row, min(first_row + 1, len(y_HW) - 1)):
            if kept[row & 1] == row:
                continue
            kept[row & 1] = row
            near = min(row >> 1, len(u_HW) - 1)
            far = min(max(near - 1 + 2 * (row & 1), 0), len(u_HW) - 1) if triangle else near
            for row_c in (near, far):
                if kept_chroma[row_c & 1] == row_c:
                    continue
                kept_chroma[row_c & 1] = row_c
                u = _eights(u_HW, row_c, start_c, count_c, padded_u)
                v = _eights(v_HW, row_c, start_c, count_c, padded_v)
                share = shares.ctypes.data + (row_c & 1) * 8 * _ROW + 8
                for k in range(0, count_c, 8):
                    chroma(u + k, v + k, gains.ctypes.data, share + 8 * k)
                shares[row_c & 1, 0] = shares[row_c & 1, 1]
                shares[row_c & 1, behind + 1] = shares[row_c & 1, behind]
            y = _eights(y_HW, row, start, count, padded_y)
            near_share = shares.ctypes.data + (near & 1) * 8 * _ROW + 8 * (shift_c + 1)
            far_share = shares.ctypes.data + (far & 1) * 8 * _ROW + 8 * (shift_c + 1)
            to = pixels.ctypes.data
            for x in range(0, count, 8):
                if triangle:
                    luma_triangle(y + x, gains.ctypes.data, near_share + 4 * x, far_share + 4 * x, to + 8 * x)
                else:
                    luma(y + x, gains.ctypes.data, near_share + 4 * x, far_share + 4 * x, to + 8 * x)
            source, to = pixels.ctypes.data - 8 * start, resampled.ctypes.data + (row & 1) * 8 * size
            columns, weights = columns_S.ctypes.data, column_weights_S4.ctypes.data
            if size % 16 == 0:
                for x in range(0, size, 16):
                    resample16(source, columns + 8 * x, weights + 8 * x, to + 8 * x)
            else:
                for x in range(0, size, 4):
                    resample4(source, columns + 8 * x, weights + 8 * x, to + 8 * x)
        weight = row_weights_S[i]
        near_row = resampled.ctypes.data + ((first_row + (weight < 0)) & 1) * 8 * size
        far_row = 2 * resampled.ctypes.data + 8 * size - near_row  # the other of the two
        to = out_HWC.ctypes.data + i * 3 * size
        if size % 16 == 0:
            for x in range(0, size, 16):
                finish16(near_row + 8 * x, far_row + 8 * x, abs(weight), to + 3 * x)
        else:
            for x in range(0, size, 4):
                finish4(near_row + 8 * x, far_row + 8 * x, abs(weight), to + 3 * x)


class ClipViews(NamedTuple):
    """What the frames of a clip become, and where: all that the compiled loops want to know of its views.

    Attributes:
        index_VT: int64, the frame of the clip at each frame of a view.
        tables: from `view_tables`.
        matrix_V34: from `compose`.
        masked_V: bool, masks are applied.
        masks_THW: uint8 {0, 1}, only read where a view is masked.
        width: of the frames without padding.
        triangle: how chroma is interpolated, see `render`.
        rgb_VTHWC: uint8, is overwritten.
    """

    index_VT: np.ndarray
    tables: ViewTables
    matrix_V34: np.ndarray
    masked_V: np.ndarray
    masks_THW: np.ndarray
    width: int
    triangle: bool
    rgb_VTHWC: np.ndarray


@njit(**_OPTIONS)
def render_frame(y_HW: np.ndarray, u_HW: np.ndarray, v_HW: np.ndarray, number: int, views: ClipViews) -> None:
    """Frame `number` of a clip to wherever its views want it: resampled once a view, copied where it is repeated."""
    rows_VS, row_weights_VS, columns_VS, column_weights_VS4, mask_VS2 = views.tables
    num_views, num_frames = views.index_VT.shape
    size = views.rgb_VTHWC.shape[2]
    for v in range(num_views):
        done = -1
        for t in range(num_frames):
            if views.index_VT[v, t] != number:
                continue
            if done >= 0:
                views.rgb_VTHWC[v, t] = views.rgb_VTHWC[v, done]
                continue
            done = t
            out_HWC = views.rgb_VTHWC[v, t]
            render(
                y_HW,
                u_HW,
                v_HW,
                rows_VS[v],
                row_weights_VS[v],
                columns_VS[v],
                column_weights_VS4[v],
                views.matrix_V34[v],
                views.width,
                views.triangle,
                out_HWC,
            )
            if views.masked_V[v]:
                for i in range(size):
                    for x in range(size):
                        if views.masks_THW[number, mask_VS2[v, i, 0], mask_VS2[v, x, 1]] == 0:
                            out_HWC[i, x, 0] = out_HWC[i, x, 1] = out_HWC[i, x, 2] = 0


@njit(**_OPTIONS)
def render_jpegs(
    function: int,
    handle: int,
    data_N: np.ndarray,
    offsets: np.ndarray,
    header_size: int,
    wanted: np.ndarray,
    y_HW: np.ndarray,
    u_HW: np.ndarray,
    v_HW: np.ndarray,
    views: ClipViews,
) -> int:
    """Frames of a JPEG clip, decoded and rendered in one call: threads meet at the GIL once a clip, not once a frame.

    Args:
        function: address of tjDecompressToYUVPlanes.
        handle: of a decompressor.
        data_N: uint8, the JPEGs one after the other.
        offsets: int64, the start of each, and the end.
        header_size: bytes of the first one that all others must begin with: they say that the planes below fit.
        wanted: numbers of the frames.
        y_HW: uint8, scratch for the planes of a frame, as u_HW and v_HW.

    Returns:
        how many of `wanted` are done: all, or up to the first that does not decode or has another header.
    """
    planes = np.array([y_HW.ctypes.data, u_HW.ctypes.data, v_HW.ctypes.data])
    strides = np.array([y_HW.shape[1], u_HW.shape[1], v_HW.shape[1]], np.int32)
    for done, number in enumerate(wanted):
        if number + 1 >= len(offsets):
            return done
        begin, end = offsets[number], offsets[number + 1]
        if not 0 <= begin < begin + header_size < end <= len(data_N):
            return done
        for k in range(header_size):
            if data_N[begin + k] != data_N[offsets[0] + k]:
                return done
        address, size = data_N.ctypes.data + begin, end - begin
        if call(function, handle, address, size, planes.ctypes.data, 0, strides.ctypes.data, 0, 0) != 0:
            return done
        render_frame(y_HW, u_HW, v_HW, number, views)
    return len(wanted)


class Calls(NamedTuple):
    """What `render_packets` calls and hands on, and memory that it shares with that: see `AvCodec`, `Decoder`."""

    send: int
    receive: int
    unref: int
    set_option: int
    context: int
    packet: int
    frame: int
    packet_8: np.ndarray
    packet_4: np.ndarray
    frame_8: np.ndarray
    frame_4: np.ndarray


@njit(**_OPTIONS)
def render_packets(
    to: Calls,
    packets_P3: np.ndarray,
    option: np.ndarray,
    wanted_T: np.ndarray,
    height: int,
    again: int,
    views: ClipViews,
) -> int:
    """Frames of a video, decoded and rendered in one call, as `VideoCodec.planes` decodes them.

    Args:
        to: the decoder.
        packets_P3: int64, address and size of each packet, and the number of its frame.
        option: uint8, the name "skip_frame" if the decoder passes over frames that no other is made from, else empty.
        wanted_T: bool, by number of the frame.
        height: of the frames.
        again: what `receive` returns where it first wants another packet.

    Returns:
        how many frames were wanted and are done. Fewer than there are: something does not decode.
    """
    left, done = int(wanted_T.sum()), 0
    skipping = -1
    for p in range(len(packets_P3) + 1):
        sent = to.packet  # and none at the end, for the frames that wait for more
        if p == len(packets_P3):
            sent = 0
        else:
            number = packets_P3[p, 2]
            skip = 0 if wanted_T[number] else NON_REFERENCE
            if len(option) and skip != skipping:
                skipping = skip
                call(to.set_option, to.context, option.ctypes.data, skip, 0)
            to.packet_8[1], to.packet_8[3], to.packet_4[8] = number, packets_P3[p, 0], packets_P3[p, 1]
        if call(to.send, to.context, sent) < 0:
            return done
        while True:
            answer = call(to.receive, to.context, to.frame)
            if answer < 0:
                if answer == again:
                    break
                return done
            number = to.frame_8[17]
            if 0 <= number < len(wanted_T) and wanted_T[number]:
                if to.frame_4[26] != views.width or to.frame_4[27] != height or to.frame_4[29] not in FORMATS:
                    return done
                rows = (height, (height + 1) // 2)
                y_HW = carray(pointer(to.frame_8[0]), (rows[0], to.frame_4[16]), np.uint8)
                u_HW = carray(pointer(to.frame_8[1]), (rows[1], to.frame_4[17]), np.uint8)
                v_HW = carray(pointer(to.frame_8[2]), (rows[1], to.frame_4[18]), np.uint8)
                render_frame(y_HW, u_HW, v_HW, number, views)
                done += 1
            call(to.unref, to.frame)
            if done == left:
                return done
    return done

"""From the YUV 4:2:0 planes of a decoded frame straight to an augmented RGB view: one fused pass over the rows.

A view is linear in the planes: bilinear resampling of the crop, then one 3x4 matrix that composes YUV to RGB with the
colour jitter. So the planes are never turned into an RGB frame. For each row of the crop (1 to 3) and of the view (4):

1. chroma: apply the matrix's chroma columns to a row at half width, once for the two rows of luma that share it;
2. luma: apply the luma column, add the chroma of each two pixels; store pixels as four int16 (R, G, B, unused);
3. resample horizontally: two neighbouring source pixels are one 16-byte load; the row is kept for the next output row;
4. blend two such rows, clamp to uint8, drop the unused channel.

What made it fast: loops whose length is a multiple of 64 (LLVM's vector body without its scalar tail); few arrays a
loop (beyond 8 run-time alias checks LLVM gives up); horizontal before vertical, so that steps 1 to 3 are done once a
source row, of which a crop has fewer than the view it fills; and the last two steps in explicit vectors (vectors.py),
because LLVM finds none there.

Chroma siting. Video: a chroma sample stands for its 2x2 pixels, as in libswscale's conversion of yuv420p. JPEG: the
triangle filter of libjpeg ("fancy upsampling"), 3/4 of the nearer and 1/4 of the farther sample, exact in both axes.
Colours outside 0..255 are clamped once, after the jitter; a decoder that makes RGB first also clamps before it.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import float32, int32, njit

from cclslr.data.vectors import finish4, finish16, resample4, resample16
from cclslr.shards.format import MASK_SIZE

MAX_WIDTH = 2048  # pixels of a frame, by the size of the scratch rows
# A constant, so that LLVM sees that the scratch rows don't overlap; not a power of two, which would share cache lines.
_ROW = MAX_WIDTH + 16
_UNIT = 16.0  # one grey level, in the int16 pixels between steps 2 and 4; they hold -2047..2047 levels
_EXACT: dict[str, Any] = {"nogil": True, "cache": True, "boundscheck": False, "error_model": "numpy"}
_OPTIONS: dict[str, Any] = {**_EXACT, "fastmath": True}


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
def view_tables(
    crop_V4: np.ndarray, flip_V: np.ndarray, width: int, height: int, size: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Everything about the geometry of a clip's views that does not depend on the frame.

    Returns:
        rows_VS int64: the first of the two source rows of an output row;
        row_weights_VS int16: the weight of the second, by `_second`;
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
            row_weights_VS[v, i] = _second(w)
            columns_VS[v, i], w = _tap(x0, x1, i, size, width)
            column_weights_VS4[v, i] = _second(w)
            mask_VS2[v, i, 0] = min(
                max(int((y0 + (i + 0.5) * (y1 - y0) / size) * MASK_SIZE / height), 0), MASK_SIZE - 1
            )
            mask_VS2[v, i, 1] = min(max(int((x0 + (i + 0.5) * (x1 - x0) / size) * MASK_SIZE / width), 0), MASK_SIZE - 1)
    return rows_VS, row_weights_VS, columns_VS, column_weights_VS4, mask_VS2


@njit(**_OPTIONS)
def _window(low: int, high: int, length: int) -> tuple[int, int]:
    """Start and count of a run that covers low..high - 1 in a row of `length`: a multiple of 64 where that fits."""
    count = min((high - low + 63) // 64 * 64, length)
    return min(low, length - count), count


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
        matrix_34: from `compose`.
        width: of the frame without padding.
        triangle: chroma as in JPEG, else as in video.
        out_HWC: uint8 (S, S, 3), contiguous, S a multiple of 4; is overwritten.
    """
    size = len(rows_S)
    first, last = min(columns_S[0], columns_S[size - 1]), max(columns_S[0], columns_S[size - 1]) + 2
    start, count = _window(first & ~1, last, y_HW.shape[1])
    start_c, count_c = _window(max(start // 2 - 1, 0), (min(last, y_HW.shape[1]) + 1) // 2 + 1, u_HW.shape[1])
    shift_c = start // 2 - start_c

    half = count // 2
    end_c = min((width + 1) // 2 - start_c, count_c)

    chroma = np.empty(5 * _ROW, np.float32)  # U; V; their share of R, G, B
    finer = np.empty(6 * _ROW, np.float32)  # that share at even pixels, and at odd ones; in video they are the same
    even = finer if triangle else chroma[2 * _ROW + 1 + shift_c :]
    odd = finer[3 * _ROW :] if triangle else even
    pixels = np.zeros(2 * _ROW, np.int32)  # four int16 each
    source = pixels.ctypes.data - 8 * start
    columns, weights = columns_S.ctypes.data, column_weights_S4.ctypes.data
    resampled = np.empty(2 * 4 * size, np.int16)  # the last two rows of the source, of even and of odd number
    kept, kept_chroma = np.full(2, -1), -1

    m = matrix_34 * float32(_UNIT)
    m[:, 3] += float32(0.5 * _UNIT + 0.5 + 2 * 0.75)  # to round; what cutting off to whole units and two blends lose
    ry, ru, rv, r_ = m[0, 0], m[0, 1], m[0, 2], m[0, 3]
    gy, gu, gv, g_ = m[1, 0], m[1, 1], m[1, 2], m[1, 3]
    by, bu, bv, b_ = m[2, 0], m[2, 1], m[2, 2], m[2, 3]
    low, high = float32(-32752), float32(32752)

    for i in range(size):
        first_row = rows_S[i]
        for row in (first_row, min(first_row + 1, len(y_HW) - 1)):
            if kept[row & 1] == row:
                continue
            kept[row & 1] = row
            if triangle or kept_chroma != row >> 1:
                kept_chroma = row >> 1
                near = min(kept_chroma, len(u_HW) - 1)
                far = min(max(near - 1 + 2 * (row & 1), 0), len(u_HW) - 1) if triangle else near
                u0, u1, v0, v1 = u_HW[near][start_c:], u_HW[far][start_c:], v_HW[near][start_c:], v_HW[far][start_c:]
                for k in range(count_c):
                    chroma[k] = float32(0.75) * float32(u0[k]) + float32(0.25) * float32(u1[k])
                for k in range(count_c):
                    chroma[_ROW + k] = float32(0.75) * float32(v0[k]) + float32(0.25) * float32(v1[k])
                for k in range(count_c):
                    u, v = chroma[k], chroma[_ROW + k]
                    chroma[2 * _ROW + 1 + k] = ru * u + rv * v + r_
                    chroma[3 * _ROW + 1 + k] = gu * u + gv * v + g_
                    chroma[4 * _ROW + 1 + k] = bu * u + bv * v + b_
                for c in range(3 if triangle else 0):
                    share = chroma[(2 + c) * _ROW + shift_c :]  # from the sample before the first
                    chroma[(2 + c) * _ROW + shift_c] = share[0 if start else 1]
                    chroma[(2 + c) * _ROW + 1 + end_c] = chroma[(2 + c) * _ROW + end_c]
                    for k in range(half):
                        finer[c * _ROW + k] = float32(0.75) * share[k + 1] + float32(0.25) * share[k]
                        finer[(3 + c) * _ROW + k] = float32(0.75) * share[k + 1] + float32(0.25) * share[k + 2]
            luma = y_HW[row][start:]
            for k in range(half):
                y0, y1 = float32(luma[2 * k]), float32(luma[2 * k + 1])
                r0 = int32(min(max(ry * y0 + even[k], low), high))
                g0 = int32(min(max(gy * y0 + even[_ROW + k], low), high))
                b0 = int32(min(max(by * y0 + even[2 * _ROW + k], low), high))
                r1 = int32(min(max(ry * y1 + odd[k], low), high))
                g1 = int32(min(max(gy * y1 + odd[_ROW + k], low), high))
                b1 = int32(min(max(by * y1 + odd[2 * _ROW + k], low), high))
                pixels[4 * k] = (r0 & int32(0xFFFF)) | (g0 << int32(16))
                pixels[4 * k + 1] = b0
                pixels[4 * k + 2] = (r1 & int32(0xFFFF)) | (g1 << int32(16))
                pixels[4 * k + 3] = b1
            to = resampled.ctypes.data + (row & 1) * 8 * size
            if size % 16 == 0:
                for x in range(0, size, 16):
                    resample16(source, columns + 8 * x, weights + 8 * x, to + 8 * x)
            else:
                for x in range(0, size, 4):
                    resample4(source, columns + 8 * x, weights + 8 * x, to + 8 * x)
        above = resampled.ctypes.data + (first_row & 1) * 8 * size
        below = 2 * resampled.ctypes.data + 8 * size - above  # the other of the two
        to = out_HWC.ctypes.data + i * 3 * size
        if size % 16 == 0:
            for x in range(0, size, 16):
                finish16(above + 8 * x, below + 8 * x, row_weights_S[i], to + 3 * x)
        else:
            for x in range(0, size, 4):
                finish4(above + 8 * x, below + 8 * x, row_weights_S[i], to + 3 * x)


@njit(**_OPTIONS)
def render_frame(
    y_HW: np.ndarray,
    u_HW: np.ndarray,
    v_HW: np.ndarray,
    number: int,
    index_VT: np.ndarray,
    rows_VS: np.ndarray,
    row_weights_VS: np.ndarray,
    columns_VS: np.ndarray,
    column_weights_VS4: np.ndarray,
    mask_VS2: np.ndarray,
    matrix_V34: np.ndarray,
    masked_V: np.ndarray,
    masks_THW: np.ndarray,
    width: int,
    triangle: bool,
    rgb_VTHWC: np.ndarray,
) -> None:
    """Frame `number` of a clip to wherever `index_VT` wants it: resampled once a view, copied where it is repeated."""
    num_views, num_frames = index_VT.shape
    size = rgb_VTHWC.shape[2]
    for v in range(num_views):
        done = -1
        for t in range(num_frames):
            if index_VT[v, t] != number:
                continue
            if done >= 0:
                rgb_VTHWC[v, t] = rgb_VTHWC[v, done]
                continue
            done = t
            out_HWC = rgb_VTHWC[v, t]
            render(
                y_HW,
                u_HW,
                v_HW,
                rows_VS[v],
                row_weights_VS[v],
                columns_VS[v],
                column_weights_VS4[v],
                matrix_V34[v],
                width,
                triangle,
                out_HWC,
            )
            if masked_V[v]:
                for i in range(size):
                    for x in range(size):
                        if masks_THW[number, mask_VS2[v, i, 0], mask_VS2[v, x, 1]] == 0:
                            out_HWC[i, x, 0] = out_HWC[i, x, 1] = out_HWC[i, x, 2] = 0

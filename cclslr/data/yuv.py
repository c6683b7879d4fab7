"""From the YUV 4:2:0 planes of a decoded frame straight to an augmented RGB view: one fused pass over the rows.

A view is linear in the planes: bilinear resampling of the crop, then one 3x4 matrix that composes YUV to RGB with the
colour jitter. So the planes are never turned into an RGB frame. For each row of the crop (1 to 3) and
of the view (4):

1. chroma: apply the matrix's chroma columns to a row at half width, once for the two rows that share it; double it;
2. luma: apply the luma column, add the chroma; store pixels as four int16 (R, G, B, unused);
3. resample horizontally: two neighbouring source pixels are one 16-byte load; the row is kept for the next output row;
4. blend two such rows, clamp to uint8, drop the unused channel.

What made it fast: loops whose length is a multiple of 64 (LLVM's vector body without its scalar tail), few arrays a loop
(beyond 8 run-time alias checks LLVM gives up), horizontal before vertical, so that steps 1 to 3 are done once a source row
(a crop has fewer rows than the view it fills), and the last two steps in explicit vectors, because LLVM finds none there.
They are generic LLVM vectors, so any CPU runs this.

Chroma siting. Video: a chroma sample stands for its 2x2 pixels, as in libswscale's conversion of yuv420p. JPEG: the
triangle filter of libjpeg ("fancy upsampling"), 3/4 of the nearer and 1/4 of the farther sample, exact in both axes.
Colours outside 0..255 are clamped once, after the jitter; a decoder that makes RGB first also clamps before it.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from llvmlite import ir
from numba import float32, int32, njit, types, uint64
from numba.extending import intrinsic

from cclslr.shards.format import MASK_SIZE

MAX_WIDTH = 2048  # pixels of a frame, by the size of the scratch rows
# A constant, so that LLVM sees that the scratch rows don't overlap; not a power of two, which would share cache lines.
_ROW = MAX_WIDTH + 16
_UNIT = 16.0  # one grey level, in the int16 pixels between steps 2 and 4; they hold -2047..2047 levels
_AHEAD = 1344  # bytes from where a view is written to where it will be soon: saves 7 of 58 us where it is not in cache
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
    first = int(at)
    return first, at - first


@njit(**_EXACT)
def _second(weight: float) -> int:
    """The weight of the second of two pixels, less a half, in 1/65536: all that an int16 holds. See `_blend`."""
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


# Explicit vectors. Addresses are integers; numbers are int16 lanes, four a pixel.


def _vector(bits: int, lanes: int) -> ir.VectorType:
    return ir.VectorType(ir.IntType(bits), lanes)


def _splat(value: int, like: ir.VectorType) -> ir.Constant:
    return ir.Constant(like, [value] * like.count)


def _load(builder: ir.IRBuilder, address: Any, like: ir.VectorType, align: int = 2) -> Any:
    return builder.load(builder.inttoptr(address, like.as_pointer()), align=align)


def _store(builder: ir.IRBuilder, value: Any, address: Any) -> None:
    builder.store(value, builder.inttoptr(address, value.type.as_pointer()), align=1)


def _prefetch(builder: ir.IRBuilder, address: Any) -> None:
    """Begin to fetch the cache line at `address`, to be written soon. Any address will do, also past an array's end."""
    pointer, number = ir.IntType(8).as_pointer(), ir.IntType(32)
    kind = ir.FunctionType(ir.VoidType(), [pointer, number, number, number])
    write, everywhere, data = number(1), number(3), number(1)
    fetch = builder.module.declare_intrinsic("llvm.prefetch.p0", fnty=kind)
    builder.call(fetch, [builder.inttoptr(address, pointer), write, everywhere, data])


def _shuffle(builder: ir.IRBuilder, a: Any, b: Any, order: list[int]) -> Any:
    return builder.shuffle_vector(a, b, ir.Constant(_vector(32, len(order)), order))


def _blend(builder: ir.IRBuilder, first: Any, second: Any, weight: Any) -> Any:
    """first + (second - first) * (weight + 1/2), with weights from `_second`; 3/4 of a unit too low on average.

    The upper half of a 16-bit product is one instruction, and with the half taken apart the weight needs no 17th bit.
    """
    wide = _vector(32, first.type.count)
    saturating = builder.module.declare_intrinsic(
        f"llvm.ssub.sat.v{first.type.count}i16", fnty=ir.FunctionType(first.type, [first.type, first.type])
    )
    difference = builder.call(saturating, [second, first])
    product = builder.mul(builder.sext(difference, wide), builder.sext(weight, wide))
    upper = builder.trunc(builder.ashr(product, _splat(16, wide)), first.type)
    half = builder.ashr(difference, _splat(1, first.type))
    return builder.add(builder.add(first, half), upper)


def _resample(lanes: int) -> Any:
    """An intrinsic: `lanes` output pixels, each a blend of two neighbouring source pixels."""

    def typing(_typing: Any, source: Any, columns: Any, weights: Any, out: Any) -> Any:
        def generate(context: Any, builder: ir.IRBuilder, _signature: Any, args: Any) -> Any:
            source, columns, weights, out = args
            indices = _load(builder, columns, _vector(64, lanes), align=8)
            pairs = []
            for lane in range(lanes):
                index = builder.extract_element(indices, ir.Constant(ir.IntType(32), lane))
                address = builder.add(source, builder.shl(index, ir.Constant(index.type, 3)))
                pairs.append(_load(builder, address, _vector(16, 8)))
            while len(pairs) > 1:
                both = list(range(2 * pairs[0].type.count))
                pairs = [_shuffle(builder, a, b, both) for a, b in zip(pairs[::2], pairs[1::2], strict=True)]
            first, second = (
                _shuffle(builder, pairs[0], pairs[0], [8 * lane + at + c for lane in range(lanes) for c in range(4)])
                for at in (0, 4)
            )
            weight = _load(builder, weights, first.type)
            _store(builder, _blend(builder, first, second, weight), out)
            return context.get_dummy_value()

        return types.void(types.uintp, types.uintp, types.uintp, types.uintp), generate

    return intrinsic(typing)


def _finish(lanes: int) -> Any:
    """An intrinsic: `lanes` pixels of two rows blended, in whole levels of 0..255, three bytes a pixel."""

    def typing(_typing: Any, above: Any, below: Any, weight: Any, out: Any) -> Any:
        def generate(context: Any, builder: ir.IRBuilder, _signature: Any, args: Any) -> Any:
            above, below, weight, out = args
            first, second = (_load(builder, row, _vector(16, 4 * lanes)) for row in (above, below))
            one = builder.insert_element(_splat(0, first.type), weight, ir.Constant(ir.IntType(32), 0))
            blended = _blend(builder, first, second, _shuffle(builder, one, one, [0] * first.type.count))
            levels = builder.ashr(blended, _splat(4, first.type))  # 16 units a level
            low, high = _splat(0, levels.type), _splat(255, levels.type)
            levels = builder.select(builder.icmp_signed(">", levels, low), levels, low)
            levels = builder.select(builder.icmp_signed("<", levels, high), levels, high)
            pixels = builder.trunc(levels, _vector(8, 4 * lanes))
            rgb = _shuffle(builder, pixels, pixels, [4 * lane + c for lane in range(lanes) for c in range(3)])
            _store(builder, rgb, out)
            _prefetch(builder, builder.add(out, ir.Constant(out.type, _AHEAD)))
            return context.get_dummy_value()

        return types.void(types.uintp, types.uintp, types.int16, types.uintp), generate

    return intrinsic(typing)


# Sixteen pixels fill two vectors of 512 bits; four are what any size of view divides into.
_resample4, _resample16, _finish4, _finish16 = _resample(4), _resample(16), _finish(4), _finish(16)


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
    finer = np.empty(2 * _ROW, np.float32)  # the even and the odd pixels of such a share at full width
    bits, finer_bits = chroma.view(np.uint32), finer.view(np.uint32)
    pairs = np.empty(3 * _ROW, np.uint64)
    doubled = pairs.view(np.float32)  # share of R, G, B at full width
    pixels = np.zeros(2 * _ROW, np.int32)  # four int16 each
    source = pixels.ctypes.data - 8 * start
    columns, weights = columns_S.ctypes.data, column_weights_S4.ctypes.data
    resampled = np.empty(2 * 4 * size, np.int16)  # the last two rows of the source, of even and of odd number
    kept, kept_chroma = np.full(2, -1), -1

    m = matrix_34 * float32(_UNIT)
    m[:, 3] += float32(0.5 * _UNIT + 0.5 + 2 * 0.75)  # to round; what cutting off to whole units and two blends lose
    ry, ru, rv, r1 = m[0, 0], m[0, 1], m[0, 2], m[0, 3]
    gy, gu, gv, g1 = m[1, 0], m[1, 1], m[1, 2], m[1, 3]
    by, bu, bv, b1 = m[2, 0], m[2, 1], m[2, 2], m[2, 3]
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
                    chroma[2 * _ROW + 1 + k] = ru * u + rv * v + r1
                    chroma[3 * _ROW + 1 + k] = gu * u + gv * v + g1
                    chroma[4 * _ROW + 1 + k] = bu * u + bv * v + b1
                for c in range(3):
                    share = chroma[(2 + c) * _ROW + 1 + shift_c - 1 :]  # from the sample before the first
                    even = odd = bits[(2 + c) * _ROW + 1 + shift_c :]
                    if triangle:
                        chroma[(2 + c) * _ROW + shift_c] = chroma[(2 + c) * _ROW + shift_c + (start == 0)]
                        chroma[end_c + (2 + c) * _ROW + 1] = chroma[end_c + (2 + c) * _ROW]
                        for k in range(half):
                            finer[k] = float32(0.75) * share[k + 1] + float32(0.25) * share[k]
                            finer[_ROW + k] = float32(0.75) * share[k + 1] + float32(0.25) * share[k + 2]
                        even, odd = finer_bits, finer_bits[_ROW:]
                    for k in range(half):  # two floats as one 64-bit store: LLVM makes no vectors of stride 2
                        pairs[c * _ROW + k] = uint64(even[k]) | (uint64(odd[k]) << uint64(32))
            luma = y_HW[row][start:]
            for k in range(count):
                y = float32(luma[k])
                r = int32(min(max(ry * y + doubled[k], low), high))
                g = int32(min(max(gy * y + doubled[2 * _ROW + k], low), high))
                b = int32(min(max(by * y + doubled[4 * _ROW + k], low), high))
                pixels[2 * k] = (r & int32(0xFFFF)) | (g << int32(16))
                pixels[2 * k + 1] = b
            to = resampled.ctypes.data + (row & 1) * 8 * size
            if size % 16 == 0:
                for x in range(0, size, 16):
                    _resample16(source, columns + 8 * x, weights + 8 * x, to + 8 * x)
            else:
                for x in range(0, size, 4):
                    _resample4(source, columns + 8 * x, weights + 8 * x, to + 8 * x)
        above = resampled.ctypes.data + (first_row & 1) * 8 * size
        below = 2 * resampled.ctypes.data + 8 * size - above  # the other of the two
        to = out_HWC.ctypes.data + i * 3 * size
        if size % 16 == 0:
            for x in range(0, size, 16):
                _finish16(above + 8 * x, below + 8 * x, row_weights_S[i], to + 3 * x)
        else:
            for x in range(0, size, 4):
                _finish4(above + 8 * x, below + 8 * x, row_weights_S[i], to + 3 * x)


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

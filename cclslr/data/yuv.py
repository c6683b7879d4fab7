"""From the YUV 4:2:0 planes of a decoded frame straight to an augmented RGB view: one fused pass per output row.

A view is linear in the planes: bilinear resampling of the crop, then one 3x4 matrix that composes YUV to RGB with the
colour jitter. So the planes are never turned into an RGB frame. For each row of the view:

1. chroma: blend the rows that the output row needs, at half width, and apply the matrix's chroma columns; double it;
2. luma: blend two rows, apply the luma column, add the chroma; store pixels as four int16 (R, G, B, unused);
3. resample horizontally: two neighbouring source pixels are one 16-byte load, times their weights, clamped to uint8.

A first version took 300 microseconds for a 224x224 view of a frame. What made it faster: loops whose length is a
multiple of 64 (LLVM's vector body without its scalar tail), few arrays a loop (beyond 8 run-time alias checks LLVM
gives up), and the third step in explicit vectors, because LLVM finds none there. They are generic LLVM vectors, so any
CPU runs this.

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
_UNIT = 16.0  # one grey level, in the int16 pixels between steps 2 and 3; they hold -2047..2047 levels
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
def view_tables(
    crop_V4: np.ndarray, flip_V: np.ndarray, width: int, height: int, size: int, triangle: bool
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Everything about the geometry of a clip's views that does not depend on the frame.

    Returns:
        rows_VS5 int64: luma rows a, b and chroma rows c, d, e that blend into an output row;
        row_weights_VS4 float32: weights of b, c, d, e (a has the rest of 1);
        columns_VS int64: the first of the two source pixels of an output pixel;
        column_weights_VS8 int16: weights of the two in 1/32767, each four times, once a channel;
        mask_VS2 int64: row and column of the mask at an output row or column.
    """
    num_views = len(crop_V4)
    rows_VS5 = np.empty((num_views, size, 5), np.int64)
    row_weights_VS4 = np.empty((num_views, size, 4), np.float32)
    columns_VS = np.empty((num_views, size), np.int64)
    column_weights_VS8 = np.empty((num_views, size, 8), np.int16)
    mask_VS2 = np.empty((num_views, size, 2), np.int64)
    last_c = (height + 1) // 2 - 1
    for v in range(num_views):
        x0, y0, x1, y1 = float(crop_V4[v, 0]), float(crop_V4[v, 1]), float(crop_V4[v, 2]), float(crop_V4[v, 3])
        if flip_V[v]:
            x0, x1 = x1, x0
        for i in range(size):
            a, w = _tap(y0, y1, i, size, height)
            b = min(a + 1, height - 1)
            middle = a >> 1
            if not triangle:
                before, here, after = 0.0, (1 - w if b >> 1 != middle else 1.0), (w if b >> 1 != middle else 0.0)
            elif a & 1:
                before, here, after = 0.0, 0.75 * (1 - w) + 0.25 * w, 0.25 * (1 - w) + 0.75 * w
            else:
                before, here, after = 0.25 * (1 - w), 0.75, 0.25 * w
            rows_VS5[v, i] = (a, b, max(middle - 1, 0), middle, min(middle + 1, last_c))
            row_weights_VS4[v, i] = (w, before, here, after)
            first, w = _tap(x0, x1, i, size, width)
            columns_VS[v, i] = first
            second = int(w * 32767 + 0.5)
            column_weights_VS8[v, i, :4] = 32767 - second
            column_weights_VS8[v, i, 4:] = second
            mask_VS2[v, i, 0] = min(
                max(int((y0 + (i + 0.5) * (y1 - y0) / size) * MASK_SIZE / height), 0), MASK_SIZE - 1
            )
            mask_VS2[v, i, 1] = min(max(int((x0 + (i + 0.5) * (x1 - x0) / size) * MASK_SIZE / width), 0), MASK_SIZE - 1)
    return rows_VS5, row_weights_VS4, columns_VS, column_weights_VS8, mask_VS2


@intrinsic
def _resample4(typing: Any, source: Any, i0: Any, i1: Any, i2: Any, i3: Any, weights: Any, out: Any) -> Any:
    """Four output pixels: blend int16 pixels i and i + 1 at `source` by `weights`, clamp, write 12 bytes at `out`.

    The product of a pixel and a weight keeps its upper 16 bits, which is one instruction and leaves units of 1/8 level.
    """
    address, index = types.uintp, types.intp
    signature = types.void(address, index, index, index, index, address, address)

    def generate(context: Any, builder: ir.IRBuilder, _signature: Any, args: Any) -> Any:
        source, *indices, weights, out = args
        int8, int16, int32 = (ir.IntType(bits) for bits in (8, 16, 32))

        def splat(value: int, like: ir.VectorType) -> ir.Constant:
            return ir.Constant(like, [value] * like.count)

        def offset(base: Any, amount: Any) -> Any:
            return builder.add(base, amount)

        def load8(at: Any) -> Any:
            value = builder.load(builder.inttoptr(at, ir.VectorType(int16, 8).as_pointer()), align=2)
            return builder.sext(value, ir.VectorType(int32, 8))

        def shuffle(a: Any, b: Any, order: list[int]) -> Any:
            return builder.shuffle_vector(a, b, ir.Constant(ir.VectorType(int32, len(order)), order))

        products = []
        for number, i in enumerate(indices):
            pixels = load8(offset(source, builder.shl(i, ir.Constant(i.type, 3))))
            weight = load8(offset(weights, ir.Constant(weights.type, 16 * number)))
            product = builder.mul(pixels, weight)
            products.append(builder.trunc(builder.ashr(product, splat(16, product.type)), ir.VectorType(int16, 8)))
        pairs = [
            builder.add(shuffle(a, b, [0, 1, 2, 3, 8, 9, 10, 11]), shuffle(a, b, [4, 5, 6, 7, 12, 13, 14, 15]))
            for a, b in (products[:2], products[2:])
        ]
        levels = shuffle(pairs[0], pairs[1], list(range(16)))
        levels = builder.ashr(levels, splat(3, levels.type))
        low, high = splat(0, levels.type), splat(255, levels.type)
        levels = builder.select(builder.icmp_signed(">", levels, low), levels, low)
        levels = builder.select(builder.icmp_signed("<", levels, high), levels, high)
        pixels = builder.trunc(levels, ir.VectorType(int8, 16))
        pixels = shuffle(pixels, pixels, [0, 1, 2, 4, 5, 6, 8, 9, 10, 12, 13, 14])
        builder.store(pixels, builder.inttoptr(out, pixels.type.as_pointer()), align=1)
        return context.get_dummy_value()

    return signature, generate


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
    rows_S5: np.ndarray,
    row_weights_S4: np.ndarray,
    columns_S: np.ndarray,
    column_weights_S8: np.ndarray,
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
        rows_S5: and the next three, of one view: see `view_tables`.
        matrix_34: from `compose`.
        width: of the frame without padding.
        triangle: chroma as in JPEG, else as in video.
        out_HWC: uint8 (S, S, 3), contiguous, S a multiple of 4; is overwritten.
    """
    size = len(rows_S5)
    first, last = min(columns_S[0], columns_S[size - 1]), max(columns_S[0], columns_S[size - 1]) + 2
    start, count = _window(first & ~1, last, y_HW.shape[1])
    start_c, count_c = _window(max(start // 2 - 1, 0), (min(last, y_HW.shape[1]) + 1) // 2 + 1, u_HW.shape[1])
    shift_c = start // 2 - start_c

    half = count // 2
    end_c = min((width + 1) // 2 - start_c, count_c)

    chroma = np.empty(7 * _ROW, np.float32)  # U; V; their share of R, G, B; its even and odd pixels at full width
    chroma_bits = chroma.view(np.uint32)
    pairs = np.empty(3 * _ROW, np.uint64)
    doubled = pairs.view(np.float32)  # share of R, G, B at full width
    pixels = np.zeros(2 * _ROW, np.int32)  # four int16 each
    source = pixels.ctypes.data - 8 * start
    weights = column_weights_S8.ctypes.data

    m = matrix_34 * float32(_UNIT)
    m[:, 3] += float32((0.5 + 1 / 8) * _UNIT)  # to round, and what cutting off two products to 1/8 loses on average
    ry, ru, rv, r1 = m[0, 0], m[0, 1], m[0, 2], m[0, 3]
    gy, gu, gv, g1 = m[1, 0], m[1, 1], m[1, 2], m[1, 3]
    by, bu, bv, b1 = m[2, 0], m[2, 1], m[2, 2], m[2, 3]
    low, high = float32(-32752), float32(32752)

    for i in range(size):
        w, before, here, after = row_weights_S4[i, 0], row_weights_S4[i, 1], row_weights_S4[i, 2], row_weights_S4[i, 3]
        u0, u1, u2 = u_HW[rows_S5[i, 2]][start_c:], u_HW[rows_S5[i, 3]][start_c:], u_HW[rows_S5[i, 4]][start_c:]
        for k in range(count_c):
            chroma[k] = before * float32(u0[k]) + here * float32(u1[k]) + after * float32(u2[k])
        v0, v1, v2 = v_HW[rows_S5[i, 2]][start_c:], v_HW[rows_S5[i, 3]][start_c:], v_HW[rows_S5[i, 4]][start_c:]
        for k in range(count_c):
            chroma[_ROW + k] = before * float32(v0[k]) + here * float32(v1[k]) + after * float32(v2[k])
        for k in range(count_c):
            u, v = chroma[k], chroma[_ROW + k]
            chroma[2 * _ROW + 1 + k] = ru * u + rv * v + r1
            chroma[3 * _ROW + 1 + k] = gu * u + gv * v + g1
            chroma[4 * _ROW + 1 + k] = bu * u + bv * v + b1
        for c in range(3):
            share = (2 + c) * _ROW + 1 + shift_c
            if triangle:
                chroma[share - 1] = chroma[share - 1 + (start == 0)]
                chroma[end_c + (2 + c) * _ROW + 1] = chroma[end_c + (2 + c) * _ROW]
                for k in range(half):
                    chroma[5 * _ROW + k] = float32(0.75) * chroma[share + k] + float32(0.25) * chroma[share + k - 1]
                    chroma[6 * _ROW + k] = float32(0.75) * chroma[share + k] + float32(0.25) * chroma[share + k + 1]
                even, odd = chroma_bits[5 * _ROW :], chroma_bits[6 * _ROW :]
            else:
                even = odd = chroma_bits[share:]
            for k in range(half):  # two neighbouring floats as one 64-bit store: LLVM does not vectorise stride 2
                pairs[c * _ROW + k] = uint64(even[k]) | (uint64(odd[k]) << uint64(32))
        above, below = y_HW[rows_S5[i, 0]][start:], y_HW[rows_S5[i, 1]][start:]
        for k in range(count):
            y = float32(above[k])
            y += w * (float32(below[k]) - y)
            r = int32(min(max(ry * y + doubled[k], low), high))
            g = int32(min(max(gy * y + doubled[2 * _ROW + k], low), high))
            b = int32(min(max(by * y + doubled[4 * _ROW + k], low), high))
            pixels[2 * k] = (r & int32(0xFFFF)) | (g << int32(16))
            pixels[2 * k + 1] = b
        row = out_HWC.ctypes.data + i * 3 * size
        for x in range(0, size, 4):
            _resample4(  # type: ignore[call-arg]  # the typing context is numba's business
                source,
                columns_S[x],
                columns_S[x + 1],
                columns_S[x + 2],
                columns_S[x + 3],
                weights + 16 * x,
                row + 3 * x,
            )


@njit(**_OPTIONS)
def render_frame(
    y_HW: np.ndarray,
    u_HW: np.ndarray,
    v_HW: np.ndarray,
    number: int,
    index_VT: np.ndarray,
    rows_VS5: np.ndarray,
    row_weights_VS4: np.ndarray,
    columns_VS: np.ndarray,
    column_weights_VS8: np.ndarray,
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
                rows_VS5[v],
                row_weights_VS4[v],
                columns_VS[v],
                column_weights_VS8[v],
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

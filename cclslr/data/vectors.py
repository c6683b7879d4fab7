"""The four steps of the RGB kernel in explicit vectors, as numba intrinsics: what LLVM does not find by itself.

Vectors are LLVM's generic ones, so any CPU runs them. Addresses are integers. A pixel is four int16 lanes (R, G, B,
unused) in units of 1/16 level. The weight of the second of two pixels is int16, less a half, in 1/65536. Gains are what
a level above 128 of Y, of U and of V adds to a pixel in 1/256 units, and a constant in units: int16 (4, 8, 4), the same
for eight pixels. Numba keeps compiled kernels by the date of the file that calls these: after a change here, touch
yuv.py.
"""

from __future__ import annotations

from typing import Any

from llvmlite import ir
from numba import types
from numba.extending import intrinsic

_AHEAD = 1344  # bytes from where a view is written to where it will be soon: saves 7 of 58 us where it is not in cache


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


def _upper_product(builder: ir.IRBuilder, a: Any, b: Any) -> Any:
    """The upper half of 16-bit products: one instruction, half a unit too low on average."""
    wide = _vector(32, a.type.count)
    product = builder.mul(builder.sext(a, wide), builder.sext(b, wide))
    return builder.trunc(builder.ashr(product, _splat(16, wide)), a.type)


def _saturating(builder: ir.IRBuilder, kind: str, a: Any, b: Any) -> Any:
    """a + b (`sadd`) or a - b (`ssub`), held within 16 bits."""
    function = ir.FunctionType(a.type, [a.type, a.type])
    return builder.call(builder.module.declare_intrinsic(f"llvm.{kind}.sat.v{a.type.count}i16", fnty=function), [a, b])


def _blend(builder: ir.IRBuilder, first: Any, second: Any, weight: Any) -> Any:
    """first + (second - first) * (weight + 1/2), with weights in 1/65536; 3/4 of a unit too low on average.

    With the half taken apart, the weight needs no 17th bit.
    """
    difference = _saturating(builder, "ssub", second, first)
    half = builder.ashr(difference, _splat(1, first.type))
    return builder.add(builder.add(first, half), _upper_product(builder, difference, weight))


def _gains(builder: ir.IRBuilder, gains: Any, number: int) -> Any:
    """One of the four rows of gains: of Y, U, V, and the constant."""
    return _load(builder, builder.add(gains, ir.Constant(gains.type, 64 * number)), _vector(16, 32))


def _weighted(builder: ir.IRBuilder, levels: Any, gains: Any) -> Any:
    """Eight pixels of one plane (one byte each), times `gains`; half a unit too low on average."""
    pixels, octet = _vector(16, 32), _vector(8, 8)
    signed = builder.xor(_load(builder, levels, octet, align=1), _splat(128, octet))
    upper_bytes = [at for pixel in range(8) for _ in range(4) for at in (8, pixel)]  # 8: a byte that is zero
    scaled = builder.bitcast(_shuffle(builder, signed, _splat(0, octet), upper_bytes), pixels)
    return _upper_product(builder, scaled, gains)


def _chroma() -> Any:
    """An intrinsic: what eight chroma samples and a constant add to their pixels."""

    def typing(_typing: Any, u: Any, v: Any, gains: Any, out: Any) -> Any:
        def generate(context: Any, builder: ir.IRBuilder, _signature: Any, args: Any) -> Any:
            u, v, gains, out = args
            share = _gains(builder, gains, 3)
            for number, levels in ((1, u), (2, v)):
                share = _saturating(builder, "sadd", share, _weighted(builder, levels, _gains(builder, gains, number)))
            _store(builder, share, out)
            return context.get_dummy_value()

        return types.void(*[types.uintp] * 4), generate

    return intrinsic(typing)


def _luma(triangle: bool) -> Any:
    """An intrinsic: eight pixels from their luma and the shares of the four chroma samples at `near`.

    Triangle: 3/4 of `near` and 1/4 of `far`, a row above or below it, and the same again with the sample before or
    behind; shares lie there too, and five more are read.
    """

    def typing(_typing: Any, luma: Any, gains: Any, near: Any, far: Any, out: Any) -> Any:
        def generate(context: Any, builder: ir.IRBuilder, _signature: Any, args: Any) -> Any:
            luma, gains, near, far, out = args

            def quarter_way(a: Any, b: Any) -> Any:
                step = builder.ashr(_saturating(builder, "ssub", b, a), _splat(2, a.type))
                return builder.add(a, step)

            def shares(first: int) -> Any:
                """Of eight samples from `first` on."""
                offset = ir.Constant(near.type, 8 * first)
                rows = [_load(builder, builder.add(row, offset), _vector(16, 32)) for row in (near, far)]
                return quarter_way(*rows) if triangle else rows[0]

            def spread(shares: Any, left: int, right: int) -> Any:
                """For the two pixels of a sample, the one that many places on."""
                order = [4 * (sample + at) + c for sample in range(4) for at in (left, right) for c in range(4)]
                return _shuffle(builder, shares, shares, order)

            if triangle:
                around = shares(-1)
                share = quarter_way(spread(around, 1, 1), spread(around, 0, 2))
            else:
                share = spread(shares(0), 0, 0)
            light = _weighted(builder, luma, _gains(builder, gains, 0))
            _store(builder, _saturating(builder, "sadd", light, share), out)
            return context.get_dummy_value()

        return types.void(*[types.uintp] * 5), generate

    return intrinsic(typing)


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
    """An intrinsic: `lanes` pixels of two rows in whole levels of 0..255, three bytes a pixel.

    The weight of the far row is int16 in 1/65536, so at most a half. Half a unit too low on average.
    """

    def typing(_typing: Any, near: Any, far: Any, weight: Any, out: Any) -> Any:
        def generate(context: Any, builder: ir.IRBuilder, _signature: Any, args: Any) -> Any:
            near, far, weight, out = args
            near, far = (_load(builder, row, _vector(16, 4 * lanes)) for row in (near, far))
            one = builder.insert_element(_splat(0, near.type), weight, ir.Constant(ir.IntType(32), 0))
            step = _saturating(builder, "ssub", far, near)
            blended = builder.add(near, _upper_product(builder, step, _shuffle(builder, one, one, [0] * lanes * 4)))
            levels = builder.ashr(blended, _splat(4, near.type))  # 16 units a level
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
chroma: Any
luma: Any
luma_triangle: Any
resample4: Any
resample16: Any
finish4: Any
finish16: Any
chroma, luma, luma_triangle = _chroma(), _luma(triangle=False), _luma(triangle=True)
resample4, resample16, finish4, finish16 = _resample(4), _resample(16), _finish(4), _finish(16)

"""The two steps of the RGB kernel in explicit vectors, as numba intrinsics: what LLVM does not find by itself.

Vectors are LLVM's generic ones, so any CPU runs them. Addresses are integers; pixels are four int16 lanes (R, G, B,
unused) in units of 1/16 level; weights of the second of two pixels are int16, less a half, in 1/65536. Numba keeps
compiled kernels by the date of the file that calls these: after a change here, touch yuv.py.
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


def _blend(builder: ir.IRBuilder, first: Any, second: Any, weight: Any) -> Any:
    """first + (second - first) * (weight + 1/2), with weights in 1/65536; 3/4 of a unit too low on average.

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
resample4: Any
resample16: Any
finish4: Any
finish16: Any
resample4, resample16, finish4, finish16 = _resample(4), _resample(16), _finish(4), _finish(16)

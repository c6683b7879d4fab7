"""C libraries within compiled code: functions called by address, memory at an address; nothing there needs the GIL.

Numba keeps what calls these by the date of the calling file: after a change here, touch yuv.py.
"""

from __future__ import annotations

from typing import Any

import llvmlite.ir as ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

call: Any
pointer: Any


def _call(_typing: Any, function: Any, *arguments: Any) -> Any:
    """`call(function, ...)`: what the C function at that address returns, an int.

    Its arguments are integers and addresses, passed as 64 bits: eight at most, which go in registers or in slots of 64
    bits (x86-64, ARM64), so that one which is an `int` in C is read right.
    """

    def generate(context: Any, builder: ir.IRBuilder, signature: Any, values: Any) -> Any:
        long, number = ir.IntType(64), ir.IntType(32)
        given = cgutils.unpack_tuple(builder, values[1], len(arguments))
        given = [context.cast(builder, value, of, types.int64) for value, of in zip(given, signature.args[1])]
        kind = ir.FunctionType(number, [long] * len(given))
        return builder.call(builder.inttoptr(values[0], kind.as_pointer()), given)

    return types.int32(types.uintp, types.StarArgTuple.from_types(arguments)), generate


def _pointer(_typing: Any, address: Any) -> Any:
    """`pointer(address)`: bytes there, for `numba.carray`."""

    def generate(context: Any, builder: ir.IRBuilder, signature: Any, values: Any) -> Any:
        return builder.inttoptr(values[0], context.get_value_type(signature.return_type))

    return types.CPointer(types.uint8)(types.uintp), generate


call, pointer = intrinsic(_call), intrinsic(_pointer)

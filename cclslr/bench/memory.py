"""Whether a process grows: the slope of its memory over time, and how sure it is."""

from __future__ import annotations

import ctypes
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

_BLOCKS = 10  # neighbouring samples are alike: means of blocks are nearer to independent
SURE = 3.0  # standard errors


class _MallocInfo(ctypes.Structure):
    """glibc's `struct mallinfo2`."""

    _fields_ = [
        *((name, ctypes.c_size_t) for name in ("arena", "ordblks", "smblks", "hblks", "hblkhd")),
        *((name, ctypes.c_size_t) for name in ("usmblks", "fsmblks", "uordblks", "fordblks", "keepcost")),
    ]


def heap_bytes() -> int | None:
    """Bytes that this process has allocated and not freed; None where the C library does not tell (glibc 2.33 does).

    A leak shows here to the byte. Resident memory also moves when the heap's holes do.
    """
    library = ctypes.CDLL(None)
    if not hasattr(library, "mallinfo2"):
        return None
    library.mallinfo2.restype = _MallocInfo
    info = library.mallinfo2()
    return int(info.uordblks + info.hblkhd)


@dataclass(frozen=True)
class Growth:
    """Of the memory, by step."""

    slope: float  # a step
    standard_error: float

    @property
    def is_noise(self) -> bool:
        """No growth that could be told from noise."""
        return self.slope <= SURE * self.standard_error


def growth(steps: Sequence[float], memory: Sequence[float]) -> Growth:
    """Least-squares slope of `memory`, sampled evenly at `steps`, with its standard error.

    Raises:
        ValueError: fewer than two samples a block.
    """
    if len(steps) < 2 * _BLOCKS:
        raise ValueError(f"{len(steps)} samples are too few for a slope; take at least {2 * _BLOCKS}")
    x, y = (
        np.array([block.mean() for block in np.array_split(np.asarray(values, float), _BLOCKS)])
        for values in (steps, memory)
    )
    x = x - x.mean()
    slope = float(x @ (y - y.mean()) / (x @ x))
    residuals = y - y.mean() - slope * x
    return Growth(slope, math.sqrt(float(residuals @ residuals) / (_BLOCKS - 2) / float(x @ x)))

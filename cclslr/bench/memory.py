"""Whether a process grows: the slope of its memory over time, and how sure it is."""

from __future__ import annotations

import ctypes
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from cclslr.errors import UserError

_FEWEST = 20  # samples
_WALK = np.concatenate([[0.0], np.logspace(-4, 0, 33)])  # share of the random walk in the variance of a difference
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


def within_swing(resident: Sequence[float], allocated: Sequence[float]) -> bool:
    """Whether resident memory rose by no more than what is allocated goes up and down.

    A large step that lasts is no slope (see `growth`), but neither is it a peak of what is in flight.
    """
    return resident[-1] - resident[0] <= max(allocated) - min(allocated)


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
    """Slope of `memory`, sampled evenly at `steps`, with its standard error.

    Memory has two kinds of noise: it goes up and down about a level with what is in flight, and the level itself moves,
    seldom and for good, to a new peak. Ordinary least squares knows the first kind alone; of the second it makes a
    slope many standard errors from nothing, were it a single page. So this is the slope of a random walk seen through
    white noise (a local level model; Harvey 1989, chapter 2): generalised least squares on the differences of
    neighbours, how much of either by maximum likelihood. Where the level moved n times alike, the slope is about
    sqrt(n) standard errors from nothing.

    Raises:
        UserError: fewer than 20 samples.
    """
    if len(steps) < _FEWEST:
        raise UserError(f"{len(steps)} samples are too few for a slope; take at least {_FEWEST}")
    differences_N = np.diff(np.asarray(memory, float))
    num = len(differences_N)
    # White noise of one sample is in two differences, with opposite signs; its covariance has the same eigenvectors
    # whatever is added to its diagonal.
    white_NN = np.eye(num) - (np.eye(num, k=1) + np.eye(num, k=-1)) / 2
    eigenvalues_N, vectors_NN = np.linalg.eigh(white_NN)
    one_N, rotated_N = vectors_NN.sum(axis=0), differences_N @ vectors_NN
    weights_WN = 1 / (_WALK[:, None] + (1 - _WALK[:, None]) * eigenvalues_N)
    precision_W = (weights_WN * one_N**2).sum(axis=1)
    slope_W = (weights_WN * one_N * rotated_N).sum(axis=1) / precision_W
    variance_W = (weights_WN * (rotated_N - slope_W[:, None] * one_N) ** 2).sum(axis=1) / (num - 1)
    with np.errstate(divide="ignore"):  # a straight line has no noise at all
        likelihood_W = np.log(weights_WN).sum(axis=1) - num * np.log(variance_W)
    best = int(np.argmax(likelihood_W))
    every = (steps[-1] - steps[0]) / num
    return Growth(float(slope_W[best]) / every, math.sqrt(variance_W[best] / precision_W[best]) / every)

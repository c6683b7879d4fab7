"""Clips from one FFCV file, rendered as by `numba`."""

from __future__ import annotations

from typing import TYPE_CHECKING

from cclslr.data.backends import numba
from cclslr.data.backends.base import Backend

if TYPE_CHECKING:
    from cclslr.shards.reader import ShardSet


def read(shards: ShardSet) -> ShardSet:
    from cclslr.data.beton import BetonSet

    return BetonSet(shards)


FFCV = Backend("ffcv", numba.make, read, numba.MULTIPLE)

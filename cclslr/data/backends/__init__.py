"""The libraries that turn encoded video into RGB views, a file each in this folder; the table derives itself.

An entry says who it is and how it is made; what it is made of (`cclslr.data.rgb_*`) is imported only then.
"""

from __future__ import annotations

import functools

from cclslr.data.backends.base import Backend, RgbWork
from cclslr.registry import find

__all__ = ["Backend", "RgbWork", "backends"]


@functools.cache
def backends() -> dict[str, Backend]:
    """Every backend, by name."""
    return find(__name__, Backend)

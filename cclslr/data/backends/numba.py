"""CPU threads: libavcodec or libjpeg-turbo, and one fused kernel."""

from __future__ import annotations

from typing import TYPE_CHECKING

from cclslr.data.backends.base import Backend, RgbWork

if TYPE_CHECKING:
    from cclslr.data.backend import RgbBackend

MULTIPLE = 4  # the kernel makes four pixels at a time


def make(work: RgbWork) -> RgbBackend:
    from cclslr.data.rgb_numba import NumbaBackend  # compiled when it is imported first

    return NumbaBackend(
        size=work.size,
        frames=work.frames,
        clips=work.clips,
        views=work.views,
        threads=work.threads,
        pinned=work.pinned,
    )


NUMBA = Backend("numba", make, multiple=MULTIPLE)

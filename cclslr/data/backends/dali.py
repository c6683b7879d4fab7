"""NVIDIA DALI, on a CPU or GPU."""

from __future__ import annotations

from typing import TYPE_CHECKING

from cclslr.data.backends.base import Backend, RgbWork

if TYPE_CHECKING:
    from cclslr.data.backend import RgbBackend


def make(work: RgbWork) -> RgbBackend:
    from cclslr.data.rgb_dali import DaliBackend  # DALI takes a second to import; pose alone does without

    return DaliBackend(
        work.codec,
        size=work.size,
        frames=work.frames,
        clips=work.clips,
        views=work.views,
        decode=work.decode,
        device=work.device,
        device_id=work.device_id,
        threads=work.threads,
        depth=work.depth,
    )


DALI = Backend("dali", make)

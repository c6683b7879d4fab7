"""What a backend of RGB views is made from."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from cclslr.codecs import Codec
    from cclslr.data.backend import RgbBackend
    from cclslr.shards.reader import ShardSet


@dataclass(frozen=True)
class RgbWork:
    """The batches that one process wants."""

    codec: Codec  # of the shards
    size: int  # pixels of the square view
    frames: int  # of a view
    clips: int  # most in a batch of this rank
    views: int  # of a clip: 2 in training, 1 in evaluation
    decode: str  # auto | dali | libav
    device: str  # cpu | gpu, where RGB is decoded and augmented
    device_id: int  # of the GPU
    threads: int
    depth: int  # batches in flight at most
    pinned: bool  # batches go on to a GPU


@dataclass(frozen=True)
class Backend:
    """One way to RGB views. All compute the same (`cclslr.data.backend.RgbBackend`)."""

    name: str  # as in data.backend
    make: Callable[[RgbWork], RgbBackend]
    read: Callable[[ShardSet], ShardSet] = lambda shards: shards  # where its clips come from
    multiple: int = 1  # of pixels that the side of its views must be

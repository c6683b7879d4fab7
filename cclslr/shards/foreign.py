"""Files that others made: the limits within which they are read, and the one place where their faults are caught."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

from cclslr.shards.format import BadClip

MAX_PIXELS = 8192 * 4320  # of a frame: the largest that cameras and screens have
MAX_FRAMES = 250_000  # of a file: more than an hour at 60 a second
MAX_CLIP_BYTES = 4 << 30  # of a clip's decoded frames; a sign is seconds long
MAX_KEYPOINT_BYTES = 256 << 20  # of a file's keypoints: 168,000 frames in float32
MAX_SEQUENCES_BYTES = 4 << 30  # of an array that holds the keypoints of many clips
MAX_CPU_SECONDS = (
    900.0  # for one pass over a file. Of the thread, not of the clock: a busy machine rejects nothing else
)

Item = TypeVar("Item")


@contextmanager
def reading(path: str | Path) -> Iterator[None]:
    """Whatever fails while a file is read is a `BadClip` that begins with its name.

    This is the one broad handler: the parsers beneath raise anything at all on damaged bytes.
    """
    try:
        yield
    except Exception as error:
        raise BadClip(f"{Path(path).name}: {_reason(error)}") from error


def _reason(error: Exception) -> str:
    if isinstance(error, BadClip):
        return str(error)
    said = getattr(error, "strerror", None)  # by the system, or by FFmpeg
    return f"unreadable: {said or f'{type(error).__name__}: {error}'}"


def check_size(width: int, height: int, frames: int) -> None:
    """Raises BadClip where frames of this size are too large, or so many of them for one clip."""
    if width * height > MAX_PIXELS:
        raise BadClip(f"frames of {width}x{height} pixels are too large; {MAX_PIXELS} pixels are the most")
    if frames * width * height * 3 > MAX_CLIP_BYTES:
        raise BadClip(
            f"{frames} frames of {width}x{height} pixels are more than the {MAX_CLIP_BYTES / 1e9:.1f} GB that a clip "
            "may have; cut the video"
        )


def within_time(items: Iterable[Item]) -> Iterator[Item]:
    """The items, as long as making and using them takes this thread less than `MAX_CPU_SECONDS`.

    Raises:
        BadClip: it takes longer.
    """
    began = time.thread_time()
    for item in items:
        if time.thread_time() - began > MAX_CPU_SECONDS:
            raise BadClip(f"decoding takes more than {MAX_CPU_SECONDS:.0f} seconds; cut the video")
        yield item

"""What a page takes from whoever opens it: bytes of a video or of a picture, and no more of them than this."""

from __future__ import annotations

import contextlib
import ctypes
import io
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from cclslr.errors import BadClip, UserError
from cclslr.shards.foreign import reading
from cclslr.shards.timeline import open_video, read_timeline

# FFmpeg guesses formats by content, and some are lists of other files: only these containers reach it.
_CONTAINERS = {"MP4 or MOV": (4, b"ftyp"), "WebM or Matroska": (0, b"\x1a\x45\xdf\xa3"), "AVI": (8, b"AVI ")}
_HEAD = 12  # bytes that say which it is
MAX_PICTURE = 512 * 1024  # bytes of a frame from a camera
MAX_SIDE = 1280  # pixels of such a frame
_M_ARENA_MAX = -8  # of glibc's malloc.h


@dataclass(frozen=True)
class Limits:
    """Of one request, and of those that wait."""

    megabytes: float = 32.0  # of a clip
    seconds: float = 20.0  # of a clip; a sign takes two or three
    pixels: int = 1920 * 1080  # of a frame
    waiting: int = 64  # requests that wait for their turn; more are turned away

    @property
    def bytes(self) -> int:
        return int(self.megabytes * 1e6)


def check_head(head: bytes) -> None:
    """Refuse bytes that begin no container of video.

    Raises:
        UserError: says which are taken.
    """
    if not any(head[at : at + len(magic)] == magic for at, magic in _CONTAINERS.values()):
        raise UserError(f"this is no video file that the page takes: {', '.join(_CONTAINERS)}")


def one_arena() -> None:
    """Let glibc's malloc keep one heap for all threads; call it before there are others. Elsewhere nothing happens.

    Requests are answered one at a time, each in whichever thread is free, and each thread has a heap of its own
    otherwise: resident memory grew by 26 MB from the 250th clip to the 1,000th, and by 0.3 MB from the 200th to the
    500th with one heap (docs/results/serve).
    """
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL("libc.so.6").mallopt(_M_ARENA_MAX, 1)


def check_video(path: Path, limits: Limits) -> None:
    """Refuse, before a frame is decoded, what is too long or too large.

    Raises:
        BadClip: it is; or no video; says why.
    """
    with path.open("rb") as file:
        check_head(file.read(_HEAD))
    with reading(path):
        with open_video(path) as (_, stream):
            width, height = stream.codec_context.width, stream.codec_context.height
        if width * height > limits.pixels:
            raise BadClip(f"frames of {width}x{height} pixels are too large; {limits.pixels:,} pixels are the most")
        timeline = read_timeline(path)
        seconds = len(timeline.pts) / max(timeline.fps, 1e-6)
        if seconds > limits.seconds:
            raise BadClip(f"{seconds:.0f} seconds are too long; a clip is one sign, of {limits.seconds:.0f} at most")


def open_picture(data: bytes) -> np.ndarray:
    """The JPEG of a camera's frame as uint8 RGB (H, W, 3).

    Raises:
        UserError: no JPEG, or too large.
    """
    if len(data) > MAX_PICTURE:
        raise UserError(f"a picture of {len(data):,} bytes is too large; {MAX_PICTURE:,} are the most")
    try:
        image = Image.open(io.BytesIO(data), formats=("JPEG",))
        if max(image.size) > MAX_SIDE:
            raise UserError(f"a picture of {image.width}x{image.height} pixels is too large; {MAX_SIDE} are the most")
        return np.asarray(image.convert("RGB"))
    except UserError:
        raise
    except Exception as error:  # Pillow raises anything at all on damaged bytes
        raise UserError(f"no picture that can be read ({type(error).__name__})") from error

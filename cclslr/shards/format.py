"""The shard format in types: what a clip is made of, on its way in and as it lies in a shard (docs/format.md)."""

from __future__ import annotations

import functools
import math
import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from cclslr.codecs import video_extensions
from cclslr.errors import BadClip, UserError

__all__ = [
    "FORMAT_VERSION",
    "KEY_PATTERN",
    "MASK_SIZE",
    "SHARD_PATTERN",
    "SPLITS",
    "BadClip",
    "ClipSource",
    "Component",
    "IndexRow",
    "ManifestRow",
    "RawClip",
    "check_shard_names",
    "part_of",
    "scaled",
    "side_of",
    "smaller_name",
]

FORMAT_VERSION = 1
SPLITS = ("train", "val", "test")
KEY_PATTERN = re.compile(r"[A-Za-z0-9_-]+")
_SIDE = re.compile(r"[1-9][0-9]{0,2}")
SHARD_PATTERN = re.compile(r"[A-Za-z0-9_-]+\.tar")  # a plain name: none leads out of the data set's folder
MAX_SMALLER = 998  # pixels: a larger number would make the longest name of a component longer
MASK_SIZE = 64  # masks are MASK_SIZE x MASK_SIZE whatever the frames' size


@dataclass
class RawClip:
    """A decoded clip, before packing. Either part may be missing, not both."""

    frames_THWC: np.ndarray | None  # uint8 RGB
    keypoints_TKC: np.ndarray | None  # float32 (T, 133, 3): x, y in pixels of the frames, confidence
    fps: float
    meta: dict[str, Any] = field(default_factory=dict)  # source span, estimator, …: goes into the clip's json


class ClipSource(Protocol):
    """Where a clip comes from; picklable, because packing loads it in another process."""

    def load(self) -> RawClip:
        """Decode or render the clip.

        Raises:
            BadClip: with the reason a user can act on.
        """
        ...


@dataclass(frozen=True)
class ManifestRow:
    """One clip that an importer found."""

    key: str  # unique in the data set, matches KEY_PATTERN
    source: ClipSource
    label: int | None
    gloss: str | None
    split: str
    signer: str | None


@dataclass(frozen=True)
class Component:
    """One file of a clip inside its tar."""

    offset: int  # of the data, from the start of the tar
    size: int  # bytes
    crc32: int  # zlib.crc32 of the data


@dataclass(frozen=True)
class IndexRow:
    """One clip in index.parquet."""

    key: str
    shard: str  # file name of the tar, relative to the data set's folder
    label: int  # -1 where unknown
    split: str
    signer: str
    num_frames: int
    width: int  # of the packed frames; 0 without video
    height: int
    fps: float
    components: dict[str, Component]  # by extension: mjpg | mp4, 128.mjpg | 128.mp4, pose.npy, mask.png, json
    frame_offsets: tuple[int, ...]  # mjpg: start of each JPEG within the component, and the end; empty for mp4

    def has(self, part: str) -> bool:
        """Whether there is a component of that kind."""
        return any(part_of(name) == part for name in self.components)

    def video(self, least: float = math.inf) -> str | None:
        """The component with the smallest frames that have `least` pixels on their short side; else the full ones."""
        sides = {side: name for name in self.components if (side := side_of(name)) is not None}
        side = serving(sides, least)
        if side is not None:
            return sides[side]
        return next((name for name in self.components if part_of(name) == "video"), None)


def serving(sides: Iterable[int], least: float) -> int | None:
    """The smallest of these sizes of a clip that has `least` pixels on its short side; None: the full one serves."""
    return min((side for side in sides if side >= least), default=None)


@functools.cache
def part_of(component: str) -> str | None:
    """Which part of a clip a component is: video, smaller (the video once more, with smaller frames), pose, mask or
    json; None: nothing that this format knows."""
    if component in video_extensions():
        return "video"
    if side_of(component) is not None:
        return "smaller"
    return {"pose.npy": "pose", "mask.png": "mask", "json": "json"}.get(component)


@functools.cache
def side_of(component: str) -> int | None:
    """The short side in pixels of a smaller video's frames, which its name says: `128.mp4`; None for all others."""
    side, _, extension = component.partition(".")
    return int(side) if _SIDE.fullmatch(side) and extension in video_extensions() else None


def smaller_name(side: int, extension: str) -> str:
    """The component of a video with smaller frames."""
    return f"{side}.{extension}"


def scaled(width: float, height: float, side: int) -> tuple[int, int]:
    """Width and height of frames that are resized to `side` pixels on their short side: even numbers."""
    scale = side / min(width, height)
    return 2 * round(width * scale / 2), 2 * round(height * scale / 2)


def check_shard_names(names: Iterable[str], where: str | Path) -> None:
    """Raises UserError for a name, in the file `where`, that is no plain one: what it leads to would be overwritten."""
    for name in names:
        if not isinstance(name, str) or not SHARD_PATTERN.fullmatch(name):
            raise UserError(f"{where}: {name!r} is no name of a shard; pack the data set again, or get it anew")

"""What an importer is, what it gives back, and the source that most use: a span of a video file with a keypoint file.

Adding a data set is adding a module to this package that defines an `Importer`; `importers` finds it.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from cclslr import registry
from cclslr.shards.format import BadClip, ManifestRow, RawClip
from cclslr.shards.keypoint_file import PoseReading


@dataclass(frozen=True)
class Importer:
    """One kind of data set: an entry of the table that `cclslr pack`, `cclslr poses --dataset` and the tests share."""

    name: str  # the sub-command of cclslr pack
    help: str  # one line
    add_arguments: Callable[[Any], None]  # to a parser, or to a group of one
    load: Callable[[argparse.Namespace], Import]  # reads lists and folders, decodes nothing
    licence: str = ""  # goes into the packed set where --licence-note says nothing

    @property
    def description(self) -> str | None:
        """What --help says: the docstring of the importer's module."""
        return sys.modules[self.load.__module__].__doc__


def importers() -> dict[str, Importer]:
    """Every data set that can be packed, by name."""
    return registry.find(__package__, Importer)


@dataclass
class ImportReport:
    """What an importer found, before any work is done."""

    rows: int  # clips in the list, of the chosen sub-split
    splits: dict[str, int]  # of these: train, val, test
    classes: int
    found: int  # clips whose files are there
    missing: list[str] = field(default_factory=list)  # the file of each clip that is not there
    duplicates: list[str] = field(default_factory=list)  # keys or lines that say a clip again
    conventions: dict[str, str] = field(default_factory=dict)  # what was detected: label base, trimmed files, …
    classes_without_test: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)  # differences from the published counts, explained; extras ignored
    rejected: list[str] = field(default_factory=list)  # lines that cannot be used, each with the reason

    def to_json(self) -> dict[str, Any]:
        """The report as `cclslr pack --report` writes it: counts, conventions and notes."""
        return {
            "rows": self.rows,
            "splits": {split: self.splits.get(split, 0) for split in ("train", "val", "test")},
            "classes": self.classes,
            "found": self.found,
            "missing": len(self.missing),
            "duplicates": len(self.duplicates),
            "rejected": len(self.rejected),
            "conventions": self.conventions,
            "classes_without_test": self.classes_without_test,
            "notes": self.notes,
        }


@dataclass
class Import:
    """The clips that can be packed, and the report about all of them."""

    rows: list[ManifestRow]  # in a deterministic order; missing files left out
    classes: list[str]  # gloss of each label
    report: ImportReport


class OneFile:
    """What a `ClipSource` that reads one file says of it."""

    path: str

    def fingerprint(self) -> str:
        """Changes when the file's name, size or time does, or what is taken of it: then the clip is packed again."""
        stat = os.stat(self.path)
        return f"{self!r} {stat.st_size} {stat.st_mtime_ns}"


@dataclass(frozen=True)
class VideoFile:
    """A `ClipSource`: a span of a video file, with whole-body keypoints from a file beside it.

    At most one of the spans is given; both are half open and a missing end means the end of the file. The keypoint
    file has as many frames as the span or as the whole video (then it is cut with it).
    """

    path: str | None  # video; None: a clip of poses alone
    pose: str | None = None  # .npz (array "keypoints" or one only), .npy, .pose; see `reading`
    frames: tuple[int, int | None] | None = None  # 0-based
    seconds: tuple[float, float | None] | None = None
    box: tuple[float, float, float, float] | None = None  # of the signer: x0, y0, x1, y1
    box_is_fraction: bool = False  # the box in [0, 1] of the frame, else in pixels
    fps: float = 25.0  # of a clip without a video; a video says its own
    reading: PoseReading | None = field(default=None, repr=False)  # how the keypoint file is to be read

    def fingerprint(self) -> str:
        """Changes when the file's name, span, size or time does: then the clip is packed again."""
        stats = []
        for path in (self.path, self.pose):
            if path is not None and Path(path).exists():
                stat = os.stat(path)
                stats.append((stat.st_size, stat.st_mtime_ns))
        return f"{self!r} {stats}" + ("" if self.reading is None else f" {self.reading!r}")

    def load(self) -> RawClip:
        """Decode the span and its keypoints.

        Raises:
            BadClip: unreadable or empty video, a span beyond it, keypoints of another shape or length.
        """
        # Imported where they work: importers decode nothing.
        from cclslr.shards.decode import decode_file
        from cclslr.shards.keypoint_file import read_pose, to_pixels

        keypoints_TKC, texts = (None, {}) if self.pose is None else read_pose(self.pose, self.reading)
        if self.path is not None:
            clip = decode_file(self.path, self.frames, self.seconds)
            if keypoints_TKC is not None:
                keypoints_TKC = _cut_with_video(keypoints_TKC, clip.meta)
        elif keypoints_TKC is not None:
            assert self.pose is not None
            total = len(keypoints_TKC)
            begin, end = self._pose_span(total)
            keypoints_TKC = keypoints_TKC[begin:end]
            meta = {"source": Path(self.pose).name, "span": [begin, end], "source_frames": total}
            clip = RawClip(None, None, self.fps, meta)
        else:
            raise BadClip("neither video nor pose")
        if keypoints_TKC is not None:
            size = None if clip.frames_THWC is None else (clip.frames_THWC.shape[2], clip.frames_THWC.shape[1])
            keypoints_TKC = to_pixels(keypoints_TKC, size, self.reading)
        clip.keypoints_TKC = keypoints_TKC
        if texts:
            clip.meta["pose"] = texts
        if self.box is not None:
            clip.meta["box"] = self._box_in_pixels(clip.frames_THWC)
        return clip

    def _pose_span(self, total: int) -> tuple[int, int]:
        """The span of a clip that has keypoints alone; a file as long as the span was cut with its video."""
        if self.frames is not None:
            begin, end = self.frames
        elif self.seconds is not None:
            begin = round(self.seconds[0] * self.fps)
            end = None if self.seconds[1] is None else round(self.seconds[1] * self.fps)
        else:
            begin, end = 0, None
        if end is not None and end - begin == total:
            return 0, total
        if not 0 <= begin < total or (end is not None and not begin < end <= total):
            raise BadClip(f"the span {begin} to {end} does not lie in the pose's {total} frames")
        return begin, total if end is None else end

    def _box_in_pixels(self, frames_THWC: np.ndarray | None) -> list[float] | None:
        assert self.box is not None
        if not self.box_is_fraction:
            return [float(value) for value in self.box]
        if frames_THWC is None:
            return None
        _, height, width, _ = frames_THWC.shape
        x0, y0, x1, y1 = self.box
        return [x0 * width, y0 * height, x1 * width, y1 * height]


def _cut_with_video(keypoints_TKC: np.ndarray, meta: dict[str, Any]) -> np.ndarray:
    """Keypoints of the clip, from a file of the clip or of the whole video."""
    begin, end = meta["span"]
    if len(keypoints_TKC) not in (end - begin, meta["source_frames"]):
        raise BadClip(
            f"the pose has {len(keypoints_TKC)} frames, the video {meta['source_frames']}, the clip {end - begin}"
        )
    return keypoints_TKC if len(keypoints_TKC) == end - begin else keypoints_TKC[begin:end]

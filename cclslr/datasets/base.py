"""What every importer gives back, and the source that most of them use: a span of a video file with a keypoint file.

An importer is a module `cclslr/datasets/<name>.py` with

    NAME: str                                                the sub-command of cclslr pack
    HELP: str                                                one line
    def add_arguments(parser: argparse.ArgumentParser) -> None
    def load(args: argparse.Namespace) -> Import             reads lists and folders, decodes nothing
"""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from cclslr.shards.format import ManifestRow, RawClip


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


@dataclass(frozen=True)
class VideoFile:
    """A `ClipSource`: a span of a video file, with whole-body keypoints from a file beside it.

    At most one of the spans is given; both are half open and a missing end means the end of the file. The keypoint
    file has as many frames as the span or as the whole video (then it is cut with it).
    """

    path: str | None  # video; None: a clip of poses alone
    pose: str | None = None  # .npz (array "keypoints" or one only) or .npy, (T, 133, 3): x, y in pixels, confidence
    frames: tuple[int, int | None] | None = None  # 0-based
    seconds: tuple[float, float | None] | None = None
    box: tuple[float, float, float, float] | None = None  # of the signer: x0, y0, x1, y1
    box_is_fraction: bool = False  # the box in [0, 1] of the frame, else in pixels
    fps: float = 25.0  # of a clip without a video; a video says its own

    def fingerprint(self) -> str:
        """Changes when the file's name, span, size or time does: then the clip is packed again."""
        stats = []
        for path in (self.path, self.pose):
            if path is not None and Path(path).exists():
                stat = os.stat(path)
                stats.append((stat.st_size, stat.st_mtime_ns))
        return f"{self!r} {stats}"

    def load(self) -> RawClip:
        """Decode the span and its keypoints.

        Raises:
            BadClip: unreadable or empty video, a span beyond it, keypoints of another shape or length.
        """
        from cclslr.shards.decode import load_video_file  # imported where it works: importers decode nothing

        return load_video_file(self)

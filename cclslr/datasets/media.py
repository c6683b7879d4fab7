"""The files that a data set is made of: found, matched with the rows of its lists, measured by their headers."""

from __future__ import annotations

import argparse
import os
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

from cclslr.errors import UserError
from cclslr.shards.format import BadClip

VIDEO_SUFFIXES = (
    ".mp4", ".mkv", ".webm", ".mov", ".avi", ".m4v", ".mpg", ".mpeg", ".wmv", ".flv", ".3gp", ".gif", ".ts", ".mts",
    ".m2ts", ".ogv", ".swf",
)  # fmt: skip
POSE_SUFFIXES = (".npz", ".npy", ".pose")
FRAME_SUFFIXES = (".jpg", ".jpeg")
# What macOS, Windows, Synology and Linux leave in folders; names that begin with a dot need no list.
SYSTEM_NAMES = frozenset(
    ("__MACOSX", "@eaDir", "#recycle", "Thumbs.db", "desktop.ini", "$RECYCLE.BIN", "System Volume Information",
     "lost+found")
)  # fmt: skip

Item = TypeVar("Item")
Value = TypeVar("Value")


@dataclass
class Files:
    """The files under a folder, walked once: 100,000 `exists` calls on a network disk take minutes.

    Hidden files and what systems leave behind are passed over; a link to a folder above is followed no further.
    """

    folder: Path
    suffixes: tuple[str, ...]
    paths: list[Path] = field(default_factory=list)  # all of them, sorted
    by_path: dict[str, Path] = field(default_factory=dict)  # relative path without suffix, with /
    by_stem: dict[str, Path] = field(default_factory=dict)  # first in sorted order where folders repeat a name
    repeated: int = 0  # names that several folders have
    skipped: list[str] = field(default_factory=list)  # hidden and system files and folders, and links that lead back
    others: Counter[str] = field(default_factory=Counter)  # files of other endings, by ending
    frames: bool = False  # a folder of JPEGs counts as a file

    @classmethod
    def walk(cls, folder: str | Path, suffixes: tuple[str, ...], frames: bool = False) -> Files:
        """Index `folder`; a folder that is not there is a `UserError`."""
        folder = Path(folder)
        if not folder.is_dir():
            raise UserError(f"{folder} is not a folder; give the one that holds the files")
        files = cls(folder, suffixes, frames=frames)
        files._collect(folder, frozenset())
        files.paths.sort()
        for path in files.paths:
            relative = files.name(path)
            files.by_path.setdefault(relative, path)
            files.repeated += files.by_stem.setdefault(path.stem, path) != path
        return files

    def _collect(self, folder: Path, above: frozenset[tuple[int, int]]) -> None:
        status = folder.stat()
        here = (status.st_dev, status.st_ino)
        if here in above:
            self.skipped.append(str(folder))
            return
        with os.scandir(folder) as entries:
            listed = sorted(entries, key=lambda entry: entry.name)
        if self.frames and any(entry.name.lower().endswith(FRAME_SUFFIXES) for entry in listed):
            self.paths.append(folder)
            return
        for entry in listed:
            if entry.name.startswith(".") or entry.name in SYSTEM_NAMES:
                self.skipped.append(entry.path)
            elif entry.is_dir():
                self._collect(folder / entry.name, above | {here})
            elif entry.name.lower().endswith(self.suffixes):
                self.paths.append(folder / entry.name)
            else:
                self.others[Path(entry.name).suffix.lower()] += 1

    def name(self, path: Path) -> str:
        """The relative path of a file without its suffix, with /."""
        relative = path.relative_to(self.folder)
        return (relative.with_suffix("") if relative.suffix.lower() in self.suffixes else relative).as_posix()

    def find(self, *names: str) -> Path | None:
        """The file of the first of `names` (no suffix) that has one: by its path under the folder; a bare name is found
        anywhere in it."""
        return next((path for name in names if (path := self.by_path.get(name) or self.by_stem.get(name))), None)


@dataclass(frozen=True)
class Probe:
    """What a video's header says."""

    frames: int
    fps: float
    width: int
    height: int

    @property
    def seconds(self) -> float:
        return self.frames / self.fps


def probe_video(path: Path) -> Probe | None:
    """Length and size of a video from its header, packets counted where the header is silent; None if unreadable."""
    from cclslr.shards.foreign import reading  # imported where they work
    from cclslr.shards.timeline import open_video, slack

    try:
        with reading(path), open_video(path) as (container, stream):
            fps = float(stream.average_rate or stream.guessed_rate or 0)
            frames = stream.frames or sum(packet.size > 0 for packet in container.demux(stream))
            if frames <= 0 or fps <= 0:
                return None
            shown = round((container.duration or 0) / 1e6 * fps)
            if 0 < shown < frames - slack(frames):  # an edit list hides the others
                frames = shown
            return Probe(frames, fps, stream.width, stream.height)
    except BadClip:
        return None


def map_threads(function: Callable[[Item], Value], items: Iterable[Item]) -> list[Value]:
    """`function` of each item, in order; headers of thousands of files wait for the disk, so threads pay."""
    with ThreadPoolExecutor(max_workers=16) as pool:
        return list(pool.map(function, items))


def sample(items: Sequence[Item], limit: int) -> list[Item]:
    """At most `limit` of `items`, evenly spread, always the same ones."""
    return [items[index * len(items) // limit] for index in range(limit)] if len(items) > limit else list(items)


@dataclass
class PoseFiles:
    """The keypoint files of a data set, if the user has any."""

    files: Files | None

    @classmethod
    def walk(cls, folder: str | None) -> PoseFiles:
        """Index `folder`; None: a data set without keypoints."""
        return cls(None if folder is None else Files.walk(folder, POSE_SUFFIXES))

    def find(self, *names: str) -> tuple[str | None, str | None]:
        """(path, missing): the first of `names` that has a file; without one, the file that should be there."""
        if self.files is None:
            return None, None
        for name in names:
            path = self.files.find(name)
            if path is not None:
                return str(path), None
        return None, str(self.files.folder / f"{names[0]}{self.files.suffixes[0]}")


Clip = TypeVar("Clip")
Found = tuple[Clip, Path | None, str | None]  # a clip of a list, its video and its keypoint file


@dataclass
class Media:
    """The files of a data set: its videos, their keypoints, or both."""

    videos: Files | None
    poses: PoseFiles

    @staticmethod
    def add_arguments(parser: argparse.ArgumentParser, videos: str, poses: str) -> None:
        """`--videos` and `--poses`, with what their folders hold."""
        parser.add_argument("--videos", metavar="DIR", help=f"{videos}; leave out for poses alone")
        parser.add_argument("--poses", metavar="DIR", help=poses)

    @classmethod
    def walk(cls, args: argparse.Namespace) -> Media:
        """Index the folders that `add_arguments` asked for.

        Raises:
            UserError: neither is given, or one is not there.
        """
        if args.videos is None and args.poses is None:
            raise UserError("give --videos, --poses or both: a list alone makes no clips")
        return cls(None if args.videos is None else Files.walk(args.videos, VIDEO_SUFFIXES), PoseFiles.walk(args.poses))

    def find(
        self, clips: Iterable[Clip], names: Callable[[Clip], tuple[Sequence[str], Sequence[str]]], missing: list[str]
    ) -> list[Found[Clip]]:
        """The clips whose files are there, with them; of each of the others the file that is not goes to `missing`.

        Args:
            names: of a clip, what its video and what its keypoint file may be called, likeliest first, no suffix.
        """
        found: list[Found[Clip]] = []
        for clip in clips:
            video_names, pose_names = names(clip)
            video = None if self.videos is None else self.videos.find(*video_names)
            pose, gone = self.poses.find(*pose_names)
            if self.videos is not None and video is None:
                missing.append(str(self.videos.folder / f"{video_names[0]}{''.join(self.videos.suffixes[:1])}"))
            elif gone is not None:
                missing.append(gone)
            else:
                found.append((clip, video, pose))
        return found

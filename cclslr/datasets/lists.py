"""What the importers share: reading lists that people edited, finding files, and a ledger that loses no row.

Each row of a list ends in exactly one of four places: a clip to pack, a missing file, a duplicate, or a rejection with
its reason. `Ledger.finish` checks the sum.
"""

from __future__ import annotations

import os
import re
import zlib
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeGuard, TypeVar

from cclslr.datasets.base import Import, ImportReport
from cclslr.errors import UserError
from cclslr.shards.format import SPLITS, BadClip, ClipSource, ManifestRow

VIDEO_SUFFIXES = (".mp4", ".mkv", ".webm", ".mov", ".avi", ".m4v", ".mpg", ".swf")
POSE_SUFFIXES = (".npz", ".npy")

Item = TypeVar("Item")
Value = TypeVar("Value")


def clean_key(text: str) -> str:
    """A shard key for `text`: other characters than letters, digits, `_`, `-` become `_`, and a checksum tells apart
    what would then look the same (CASÉ and CASÈ)."""
    key = re.sub(r"[^A-Za-z0-9_-]", "_", text)
    return key if key == text else f"{key}-{zlib.crc32(text.encode('utf-8', 'surrogatepass')):08x}"


def is_int(value: Any) -> TypeGuard[int]:
    """Whether a JSON value is a whole number; `true` is none."""
    return isinstance(value, int) and not isinstance(value, bool)


def is_number(value: Any) -> TypeGuard[float]:
    """Whether a JSON value is a finite number; JSON as written by Python may hold NaN."""
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < 1e12


def read_lines(path: Path) -> list[str]:
    """The lines of a UTF-8 text file, without those that are empty.

    Raises:
        UserError: another encoding, or no file; the message names it.
    """
    try:
        text = path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: not UTF-8 text ({error.reason} at byte {error.start}); convert it first") from error
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror})") from error
    return [line.strip() for line in text.splitlines() if line.strip()]


@dataclass
class Files:
    """The files under a folder, walked once: 100,000 `exists` calls on a network disk take minutes."""

    folder: Path
    suffixes: tuple[str, ...]
    by_path: dict[str, Path] = field(default_factory=dict)  # relative path without suffix, with /
    by_stem: dict[str, Path] = field(default_factory=dict)  # first in sorted order where folders repeat a name
    repeated: int = 0  # names that several folders have

    @classmethod
    def walk(cls, folder: str | Path, suffixes: tuple[str, ...]) -> Files:
        """Index `folder`; a folder that is not there is a `UserError`."""
        folder = Path(folder)
        if not folder.is_dir():
            raise UserError(f"{folder} is not a folder; give the one that holds the files")
        files = cls(folder, suffixes)
        found: list[Path] = []
        for parent, folders, names in os.walk(folder, followlinks=True):
            folders.sort()
            found += [Path(parent, name) for name in names if name.lower().endswith(suffixes)]
        for path in sorted(found):
            relative = path.relative_to(folder).with_suffix("").as_posix()
            files.by_path.setdefault(relative, path)
            files.repeated += files.by_stem.setdefault(path.stem, path) != path
        return files

    def find(self, name: str) -> Path | None:
        """The file of `name` (no suffix): by its path under the folder; a bare name is found anywhere in it."""
        return self.by_path.get(name) or self.by_stem.get(name)


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
class Ledger:
    """Books every row of a list once and writes the report."""

    rows: list[ManifestRow] = field(default_factory=list)
    missing: list[str] = field(default_factory=list)
    duplicates: list[str] = field(default_factory=list)
    rejected: list[str] = field(default_factory=list)
    splits: Counter[str] = field(default_factory=Counter)
    test_labels: set[int] = field(default_factory=set)
    seen: dict[str, str] = field(default_factory=dict)  # key → where it was first listed
    notes: list[str] = field(default_factory=list)
    conventions: dict[str, str] = field(default_factory=dict)

    def reject(self, where: str, reason: str) -> None:
        """Book a row that cannot be used."""
        self.rejected.append(f"{where}: {reason}")

    def count(self, split: str, label: int) -> None:
        """Count a readable row of the chosen sub-split, whatever becomes of it; counts are compared with published
        ones, so missing files and duplicates are in them."""
        assert split in SPLITS
        self.splits[split] += 1
        if split == "test":
            self.test_labels.add(label)

    def repeats(self, key: str, where: str) -> bool:
        """Book the row as a duplicate if its key was seen before."""
        first = self.seen.setdefault(key, where)
        if first != where:
            self.duplicates.append(f"{where}: repeats {first}")
            return True
        return False

    def add(
        self, key: str, source: ClipSource, label: int, gloss: str | None, split: str, signer: str | None = None
    ) -> None:
        """Book a clip whose files are there."""
        self.rows.append(ManifestRow(key, source, label, gloss, split, signer))

    def finish(self, total: int, classes: list[str]) -> Import:
        """The import; `total` is how many rows of the list had to be booked."""
        booked = len(self.rows) + len(self.missing) + len(self.duplicates) + len(self.rejected)
        assert booked == total, f"{total} rows in the list, {booked} booked"
        without_test = [gloss for label, gloss in enumerate(classes) if label not in self.test_labels]
        here = {row.label for row in self.rows if row.split == "test"}
        unseen = len(self.test_labels - here)
        if unseen and self.rows:
            self.notes.append(f"{unseen} classes have test clips in the list, but none of their files is here")
        report = ImportReport(
            rows=total,
            splits={split: self.splits[split] for split in SPLITS},
            classes=len(classes),
            found=len(self.rows),
            missing=self.missing,
            duplicates=self.duplicates,
            conventions=self.conventions,
            classes_without_test=without_test if self.splits["test"] else [],
            notes=self.notes,
            rejected=self.rejected,
        )
        return Import(self.rows, classes, report)

    def note_repeated(self, files: Files | None) -> None:
        """Note that a bare name stands for several files: cut and uncut copies in one folder, say."""
        if files is not None and files.repeated:
            self.notes.append(
                f"{files.repeated} file names occur in several folders of {files.folder}; the first in alphabetical "
                "order counts"
            )

    def compare(self, published: dict[str, int], name: str, explanation: str = "The list was edited") -> None:
        """Note whether the counts of the list are the published ones."""
        counts = {split: self.splits[split] for split in SPLITS}
        shown = " / ".join(f"{split} {counts[split]:,}" for split in SPLITS if counts[split] or published[split])
        if counts == published:
            self.notes.append(f"{name}: {shown}, as published")
            return
        expected = " / ".join(f"{split} {published[split]:,}" for split in SPLITS if published[split])
        self.notes.append(
            f"{name}: the list has {shown}; published: {expected}. {explanation or 'The list was edited'}"
        )


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
        return None, str(self.files.folder / f"{names[0]}.npz")

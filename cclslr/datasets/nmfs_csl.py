"""NMFs-CSL: 1,067 Chinese words that differ in non-manual features (Hu et al., TOMM 2021), as folders of JPEG frames.

`jpg_video/<class>/<clip>/image_00001.jpg`; two kinds of lists circulate: `trainlist01.txt` (`path label`) with a
`testlist01.txt` of paths only, and `uni_{train,test}list01.csv` (`file,label`).
"""

from __future__ import annotations

import argparse
import csv
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from PIL import Image

from cclslr.datasets.base import Import, Importer
from cclslr.datasets.engine import Listed, Published, import_listed
from cclslr.datasets.frames import FrameFolder
from cclslr.datasets.lists import Ledger, clean_key, numbered_lines, split_lists
from cclslr.datasets.media import Files, Found, Media, PoseFiles, map_threads, sample
from cclslr.errors import UserError
from cclslr.shards.format import ClipSource

CLASSES = 1067
PUBLISHED = Published(
    "NMFs-CSL", {"train": 25_608, "val": 0, "test": 6_402},
    explanation="Part of the set is not in it, or the lists were edited",
)  # fmt: skip
_LISTS = {"train": ("uni_trainlist01.csv", "trainlist01.txt"), "test": ("uni_testlist01.csv", "testlist01.txt")}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of `cclslr pack nmfs_csl`."""
    parser.add_argument(
        "--annotations",
        required=True,
        metavar="DIR",
        help="folder of trainlist01.txt and testlist01.txt, or of uni_trainlist01.csv and uni_testlist01.csv",
    )
    parser.add_argument("--videos", required=True, metavar="DIR", help="jpg_video: <class>/<clip>/image_00001.jpg")
    parser.add_argument("--poses", metavar="DIR", help="folder of <class>/<clip>.npz")
    parser.add_argument(
        "--fps", type=float, default=30.0, help="frame rate of the folders, which don't say (default 30)"
    )


@dataclass
class _Line:
    """One row of a list."""

    where: str
    path: str
    folder: int | None  # number of the first folder
    label: int | None  # as listed
    split: str


def load(args: argparse.Namespace) -> Import:
    """Read the lists, find the folders, find out what labels count from.

    Raises:
        UserError: no list, a folder that is not there, labels that are not those of 1,067 classes.
    """
    videos = Path(args.videos)
    if not videos.is_dir():
        raise UserError(f"{videos} is not a folder; --videos takes jpg_video")
    ledger = Ledger()
    lines = _read_lists(Path(args.annotations), ledger)
    offset = _label_base(lines, ledger, Path(args.annotations))
    rows = []
    for line in lines:
        label = _label(line, offset)
        if label is None or not 0 <= label < CLASSES:
            ledger.reject(line.where, f"no label of 0 to {CLASSES - 1} in {line.path!r}")
        else:
            key = clean_key(line.path.replace("/", "_"))
            rows.append(Listed(line.where, key, label, line.split, None, (line.path,), same=line.path))
    used = {row.label for row in rows}
    if len(used) < CLASSES:
        ledger.notes.append(f"labels span {len(used)} of the {CLASSES} classes")

    def sources(found: Sequence[Found[Listed[int]]], ledger: Ledger) -> list[ClipSource | str]:
        _report_sizes([video for _, video, _ in found if video is not None], ledger)
        return [FrameFolder(str(video), pose, args.fps) for _, video, pose in found]

    media = Media(Files(videos, (), by_path=_clip_folders(videos)), PoseFiles.walk(args.poses))
    classes = [f"class {label}" for label in range(CLASSES)]
    found = import_listed(args, ledger, rows, classes, PUBLISHED, sources, media)
    return replace(found, rows=[replace(row, gloss=None) for row in found.rows])  # the lists have no words


def _read_lists(folder: Path, ledger: Ledger) -> list[_Line]:
    lines: list[_Line] = []
    for split, path in split_lists(folder, _LISTS, ledger):
        for place, (number, text) in enumerate(numbered_lines(path)):
            where = f"{path.name}, line {number}"
            cells = _cells(text, path.suffix == ".csv")
            if place == 0 and path.suffix == ".csv" and cells[0] == "file":
                continue
            line = _line(where, cells, split)
            if isinstance(line, str):
                ledger.reject(where, line)
            else:
                lines.append(line)
    return lines


def _cells(text: str, is_csv: bool) -> list[str]:
    """`file,label` or `path label`; a path may hold blanks, so only a number at the end is split off."""
    if is_csv:
        try:
            return [cell.strip() for cell in next(csv.reader([text]))]
        except csv.Error:
            return [text]
    match = re.fullmatch(r"(.*\S)\s+(-?\d{1,9})", text)
    return [match[1], match[2]] if match else [text]


def _line(where: str, cells: list[str], split: str) -> _Line | str:
    path = re.sub(r"\.(?:avi|mp4)$", "", cells[0].replace("\\", "/").strip("/"), flags=re.IGNORECASE)
    path = path.removeprefix("jpg_video/")
    parts = path.split("/")
    if not path or any(part in ("", ".", "..") for part in parts) or "\0" in path:
        return f"{cells[0]!r} is no path"
    label = None
    if len(cells) > 1:
        if not re.fullmatch(r"-?\d{1,9}", cells[1]):
            return f"label is {cells[1]!r}, not a number"
        label = int(cells[1])
    folder = int(parts[0]) if len(parts) > 1 and re.fullmatch(r"\d{1,9}", parts[0]) else None
    return _Line(where, path, folder, label, split)


@dataclass(frozen=True)
class _Base:
    """What is subtracted from the numbers of a copy to get labels from 0."""

    label: int
    folder: int | None  # None: folders are no labels in this copy


def _label(line: _Line, base: _Base) -> int | None:
    if line.label is not None:
        return line.label - base.label
    return None if line.folder is None or base.folder is None else line.folder - base.folder


def _label_base(lines: list[_Line], ledger: Ledger, folder: Path) -> _Base:
    """Labels may count from 0 or 1, and so may the folders that a list of bare paths takes its labels from: what a
    folder means is read off the rows that have both."""
    labels = [line.label for line in lines if line.label is not None]
    label_base = 1 if labels and min(labels) >= 1 and max(labels) >= CLASSES else 0
    if labels and (min(labels) < label_base or max(labels) >= CLASSES + label_base):
        outside = sum(not label_base <= label < CLASSES + label_base for label in labels)
        if outside > 0.5 * len(labels):
            raise UserError(f"{folder}: labels from {min(labels)} to {max(labels)}, expected 0 to {CLASSES - 1}")
        ledger.notes.append(f"{outside} labels lie outside 0 to {CLASSES - 1} and are rejected")
    if labels:
        ledger.conventions["labels"] = f"counted from {label_base}"

    bare = [line for line in lines if line.label is None]
    if not bare:
        return _Base(label_base, None)
    steps = Counter(
        line.folder - (line.label - label_base) for line in lines if line.folder is not None and line.label is not None
    )
    if steps:
        folder_base, count = steps.most_common(1)[0]
        if count < 0.99 * sum(steps.values()):
            raise UserError(
                f"{folder}: the test list has no labels, and folders don't give them: in the training list folder and "
                f"label agree in {count} of {sum(steps.values())} rows only. Use uni_testlist01.csv"
            )
    else:
        numbers = [line.folder for line in bare if line.folder is not None]
        folder_base = 1 if numbers and min(numbers) >= 1 and max(numbers) >= CLASSES else 0
    ledger.conventions["test labels"] = f"the list has none; the first folder's number, counted from {folder_base}"
    return _Base(label_base, folder_base)


def _clip_folders(videos: Path) -> dict[str, Path]:
    """Folders two levels down, by `<class>/<clip>`; zero padding in the lists and on disk is the same in every copy."""
    return {
        f"{group.name}/{clip.name}": clip
        for group in sorted(videos.iterdir())
        if group.is_dir()
        for clip in sorted(group.iterdir())
        if clip.is_dir()
    }


def _report_sizes(folders: list[Path], ledger: Ledger) -> None:
    """The frame sizes of a sample; the set has two, 1000x720 and 540x540."""

    def size(folder: Path) -> str | None:
        first = min(folder.glob("*.jp*g"), default=None)
        if first is None:
            return None
        try:
            with Image.open(first) as image:
                return f"{image.width}x{image.height}"
        except (OSError, SyntaxError):
            return "unreadable"

    sizes = Counter(found for found in map_threads(size, sample(folders, 64)) if found is not None)
    if sizes:
        shown = ", ".join(f"{name} ({count})" for name, count in sorted(sizes.items()))
        ledger.conventions["frame sizes"] = f"{shown} of {sum(sizes.values())} clips looked at"


IMPORTER = Importer(
    "nmfs_csl", "NMFs-CSL from folders of JPEG frames and its train and test lists", add_arguments, load
)

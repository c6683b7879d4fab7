"""SLR500 (CSL-500): 500 Chinese words, 50 signers, each word five times (Huang et al., TCSVT 2019).

Everything is in the file name, `P<signer>_<group>_<index>_<repetition>._color.mp4`, with or without zeros in front, so
lists and files are matched by these four numbers. Signers split the set; the lists that circulate disagree by one.
"""

from __future__ import annotations

import argparse
import csv
import re
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from cclslr.datasets.base import Import, Importer
from cclslr.datasets.engine import Listed, Published, bare_name, import_listed
from cclslr.datasets.lists import Ledger, numbered_lines
from cclslr.datasets.media import Files, Media
from cclslr.errors import UserError

CLASSES = 500
GROUP_SIZE = 20  # words of a group
PUBLISHED = {"train": 90_000, "val": 0, "test": 35_000}
TRAIN_SIGNERS = 36
# What the differences of known copies come from, by (train, test).
_EXPLAINED = {
    (87_445, 37_500): "This is the 35 / 15 split: 35·2,500 less 55 clips that the list does not have, and 15·2,500. "
    "Signer P36 moved from train to test, as if 'signers 0 to 35' were counted from 1",
    (89_945, 35_000): "The split is the published one; 55 clips of the training signers are not in the list",
}
_UNEXPLAINED = "Part of the signers or repetitions is not in it, or another split was made"
# With or without "color"; the depth video of the same clip is another file.
_NAME = re.compile(r"P(\d{1,3})_(\d{1,3})_(\d{1,3})_(\d{1,3})(?:[._]*color)?(?:\.\w+)?", re.IGNORECASE)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of `cclslr pack slr500`."""
    parser.add_argument(
        "--annotations",
        metavar="DIR",
        help="folder of split.train.csv and split.test.csv (video_path,class_name); without it signers make the split",
    )
    Media.add_arguments(parser, "folder of the colour videos", "folder of keypoints named as the videos")
    parser.add_argument(
        "--train-signers",
        type=int,
        metavar="N",
        help=f"signers P01 to P<N> train, the rest test, whatever the lists say ({TRAIN_SIGNERS} is as published)",
    )


@dataclass(frozen=True, order=True)
class _Name:
    """The numbers of a file name."""

    signer: int
    group: int
    index: int
    repetition: int


@dataclass
class _Line:
    """One row of a list, or one file where there is no list."""

    where: str
    path: str  # relative, with /
    name: _Name
    split: str | None
    gloss: str | None
    folder: int | None  # number of the parent folder, if it is one


def load(args: argparse.Namespace) -> Import:
    """Read the lists, or the folder where none is given, and find out how words and signers are counted.

    Raises:
        UserError: no list in the folder, a folder that is not there, nothing that is called as SLR500's files are.
    """
    ledger = Ledger()
    media = Media.walk(args)
    videos, poses = media.videos, media.poses.files
    if args.annotations is not None:
        lines = _read_lists(Path(args.annotations), ledger)
        source = f"the lists in {args.annotations}"
    else:
        files = videos if videos is not None else poses
        assert files is not None
        lines = _read_folder(files, ledger)
        source = f"the names of the files in {files.folder}"
    if not lines:
        raise UserError(f"{source}: nothing is called P<signer>_<group>_<index>_<repetition>, as P01_25_19_2 is")

    signers = {line.name.signer for line in lines}
    train_signers = args.train_signers
    if train_signers is None and args.annotations is None:
        train_signers = TRAIN_SIGNERS
    if train_signers is not None:
        _split_by_signer(lines, train_signers, first=0 if 0 in signers else 1)
    labels = _labels(lines, ledger)
    glosses = _glosses(args.annotations, lines, labels)
    index_of_videos, index_of_poses = _by_name(videos), _by_name(poses)
    rows = []
    for line, label in zip(lines, labels):
        if isinstance(label, str):
            ledger.reject(line.where, label)
            continue
        assert line.split is not None
        name, listed = line.name, bare_name(line.path)
        key = f"P{name.signer:02d}_{name.group:02d}_{name.index:02d}_{name.repetition}"
        names = (index_of_videos.get(name, listed),), (index_of_poses.get(name, listed),)
        rows.append(Listed(line.where, key, label, line.split, f"P{name.signer:02d}", *names))
    _report_signers(lines, ledger)
    counts = Counter(row.split for row in rows)
    explanation = _EXPLAINED.get((counts["train"], counts["test"]), _UNEXPLAINED)
    published = Published("SLR500", PUBLISHED, explanation=explanation)
    return import_listed(args, ledger, rows, glosses, published, media=media)


def _parse(path: str) -> _Name | None:
    match = _NAME.fullmatch(path.rsplit("/", 1)[-1])
    return _Name(*(int(number) for number in match.groups())) if match else None


def _line(where: str, path: str, split: str | None, gloss: str | None) -> _Line | None:
    name = _parse(path)
    if name is None:
        return None
    folder = path.rsplit("/", 2)[-2] if "/" in path else ""
    return _Line(where, path, name, split, gloss, int(folder) if re.fullmatch(r"\d{1,6}", folder) else None)


def _read_lists(folder: Path, ledger: Ledger) -> list[_Line]:
    """The rows of split.{train,val,test}.csv; the header is optional."""
    lines, lists = [], 0
    for split in ("train", "val", "test"):
        path = folder / f"split.{split}.csv"
        if not path.is_file():
            continue
        lists += 1
        for place, (number, text) in enumerate(numbered_lines(path)):
            try:
                cells = next(csv.reader([text]))
            except csv.Error as error:
                cells = [""]
                ledger.notes.append(f"{path.name}, line {number}: {error}")
            if place == 0 and cells[0] == "video_path":
                continue
            where = f"{path.name}, line {number}"
            line = _line(where, cells[0].replace("\\", "/"), split, cells[1] if len(cells) > 1 else None)
            if line is None:
                ledger.reject(where, f"{cells[0]!r} is not called P<signer>_<group>_<index>_<repetition>")
            else:
                lines.append(line)
    if not lists:
        raise UserError(f"{folder}: neither split.train.csv nor split.test.csv is in it")
    return lines


def _read_folder(files: Files, ledger: Ledger) -> list[_Line]:
    """One row a file; files of other names (depth, skeletons) are rejected, not lost."""
    lines = []
    for path in files.paths:
        line = _line(str(path), files.name(path) + path.suffix, None, None)
        if line is None:
            ledger.reject(str(path), "is not called P<signer>_<group>_<index>_<repetition>")
        else:
            lines.append(line)
    return lines


def _split_by_signer(lines: list[_Line], train_signers: int, first: int) -> None:
    for line in lines:
        line.split = "train" if line.name.signer - first < train_signers else "test"


def _labels(lines: list[_Line], ledger: Ledger) -> list[int | str]:
    """The label of each line, 0 to 499, or why it has none.

    A label is (group - 1)·20 + index where index counts from 0; copies that count from 1 show it by an index of 20.
    A numbered parent folder says the label again, from 0 or from 1; where the two disagree the row is rejected.
    """
    largest = max(line.name.index for line in lines)
    smallest = min(line.name.index for line in lines)
    base = 1 if smallest >= 1 and largest >= GROUP_SIZE else 0
    ledger.conventions["labels"] = f"(group - 1)·{GROUP_SIZE} + index, index counted from {base}"
    labels = [(line.name.group - 1) * GROUP_SIZE + line.name.index - base for line in lines]
    folders = [line.folder - label for line, label in zip(lines, labels) if line.folder is not None]
    offset = 1 if folders and folders.count(1) > folders.count(0) else 0
    agree = folders.count(offset) > 0.5 * len(folders)
    if folders:
        ledger.conventions["folders"] = (
            f"the parent folder is the label, counted from {offset}"
            if agree
            else "the parent folder's number is not the label and is not used"
        )
    result: list[int | str] = []
    for line, label in zip(lines, labels):
        if not 0 <= line.name.index - base < GROUP_SIZE or not 0 <= label < CLASSES:
            result.append(f"group {line.name.group}, index {line.name.index} is no word of {CLASSES}")
        elif agree and line.folder is not None and line.folder - offset != label:
            result.append(f"folder {line.folder} says label {line.folder - offset}, the name says {label}")
        else:
            result.append(label)
    return result


def _glosses(annotations: str | None, lines: list[_Line], labels: list[int | str]) -> list[str]:
    """Words from the lists' second column. gloss_label.txt, which lies beside some copies, is in another order than
    the labels, so it is not read."""
    glosses = [f"class {label}" for label in range(CLASSES)]
    if annotations is not None:
        for line, label in zip(lines, labels):
            if isinstance(label, int) and line.gloss:
                glosses[label] = line.gloss
    return glosses


def _by_name(files: Files | None) -> dict[_Name, str]:
    """The relative path of each file, without its suffix, by the numbers of its name."""
    index: dict[_Name, str] = {}
    if files is None:
        return index
    for path in files.paths:
        name = _parse(path.name)
        if name is not None:
            index.setdefault(name, files.name(path))
    return index


def _report_signers(lines: list[_Line], ledger: Ledger) -> None:
    """Say which of the two conventions the split follows."""
    signers = {
        split: sorted({line.name.signer for line in lines if line.split == split}) for split in ("train", "test")
    }
    shown = {split: f"P{ids[0]:02d}-P{ids[-1]:02d} ({len(ids)})" if ids else "none" for split, ids in signers.items()}
    train, test = set(signers["train"]), set(signers["test"])
    first = 0 if 0 in train | test else 1
    convention = f"train {shown['train']}, test {shown['test']}, numbered from {first}"
    if train & test:
        convention += f"; {len(train & test)} signers in both, so the test is not signer-independent"
    elif train and test:
        boundary = max(train) - first + 1
        if len(train) == boundary == TRAIN_SIGNERS:
            convention += "; 36 / 14 signers as published"
        elif len(train) == boundary == TRAIN_SIGNERS - 1:
            convention += "; 35 / 15 signers: P36 tests here, but trains in the published split (--train-signers 36)"
    ledger.conventions["signers"] = convention


IMPORTER = Importer(
    "slr500",
    "SLR500 from its P<signer>_<group>_<index>_<repetition> files, with split lists or by signer",
    add_arguments,
    load,
)

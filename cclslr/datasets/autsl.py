"""AUTSL: 226 signs of Turkish Sign Language, 43 signers, seen by a Kinect (Sincan and Keles, IEEE Access 2020)."""

from __future__ import annotations

import argparse
import csv
import re
from pathlib import Path

from cclslr.datasets.base import Import, Importer
from cclslr.datasets.engine import Listed, Published, import_listed
from cclslr.datasets.lists import Ledger, numbered_lines, read_lines, split_lists
from cclslr.datasets.media import Media
from cclslr.errors import UserError

CLASSES = 226
PUBLISHED = Published("AUTSL", {"train": 28_142, "val": 4_418, "test": 3_742}, {"train": 31, "val": 6, "test": 6}, 226)
# By name, never by pattern: the challenge's test_labels_pseudo.csv holds a model's guesses, and train_val_labels.csv
# holds two splits.
LISTS = {
    "train": ("train_labels.csv",),
    "val": ("validation_labels.csv", "val_labels.csv", "val_gt.csv"),
    "test": ("test_labels.csv", "test_gt.csv"),
}
GLOSSES = "SignList_ClassId_TR_EN.csv"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of `cclslr pack autsl`."""
    parser.add_argument(
        "--annotations", required=True, metavar="DIR",
        help=f"folder of train_labels.csv, validation_labels.csv, test_labels.csv and {GLOSSES}",
    )  # fmt: skip
    Media.add_arguments(parser, "folder of <split>/signerS_sampleN_color.mp4", "folder of signerS_sampleN[_color].npz")
    parser.add_argument("--language", choices=("EN", "TR"), default="EN", help="of the glosses (default EN)")


def load(args: argparse.Namespace) -> Import:
    """Read the lists, find the colour videos.

    Raises:
        UserError: no list in the folder, or a folder that is not there.
    """
    folder, ledger, rows = Path(args.annotations), Ledger(), []
    for split, path in split_lists(folder, LISTS, ledger):
        for number, line in numbered_lines(path):
            where = f"{path.name}, line {number}"
            match = re.fullmatch(r"(signer(\d{1,3})_sample\d{1,6}),(\d{1,3})", line, re.ASCII)
            if match is None or int(match[3]) >= CLASSES:
                ledger.reject(where, f"{line!r} is not signerS_sampleN,label with a label of 0 to {CLASSES - 1}")
                continue
            videos = (f"{split}/{match[1]}_color", f"{match[1]}_color")
            rows.append(Listed(where, match[1], int(match[3]), split, match[2], videos))
    guessed = sorted(path.name for path in folder.glob("*pseudo*"))
    if guessed:
        ledger.notes.append(f"not read, for its labels are a model's guesses: {', '.join(guessed)}")
    return import_listed(args, ledger, rows, _glosses(folder / GLOSSES, args.language, ledger), PUBLISHED)


def _glosses(path: Path, language: str, ledger: Ledger) -> list[str]:
    classes = [f"class {label}" for label in range(CLASSES)]
    if not path.is_file():
        ledger.notes.append(f"{path.name} is not there: classes are called by their numbers")
        return classes
    for row in csv.DictReader(read_lines(path)):
        number = row.get("ClassId") or ""
        if not re.fullmatch(r"[0-9]{1,3}", number) or int(number) >= CLASSES or not row.get(language):
            raise UserError(f"{path}: the row {row} does not say ClassId and {language} of one of {CLASSES} signs")
        classes[int(number)] = row[language]
    return classes


IMPORTER = Importer(
    "autsl", "AUTSL from its label lists and signerS_sampleN_color.mp4 files", add_arguments, load,
    licence="AUTSL: research only; do not pass on",
)  # fmt: skip

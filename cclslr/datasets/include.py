"""INCLUDE and INCLUDE-50: 263 and 50 signs of Indian Sign Language (Sridhar et al., ACM Multimedia 2020).

A list holds a path a line, `Animals/4. Bird/MVI_2988.MOV`. The label is the second folder, by its letters alone and in
lower case, as the authors' label map has it: a word that is in two categories is one class. Videos of different signs
are called the same, so files are found by their whole path.
"""

from __future__ import annotations

import argparse
import re
from pathlib import Path

from cclslr.datasets.base import Import, Importer
from cclslr.datasets.engine import Listed, Published, bare_name, import_listed, number_words
from cclslr.datasets.lists import Ledger, clean_key, numbered_lines, split_lists
from cclslr.datasets.media import Media

PUBLISHED = {
    263: Published("INCLUDE", {"train": 3_126, "val": 347, "test": 816}, classes=263),
    50: Published("INCLUDE-50", {"train": 688, "val": 76, "test": 191}, classes=50),
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of `cclslr pack include`."""
    parser.add_argument(
        "--annotations", required=True, metavar="DIR",
        help="train_test_paths of the authors' repository: include[50]_{train,val,test}.txt",
    )  # fmt: skip
    Media.add_arguments(parser, "folder of <category>/<number. word>/MVI_x.MOV", "the same folders with keypoints")
    parser.add_argument("--subset", type=int, choices=tuple(PUBLISHED), default=263, help="signs (default 263)")


def load(args: argparse.Namespace) -> Import:
    """Read the lists, find the videos.

    Raises:
        UserError: no list in the folder, or a folder that is not there.
    """
    ledger, rows = Ledger(), []
    stem = "include50" if args.subset == 50 else "include"
    lists = {split: (f"{stem}_{split}.txt",) for split in ("train", "val", "test")}
    for split, path in split_lists(Path(args.annotations), lists, ledger):
        for number, line in numbered_lines(path):
            where, video = f"{path.name}, line {number}", bare_name(line)
            word = "".join(filter(str.isalpha, [*video.split("/"), ""][1])).lower()
            if not re.fullmatch(r"[^/]+/[^/]*[^/. ][^/]*/.*[^/]", video) or not word:
                ledger.reject(where, f"{line!r} is not category/number. word/file")
                continue
            rows.append(Listed(where, clean_key(video), word, split, None, (video,)))
    numbered, classes = number_words(rows, ledger)
    return import_listed(args, ledger, numbered, classes, PUBLISHED[args.subset])


IMPORTER = Importer(
    "include", "INCLUDE and INCLUDE-50 from their lists of paths and MVI_x.MOV files", add_arguments, load,
    licence="INCLUDE: see the licence on its page at Zenodo (record 4010759)",
)  # fmt: skip

"""ASL Citizen: 2,731 signs of American Sign Language, filmed at home by 52 signers (Desai et al., NeurIPS 2023).

A class is the list's Gloss. The words in the names of the files are not: they are the prompts, and some differ. Nor are
the ASL-LEX codes: there are 2,723 of them.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from cclslr.datasets.base import Import, Importer
from cclslr.datasets.engine import Listed, Published, bare_name, import_listed, number_words
from cclslr.datasets.lists import Ledger, clean_key, read_table, split_lists
from cclslr.datasets.media import Media

PUBLISHED = Published(
    "ASL Citizen", {"train": 40_154, "val": 10_304, "test": 32_941}, {"train": 35, "val": 6, "test": 11}, 2_731
)
COLUMNS = ("participant id", "video file", "gloss")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of `cclslr pack asl_citizen`."""
    parser.add_argument("--annotations", required=True, metavar="DIR", help="splits: train.csv, val.csv and test.csv")
    Media.add_arguments(parser, "folder of the videos, as in the lists", "folder of keypoints, named as the videos")


def load(args: argparse.Namespace) -> Import:
    """Read the lists, find the videos.

    Raises:
        UserError: no list in the folder, one without the columns, or a folder that is not there.
    """
    ledger, rows = Ledger(), []
    lists = {split: (f"{split}.csv",) for split in ("train", "val", "test")}
    for split, path in split_lists(Path(args.annotations), lists, ledger):
        for where, row in read_table(path, COLUMNS, ledger):
            video, gloss, signer = bare_name(row["video file"]), row["gloss"], row["participant id"]
            if not video or not gloss:
                ledger.reject(where, "it names no video, or no gloss")
                continue
            rows.append(Listed(where, clean_key(video), gloss, split, signer or None, (video,)))
    numbered, classes = number_words(rows, ledger)
    return import_listed(args, ledger, numbered, classes, PUBLISHED)


IMPORTER = Importer(
    "asl_citizen", "ASL Citizen from splits/{train,val,test}.csv and its videos", add_arguments, load,
    licence="ASL Citizen: by Microsoft's licence for research; see the one that came with the download",
)  # fmt: skip

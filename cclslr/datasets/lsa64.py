"""LSA64: 64 signs of Argentinian Sign Language, five times by each of 10 people (Ronchetti et al., CACIC 2016).

There is no list: everything is in the name, `SSS_PPP_RRR.mp4` = sign, person, repetition. Nor is there an official
split; most train on persons 1 to 8, validate on 9 and test on 10.
"""

from __future__ import annotations

import argparse
import re

from cclslr.datasets.base import Import, Importer
from cclslr.datasets.engine import Listed, Published, import_listed
from cclslr.datasets.lists import Ledger
from cclslr.datasets.media import Media
from cclslr.errors import UserError

PUBLISHED = Published("LSA64", {"train": 2_560, "val": 320, "test": 320}, {"train": 8, "val": 1, "test": 1}, 64)
GLOSSES = [
    "Opaque", "Red", "Green", "Yellow", "Bright", "Light-blue", "Colors", "Pink", "Women", "Enemy", "Son", "Man",
    "Away", "Drawer", "Born", "Learn", "Call", "Skimmer", "Bitter", "Sweet milk", "Milk", "Water", "Food", "Argentina",
    "Uruguay", "Country", "Last name", "Where", "Mock", "Birthday", "Breakfast", "Photo", "Hungry", "Map", "Coin",
    "Music", "Ship", "None", "Name", "Patience", "Perfume", "Deaf", "Trap", "Rice", "Barbecue", "Candy", "Chewing-gum",
    "Spaghetti", "Yogurt", "Accept", "Thanks", "Shut down", "Appear", "To land", "Catch", "Help", "Dance", "Bathe",
    "Buy", "Copy", "Run", "Realize", "Give", "Find",
]  # fmt: skip


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of `cclslr pack lsa64`."""
    Media.add_arguments(parser, "folder of SSS_PPP_RRR.mp4, raw or cut", "folder of SSS_PPP_RRR.npz")
    parser.add_argument("--val-persons", type=int, nargs="*", default=[9], metavar="P", help="default 9")
    parser.add_argument("--test-persons", type=int, nargs="*", default=[10], metavar="P", help="default 10")


def load(args: argparse.Namespace) -> Import:
    """Read the names of the files.

    Raises:
        UserError: a folder that is not there, nothing that is called as LSA64's files are, a person in two splits.
    """
    if set(args.val_persons) & set(args.test_persons):
        raise UserError("a person is in --val-persons and in --test-persons; choose one")
    ledger, rows, media = Ledger(), [], Media.walk(args)
    files = media.videos or media.poses.files
    assert files is not None
    for path in files.paths:
        match = re.fullmatch(r"(\d{3})_(\d{3})_(\d{3})", path.stem, re.ASCII)
        if match is None or not 1 <= int(match[1]) <= len(GLOSSES):
            ledger.reject(str(path), f"is not called sign_person_repetition with a sign of 1 to {len(GLOSSES)}")
            continue
        person = int(match[2])
        split = "test" if person in args.test_persons else "val" if person in args.val_persons else "train"
        name = files.name(path)
        rows.append(Listed(str(path), match[0], int(match[1]) - 1, split, str(person), (name, match[0])))
    if not rows:
        raise UserError(f"{files.folder}: nothing is called SSS_PPP_RRR, as 001_010_005.mp4 is")
    return import_listed(args, ledger, rows, GLOSSES, PUBLISHED, media=media)


IMPORTER = Importer(
    "lsa64", "LSA64 from its sign_person_repetition.mp4 files", add_arguments, load,
    licence="LSA64: CC BY-NC-SA 4.0; see the licence on its page",
)  # fmt: skip

"""KArSL-502: 502 signs of Arabic Sign Language, 50 times by each of 3 signers, seen by a Kinect (Sidig et al., 2021).

Everything is in the folders, `<signer>/{train,test}/<sign>/<recording>`; a recording is a video or a folder of JPEG
frames. The words are in a table beside them. The folders train and test hold the same signers; `--test-signer` makes
the other protocol of the papers.
"""

from __future__ import annotations

import argparse
import re
from pathlib import Path

from cclslr.datasets.base import Import, Importer, VideoFile
from cclslr.datasets.engine import Listed, Published, import_listed
from cclslr.datasets.frames import FrameFolder
from cclslr.datasets.lists import Ledger, clean_key, read_table
from cclslr.datasets.media import VIDEO_SUFFIXES, Files, Media, PoseFiles
from cclslr.errors import UserError

CLASSES = 502
PUBLISHED = Published("KArSL-502", {}, rows=75_300)
_PLACE = re.compile(r"(?:.*/)?(\d{1,3})/(train|test)/(\d{1,4})/([^/]+)", re.IGNORECASE | re.ASCII)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of `cclslr pack karsl`."""
    parser.add_argument(
        "--videos", required=True, metavar="DIR", help="folder of <signer>/{train,test}/<sign>/<recording>"
    )
    parser.add_argument("--poses", metavar="DIR", help="the same folders with keypoints")
    parser.add_argument(
        "--labels", metavar="FILE", help="KARSL-502_Labels.xlsx, or a CSV of it; without it: class 0, …"
    )
    parser.add_argument("--language", choices=("english", "arabic"), default="english", help="(default english)")
    parser.add_argument("--test-signer", type=int, metavar="S", help="all clips of this signer test, all others train")
    parser.add_argument("--fps", type=float, default=30.0, help="of folders of frames, which don't say (default 30)")


def load(args: argparse.Namespace) -> Import:
    """Read the folders.

    Raises:
        UserError: a folder that is not there, nothing that lies as KArSL's recordings do, a table of other columns.
    """
    ledger, rows = Ledger(), []
    files = Files.walk(args.videos, VIDEO_SUFFIXES, frames=True)
    for path in files.paths:
        match = _PLACE.fullmatch(files.name(path))
        if match is None or not 1 <= int(match[3]) <= CLASSES:
            ledger.reject(str(path), f"lies not in signer/train|test/sign, with a sign of 1 to {CLASSES}")
            continue
        signer, split = f"{int(match[1]):02d}", match[2].lower()
        if args.test_signer is not None:
            split = "test" if int(match[1]) == args.test_signer else "train"
        key = clean_key(f"{signer}_{match[2].lower()}_{int(match[3]):04d}_{match[4]}")
        rows.append(Listed(str(path), key, int(match[3]) - 1, split, signer, (files.name(path),)))
    if not rows:
        raise UserError(f"{args.videos}: nothing lies as 01/train/0001/<recording> does")
    classes = [f"class {label}" for label in range(CLASSES)] if args.labels is None else _words(args, ledger)
    return import_listed(
        args, ledger, rows, classes, PUBLISHED, media=Media(files, PoseFiles.walk(args.poses)),
        sources=lambda found, ledger: [
            FrameFolder(str(video), pose, args.fps) if video and video.is_dir() else VideoFile(str(video), pose)
            for _, video, pose in found
        ],
    )  # fmt: skip


def _words(args: argparse.Namespace, ledger: Ledger) -> list[str]:
    """The words of a table with the columns SignID, Sign-Arabic, Sign-English."""
    path, column = Path(args.labels), f"sign-{args.language}"
    if path.suffix.lower() == ".xlsx":
        rows = _sheet(path)
    else:
        rows = [row for _, row in read_table(path, ("signid", column), ledger)]
    words = {row.get("signid", ""): row.get(column, "") for row in rows}
    classes = [words.get(str(number), "") for number in range(1, CLASSES + 1)]
    if not all(classes):
        raise UserError(f"{path}: the columns SignID and Sign-{args.language.title()} lack a word of 1 to {CLASSES}")
    return classes


def _sheet(path: Path) -> list[dict[str, str]]:
    try:
        import openpyxl
    except ImportError as error:
        raise UserError(
            f"{path}: install openpyxl to read it (pip install 'cclslr[xlsx]'), or save it as CSV"
        ) from error
    try:
        lines = openpyxl.load_workbook(path, read_only=True, data_only=True).worksheets[0].iter_rows(values_only=True)
        table = [["" if cell is None else str(cell).strip() for cell in line] for line in lines]
    except Exception as error:  # zip, XML and the library's own: whatever a damaged workbook raises
        raise UserError(f"{path}: cannot be read as a workbook ({error})") from error
    header = [name.lower() for name in table[0]] if table else []
    return [dict(zip(header, cells)) for cells in table[1:]]


IMPORTER = Importer(
    "karsl", "KArSL-502 from its folders of videos or frames", add_arguments, load,
    licence="KArSL: by its authors, for research; ask them",
)  # fmt: skip

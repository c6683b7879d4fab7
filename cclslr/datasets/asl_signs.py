"""asl-signs: 250 signs of American Sign Language as keypoints alone (Google's competition at Kaggle).

`train.csv` names a Parquet file a sequence: 543 points of MediaPipe Holistic a frame, x, y and z as fractions of an
image whose size nobody says; a point that was not found is NaN. Kaggle kept its test set, so --val-signers and
--test-signers take people out of the 21.
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from cclslr.datasets.base import Import, Importer, OneFile
from cclslr.datasets.engine import Listed, Published, import_listed, number_words
from cclslr.datasets.lists import Ledger, clean_key, read_table
from cclslr.datasets.media import Files, Media, PoseFiles
from cclslr.errors import UserError
from cclslr.shards.format import BadClip, RawClip
from cclslr.shards.layouts import layout_named, to_wholebody

PUBLISHED = Published("asl-signs", {"train": 94_477, "val": 0, "test": 0}, {"train": 21}, 250)
COLUMNS = ("path", "participant_id", "sign")
LAYOUT = layout_named("kaggle543")
PARTS = np.repeat(["face", "left_hand", "pose", "right_hand"], [468, 21, 33, 21])  # of a frame's points, in the files


@dataclass(frozen=True)
class Landmarks(OneFile):
    """A `ClipSource`: one Parquet file of landmarks."""

    path: str
    width: int  # pixels of the image, of which the file's coordinates are taken for fractions
    height: int
    fps: float

    def load(self) -> RawClip:
        """The sequence's keypoints, in pixels.

        Raises:
            BadClip: unreadable, or points in another order than 543 a frame.
        """
        # Imported where they work: importers decode nothing.
        import pyarrow.parquet as pq

        from cclslr.shards.foreign import MAX_FRAMES, reading

        with reading(self.path), pq.ParquetFile(self.path) as file:
            rows = file.metadata.num_rows
            if rows % LAYOUT.points or not 0 < rows <= MAX_FRAMES * LAYOUT.points:
                raise BadClip(f"{rows} points, expected {LAYOUT.points} a frame")
            table = file.read(columns=["frame", "type", "x", "y"])
            frames_TK = table["frame"].to_numpy().reshape(-1, LAYOUT.points)
            parts_TK = table["type"].to_numpy(zero_copy_only=False).reshape(-1, LAYOUT.points)
            if (frames_TK != frames_TK[:, :1]).any() or (parts_TK != PARTS).any():
                raise BadClip("the points are not face, left hand, pose, right hand of a frame after the other")
            xy_TK2 = np.stack([table[axis].to_numpy().reshape(-1, LAYOUT.points) for axis in "xy"], axis=-1)
            keypoints_TKC = to_wholebody(xy_TK2, LAYOUT)
            if not keypoints_TKC[..., 2].any():
                raise BadClip("no point was found in any frame")
        keypoints_TKC[..., :2] *= (self.width, self.height)
        return RawClip(None, keypoints_TKC, self.fps, {"source": Path(self.path).name})


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of `cclslr pack asl_signs`."""
    parser.add_argument("--annotations", required=True, metavar="FILE", help="train.csv, or its folder")
    parser.add_argument(
        "--landmarks", metavar="DIR", help="folder that its paths begin in (default: that of train.csv)"
    )
    parser.add_argument("--val-signers", nargs="*", default=[], metavar="ID", help="participants to validate on")
    parser.add_argument("--test-signers", nargs="*", default=[], metavar="ID", help="participants to test on")
    parser.add_argument(
        "--image-size", type=int, nargs=2, metavar=("WIDTH", "HEIGHT"), default=[640, 480],
        help="pixels of the images that the coordinates are fractions of, which nobody says (default 640 480)",
    )  # fmt: skip
    parser.add_argument("--fps", type=float, default=30.0, help="frames a second, which nobody says (default 30)")


def load(args: argparse.Namespace) -> Import:
    """Read the list, find the files.

    Raises:
        UserError: no list, one without the columns, a folder that is not there, a signer that is not in the list.
    """
    path = Path(args.annotations)
    path = path / "train.csv" if path.is_dir() else path
    ledger, rows = Ledger(), []
    splits = dict.fromkeys(args.val_signers, "val") | dict.fromkeys(args.test_signers, "test")
    for where, row in read_table(path, COLUMNS, ledger):
        name, sign, signer = row["path"].removesuffix(".parquet"), row["sign"], row["participant_id"]
        if not name or not sign or not signer:
            ledger.reject(where, f"path {name!r}, sign {sign!r}, participant {signer!r}: one of them is none")
            continue
        rows.append(Listed(where, clean_key(name), sign, splits.get(signer, "train"), signer, (name,)))
    absent = set(splits) - {row.signer for row in rows}
    if absent or set(args.val_signers) & set(args.test_signers):
        raise UserError(f"{path}: of --val-signers and --test-signers these are not in it, or some are both: {absent}")
    media = Media(None, PoseFiles(Files.walk(args.landmarks or path.parent, (".parquet",))))
    width, height = args.image_size
    ledger.conventions["coordinates"] = f"fractions of {width}x{height} pixels, by assumption"
    numbered, classes = number_words(rows, ledger)
    return import_listed(
        args, ledger, numbered, classes, PUBLISHED, media=media,
        sources=lambda found, ledger: [Landmarks(pose or "", width, height, args.fps) for _, _, pose in found],
    )  # fmt: skip


IMPORTER = Importer(
    "asl_signs", "asl-signs of Kaggle, keypoints alone, from train.csv and its Parquet files", add_arguments, load,
    licence="asl-signs: see the rules and the licence of the competition at Kaggle",
)  # fmt: skip

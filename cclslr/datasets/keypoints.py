"""One .npz file of keypoint sequences, without videos: arrays `keypoints` or `X`, `y`, `classes`, perhaps `source`.

keypoints  (N, T, 133, 3): x and y as fractions of the image, confidence; or
X          (N, T, 258): MediaPipe Holistic's 33 pose landmarks (x, y, z, visibility), then 21 of each hand (x, y, z)
y          (N,): the number of each sequence's sign
classes    (C,): the sign of each number
source     (N,): whose recordings a sequence is from; taken for the signer

Without options every sequence is for training. --test-per-class draws test sequences of each sign. --test-source makes
the split source-independent: that source's sequences of signs which others have too are for testing, its other
sequences are left out, and all other sources train.
"""

from __future__ import annotations

import argparse
import functools
import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from cclslr.datasets.base import Import, Importer, OneFile
from cclslr.datasets.lists import Ledger, clean_key
from cclslr.errors import UserError
from cclslr.keypoints import NUM_WHOLEBODY, WHOLEBODY
from cclslr.shards.format import BadClip, ManifestRow, RawClip
from cclslr.shards.keypoint_file import load_arrays
from cclslr.shards.layouts import BODY

MEDIAPIPE = 33 * 4 + 2 * 21 * 3  # numbers of a frame in `X`


@dataclass(frozen=True)
class Sequence(OneFile):
    """A `ClipSource`: one sequence of the file."""

    path: str
    row: int
    width: int  # pixels of the images, of which the file's coordinates are fractions
    height: int
    fps: float

    def load(self) -> RawClip:
        """The sequence's keypoints, in pixels."""
        name, array = _sequences(self.path, os.stat(self.path).st_mtime_ns)
        keypoints_TKC = array[self.row].astype(np.float32) if name == "keypoints" else from_mediapipe(array[self.row])
        keypoints_TKC[..., :2] *= (self.width, self.height)
        return RawClip(None, keypoints_TKC, self.fps, {"source": Path(self.path).name, "row": self.row})


@functools.lru_cache(maxsize=1)
def _sequences(path: str, changed: int) -> tuple[str, np.ndarray]:
    """The file's sequences, and what they are called; read whole, so once, not for every row.

    Raises:
        BadClip: they cannot be read, or there are none.
    """
    found = load_arrays(path, ("keypoints", "X"))
    name = "keypoints" if "keypoints" in found else "X"
    if name not in found:
        raise BadClip(f"{Path(path).name}: it has neither an array keypoints nor X")
    return name, found[name]


def from_mediapipe(x_TF: np.ndarray) -> np.ndarray:
    """Flat landmarks of MediaPipe Holistic without a face (T, 258) → float32 (T, 133, 3); a hand of zeros is none."""
    frames = len(x_TF)
    pose = x_TF[:, :132].reshape(frames, 33, 4)
    keypoints_TKC = np.zeros((frames, NUM_WHOLEBODY, 3), np.float32)
    keypoints_TKC[:, :17] = pose[:, BODY][..., [0, 1, 3]]
    for group, columns in (("left_hand", slice(132, 195)), ("right_hand", slice(195, MEDIAPIPE))):
        hand = x_TF[:, columns].reshape(frames, 21, 3)
        keypoints_TKC[:, WHOLEBODY[group], :2] = hand[..., :2]
        keypoints_TKC[:, WHOLEBODY[group], 2] = (hand != 0).any((1, 2))[:, None]
    return keypoints_TKC


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of `cclslr pack keypoints`."""
    parser.add_argument("source", metavar="FILE", help=".npz with keypoints or X, y, classes and perhaps source")
    parser.add_argument(
        "--image-size", type=int, nargs=2, metavar=("WIDTH", "HEIGHT"), default=[640, 480],
        help="pixels of the images that the coordinates are fractions of (default 640 480)",
    )  # fmt: skip
    parser.add_argument("--fps", type=float, default=25.0, help="frames a second (default 25)")
    parser.add_argument("--test-per-class", type=int, default=0, metavar="N", help="test sequences of each sign")
    parser.add_argument("--test-source", metavar="NAME", help="the source that is tested on, by signs it shares")
    parser.add_argument("--seed", type=int, default=0, help="of the draw of test sequences (default 0)")


def split_sequences(
    labels_N: np.ndarray, sources_N: np.ndarray, test_per_class: int, test_source: str | None, seed: int
) -> list[str | None]:
    """train or test for each sequence; None: left out.

    Raises:
        UserError: no sequence to train or to test on, of some sign or of that source.
    """
    splits: list[str | None] = ["train"] * len(labels_N)
    if test_source is not None:
        if test_per_class:
            raise UserError("--test-per-class and --test-source are two protocols; choose one")
        if test_source not in sources_N:
            raise UserError(f"--test-source {test_source}: the file has {', '.join(sorted(set(sources_N)))}")
        shared = set(labels_N[sources_N != test_source])
        for row in np.flatnonzero(sources_N == test_source):
            splits[row] = "test" if labels_N[row] in shared else None
        return splits
    rng = np.random.default_rng(seed)
    for label in np.unique(labels_N):
        rows = rng.permutation(np.flatnonzero(labels_N == label))
        if test_per_class >= len(rows):
            raise UserError(f"--test-per-class {test_per_class}: sign {label} has {len(rows)} sequences, none is left")
        for row in rows[len(rows) - test_per_class :]:
            splits[row] = "test"
    return splits


def load(args: argparse.Namespace) -> Import:
    """List the sequences.

    Raises:
        UserError: no such file, arrays missing or of other shapes, a split that cannot be made.
    """
    path = Path(args.source)
    try:
        name, sequences = _sequences(str(path), os.stat(path).st_mtime_ns)
        content = load_arrays(path, ("y", "classes", "source"))
        labels_N, classes = content["y"], [str(gloss) for gloss in content["classes"].ravel()]
    except (BadClip, OSError, KeyError) as error:
        raise UserError(f"{path}: cannot be read ({error}); needed: keypoints or X, y, classes") from error
    sources_N = content["source"].astype(str) if "source" in content else np.full(len(labels_N), "")
    shape, wanted = sequences.shape, (NUM_WHOLEBODY, 3) if name == "keypoints" else (MEDIAPIPE,)
    count = shape[0] if shape else 0
    if shape[2:] != wanted or labels_N.shape != (count,) or sources_N.shape != (count,):
        raise UserError(f"{path}: {name} has shape {shape}, y {labels_N.shape}; expected ({count}, T, {wanted})")
    if labels_N.dtype.kind not in "iu" or (count and not 0 <= labels_N.min() <= labels_N.max() < len(classes)):
        raise UserError(f"{path}: y does not number the {len(classes)} classes from 0")
    splits = split_sequences(labels_N, sources_N, args.test_per_class, args.test_source, args.seed)
    ledger = Ledger(conventions={"coordinates": f"fractions of {args.image_size[0]}x{args.image_size[1]} pixels"})
    width, height = args.image_size
    for row, (label, split) in enumerate(zip(labels_N.tolist(), splits)):
        if split is None:
            continue
        ledger.count(split, label)
        source = Sequence(str(path), row, width, height, args.fps)
        ledger.rows.append(
            ManifestRow(
                f"{clean_key(path.stem)}-{row:05d}", source, label, classes[label], split, sources_N[row] or None
            )
        )
    left_out = splits.count(None)
    if left_out:
        ledger.notes.append(f"{left_out} sequences of {args.test_source} show signs that no other source has: left out")
    return ledger.finish(len(ledger.rows), classes)


IMPORTER = Importer("keypoints", "one .npz file of keypoint sequences, without videos", add_arguments, load)

"""A folder of your own: videos, keypoint files of the same name beside them, a subfolder a sign.

my_signs/house/ann_1.mp4      my_signs/train/house/ann_1.mp4
my_signs/house/ann_1.npz  or  my_signs/train/house/ann_1.npz
my_signs/drink/bob_1.mp4      my_signs/test/drink/bob_1.mp4
"""

from __future__ import annotations

import argparse
import hashlib
from collections import Counter
from pathlib import Path

from cclslr.datasets.base import Import, Importer, VideoFile
from cclslr.datasets.lists import Ledger, clean_key
from cclslr.datasets.media import POSE_SUFFIXES, VIDEO_SUFFIXES, Files
from cclslr.errors import UserError
from cclslr.shards.format import SPLITS, ManifestRow


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of `cclslr pack folder`."""
    parser.add_argument("source", metavar="DIR", help="DIR/<label>/<name>.mp4, or DIR/{train,val,test}/<label>/...")
    add_split_arguments(parser)
    parser.add_argument("--fps", type=float, default=25.0, help="of clips that have keypoints alone (default 25)")


def add_split_arguments(parser: argparse.ArgumentParser) -> None:
    """For data sets that don't say which clips are for testing."""
    shares = "share of the clips, chosen by the hash of their keys, where no split is given (default 0)"
    parser.add_argument("--val-share", type=float, default=0.0, metavar="S", help=f"validation: {shares}")
    parser.add_argument("--test-share", type=float, default=0.0, metavar="S", help=f"test: {shares}")


def split_of(key: str, args: argparse.Namespace) -> str:
    """The split of a clip that is not told one: a pure function of its key.

    Raises:
        UserError: shares that are none.
    """
    if args.val_share < 0 or args.test_share < 0 or args.val_share + args.test_share >= 1:
        raise UserError("--val-share and --test-share must not be negative, and leave clips to train on")
    place = int.from_bytes(hashlib.sha256(b"split " + key.encode()).digest()[:8]) / 2**64
    if place < args.test_share:
        return "test"
    return "val" if place < args.test_share + args.val_share else "train"


def load(args: argparse.Namespace) -> Import:
    """Walk the folder.

    Raises:
        UserError: no such folder, or nothing in it.
    """
    root = Path(args.source)
    # Each suffix alone: of two files that differ in it only, the walk would show one.
    videos = [p for s in VIDEO_SUFFIXES for p in Files.walk(root, (s,)).by_path.items()]
    poses = {name: path for s in reversed(POSE_SUFFIXES) for name, path in Files.walk(root, (s,)).by_path.items()}
    if not videos and not poses:
        raise UserError(f"{root} holds no video and no keypoint file ({' '.join(VIDEO_SUFFIXES + POSE_SUFFIXES)})")
    ledger = Ledger()
    seen = {name for name, _ in videos}
    clips: list[tuple[str, Path | None]] = [*sorted(videos), *((name, None) for name in sorted(poses.keys() - seen))]
    has_splits = all(name.split("/")[0] in SPLITS and name.count("/") >= 1 for name, _ in clips)
    places = [name.split("/")[has_splits:-1] for name, _ in clips]
    classes = sorted({place[0] for place in places if place})
    labels = {gloss: label for label, gloss in enumerate(classes)}
    parts: Counter[str] = Counter()
    for (name, video), place in zip(clips, places, strict=True):
        key = clean_key(name)
        if ledger.repeats(key, str(video or poses[name])):
            continue
        pose = poses.get(name)
        parts["video and pose" if video and pose else "video alone" if video else "pose alone"] += 1
        split = name.split("/")[0] if has_splits else split_of(key, args)
        label = labels[place[0]] if place else None
        source = VideoFile(str(video) if video else None, str(pose) if pose else None, fps=args.fps)
        ledger.splits[split] += 1
        if label is not None and split == "test":
            ledger.test_labels.add(label)
        ledger.rows.append(ManifestRow(key, source, label, place[0] if place else None, split, None))
    ledger.conventions["splits"] = "the first folder" if has_splits else "by the hash of the key"
    ledger.conventions["clips"] = ", ".join(f"{count:,} with {part}" for part, count in sorted(parts.items()))
    return ledger.finish(len(clips), classes)


IMPORTER = Importer(
    "folder", "videos with keypoint files of the same name beside them; the subfolder is the label", add_arguments, load
)

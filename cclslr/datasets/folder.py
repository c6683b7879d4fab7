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
from unicodedata import normalize

from cclslr.datasets.base import Import, Importer, VideoFile
from cclslr.datasets.lists import Ledger, clean_key
from cclslr.datasets.media import POSE_SUFFIXES, VIDEO_SUFFIXES, Files
from cclslr.errors import UserError
from cclslr.shards.format import SPLITS, ManifestRow

SPLIT_NAMES = {
    "train": "train", "training": "train", "val": "val", "valid": "val", "validation": "val", "dev": "val",
    "development": "val", "test": "test", "testing": "test",
}  # fmt: skip


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of `cclslr pack folder`."""
    parser.add_argument("source", metavar="DIR", help="DIR/<label>/<name>.mp4, or DIR/{train,val,test}/<label>/...")
    parser.add_argument("--poses", metavar="DIR", help="keypoint files in the same sub-folders, as cclslr poses writes")
    parser.add_argument(
        "--first-folder", choices=("auto", "split", "label"), default="auto",
        help="what the first folders are (default auto: splits if they are called train, val, dev, test, ...)",
    )  # fmt: skip
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


def has_split_folders(folders: Counter[str], choice: str, root: Path) -> bool:
    """Whether the first folders are splits, by their names or by `--first-folder`.

    Args:
        folders: how many clips have each first folder; those that lie in `root` itself have "".

    Raises:
        UserError: some are called as splits are, others not.
    """
    splits = [name for name in folders if name.casefold() in SPLIT_NAMES]
    others = [name for name in folders if name.casefold() not in SPLIT_NAMES]
    if choice != "auto" or not splits or not others:
        return choice == "split" or (choice == "auto" and bool(splits))
    odd = ", ".join(f"{name or 'files beside them'} ({folders[name]:,} clips)" for name in others[:5])
    raise UserError(
        f"{root}: {', '.join(splits)} are called as splits are, but not {odd}. --first-folder split leaves the others "
        "out, --first-folder label takes all first folders for labels"
    )


def load(args: argparse.Namespace) -> Import:
    """Walk the folder.

    Raises:
        UserError: no such folder, nothing in it, no sub-folder that could be a label, splits and labels side by side.
    """
    root = Path(args.source)
    files = Files.walk(root, VIDEO_SUFFIXES + POSE_SUFFIXES)
    videos = [(files.name(path), path) for path in files.paths if path.suffix.lower() in VIDEO_SUFFIXES]
    poses: dict[str, Path] = {}
    for pose_files in (files, *([Files.walk(args.poses, POSE_SUFFIXES)] if args.poses else [])):
        mine = [path for path in pose_files.paths if path.suffix.lower() in POSE_SUFFIXES]
        for path in sorted(mine, key=lambda path: -POSE_SUFFIXES.index(path.suffix.lower())):  # rather .npz: names more
            poses[pose_files.name(path)] = path
    if not videos and not poses:
        raise UserError(f"{root} holds no video and no keypoint file ({' '.join(VIDEO_SUFFIXES + POSE_SUFFIXES)})")
    ledger = Ledger()
    seen = {name for name, _ in videos}
    clips: list[tuple[str, Path | None]] = [*sorted(videos), *((name, None) for name in sorted(poses.keys() - seen))]
    if not any("/" in name for name, _ in clips) and not getattr(args, "allow_unlabelled", True):
        raise UserError(
            f"{root} holds clips but no sub-folder; each label has one: {root / 'house' / Path(clips[0][0]).name}."
            f" If {root.name} is the label, give the folder above; clips without labels take --allow-unlabelled"
        )
    first = Counter(name.split("/")[0] if "/" in name else "" for name, _ in clips)
    has_splits = has_split_folders(first, args.first_folder, root)
    places = [tuple(normalize("NFC", part) for part in name.split("/")[has_splits:-1]) for name, _ in clips]
    inside = [not has_splits or name.split("/")[0].casefold() in SPLIT_NAMES for name, _ in clips]
    classes = sorted({place[0] for place, good in zip(places, inside) if place and good})
    labels = {gloss: label for label, gloss in enumerate(classes)}
    parts: Counter[str] = Counter()
    for (name, video), place, good in zip(clips, places, inside, strict=True):
        key, where = clean_key(name), str(video or poses[name])
        if not good:
            ledger.reject(where, "lies in no split's folder")
            continue
        split = SPLIT_NAMES[name.split("/")[0].casefold()] if has_splits else split_of(key, args)
        label = labels[place[0]] if place else None
        if ledger.repeats(key, where, label, split):
            continue
        pose = poses.get(name)
        parts["video and pose" if video and pose else "video alone" if video else "pose alone"] += 1
        source = VideoFile(str(video) if video else None, str(pose) if pose else None, fps=args.fps)
        ledger.splits[split] += 1
        if label is not None and split == "test":
            ledger.test_labels.add(label)
        ledger.rows.append(ManifestRow(key, source, label, place[0] if place else None, split, None))
    other = {
        name: SPLIT_NAMES[name.casefold()] for name in first if name.casefold() in SPLIT_NAMES and name not in SPLITS
    }
    renamed = [f"{name} is {split}" for name, split in sorted(other.items())]
    ledger.conventions["splits"] = (
        "the first folder" + (f" ({', '.join(renamed)})" if renamed else "") if has_splits else "by the hash of the key"
    )
    ledger.conventions["clips"] = ", ".join(f"{count:,} with {part}" for part, count in sorted(parts.items()))
    ledger.note_skipped(files)
    note_wants(ledger, "or put them into folders train and test")
    return ledger.finish(len(clips), classes)


def note_wants(ledger: Ledger, other: str) -> None:
    """Note what the clips of a data set of one's own lack: keypoints of some of them, a test split."""
    bare = sum(isinstance(row.source, VideoFile) and row.source.pose is None for row in ledger.rows)
    if bare and bare < len(ledger.rows):
        ledger.notes.append(
            f"{bare:,} clips have no keypoint file and are packed with their video alone; training with pose refuses "
            "them (cclslr poses makes keypoints)"
        )
    words = {row.gloss for row in ledger.rows if row.label is not None}
    if len(words) == 1:
        ledger.notes.append(f"all clips have one label, {words.pop()}; fine-tuning tells several apart")
    if ledger.rows and not any(row.split == "test" for row in ledger.rows):
        ledger.notes.append(f"no clip is for testing; --test-share 0.2 sets a fifth of them aside, {other}")


IMPORTER = Importer(
    "folder", "videos with keypoint files of the same name beside them; the subfolder is the label", add_arguments, load
)

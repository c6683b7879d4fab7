"""Rejected clips by the kind of their reason, each with its cure: what a person wants to see of a hundred of them."""

from __future__ import annotations

import csv
import dataclasses
import io
import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from cclslr.files import atomic_write

REJECTED_NAME = "rejected.csv"


@dataclass(frozen=True)
class Rejected:
    """A clip that is not in the shards, and why."""

    key: str
    reason: str
    source: str


@dataclass
class Kind:
    """Rejections for one reason."""

    reason: str  # with N for numbers
    count: int
    example: str
    cure: str


@dataclass(frozen=True)
class Cure:
    """What to do about rejections of one sort."""

    pattern: str  # found in their reasons, in which numbers are N and what is in quotation marks is …
    reason: str  # in words, for docs/rejections.md
    cure: str


_CONVERT = "play the file; if it plays, convert it: ffmpeg -i FILE -c:v libx264 FILE.mp4"
_LIST = "mend that line of the list, or call the file as the list says"
_EXTRACT = "extract the keypoints of this file again: cclslr poses"

# The first that a reason matches says what to do; docs/rejections.md shows all.
CURES = (
    Cure(r"the same take", "the same take as a clip of another split",
         "nothing: it would have been trained on and tested on"),
    Cure(r"^no label", "no label",
         "a sub-folder, or a column, for each label; or --allow-unlabelled for pre-training alone"),
    Cure(r"negative label", "a label below 0", "number the labels from 0"),
    Cure(r"one of them is none|names no video|list of instances|is not \[|is not (sign|categ)|not called|header has|"
         r"not N to|lies not in|label of N", "a line of a list, or a file's name, in another form", _LIST),
    Cure(r"fractions|too far from the signer", "keypoints are fractions, not pixels",
         "--normalised, or multiply x by the width and y by the height of the video"),
    Cure(r"confidences", "confidences above 1",
         "divide them so that 1 means certain: RTMW's by 10, percents by 100"),
    Cure(r"outside the frames", "keypoints outside the frames",
         "extract the keypoints from this very file (cclslr poses), not from a resized copy"),
    Cure(r"takes the library pose-format", "a .pose file, and the library is absent", "pip install 'cclslr[pose]'"),
    Cure(r"of its parts none is known", "a .pose file of other parts",
         "write it with the parts of MediaPipe, OpenPose or COCO-WholeBody, or extract keypoints: cclslr poses"),
    Cure(r"npy (is|holds)|mask.png|masks for|checksum|index says|frame offsets|is not there|are decoded|not decode|"
         r"in the data set", "a packed clip that is damaged",
         "cclslr check says what is; pack the clip from its source again: cclslr pack … --add"),
    Cure(r"--layout|the arrays|an array (is|says|keypoints)|pickle", "a keypoint file that holds something else",
         "save one array (frames, points, 3) called keypoints; points in another order take --layout"),
    Cure(r"^keypoints: unreadable", "a keypoint file that cannot be read", _EXTRACT),
    Cure(r"pose has (N|no) frame|no finite|has finite|keypoints? (have|has)|points, expected|points are not|no point",
         "pose and video of different lengths, or no finite point", _EXTRACT),
    Cure(r"neither video nor pose", "neither video nor pose", "name a video or a keypoint file"),
    Cure(r"duplicate key|repeats", "a key twice", "give each clip a key of its own"),
    Cure(r"the key (has|is)", "a key that cannot be a file name", "use up to 91 letters, digits, _ and -"),
    Cure(r"split", "a split of another name", "call it train, val or test"),
    Cure(r"too small", "frames too small for the codec", "a larger --size, or --codec jpeg"),
    Cure(r"frame size changes", "frames of several sizes in one clip",
         "scale it to one: ffmpeg -i FILE -vf scale=640:480 -c:v libx264 FILE.mp4"),
    Cure(r"frame N is missing|no image_", "a folder of frames with a gap, or without any",
         "get the missing ones again; they are called image_00001.jpg, image_00002.jpg and so on"),
    Cure(r"span|starts at|begins", "a span that the file does not have",
         "hold the list's span against the length of the file; a short file was cut or cut off"),
    Cure(r"truncated|damaged|corrupt|are there", "truncated or damaged", "get the file again, it is not whole"),
    Cure(r"too large|too many|more than|takes more", "too large, too long or too many frames",
         "cut the video into clips of seconds, or scale it down"),
    Cure(r"turned", "turned by no quarter of a circle", "turn it upright with ffmpeg"),
    Cure(r"encrypted", "encrypted", "get a copy that is not"),
    Cure(r"unreadable|no video|no frame|codec is not known", "unreadable, unknown codec, no video stream", _CONVERT),
)  # fmt: skip


_KEYPOINT_FILE = re.compile(r"^[^:]*\.(npz|npy|pose): ")


def in_general(reason: str) -> str:
    """A reason without the numbers and names of one clip."""
    return re.sub(r"\d+(\.\d+)?", "N", re.sub(r"'[^']*'|\"[^\"]*\"", "…", reason))


def cure_of(reason: str, of_list: bool = False) -> str:
    """What to do about a reason, "" where nothing is known; what an importer says of a line is mended in its list."""
    return next((known.cure for known in CURES if re.search(known.pattern, reason)), _LIST if of_list else "")


def by_kind(rejected: Iterable[Rejected]) -> list[Kind]:
    """The kinds, most frequent first."""
    kinds: dict[str, Kind] = {}
    for item in rejected:
        reason = _KEYPOINT_FILE.sub("keypoints: ", item.reason).removeprefix(f"{Path(item.source).name}: ")
        example = item.key or item.source
        if not item.key and ": " in reason:  # of an importer: the place in the list, then the reason
            example, reason = reason.split(": ", 1)
        reason = in_general(reason)
        if reason not in kinds:
            kinds[reason] = Kind(reason, 0, example, cure_of(reason, of_list=not item.key))
        kinds[reason].count += 1
    return sorted(kinds.values(), key=lambda kind: -kind.count)


def in_lines(rejected: Iterable[Rejected], limit: int = 8) -> list[str]:
    """The kinds for the screen, two lines each: how many, why, an example, and what to do."""
    kinds = by_kind(rejected)
    lines = []
    for kind in kinds[:limit]:
        lines.append(f"{kind.count:>7,}  {kind.reason}")
        lines.append(f"         e.g. {kind.example}" + (f"; {kind.cure}" if kind.cure else ""))
    if len(kinds) > limit:
        lines.append(f"{sum(kind.count for kind in kinds[limit:]):>7,}  for {len(kinds) - limit} other reasons")
    return lines


def read_rejected(out: str | Path) -> list[Rejected]:
    """The clips of rejected.csv."""
    return parse_rejected((Path(out) / REJECTED_NAME).read_bytes().decode())


def parse_rejected(text: str) -> list[Rejected]:
    """The clips that the text of a rejected.csv lists."""
    return [Rejected(**row) for row in csv.DictReader(io.StringIO(text, newline=""))]


def write_rejected(out: Path, rejected: Iterable[Rejected]) -> None:
    """Write rejected.csv."""
    with atomic_write(out / REJECTED_NAME, "w") as file:
        writer = csv.writer(file)
        writer.writerow([item.name for item in dataclasses.fields(Rejected)])
        writer.writerows(dataclasses.astuple(item) for item in rejected)

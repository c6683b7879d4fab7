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


# The first that a reason matches says what to do; docs/your-data.md shows them, too.
CURES = (
    (r"no label", "a sub-folder, or a column, for each label; or --allow-unlabelled for pre-training alone"),
    (r"the same take", "nothing: it would have been trained on and tested on"),
    (r"fractions", "--normalised, or multiply x by the width and y by the height of the video"),
    (r"confidences", "divide them so that 1 means certain: RTMW's by 10, percents by 100"),
    (r"outside the frames", "extract the keypoints from this very file (cclslr poses), not from a resized copy"),
    (r"pose has N frames|no finite|keypoints? (have|has)", "extract the keypoints of this file again: cclslr poses"),
    (r"neither video nor pose", "name a video or a keypoint file"),
    (r"duplicate key|repeats", "give each clip a key of its own"),
    (r"the key (has|is)", "use up to 91 letters, digits, _ and -"),
    (r"split", "call it train, val or test"),
    (r"span|starts at|begins", "hold the list's span against the length of the file; a short file was cut or cut off"),
    (r"truncated|damaged|corrupt|are there", "get the file again, it is not whole"),
    (r"too large|too many|more than|takes more", "cut the video into clips of seconds, or scale it down"),
    (r"turned", "turn it upright with ffmpeg"),
    (r"encrypted", "get a copy that is not"),
    (r"unreadable|no video|no frame", "play the file; if it plays, convert it: ffmpeg -i FILE -c:v libx264 FILE.mp4"),
)


def by_kind(rejected: Iterable[Rejected]) -> list[Kind]:
    """The kinds, most frequent first."""
    kinds: dict[str, Kind] = {}
    for item in rejected:
        name = Path(item.source).name
        reason, example = item.reason.removeprefix(f"{name}: "), item.key or item.source
        if not item.key and ": " in reason:  # of an importer: the place in the list, then the reason
            example, reason = reason.split(": ", 1)
        reason = re.sub(r"'[^']*'|\"[^\"]*\"", "…", reason)
        reason = re.sub(r"\d+(\.\d+)?", "N", reason)
        if reason not in kinds:
            cure = next((cure for pattern, cure in CURES if re.search(pattern, reason)), "")
            kinds[reason] = Kind(reason, 0, example, cure)
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

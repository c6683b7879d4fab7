"""What a list without oddities needs besides its own columns: every row counted, its files found, the report written.

An importer reads its list into `Listed` rows and rejections; `import_listed` does the rest.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import dataclass

from cclslr.datasets.base import Import, VideoFile
from cclslr.datasets.lists import Ledger
from cclslr.datasets.media import Media
from cclslr.shards.format import SPLITS


@dataclass(frozen=True)
class Listed:
    """One row of a list, checked."""

    where: str  # file and line
    key: str  # unique in the set
    label: int
    split: str
    signer: str | None
    videos: tuple[str, ...]  # what its video may be called under --videos, likeliest first, no suffix
    frames: tuple[int, int | None] | None = None  # as in `VideoFile`
    seconds: tuple[float, float | None] | None = None


@dataclass(frozen=True)
class Published:
    """What is known of a list, to hold a copy against."""

    name: str
    clips: dict[str, int]  # by split
    signers: dict[str, int]


def import_listed(
    args: argparse.Namespace, ledger: Ledger, rows: Sequence[Listed], classes: list[str], published: Published
) -> Import:
    """Count the rows, find their files, compare with what was published.

    Keypoint files are called as the videos, or by the clip's key, as `cclslr poses --dataset` writes them.

    Args:
        args: with `--videos` and `--poses` of `Media.add_arguments`.
        ledger: the rejected rows of the list are booked in it already.

    Raises:
        UserError: neither folder is given, or one is not there.
    """
    total = len(rows) + len(ledger.rejected)
    once = []
    for row in rows:
        ledger.count(row.split, row.label)
        if not ledger.repeats(row.key, row.where, row.label, row.split):
            once.append(row)
    ledger.compare(published.clips, published.name)
    _note_signers(once, ledger, published.signers)
    media = Media.walk(args)
    ledger.note_files(media.videos)
    for row, video, pose in media.find(once, lambda row: (row.videos, (*row.videos, row.key)), ledger.missing):
        source = VideoFile(None if video is None else str(video), pose, row.frames, row.seconds)
        ledger.add(row.key, source, row.label, classes[row.label], row.split, row.signer)
    return ledger.finish(total, classes)


def _note_signers(rows: Sequence[Listed], ledger: Ledger, published: dict[str, int]) -> None:
    """Say how many signers each split has, whether that is as published, and whether any is in two splits."""
    signers = {split: {row.signer for row in rows if row.split == split and row.signer} for split in SPLITS}
    counts = {split: len(ids) for split, ids in signers.items()}
    shown = " / ".join(f"{split} {count}" for split, count in counts.items() if count)
    if counts != {split: published.get(split, 0) for split in SPLITS}:
        shown += f"; published: {' / '.join(f'{split} {count}' for split, count in published.items())}"
    shared = len(signers["train"] & signers["val"] | (signers["train"] | signers["val"]) & signers["test"])
    ledger.conventions["signers"] = shown + (f"; {shared} of them in two splits" if shared else "; disjoint")

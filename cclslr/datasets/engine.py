"""What all importers of published lists share: every row counted, its files found, the report written.

An importer reads its list into `Listed` rows and rejections; `import_listed` does the rest. Where a list has oddities
of its own, such as spans of videos that may be cut already, the importer says the source of each clip that was found.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

from cclslr.datasets.base import Import, VideoFile
from cclslr.datasets.lists import Ledger
from cclslr.datasets.media import VIDEO_SUFFIXES, Found, Media
from cclslr.shards.format import SPLITS, ClipSource

Label = TypeVar("Label", int, str)


@dataclass(frozen=True)
class Listed(Generic[Label]):
    """One row of a list, checked."""

    where: str  # file and line
    key: str  # unique in the set
    label: Label  # a number, or a word: `number_words` gives it one
    split: str
    signer: str | None
    videos: tuple[str, ...]  # what its video may be called under --videos, likeliest first, no suffix
    poses: tuple[str, ...] = ()  # what its keypoint file may be called besides that
    same: str | None = None  # rows that agree in it say one clip again; None: those that agree in the key
    entry: Any = None  # what else the importer's `sources` wants to know of the row


@dataclass(frozen=True)
class Published:
    """What is known of a list, to hold a copy against."""

    name: str
    clips: dict[str, int]  # by split; empty: not published by split
    signers: dict[str, int] = field(default_factory=dict)
    classes: int | None = None
    rows: int | None = None  # clips of all splits, where they are not published by split
    explanation: str = "The list was edited"  # of other counts


Sources = Callable[[Sequence[Found[Listed[int]]], Ledger], Sequence[ClipSource | str]]


def whole_files(found: Sequence[Found[Listed[int]]], ledger: Ledger) -> Sequence[ClipSource | str]:
    """The source of each clip where a file is a clip."""
    return [VideoFile(None if video is None else str(video), pose) for _, video, pose in found]


def number_words(rows: Sequence[Listed[str]], ledger: Ledger) -> tuple[list[Listed[int]], list[str]]:
    """The rows with their words numbered in alphabetical order, and the words."""
    classes = sorted({row.label for row in rows})
    labels = {word: label for label, word in enumerate(classes)}
    ledger.conventions["labels"] = "words, numbered in alphabetical order"
    numbered = [Listed(**vars(row) | {"label": labels[row.label]}) for row in rows]
    return numbered, classes


def import_listed(
    args: argparse.Namespace,
    ledger: Ledger,
    rows: Sequence[Listed[int]],
    classes: list[str],
    published: Published,
    sources: Sources = whole_files,
    media: Media | None = None,
) -> Import:
    """Count the rows, find their files, compare with what was published.

    Keypoint files are called as the videos, or by the clip's key, as `cclslr poses --dataset` writes them.

    Args:
        args: with `--videos` and `--poses` of `Media.add_arguments`.
        ledger: the rejected rows of the list are booked in it already.
        sources: of each clip whose files are there, where it comes from, or why it is rejected.
        media: the files, where the importer has them already.

    Raises:
        UserError: neither folder is given, or one is not there.
    """
    total = len(rows) + len(ledger.rejected)
    once = []
    for row in rows:
        ledger.count(row.split, row.label)
        if not ledger.repeats(row.key if row.same is None else row.same, row.where, row.label, row.split):
            once.append(row)
    if published.clips:
        ledger.compare(published.clips, published.name, published.explanation)
    if published.rows is not None:
        known = "as published" if total == published.rows else f"published: {published.rows:,}"
        ledger.notes.append(f"{published.name}: {total:,} clips, {known}")
    if published.classes is not None and len(classes) != published.classes:
        ledger.notes.append(f"{published.name}: the list has {len(classes):,} signs; published: {published.classes:,}")
    _note_signers(once, ledger, published.signers)
    media = Media.walk(args) if media is None else media
    ledger.note_files(media.videos)
    found = media.find(once, lambda row: (row.videos, (*row.videos, *row.poses, row.key)), ledger.missing)
    for (row, _, _), source in zip(found, sources(found, ledger), strict=True):
        if isinstance(source, str):
            ledger.reject(row.where, source)
        else:
            ledger.add(row.key, source, row.label, classes[row.label], row.split, row.signer)
    return ledger.finish(total, classes)


def bare_name(path: str) -> str:
    """A file's path in a list as `Listed.videos` wants it: with /, and without the ending of a video."""
    path = path.replace("\\", "/")
    return path[: path.rindex(".")] if path.lower().endswith(VIDEO_SUFFIXES) else path


def _note_signers(rows: Sequence[Listed[int]], ledger: Ledger, published: dict[str, int]) -> None:
    """Say how many signers each split has, whether that is as published, and whether any is in two splits."""
    signers = {split: {row.signer for row in rows if row.split == split and row.signer} for split in SPLITS}
    counts = {split: len(ids) for split, ids in signers.items()}
    if not any(counts.values()) or "signers" in ledger.conventions:
        return
    shown = " / ".join(f"{split} {count}" for split, count in counts.items() if count)
    if published and counts != {split: published.get(split, 0) for split in SPLITS}:
        shown += f"; published: {' / '.join(f'{split} {count}' for split, count in published.items())}"
    shared = len(signers["train"] & signers["val"] | (signers["train"] | signers["val"]) & signers["test"])
    ledger.conventions["signers"] = shown + (f"; {shared} of them in two splits" if shared else "; disjoint")

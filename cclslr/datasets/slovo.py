"""Slovo: 1,000 signs of Russian Sign Language and "no event", filmed by 194 people (Kapitanov et al., ICVS 2023).

The list is a table of TABs whose columns stand in another order in each release, so they are read by name. `begin` and
`end` are frames of the *original* videos; most people have the trimmed ones, and some releases lack these columns.
"""

from __future__ import annotations

import argparse
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from cclslr.datasets.base import Import, Importer, VideoFile
from cclslr.datasets.engine import Listed, Published, import_listed, number_words
from cclslr.datasets.lists import Ledger, clean_key, read_table
from cclslr.datasets.media import Found, Media, map_threads, probe_video
from cclslr.shards.format import ClipSource

PUBLISHED = Published("Slovo", {"train": 15_300, "val": 0, "test": 5_100}, classes=1_001)
SIGNERS = 194
COLUMNS = ("attachment_id", "user_id", "text", "train")
SPLIT = {"true": "train", "1": "train", "false": "test", "0": "test"}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of `cclslr pack slovo`."""
    parser.add_argument("--annotations", required=True, metavar="FILE", help="annotations.csv, or its folder")
    Media.add_arguments(parser, "folder of <attachment_id>.mp4, trimmed or original", "folder of <attachment_id>.npz")


def load(args: argparse.Namespace) -> Import:
    """Read the list, find the videos, measure whether they are trimmed.

    Raises:
        UserError: no list, one without the columns, or a folder that is not there.
    """
    path = Path(args.annotations)
    path = path / "annotations.csv" if path.is_dir() else path
    ledger, rows, spans = Ledger(), [], {}
    for where, row in read_table(path, COLUMNS, ledger, delimiter="\t"):
        video, gloss, split = row["attachment_id"], row["text"], SPLIT.get(row["train"].lower())
        if not video or not gloss or split is None:
            ledger.reject(where, f"video {video!r}, text {gloss!r}, train {row['train']!r}: one of them is none")
            continue
        begin, end = row.get("begin", ""), row.get("end", "")
        if begin.isascii() and end.isascii() and begin.isdecimal() and end.isdecimal() and len(begin + end) < 15:
            spans[where] = (int(begin), int(end))
        rows.append(Listed(where, clean_key(video), gloss, split, row["user_id"] or None, (video,)))
    signers = len({row.signer for row in rows if row.signer})
    if signers != SIGNERS:
        ledger.notes.append(f"Slovo: the list has {signers} signers; published: {SIGNERS}")

    def sources(found: Sequence[Found[Listed[int]]], ledger: Ledger) -> Sequence[ClipSource | str]:
        return cut_originals(found, spans, ledger)

    numbered, classes = number_words(rows, ledger)
    return import_listed(args, ledger, numbered, classes, PUBLISHED, sources)


def cut_originals(
    found: Sequence[Found[Listed[int]]], spans: dict[str, tuple[int, int]], ledger: Ledger
) -> list[ClipSource | str]:
    """The source of each clip: the whole file, or its span where the file holds it and is longer than it by a third.

    Args:
        spans: frames of the originals, by the row's `where`; half open.
    """
    probes = map_threads(lambda clip: None if clip[1] is None else probe_video(clip[1]), found)
    clips: list[ClipSource | str] = []
    votes: Counter[str] = Counter()
    for (row, video, pose), probe in zip(found, probes, strict=True):
        begin, end = spans.get(row.where, (0, 0))
        original = probe is not None and begin < end <= probe.frames and probe.frames > 4 * (end - begin) / 3 + 2
        votes["original"] += original
        clips.append(VideoFile(None if video is None else str(video), pose, (begin, end) if original else None))
    if any(video is not None for _, video, _ in found):
        ledger.conventions["files"] = f"{votes['original']} of {len(found)} are originals, cut by begin and end"
    return clips


IMPORTER = Importer(
    "slovo", "Slovo from annotations.csv and <attachment_id>.mp4 files", add_arguments, load,
    licence="Slovo: a variant of CC BY-SA 4.0; see the licence that came with the download",
)  # fmt: skip

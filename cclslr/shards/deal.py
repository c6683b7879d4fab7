"""Which clips are worth packing, how they are dealt to shards, and what tells shards and data sets from others."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Sequence
from itertools import pairwise
from typing import Any

from cclslr.shards.clip import PackOptions
from cclslr.shards.format import FORMAT_VERSION, KEY_PATTERN, SPLITS, ManifestRow
from cclslr.shards.rejections import Rejected
from cclslr.shards.writer import MAX_NAME

MAX_KEY = MAX_NAME - len(".pose.npy")  # the longest component


def check_rows(rows: list[ManifestRow], options: PackOptions) -> tuple[list[ManifestRow], list[Rejected]]:
    """Split the rows into those worth loading and those that are refused for what they say."""
    good: dict[str, ManifestRow] = {}
    rejected = []
    for row in rows:
        reason = _fault(row, options)
        if reason is None and row.key in good:
            reason = "duplicate key; the first clip of this key is kept"
        if reason is None:
            good[row.key] = row
        else:
            rejected.append(Rejected(row.key, reason, describe_source(row)))
    return list(good.values()), rejected


def _fault(row: ManifestRow, options: PackOptions) -> str | None:
    if not KEY_PATTERN.fullmatch(row.key):
        return f"the key has characters outside {KEY_PATTERN.pattern}"
    if len(row.key) > MAX_KEY:
        return f"the key is longer than {MAX_KEY} characters"
    if row.split not in SPLITS:
        return f"unknown split {row.split!r}; expected one of {', '.join(SPLITS)}"
    if row.label is None and not options.allow_unlabelled:
        return "no label"
    if row.label is not None and row.label < 0:
        return f"negative label {row.label}"
    return None


def describe_source(row: ManifestRow) -> str:
    """What a user recognises a clip's source by: its file where it has one."""
    source = row.source
    return str(getattr(source, "path", None) or getattr(source, "pose", None) or source)


def deal(rows: list[ManifestRow], options: PackOptions) -> list[tuple[str, tuple[ManifestRow, ...]]]:
    """Sort the clips by the hash of their keys and cut them into shards of equal length: names and clips."""
    rows = sorted(rows, key=lambda row: hashlib.sha256(row.key.encode()).digest())
    count = -(-len(rows) // options.clips_per_shard)
    cuts = [len(rows) * number // count for number in range(count + 1)] if count else []
    return [(f"shard-{n:05d}.tar", tuple(rows[begin:end])) for n, (begin, end) in enumerate(pairwise(cuts))]


def fingerprint_of(rows: Sequence[ManifestRow], sources: Sequence[str], options: PackOptions) -> str:
    """Of a shard of these clips, whose sources have those fingerprints."""
    texts = [
        f"{row.key} {row.label} {row.gloss} {row.split} {row.signer} {source}"
        for row, source in zip(rows, sources, strict=True)
    ]
    smaller = [f"and {side}" for side in options.smaller]  # a set without has the recipe that it always had
    return sha256_of(str(FORMAT_VERSION), repr(options), *smaller, *texts)


def recipe_of(fingerprints: Iterable[str], classes: list[str], settings: dict[str, Any] | None) -> str:
    """What tells a data set of these shards from all others."""
    return sha256_of(*fingerprints, json.dumps(classes), json.dumps(settings, sort_keys=True))


def sha256_of(*texts: str) -> str:
    """Of several texts, in order."""
    return hashlib.sha256("\0".join(texts).encode()).hexdigest()

"""New and mended clips into a packed data set, without packing the others again (`cclslr pack … --add`).

The set is made anew beside the old one, in OUT/.adding, and takes its place when it is complete. Clips whose source is
as it was are copied, and shards of which nothing changes are linked, so what comes out has the bytes that packing all
clips at once would have given. A killed run goes on where it was; until the end the old set is there.

A clip is mended if its source's fingerprint is another than when it was packed: for files their path, size and time and
what is taken of them. Clips of the set that were not found now are kept, unless they are to be dropped.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from cclslr.errors import BadClip, UserError
from cclslr.files import atomic_write
from cclslr.shards.clip import PackOptions, pack_clip
from cclslr.shards.convert import folder_columns
from cclslr.shards.deal import deal, describe_source, fingerprint_of, recipe_of
from cclslr.shards.difference import Difference, InSet
from cclslr.shards.done import ADDING_NAME, PARTS_NAME, READY_NAME, ShardPart, ShardTask, exchange, keep
from cclslr.shards.executor import run_tasks
from cclslr.shards.format import ManifestRow
from cclslr.shards.index import table_of
from cclslr.shards.info import INFO_NAME, DatasetInfo, ShardInfo, load_info
from cclslr.shards.pack import PackReport, describe, pack_tasks, report_of
from cclslr.shards.place import FolderPlace
from cclslr.shards.reader import ShardSet
from cclslr.shards.rejections import Rejected, read_rejected
from cclslr.shards.sources import Sources, read_sources, said_of
from cclslr.shards.writer import PackedClip, ShardFile, open_shard, stock_index


@dataclass(frozen=True)
class AddTask(ShardTask):
    """All that a worker needs to build one shard of clips that are in the old set, and of others."""

    packed: str  # the old set
    clip_ids: np.ndarray  # of each row the clip of the old set that is taken; -1: its source is
    same: ShardInfo | None  # the shard of the old set that is this one, if there is such a one


def add(
    difference: Difference,
    options: PackOptions,
    *,
    workers: int = 1,
    scheduler: str | None = None,
    settings: dict[str, Any] | None = None,
    rejected: Sequence[Rejected] = (),
    command: dict[str, Any] | None = None,
) -> PackReport:
    """Make the data set what `difference` says; continues where it was stopped.

    Args:
        rejected, settings, command: as `pack`.
        workers, scheduler: see `run_tasks`.

    Raises:
        UserError: another process is packing into it; no clip is good.
    """
    out = difference.out
    with FolderPlace(out).hold():
        info = load_info(out)
        if info["index_sha256"] != difference.index_sha256:
            raise UserError(f"{out} was changed by another process meanwhile; run the command again")
        tasks, sources, recipe = _plan(difference, options, info, settings)
        sources.command = command
        if info.get("recipe") == recipe and [task.same for task in tasks] == info["shards"]:
            for name in (ADDING_NAME, PARTS_NAME):
                shutil.rmtree(out / name, ignore_errors=True)
            return report_of(folder_columns(out, info), read_rejected(out), info, len(tasks))
        if difference.kept:
            settings = {**(settings or {}), "before": _history(info)}
        about = {**describe(options, settings, recipe), "masks": _unfinished(info["masks"])}
        adding = out / ADDING_NAME
        if (adding / INFO_NAME).exists():  # killed between its end and the exchange; the old set may have changed since
            shutil.rmtree(adding)
        running = partial(run_tasks, workers=workers, scheduler=scheduler, description="packing")
        refused = [*rejected, *difference.refused]
        report = pack_tasks(
            FolderPlace(adding), tasks, build_added, running, difference.classes, about, refused, sources
        )
        os.replace(adding, out / READY_NAME)
        exchange(out)
    return report


def _plan(
    difference: Difference, options: PackOptions, info: DatasetInfo, settings: dict[str, Any] | None
) -> tuple[list[AddTask], Sources, str]:
    """The shards, what is known of the clips' sources, and the recipe that packing all at once would have."""
    shards, known = ShardSet([str(difference.out)]), read_sources(FolderPlace(difference.out))
    by_shard, kept = dict(shards.rows.by_shard()), set(difference.kept)
    entries = {entry["name"]: entry for entry in info["shards"]}
    shard_of = {int(clip_ids[0]): entries[name] for name, clip_ids in by_shard.items() if len(clip_ids)}
    labels = shards.rows.labels_N
    sources, tasks, recipe = Sources(), [], []
    for name, rows in deal(difference.rows, options):
        fingerprints = [difference.fingerprints[row.key] for row in rows]
        clip_ids = np.array([difference.clip_ids.get(row.key, -1) for row in rows], np.int64)
        as_said = True  # of each clip the set says what is said now
        for row, fingerprint, clip_id in zip(rows, fingerprints, clip_ids.tolist(), strict=True):
            if row.key in kept:
                unchanged = labels[clip_id] == (-1 if row.label is None else row.label)
                sources.source |= {key: known.source[key] for key in [row.key] if key in known.source}
                sources.said |= {key: known.said[key] for key in [row.key] if unchanged and key in known.said}
            else:
                unchanged = known.said.get(row.key) == said_of(row)
                sources.note(row, fingerprint)
            as_said = as_said and unchanged
        first = shard_of.get(int(clip_ids[0]))
        whole = as_said and first is not None and np.array_equal(by_shard[first["name"]], clip_ids)
        same = first if whole else None
        recipe.append(fingerprint_of(rows, fingerprints, options))
        mixed = hashlib.sha256(f"{recipe[-1]} {info['index_sha256']}".encode() + clip_ids.tobytes()).hexdigest()
        folder = str(difference.out / ADDING_NAME)
        tasks.append(AddTask(name, folder, rows, options, mixed, str(difference.out), clip_ids, same))
    return tasks, sources, recipe_of(recipe, difference.classes, settings)


def _history(info: DatasetInfo) -> list[dict[str, Any]]:
    """How the clips that are kept were packed: the settings of the set, and those before them."""
    settings = dict(info.get("settings") or {})
    before = settings.pop("before", [])
    return before if settings in before else [*before, settings]


def _unfinished(masks: dict[str, Any] | None) -> dict[str, Any] | None:
    """What dataset.json says of masks that some clips have."""
    if masks is None:
        return None
    kept = {name: value for name, value in masks.items() if not name.startswith("share_")}
    return {**kept, "complete": False, "totals": {}}


def build_added(task: AddTask) -> ShardPart:
    """Build one shard; clips that are bad are left out and named."""
    if task.same is not None and (shard := _linked(task, task.same)) is not None:
        return keep(task, shard, [])
    shards, rejected = ShardSet([task.packed]), []
    with open_shard(task.folder, task.name) as (writer, shard):
        for row, clip_id in zip(task.rows, task.clip_ids.tolist(), strict=True):
            try:
                writer.add(_clip(row, clip_id, shards, task.options))
            except BadClip as error:
                rejected.append(Rejected(row.key, str(error), describe_source(row)))
    shards.close()
    return keep(task, shard, rejected)


def _linked(task: AddTask, entry: ShardInfo) -> ShardFile | None:
    """A shard of the old set under its new name; None where it is damaged, or the disk has no links."""
    new = Path(task.folder, task.name)
    new.unlink(missing_ok=True)
    new.parent.mkdir(parents=True, exist_ok=True)
    try:
        if not FolderPlace(Path(task.packed)).whole([entry]):
            return None
        os.link(Path(task.packed, entry["name"]), new)
    except OSError:
        return None
    shards = ShardSet([task.packed])
    rows = [replace(shards.rows[clip_id], shard=task.name) for clip_id in task.clip_ids.tolist()]
    with atomic_write(new.with_suffix(".idx"), "w") as file:
        file.write(stock_index(rows))
    return ShardFile(task.name, entry["bytes"], entry["sha256"], table_of(rows))


def _clip(row: ManifestRow, clip_id: int, shards: ShardSet, options: PackOptions) -> PackedClip:
    """A clip, encoded: out of the old set where it is in it and whole, else from its source.

    Raises:
        BadClip: it cannot be used.
    """
    if clip_id < 0:
        return pack_clip(row, row.source.load(), options)
    try:
        parts = shards.read_bytes(clip_id)
    except BadClip:
        return pack_clip(row, row.source.load(), options)
    old = shards.rows[clip_id]
    meta = json.loads(parts["json"])
    said: dict[str, Any] = {"label": row.label}
    if not isinstance(row.source, InSet):
        said |= {"gloss": row.gloss, "split": row.split, "signer": row.signer}
    if any(meta.get(name) != value for name, value in said.items()):
        parts["json"] = json.dumps({**meta, **said}, sort_keys=True).encode()
    label = -1 if row.label is None else row.label
    index_row = replace(old, label=label, split=row.split, signer=row.signer or "", shard="", components={})
    return PackedClip(index_row, parts)

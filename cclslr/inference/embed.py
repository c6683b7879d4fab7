"""The features of every clip of a data set, in parts that are kept as they are done.

The clips are cut into parts of some hundred, the same at any number of ranks, and each rank does every so-manyth part
that is not there yet. A part is a feature file of its clips, written at once; when all are there they become one file.
So a process that was killed loses the part that it was at, and another number of ranks can go on.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Iterator
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from cclslr.config import to_dict
from cclslr.console import console, progress_bar
from cclslr.data.loader import Loader
from cclslr.data.plan import EvalPlan
from cclslr.distributed import Process
from cclslr.errors import UserError
from cclslr.files import hold_folder, read_json, write_json
from cclslr.inference.features import FeatureSet, read_features, write_features
from cclslr.inference.model import Model
from cclslr.inference.passes import Outputs, each_batch, over_clips
from cclslr.shards.reader import ShardSet

JOB_NAME = "job.json"  # what the parts in a folder are parts of


@dataclass(frozen=True)
class Job:
    """One data set to embed with one model."""

    model: Model
    shards: ShardSet
    folder: Path  # of the parts; removed when the features are one file
    about: dict[str, Any]  # `describe`: what decides on every number of the features
    per_part: int  # clips

    @property
    def parts(self) -> list[np.ndarray]:
        """The clip ids of each part: whole batches, so that no batch lies in two parts."""
        batch = self.model.config.optim.micro_batch
        size = max(1, round(self.per_part / batch)) * batch
        clip_ids = np.arange(len(self.shards))
        return [clip_ids[start : start + size] for start in range(0, len(clip_ids), size)]

    def path(self, part: int) -> Path:
        return self.folder / f"part-{part:06d}.parquet"


def describe(model: Model, shards: ShardSet, clips: dict[str, Any]) -> dict[str, Any]:
    """What decides on the features, as plain JSON; it becomes the `about` of the file.

    Args:
        clips: where the clips are from, e.g. {"shards": [...], "split": None}.
    """
    cfg = model.config
    about = {
        "checkpoint": str(Path(model.source).resolve()),
        "checkpoint_sha256": checksum(model.source),
        "kind": model.kind,
        "classes": model.classes,
        **clips,
        "content": [[info["content_hash"], info["index_sha256"]] for info in shards.infos],
        "clips": len(shards),
        "views": to_dict(cfg.views),
        "backend": [cfg.data.backend, cfg.data.decode, cfg.data.device],
        "batch": cfg.optim.micro_batch,
        "precision": model.precision.name,
        "device": model.device.type,
    }
    return json.loads(json.dumps(about))  # as it is read again: lists, no tuples


def checksum(path: str) -> str:
    """SHA-256 of a file: which checkpoint it is, whatever it is called."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def embed_shards(job: Job, process: Process) -> FeatureSet | None:
    """Embed every clip of `job.shards`; every rank calls it, rank 0 gets the features, in the order of the clips.

    A clip that cannot be read is named and left out: its reason stands in `about["left_out"]`, by key. Parts that an
    earlier run left in `job.folder` are not done again, unless they are of another model, data set or setting.

    Raises:
        UserError: another process works in the folder; no clip can be read; too many are bad; outputs not finite.
    """
    busy = f"{job.folder}: another process is embedding into it"
    with hold_folder(job.folder, busy) if process.main else nullcontext():
        missing = process.from_main(lambda: _missing_parts(job))
        named = _embed_parts(job, missing[process.rank :: process.world], len(missing), process)
        process.gather_objects(None)  # all parts are there
        return _collected(job, named) if process.main else None


def embed_here(model: Model, shards: ShardSet, process: Process, about: dict[str, Any]) -> FeatureSet:
    """The features of every clip, on every rank and in no file: for sets that are done in minutes.

    Raises:
        UserError: no clip can be read; too many are bad; outputs that are not finite.
    """
    cfg = model.config
    batch, modalities = cfg.optim.micro_batch, model.modalities
    found = over_clips(model.forward, shards, cfg.data, cfg.views, modalities, batch, model.precision, process)
    features = features_of(shards, Outputs(*found))
    features.about = about
    return features


def _missing_parts(job: Job) -> list[int]:
    """The parts that are not there; what does not belong to this job is removed."""
    told = {**job.about, "per_part": job.per_part}
    known = job.folder / JOB_NAME
    if not known.exists() or read_json(known) != told:
        stale = list(job.folder.glob("part-*.parquet"))
        if stale:
            console.print(f"{job.folder}: {len(stale)} parts of another model, data set or setting are removed")
        for path in stale:
            path.unlink()
        write_json(known, told)
    for path in job.folder.glob(".part-*.tmp"):
        path.unlink()
    missing = [part for part in range(len(job.parts)) if not job.path(part).exists()]
    if len(missing) < len(job.parts):
        done = len(job.shards) - sum(len(job.parts[part]) for part in missing)
        console.print(f"going on: {done:,} of {len(job.shards):,} clips were done before")
    return missing


def _embed_parts(job: Job, mine: list[int], of_all: int, process: Process) -> set[int]:
    """Embed the parts of this rank, each written when its last batch is there; returns the bad clips."""
    model, cfg = job.model, job.model.config
    parts = job.parts
    alone = Process(0, 1, process.device)
    if not mine:
        return set()
    clip_ids = np.concatenate([parts[part] for part in mine])
    plan = EvalPlan(clip_ids, cfg.optim.micro_batch)
    loader = Loader(cfg.data, cfg.views, job.shards, plan, alone, model.modalities, seed=0, augment=False)
    total = round(len(clip_ids) * of_all / len(mine))
    with loader.start(0), progress_bar() as bar:
        task = bar.add_task("embedding", total=total)
        done = 0
        for part, batches in _by_part(each_batch(model.forward, loader, model.precision), parts, mine):
            outputs = Outputs.together(batches) if batches else None
            if outputs is not None:
                outputs.check(job.shards, model.precision)
            reasons = loader.quarantine.found()
            left_out = {job.shards.rows[clip].key: reasons[clip] for clip in parts[part].tolist() if clip in reasons}
            write_part(job.path(part), features_of(job.shards, outputs), left_out)
            done += len(parts[part])
            bar.update(task, completed=round(done * total / len(clip_ids)))
    return set(loader.quarantine.found())


def _by_part(
    batches: Iterator[Outputs], parts: list[np.ndarray], mine: list[int]
) -> Iterator[tuple[int, list[Outputs]]]:
    """The batches of each part of `mine`, in order; a part whose clips are all bad has none."""
    waiting = list(mine)
    found: list[Outputs] = []
    for outputs in batches:
        while outputs.clip_ids[0] > parts[waiting[0]][-1]:  # its last clips are bad
            yield waiting.pop(0), found
            found = []
        found.append(outputs)
        if outputs.clip_ids[-1] == parts[waiting[0]][-1]:
            yield waiting.pop(0), found
            found = []
    for part in waiting:
        yield part, found
        found = []


def features_of(shards: ShardSet, outputs: Outputs | None) -> FeatureSet:
    """Outputs with what the data set says of their clips; None: of no clip."""
    rows = [] if outputs is None else [shards.rows[i] for i in outputs.clip_ids.tolist()]
    return FeatureSet(
        [row.key for row in rows],
        np.array([row.label for row in rows], np.int32),
        [shards.classes[row.label] if row.label >= 0 else "" for row in rows],
        [row.split for row in rows],
        [row.signer for row in rows],
        {} if outputs is None else {name: x.numpy() for name, x in outputs.values.items()},
    )


def write_part(path: Path, features: FeatureSet, left_out: dict[str, str]) -> None:
    """Keep the features of a part's clips, and why some have none."""
    features.about = {"left_out": left_out}
    write_features(path, features)


def _collected(job: Job, named: set[int]) -> FeatureSet:
    """All parts as one. Bad clips of other ranks and of earlier runs are named; this rank has named its own."""
    parts = [read_features(job.path(part)) for part in range(len(job.parts))]
    left_out = {key: reason for part in parts for key, reason in part.about["left_out"].items()}
    for key, clip_id in job.shards.rows.find(left_out).items():
        if clip_id not in named:
            console.print(f"quarantined clip {clip_id}: {left_out[key]}", style="yellow", soft_wrap=True)
    good = [part for part in parts if len(part)]
    if not good:
        raise UserError(f"{job.folder}: not one clip can be read, e.g. {next(iter(left_out.values()))}")
    return FeatureSet.together(good, {**job.about, "left_out": left_out})


def remove_parts(job: Job) -> None:
    """What is left of a job when its features are in one file."""
    shutil.rmtree(job.folder, ignore_errors=True)

"""Packs the clips of an importer into shards: restartable, in parallel, the same bytes for the same input.

The clips are dealt over the shards by the hash of their keys, so that any shard is a fair sample. Each shard is one
task of one worker, and counts as done once its part of the index is there.
"""

from __future__ import annotations

import contextlib
import hashlib
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from cclslr.errors import UserError
from cclslr.files import write_json
from cclslr.shards.clip import PackOptions, pack_clip
from cclslr.shards.columns import COLUMNS_NAME, PART_BITS, Columns
from cclslr.shards.convert import convert, folder_columns
from cclslr.shards.deal import check_rows, deal, describe_source, fingerprint_of, recipe_of, sha256_of
from cclslr.shards.done import (
    ADDING_NAME,
    PARTS_NAME,
    ShardPart,
    ShardTask,
    Task,
    clear,
    exchange,
    finished,
    keep,
    rejected_at,
    reopen,
    shard_of,
    whole_shards,
)
from cclslr.shards.executor import run_tasks
from cclslr.shards.format import (
    FORMAT_VERSION,
    SPLITS,
    BadClip,
    ManifestRow,
)
from cclslr.shards.index import INDEX_NAME, IndexFile, index_writer
from cclslr.shards.info import INFO_NAME, DatasetInfo, ShardInfo, load_info, parse_info
from cclslr.shards.place import FolderPlace, Place, place_of
from cclslr.shards.rejections import REJECTED_NAME, Rejected, read_rejected, write_rejected
from cclslr.shards.sources import SOURCES_NAME, Sources, source_fingerprint, write_sources
from cclslr.shards.writer import ShardFile, ShardWriter, idx_name, open_shard

__all__ = ["NothingPacked", "PackOptions", "PackReport", "Rejected", "finish", "pack", "read_rejected"]

AnyTask = TypeVar("AnyTask", bound=Task)

_READERS = 16  # parts of an earlier run that are read at once


class NothingPacked(UserError):
    """Not one clip is good."""

    def __init__(self, place: Place, rejected: list[Rejected]) -> None:
        reason = f"{len(rejected)} rejected, e.g. {rejected[0].reason}" if rejected else "there is none"
        super().__init__(f"no clip to pack: {reason}; see {place.name}/{REJECTED_NAME}")
        self.rejected = rejected


@dataclass
class PackReport:
    """What packing gave."""

    clips: int
    rejected: list[Rejected]
    info: DatasetInfo
    shards_reused: int = 0  # found complete from an earlier run
    without_video: int = 0  # of the clips
    without_keypoints: int = 0
    bytes_by_component: dict[str, int] = field(default_factory=dict)


def pack(
    rows: Iterable[ManifestRow],
    out: str | Path,
    options: PackOptions,
    *,
    classes: list[str] | None = None,
    workers: int = 1,
    scheduler: str | None = None,
    settings: dict[str, Any] | None = None,
    rejected: Iterable[Rejected] = (),
    command: dict[str, Any] | None = None,
    aside: bool = False,
) -> PackReport:
    """Pack clips into the folder or URL `out`; continues where an earlier run was stopped.

    Args:
        rows: the clips.
        classes: gloss of each label; by default collected from the rows.
        workers, scheduler, aside: see `run_tasks`.
        rejected: clips that the importer refused; they are listed with those refused here.
        settings: what the user wants to find again in dataset.json, such as the importer and its arguments.
        command: see `Sources`.

    Raises:
        UserError: options out of range; no clip can be packed; `out` holds another data set, or is being packed by
            another process.
    """
    place = place_of(out)
    good, refused = check_rows(list(rows), options)
    rejected = [*rejected, *refused]
    classes = _classes(good) if classes is None else classes
    sources = Sources(command)
    tasks = []
    for name, run in deal(good, options):
        fingerprints = [source_fingerprint(row) for row in run]
        for row, source in zip(run, fingerprints, strict=True):
            sources.note(row, source)
        tasks.append(ShardTask(name, place.name, run, options, fingerprint_of(run, fingerprints, options)))
    about = describe(options, settings, recipe_of([task.fingerprint for task in tasks], classes, settings))
    running = partial(run_tasks, workers=workers, scheduler=scheduler, description="packing", aside=aside)
    return pack_tasks(place, tasks, build_shard, running, classes, about, rejected, sources)


def describe(options: PackOptions, settings: dict[str, Any] | None, recipe: str) -> dict[str, Any]:
    """What dataset.json says of the whole beside what `finish` computes."""
    return {
        "codec": options.codec,
        "size": options.size,
        **({"smaller": list(options.smaller)} if options.smaller else {}),
        "crop": options.crop,
        "quality": options.quality,
        "masks": None,
        "licence_note": options.licence_note,
        "settings": settings or {},
        "recipe": recipe,
    }


def pack_tasks(
    place: Place,
    tasks: Sequence[AnyTask],
    build: Callable[[AnyTask], ShardPart],
    running: Callable[..., Iterable[ShardPart]],
    classes: list[str],
    about: dict[str, Any],
    rejected: list[Rejected],
    sources: Sources,
) -> PackReport:
    """Build the shards that are not there yet, then the index over all.

    Args:
        running: `run_tasks`, with how.
        about: what dataset.json says beside what `finish` computes; "recipe" tells this data set from others.
        rejected: clips that were refused before.
        sources: where the clips are from.

    Raises:
        UserError: as `pack`.
    """
    with place.hold():
        if isinstance(place, FolderPlace):
            exchange(place.folder)
        if (info := _info_at(place)) is not None:
            if info.get("recipe") != about["recipe"]:
                raise UserError(
                    f"{place.name} already holds a data set of other clips or settings; --add takes new and mended "
                    "clips into it, else pack into another folder, or remove it"
                )
            whole = whole_shards(place, info)
            if len(whole) == len(info["shards"]):
                place.remove([PARTS_NAME, ADDING_NAME])  # an earlier run was killed just before its end, or with --add
                if SOURCES_NAME not in place.sizes():  # packed by a version that kept none
                    with place.writing(SOURCES_NAME) as folder:
                        write_sources(folder, sources)
                return report_of(place.columns(info), rejected_at(place), info, len(whole))
            reopen(place, info, whole, tasks)
        there = clear(place, tasks)
        with ThreadPoolExecutor(_READERS) as pool:
            found = pool.map(partial(finished, place, there), tasks)
            parts = {part.name: part for part in found if part is not None}
        reused = len(parts)
        missing = [task for task in tasks if task.name not in parts]
        for part in running(build, missing, sizes=[task.clips for task in missing]):
            parts[part.name] = part
        rejected = [*rejected, *(item for task in tasks for item in parts[task.name].rejected)]
        with place.writing(REJECTED_NAME) as folder:
            write_rejected(folder, rejected)
        empty = [task.name for task in tasks if len(parts[task.name].rejected) == task.clips]
        if len(empty) == len(tasks):
            raise NothingPacked(place, rejected)
        if empty:  # dataset.json does not list them
            place.remove([*empty, *map(idx_name, empty)])
        shards = (shard_of(place, task, parts[task.name]) for task in tasks)
        with place.writing(SOURCES_NAME, INDEX_NAME, COLUMNS_NAME, INFO_NAME) as folder:
            write_sources(folder, sources)
            info = finish(folder, shards, classes, {**about, "rejected": len(rejected)})
            report = report_of(folder_columns(folder, info), rejected, info, reused)
        place.remove([PARTS_NAME])
        place.tidy()  # after workers that died
    return report


def _info_at(place: Place) -> DatasetInfo | None:
    """dataset.json, where packing has ended."""
    try:
        return parse_info(place.read(INFO_NAME), f"{place.name}/{INFO_NAME}")
    except FileNotFoundError:
        return None


def report_of(columns: Columns, rejected: list[Rejected], info: DatasetInfo, reused: int) -> PackReport:
    parts = columns["parts"].all()
    return PackReport(
        clips=len(parts),
        rejected=rejected,
        info=info,
        shards_reused=reused,
        without_video=int((parts & PART_BITS["video"] == 0).sum()),
        without_keypoints=int((parts & PART_BITS["pose"] == 0).sum()),
        bytes_by_component=columns.bytes_by_component(),
    )


def finish(out: str | Path, shards: Iterable[ShardFile], classes: list[str], info: dict[str, Any]) -> DatasetInfo:
    """Write the index and dataset.json over complete shards; returns what dataset.json says.

    `info` is added to what every data set says of itself: format version, classes, counts, shards with their
    checksums, and the content hash over them. The rows of one shard after the other are in memory.
    """
    out = Path(out)
    counts: Counter[str] = Counter()
    entries: list[ShardInfo] = []
    with index_writer(out / INDEX_NAME) as writer:
        for shard in shards:
            if len(shard.table):
                writer.add(shard.table)
                counts.update(shard.table["split"].to_pylist())
                clips = len(shard.table)
                entries.append({"name": shard.name, "clips": clips, "bytes": shard.bytes, "sha256": shard.sha256})
    with open(out / INDEX_NAME, "rb") as file:
        index_sha256 = hashlib.file_digest(file, "sha256").hexdigest()
    convert(IndexFile(out / INDEX_NAME), index_sha256, out / COLUMNS_NAME)
    computed = {
        "format_version": FORMAT_VERSION,
        "clips": {split: counts.get(split, 0) for split in SPLITS},
        "classes": classes,
        "content_hash": content_hash([entry["sha256"] for entry in entries]),
        "index_sha256": index_sha256,
        "shards": entries,
    }
    value = {**computed, **info, **computed}
    write_json(out / INFO_NAME, value)
    return load_info(out)


def content_hash(checksums: list[str]) -> str:
    """One number for all that the shards hold: the hash of their hashes, in order."""
    return sha256_of(*checksums)


def build_shard(task: ShardTask) -> ShardPart:
    """Build one shard; bad clips are left out and named."""
    rejected = []
    with writing_shard(task.folder, task.name) as (writer, shard):
        for row in task.rows:
            try:
                writer.add(pack_clip(row, row.source.load(), task.options))
            except BadClip as error:
                rejected.append(Rejected(row.key, str(error), describe_source(row)))
    return keep(task, shard, rejected)


@contextlib.contextmanager
def writing_shard(out: str, name: str) -> Iterator[tuple[ShardWriter, ShardFile]]:
    """As `open_shard`, in a folder or under a URL."""
    with place_of(out).writing(name, idx_name(name)) as folder, open_shard(folder, name) as opened:
        yield opened


def _classes(rows: list[ManifestRow]) -> list[str]:
    """The gloss of each label from 0 to the largest; labels without a gloss are called by their number."""
    glosses = {row.label: row.gloss or str(row.label) for row in reversed(rows) if row.label is not None}
    return [glosses.get(label, str(label)) for label in range(max(glosses, default=-1) + 1)]

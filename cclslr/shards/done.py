"""Which shards of a data set are done: those that a stopped packing finished, and those of a damaged set still whole.

A finished shard has a part, kept until all shards are done: its rows of the index, and a JSON about the shard.
"""

from __future__ import annotations

import dataclasses
import hashlib
import io
import os
import re
import shutil
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

import pyarrow as pa

from cclslr.console import console
from cclslr.errors import UserError
from cclslr.files import parse_json, write_json
from cclslr.shards.clip import PackOptions
from cclslr.shards.format import ManifestRow, check_shard_names
from cclslr.shards.index import SCHEMA, index_writer, table_of, tables
from cclslr.shards.info import INFO_NAME, DatasetInfo, load_info
from cclslr.shards.place import Place, place_of
from cclslr.shards.rejections import REJECTED_NAME, Rejected, parse_rejected
from cclslr.shards.writer import ShardFile, idx_name

PARTS_NAME = ".parts"  # a part for each finished shard, while packing is under way
ADDING_NAME = ".adding"  # the data set that --add is making of this one
READY_NAME = ".added"  # the same, complete: it takes the place of this one
_OF_PACKING = re.compile(rf"shard-[^/]*\.(tar|idx)|{re.escape(PARTS_NAME)}/[^/]*\..*")


@dataclass(frozen=True)
class ShardTask:
    """All that a worker needs to build one shard."""

    name: str
    folder: str
    rows: tuple[ManifestRow, ...]
    options: PackOptions
    fingerprint: str

    @property
    def clips(self) -> int:
        """How many it is to hold."""
        return len(self.rows)

    @property
    def keys(self) -> list[str]:
        """Of its clips, in order."""
        return [row.key for row in self.rows]


class Task(Protocol):
    """What is asked of a task here, whatever it builds its shard from."""

    @property
    def name(self) -> str:
        """Of the shard."""
        ...

    @property
    def folder(self) -> str:
        """Of the data set, or its URL."""
        ...

    @property
    def fingerprint(self) -> str:
        """Of all that decides on the shard's bytes."""
        ...

    @property
    def clips(self) -> int:
        """How many it is to hold."""
        ...

    @property
    def keys(self) -> list[str]:
        """Of its clips, in order."""
        ...


@dataclass
class ShardPart:
    """One finished shard, as kept in `.parts` until the index is written; its rows lie beside, as a small index."""

    fingerprint: str
    name: str
    bytes: int
    sha256: str
    rows_sha256: str
    rejected: list[Rejected] = field(default_factory=list)


def keep(task: Task, shard: ShardFile, rejected: list[Rejected]) -> ShardPart:
    """Note that a shard is done."""
    rows, note = _part_names(task)
    with place_of(task.folder).writing(rows, note) as folder:
        with index_writer(folder / rows) as writer:
            writer.add(shard.table)
        rows_sha256 = hashlib.sha256((folder / rows).read_bytes()).hexdigest()
        part = ShardPart(task.fingerprint, shard.name, shard.bytes, shard.sha256, rows_sha256, rejected)
        write_json(folder / note, dataclasses.asdict(part))
    return part


def _part_names(task: Task) -> tuple[str, str]:
    """The rows of a shard, and the JSON about it."""
    stem = f"{PARTS_NAME}/{Path(task.name).stem}"
    return f"{stem}.parquet", f"{stem}.json"


def finished(place: Place, there: dict[str, int], task: Task) -> ShardPart | None:
    """The part of a shard that an earlier run completed with the same recipe.

    Args:
        there: `place.sizes()`.
    """
    rows, note = _part_names(task)
    if not there.keys() >= {rows, note, task.name, idx_name(task.name)}:
        return None
    value = parse_json(place.read(note), f"{place.name}/{note}")
    if value["fingerprint"] != task.fingerprint or value.get("bytes") != there[task.name]:
        return None
    if hashlib.sha256(place.read(rows)).hexdigest() != value["rows_sha256"]:
        return None
    return ShardPart(**{**value, "rejected": [Rejected(**item) for item in value["rejected"]]})


def shard_of(place: Place, task: Task, part: ShardPart) -> ShardFile:
    """A finished shard with its rows."""
    name = _part_names(task)[0]
    found = tables(io.BytesIO(place.read(name)), f"{place.name}/{name}", part.rows_sha256)
    return ShardFile(part.name, part.bytes, part.sha256, pa.concat_tables([SCHEMA.empty_table(), *found]))


def clear(place: Place, tasks: Iterable[Task]) -> dict[str, int]:
    """Remove what a killed run left half-written, and shards of another plan; returns `place.sizes()` of the rest."""
    place.tidy()
    kept = {Path(task.name).stem for task in tasks}
    there = place.sizes()
    gone = {name for name in there if _OF_PACKING.fullmatch(name) and Path(name).stem not in kept}
    if gone:
        place.remove(gone)
    return {name: size for name, size in there.items() if name not in gone}


def whole_shards(place: Place, info: DatasetInfo) -> set[str]:
    """The shards of a finished data set that are as they were written: by checksum, since a second packing is how one
    mends a set that was damaged; by size under a URL. None where its index is not."""
    try:
        place.columns(info)
    except (UserError, FileNotFoundError):
        return set()
    check_shard_names([entry["name"] for entry in info["shards"]], f"{place.name}/{INFO_NAME}")
    there = place.sizes()
    return place.whole(entry for entry in info["shards"] if idx_name(entry["name"]) in there)


def reopen(place: Place, info: DatasetInfo, whole: set[str], tasks: Iterable[Task]) -> None:
    """Make a damaged data set an unfinished one, of which the whole shards are done.

    Shards with masks are other files than those that packing makes: they are done again, and their masks after them.
    """
    lost = [entry["name"] for entry in info["shards"] if entry["name"] not in whole]
    console.print(f"{place.name}: {', '.join(lost[:3])}{', …' if len(lost) > 3 else ''} damaged or gone; packed again")
    if info.get("masks"):
        console.print(f"the masks are gone with them: make them again with cclslr masks {place.name}", style="yellow")
    rejected = rejected_at(place)
    entries = {entry["name"]: entry for entry in info["shards"]}
    by_name = {task.name: task for task in tasks if task.name in whole}
    if by_name:
        columns = place.columns(info)
        for name, numbers in columns.by_shard():
            if name in by_name:
                rows = [columns.row(number) for number in numbers.tolist()]
                task, entry = by_name[name], entries[name]
                keys = set(task.keys) - {row.key for row in rows}
                shard = ShardFile(name, entry["bytes"], entry["sha256"], table_of(rows))
                keep(task, shard, [item for item in rejected if item.key in keys])
    place.remove([".masks"])  # of shards that are not there any more
    place.remove([INFO_NAME])  # from here on it is a run that was stopped


def rejected_at(place: Place) -> list[Rejected]:
    """What an earlier run rejected; nothing where it said nothing."""
    try:
        return parse_rejected(place.read(REJECTED_NAME).decode())
    except FileNotFoundError:
        return []


def exchange(out: Path) -> None:
    """Put the data set that --add has made in the place of the old one; goes on with what a killed run began.

    Until dataset.json is there again, readers are told that there is no data set.
    """
    ready = out / READY_NAME
    if (ready / INFO_NAME).exists():
        kept = {Path(entry["name"]).stem for entry in load_info(ready)["shards"]}
        (out / INFO_NAME).unlink(missing_ok=True)
        for path in sorted(ready.iterdir()):
            if path.name != INFO_NAME and not path.name.startswith("."):
                os.replace(path, out / path.name)
        for path in [*out.glob("shard-*.tar"), *out.glob("shard-*.idx")]:
            if path.stem not in kept:
                path.unlink()
        shutil.rmtree(out / ".masks", ignore_errors=True)  # of shards that are not there any more
        os.replace(ready / INFO_NAME, out / INFO_NAME)
    shutil.rmtree(ready, ignore_errors=True)

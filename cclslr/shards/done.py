"""Which shards of a data set are done: those that a stopped packing finished, and those of a damaged set still whole.

A finished shard has a part, kept until all shards are done: its rows of the index, and a JSON about the shard.
"""

from __future__ import annotations

import dataclasses
import hashlib
import shutil
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

import pyarrow as pa

from cclslr.console import console
from cclslr.errors import UserError
from cclslr.files import read_json, write_json
from cclslr.shards.clip import PackOptions
from cclslr.shards.convert import folder_columns
from cclslr.shards.format import ManifestRow, check_shard_names
from cclslr.shards.index import SCHEMA, index_writer, table_of, tables
from cclslr.shards.info import INFO_NAME, DatasetInfo
from cclslr.shards.rejections import REJECTED_NAME, Rejected, read_rejected
from cclslr.shards.writer import ShardFile

PARTS_NAME = ".parts"  # a part for each finished shard, while packing is under way


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
        """Of the data set."""
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
    path = _part_path(task)
    with index_writer(path.with_suffix(".parquet")) as writer:
        writer.add(shard.table)
    rows_sha256 = hashlib.sha256(path.with_suffix(".parquet").read_bytes()).hexdigest()
    part = ShardPart(task.fingerprint, shard.name, shard.bytes, shard.sha256, rows_sha256, rejected)
    write_json(path, dataclasses.asdict(part))
    return part


def _part_path(task: Task) -> Path:
    return Path(task.folder) / PARTS_NAME / f"{Path(task.name).stem}.json"


def finished(task: Task) -> ShardPart | None:
    """The part of a shard that an earlier run completed with the same recipe."""
    path, tar = _part_path(task), Path(task.folder) / task.name
    rows = path.with_suffix(".parquet")
    if not all(file.exists() for file in (path, rows, tar, tar.with_suffix(".idx"))):
        return None
    value = read_json(path)
    if value["fingerprint"] != task.fingerprint or value.get("bytes") != tar.stat().st_size:
        return None
    if hashlib.sha256(rows.read_bytes()).hexdigest() != value["rows_sha256"]:
        return None
    return ShardPart(**{**value, "rejected": [Rejected(**item) for item in value["rejected"]]})


def shard_of(task: Task, part: ShardPart) -> ShardFile:
    """A finished shard with its rows."""
    path = _part_path(task).with_suffix(".parquet")
    with open(path, "rb") as file:
        rows = pa.concat_tables([SCHEMA.empty_table(), *tables(file, str(path), part.rows_sha256)])
    return ShardFile(part.name, part.bytes, part.sha256, rows)


def clear(out: Path, tasks: Sequence[Task]) -> None:
    """Remove what a killed run left half-written, and shards of another plan."""
    for path in out.glob(".*.tmp"):
        path.unlink(missing_ok=True)
    kept = {Path(task.name).stem for task in tasks}
    for path in [*out.glob("shard-*.tar"), *out.glob("shard-*.idx"), *(out / PARTS_NAME).glob("*.*")]:
        if path.stem not in kept:
            path.unlink()


def whole_shards(out: Path, info: DatasetInfo) -> set[str]:
    """The shards of a finished data set that are as they were written: by checksum, since a second packing is how one
    mends a set that was damaged. None where its index is not."""
    try:
        folder_columns(out, info)
    except (UserError, FileNotFoundError):
        return set()
    check_shard_names([entry["name"] for entry in info["shards"]], out / INFO_NAME)
    whole = set()
    for entry in info["shards"]:
        path = out / entry["name"]
        if path.is_file() and path.stat().st_size == entry["bytes"] and path.with_suffix(".idx").is_file():
            with open(path, "rb") as file:
                if hashlib.file_digest(file, "sha256").hexdigest() == entry["sha256"]:
                    whole.add(entry["name"])
    return whole


def reopen(out: Path, info: DatasetInfo, whole: set[str], tasks: Sequence[Task]) -> None:
    """Make a damaged data set an unfinished one, of which the whole shards are done.

    Shards with masks are other files than those that packing makes: they are done again, and their masks after them.
    """
    lost = [entry["name"] for entry in info["shards"] if entry["name"] not in whole]
    console.print(f"{out}: {', '.join(lost[:3])}{', …' if len(lost) > 3 else ''} damaged or gone; packed again")
    if info.get("masks"):
        console.print(f"the masks are gone with them: make them again with cclslr masks {out}", style="yellow")
    rejected = read_rejected(out) if (out / REJECTED_NAME).exists() else []
    entries = {entry["name"]: entry for entry in info["shards"]}
    by_name = {task.name: task for task in tasks if task.name in whole}
    if by_name:
        columns = folder_columns(out, info)
        for name, numbers in columns.by_shard():
            if name in by_name:
                rows = [columns.row(number) for number in numbers.tolist()]
                task, entry = by_name[name], entries[name]
                keys = set(task.keys) - {row.key for row in rows}
                shard = ShardFile(name, entry["bytes"], entry["sha256"], table_of(rows))
                keep(task, shard, [item for item in rejected if item.key in keys])
    shutil.rmtree(out / ".masks", ignore_errors=True)  # of shards that are not there any more
    (out / INFO_NAME).unlink()  # from here on it is a run that was stopped

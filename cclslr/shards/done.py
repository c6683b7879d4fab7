"""Which shards of a data set are done: those that a stopped packing finished, and those of a damaged set still whole.

A finished shard has a part: a JSON of what the index will say of it, kept until all shards are done.
"""

from __future__ import annotations

import dataclasses
import hashlib
import shutil
from dataclasses import dataclass, field
from pathlib import Path

from cclslr.console import console
from cclslr.errors import UserError
from cclslr.files import read_json, write_json
from cclslr.shards.clip import PackOptions
from cclslr.shards.format import Component, IndexRow, ManifestRow, check_shard_names
from cclslr.shards.index import INDEX_NAME, read_index
from cclslr.shards.info import INFO_NAME, DatasetInfo
from cclslr.shards.rejections import REJECTED_NAME, Rejected, read_rejected
from cclslr.shards.writer import ShardFile

PARTS_NAME = ".parts"  # one JSON a finished shard, while packing is under way


@dataclass(frozen=True)
class ShardTask:
    """All that a worker needs to build one shard."""

    name: str
    folder: str
    rows: tuple[ManifestRow, ...]
    options: PackOptions
    fingerprint: str


@dataclass
class ShardPart:
    """One finished shard, as kept in `.parts` until the index is written."""

    fingerprint: str
    shard: ShardFile
    rejected: list[Rejected] = field(default_factory=list)


def keep(task: ShardTask, part: ShardPart) -> None:
    """Note that a shard is done."""
    write_json(_part_path(task), dataclasses.asdict(part))


def _part_path(task: ShardTask) -> Path:
    return Path(task.folder) / PARTS_NAME / f"{Path(task.name).stem}.json"


def finished(task: ShardTask) -> ShardPart | None:
    """The part of a shard that an earlier run completed with the same recipe."""
    path, tar = _part_path(task), Path(task.folder) / task.name
    if not path.exists() or not tar.exists() or not tar.with_suffix(".idx").exists():
        return None
    value = read_json(path)
    if value["fingerprint"] != task.fingerprint or value["shard"]["bytes"] != tar.stat().st_size:
        return None
    rows = [
        IndexRow(
            **{
                **row,
                "components": {name: Component(**part) for name, part in row["components"].items()},
                "frame_offsets": tuple(row["frame_offsets"]),
            }
        )
        for row in value["shard"]["rows"]
    ]
    rejected = [Rejected(**item) for item in value["rejected"]]
    return ShardPart(value["fingerprint"], ShardFile(**{**value["shard"], "rows": rows}), rejected)


def clear(out: Path, tasks: list[ShardTask]) -> None:
    """Remove what a killed run left half-written, and shards of another plan."""
    for path in out.glob(".*.tmp"):
        path.unlink(missing_ok=True)
    kept = {Path(task.name).stem for task in tasks}
    for path in [*out.glob("shard-*.tar"), *out.glob("shard-*.idx"), *(out / PARTS_NAME).glob("*.json")]:
        if path.stem not in kept:
            path.unlink()


def whole_shards(out: Path, info: DatasetInfo) -> dict[str, ShardFile]:
    """The shards of a finished data set that are as they were written: by checksum, since a second packing is how one
    mends a set that was damaged."""
    try:
        rows = read_index(out / INDEX_NAME, info["index_sha256"])
    except (UserError, FileNotFoundError):
        return {}
    check_shard_names([entry["name"] for entry in info["shards"]], out / INFO_NAME)
    whole = {}
    for entry in info["shards"]:
        path = out / entry["name"]
        if path.is_file() and path.stat().st_size == entry["bytes"] and path.with_suffix(".idx").is_file():
            with open(path, "rb") as file:
                if hashlib.file_digest(file, "sha256").hexdigest() == entry["sha256"]:
                    whole[entry["name"]] = ShardFile(entry["name"], entry["bytes"], entry["sha256"])
    for row in rows:
        if row.shard in whole:
            whole[row.shard].rows.append(row)
    return whole


def reopen(out: Path, info: DatasetInfo, whole: dict[str, ShardFile], tasks: list[ShardTask]) -> None:
    """Make a damaged data set an unfinished one, of which the whole shards are done.

    Shards with masks are other files than those that packing makes: they are done again, and their masks after them.
    """
    lost = [entry["name"] for entry in info["shards"] if entry["name"] not in whole]
    console.print(f"{out}: {', '.join(lost[:3])}{', …' if len(lost) > 3 else ''} damaged or gone; packed again")
    if info.get("masks"):
        console.print(f"the masks are gone with them: make them again with cclslr masks {out}", style="yellow")
    rejected = read_rejected(out) if (out / REJECTED_NAME).exists() else []
    for task in tasks:
        if task.name in whole:
            keys = {row.key for row in task.rows} - {row.key for row in whole[task.name].rows}
            part = ShardPart(task.fingerprint, whole[task.name], [item for item in rejected if item.key in keys])
            keep(task, part)
    shutil.rmtree(out / ".masks", ignore_errors=True)  # of shards that are not there any more
    (out / INFO_NAME).unlink()  # from here on it is a run that was stopped

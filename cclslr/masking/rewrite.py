"""Adds masks to packed clips, or replaces them: shard by shard, restartable, on several processes or GPUs.

A shard with new masks is written beside the old one under another name, which carries the recipe of the masks. Now and
then, and at the end, `commit` puts the finished ones into the index, and only then removes what they replace: a reader
finds the old shard or the new one, never a half, and a killed run goes on with what is missing.
"""

from __future__ import annotations

import dataclasses
import functools
import os
import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, overload

import pyarrow as pa

from cclslr.distributed import Process
from cclslr.errors import UserError
from cclslr.files import read_json
from cclslr.masking.settings import MaskSettings, MaskTotals
from cclslr.masking.shard import PARTS_NAME, MaskTask, mask_shard, part_path, renamed, suffix
from cclslr.shards.columns import COLUMNS_NAME, Columns
from cclslr.shards.convert import folder_columns
from cclslr.shards.executor import run_tasks
from cclslr.shards.format import check_shard_names
from cclslr.shards.index import INDEX_NAME, shard_tables, table_of
from cclslr.shards.info import INFO_NAME, load_info
from cclslr.shards.pack import finish
from cclslr.shards.place import place_of
from cclslr.shards.writer import ShardFile

READY_NAME = "ready"  # in it: index and dataset.json that are to replace those of the data set
COMPUTED = ("format_version", "clips", "classes", "content_hash", "index_sha256", "shards")  # by `finish`
COMMIT_EVERY = 60.0  # seconds


def make_masks(
    folder: str | Path, settings: MaskSettings, workers: int, process: Process, scheduler: str | None = None
) -> dict[str, Any]:
    """Give every clip of a packed data set its mask, in place. Returns dataset.json's entry "masks".

    Args:
        folder: the data set.
        workers: processes; 0 works in this one, which is right for a GPU and for several ranks.
        process: this process among those that torchrun started; each takes its share of the shards.
        scheduler: see `run_tasks`.

    Raises:
        FileNotFoundError: no packed data set there.
        UserError: it is being written by another process; a clip is damaged; no scheduler answers.
    """
    folder = Path(folder).resolve()
    if not (folder / INFO_NAME).is_file():
        raise FileNotFoundError(f"{folder} is no packed data set; pack one with cclslr pack")
    if process.main:
        with place_of(folder).hold():
            _exchange(folder)
    process.gather_objects(None)  # the others read the index afterwards
    recipe = settings.recipe()
    planned = plan(folder, settings, recipe)
    masks = load_info(folder)["masks"] or {}
    if not planned and not (folder / PARTS_NAME).exists():
        return masks
    (folder / PARTS_NAME).mkdir(exist_ok=True)
    missing = planned.keep(
        [name for name in planned.names[process.rank :: process.world]
         if not part_path(folder, renamed(name, recipe)).exists()]
    )  # fmt: skip
    results = run_tasks(
        mask_shard,
        missing,
        workers=workers,
        scheduler=scheduler,
        description="making masks",
        sizes=missing.sizes,
    )
    if not process.main:
        for _ in results:
            pass
        process.gather_objects(None)
        return {}
    with place_of(folder).hold():
        due = time.monotonic() + COMMIT_EVERY
        for _ in results:
            if (began := time.monotonic()) > due:
                commit(folder, settings, recipe)
                ended = time.monotonic()  # an index of millions takes long to write: a twentieth of the time at most
                due = ended + max(COMMIT_EVERY, 20 * (ended - began))
        process.gather_objects(None)  # all ranks have written their shards
        return commit(folder, settings, recipe)  # also where nothing is left to do: it returns the totals


class Plan(Sequence[MaskTask]):
    """A task for each of some shards; it is made, with its rows of the index, when it is asked for."""

    def __init__(self, columns: Columns, names: Sequence[str], make: Callable[[str, pa.Table], MaskTask]) -> None:
        self._columns, self._make = columns, make
        self.names = names

    def keep(self, names: Sequence[str]) -> Plan:
        """The plan of these shards alone."""
        return Plan(self._columns, names, self._make)

    @functools.cached_property
    def _rows(self) -> dict[str, tuple[int, int]]:
        """The rows of each shard, from and to: packing writes them together."""
        return self._columns.runs()

    @property
    def sizes(self) -> list[int]:
        """Clips of each shard."""
        return [end - begin for begin, end in map(self._rows.__getitem__, self.names)]

    def __len__(self) -> int:
        return len(self.names)

    @overload
    def __getitem__(self, index: int) -> MaskTask: ...
    @overload
    def __getitem__(self, index: slice) -> list[MaskTask]: ...
    def __getitem__(self, index: int | slice) -> MaskTask | list[MaskTask]:
        if isinstance(index, slice):
            return [self[number] for number in range(*index.indices(len(self)))]
        begin, end = self._rows[self.names[index]]
        return self._make(self.names[index], table_of(self._columns.row(number) for number in range(begin, end)))


def plan(folder: Path, settings: MaskSettings, recipe: str) -> Plan:
    """A task for every shard whose masks have another recipe, or that has none.

    Raises:
        UserError: the set has no clip, or is damaged.
    """
    info = load_info(folder)
    columns = folder_columns(folder, info)
    if not len(columns):
        raise UserError(f"{folder} holds no clip, so there is nothing to make masks of; pack it again")
    columns.check(info, str(folder))

    def make(name: str, rows: pa.Table) -> MaskTask:
        return MaskTask(str(folder), name, renamed(name, recipe), rows, info["codec"], recipe, settings)

    return Plan(columns, [name for name in columns.about["shards"] if renamed(name, recipe) != name], make)


def commit(folder: Path, settings: MaskSettings, recipe: str) -> dict[str, Any]:
    """Put finished shards into index.parquet and dataset.json, then remove those they replace."""
    info = load_info(folder)
    shards = {entry["name"]: ShardFile(entry["name"], entry["bytes"], entry["sha256"]) for entry in info["shards"]}
    order = list(shards)
    rows_at: dict[str, tuple[Path, str]] = {}  # of new shards: their part of the index, and its checksum
    masks = info.get("masks")
    totals = MaskTotals()
    if isinstance(masks, dict) and masks.get("recipe") == recipe:
        totals = MaskTotals(**masks["totals"])
    parts = sorted((folder / PARTS_NAME).glob(f"*{suffix(recipe)}.json"))
    replaced = []
    for path in parts:
        part = read_json(path)
        check_shard_names([part["old_name"]], path)
        replaced.append(part["old_name"])
        if part["old_name"] not in order:  # a commit was killed while it cleaned up
            continue
        name = f"{path.stem}.tar"
        rows_at[part["old_name"]] = path.with_suffix(".parquet"), part["index_sha256"]
        shards[name] = ShardFile(name, part["bytes"], part["sha256"])
        order[order.index(part["old_name"])] = name
        totals.merge(MaskTotals(**part["totals"]))
    masks = {
        **settings.describe(),
        "recipe": recipe,
        "complete": all(renamed(name, recipe) == name for name in order),
        "share_kept": totals.kept / max(1, totals.clips),
        "share_latents_masked": totals.latents_masked / totals.with_latents if totals.with_latents else None,
        "totals": dataclasses.asdict(totals),
    }
    kept = {name: value for name, value in info.items() if name not in COMPUTED}
    written = folder / PARTS_NAME / "written"
    shutil.rmtree(written, ignore_errors=True)  # half a pair that a killed commit left
    written.mkdir(parents=True)  # an earlier commit may have been the complete one
    new_name = dict(zip((entry["name"] for entry in info["shards"]), order, strict=True))

    def with_rows() -> Iterator[ShardFile]:
        for old_name, table in shard_tables(folder / INDEX_NAME, info["index_sha256"]):
            if old_name in rows_at:
                _, table = next(shard_tables(*rows_at[old_name]))
            yield dataclasses.replace(shards[new_name[old_name]], table=table)

    finish(written, with_rows(), info["classes"], {**kept, "masks": masks})
    os.replace(written, folder / PARTS_NAME / READY_NAME)
    _exchange(folder)
    for name in replaced:
        (folder / name).unlink(missing_ok=True)
        (folder / name).with_suffix(".idx").unlink(missing_ok=True)
    for path in parts:
        path.unlink()
        path.with_suffix(".parquet").unlink(missing_ok=True)
    if masks["complete"]:
        shutil.rmtree(folder / PARTS_NAME)
        for path in folder.glob(".*.tmp"):  # of workers that were killed
            path.unlink()
        for path in [*folder.glob("*-m????????.tar"), *folder.glob("*-m????????.idx")]:  # of runs that were given up
            if path.with_suffix(".tar").name not in order:
                path.unlink()
    return masks


def _exchange(folder: Path) -> None:
    """Exchange index.parquet and dataset.json for a pair that is ready: they belong together.

    Called once more by the next run, this completes what a killed one began.
    """
    ready = folder / PARTS_NAME / READY_NAME
    if ready.exists():
        for name in (COLUMNS_NAME, INDEX_NAME, INFO_NAME):
            if (ready / name).exists():
                os.replace(ready / name, folder / name)
        shutil.rmtree(ready)

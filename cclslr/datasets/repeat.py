"""The options of `cclslr pack --add`: those that the data set was packed with, where the command says no others."""

from __future__ import annotations

import argparse
import json
import os
from collections.abc import Collection, Mapping
from typing import Any

from cclslr.errors import UserError
from cclslr.shards.info import DatasetInfo, packing

# What decides how a clip is packed: with another value the clips of one set would differ.
SAME = ("codec", "size", "smaller", "crop", "quality", "clips_per_shard", "estimate", "layout", "normalised")
COMMON = (*SAME[:6], "allow_unlabelled", "licence_note")  # also where the clips are another importer's
PATHS = ("source", "annotations", "videos", "poses", "landmarks", "labels")  # where the clips are
OF_THE_RUN = (
    "importer", "load", "given", "out", "workers", "scheduler", "report", "dry_run", "add", "drop_gone", "masks",
    "mask_options",
)  # fmt: skip


def command_of(args: argparse.Namespace) -> dict[str, Any]:
    """How `cclslr pack` was called, for `Sources.command`: what decides on clips and their bytes."""
    options = {name: value for name, value in vars(args).items() if name not in OF_THE_RUN}
    if not options.get("smaller"):  # a set without is the one that older versions packed
        options.pop("smaller", None)
    return {"importer": args.importer, "options": json.loads(json.dumps(options))}


def as_before(
    args: argparse.Namespace, given: Collection[str], command: Mapping[str, Any] | None, info: DatasetInfo
) -> list[str]:
    """Give `args` the options that the data set was packed with, but for those in `given`.

    Folders and lists are taken over only where those that are given are the same ones: `--poses` of other clips is no
    option of these.

    Args:
        args: of the command line; changed.
        given: names of the options that the user wrote.
        command: of the data set's `Sources`; None: it was packed by a version that kept none, or from several sets.
        info: its dataset.json.

    Returns:
        The options that are not as they were, in words.

    Raises:
        UserError: one of `SAME` is given otherwise than the set was packed; says which, all of them.
    """
    before: dict[str, Any] = {**packing(info), "smaller": info.get("smaller", [])}
    if info.get("licence_note"):
        before["licence_note"] = info["licence_note"]
    if command is not None:
        same_importer = command["importer"] == args.importer
        known = command["options"]
        before = {**{name: known[name] for name in known if same_importer or name in COMMON}, **before}
    now = json.loads(json.dumps({name: value for name, value in vars(args).items() if name in before}))
    other = [name for name in before if name in given and not _equal(name, now.get(name), before[name])]
    if wrong := [name for name in other if name in SAME]:
        raise UserError(
            f"{args.out} was packed with {_listed(wrong, before)}, this command says {_listed(wrong, now)}: leave them "
            "out, or pack into another folder (cclslr pack --from deals packed clips to other shards)"
        )
    elsewhere = any(name in other for name in PATHS)
    for name, value in before.items():
        if name not in given and not (name in PATHS and elsewhere) and hasattr(args, name):
            setattr(args, name, value)
    told = [f"{_flag(name)} was {_shown(before[name])}, is {_shown(now[name])}" for name in other if name not in PATHS]
    if elsewhere:
        left = [name for name in PATHS if before.get(name) and name not in given]
        told += [f"{_flag(name)} was {before[name]}; of clips that lie elsewhere it is not taken over" for name in left]
    return told


def _equal(name: str, one: Any, other: Any) -> bool:
    """Whether two values of an option are the same; `videos/` is `./videos`."""
    if name in PATHS and isinstance(one, str) and isinstance(other, str):
        return os.path.realpath(one) == os.path.realpath(other)
    return one == other


def _listed(names: list[str], values: Mapping[str, Any]) -> str:
    return ", ".join(f"{_flag(name)} {_shown(values.get(name))}" for name in names)


def _flag(name: str) -> str:
    return f"--{name.replace('_', '-')}"


def _shown(value: Any) -> str:
    if isinstance(value, list):
        return " ".join(map(str, value)) or "(nothing)"
    return "(not given)" if value in (None, "") else str(value)

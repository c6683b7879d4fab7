"""A data set that is packed already, at `path`: nothing to do. It counts by its content, or by its path if absent."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from cclslr.errors import UserError
from cclslr.files import read_json
from cclslr.study.stage import Kind, Settings, Work

INFO = "dataset.json"


def _resolve(settings: Settings, seed: int) -> dict[str, Any]:
    if set(settings) != {"path"}:
        raise UserError(f"a stage of kind packed has one key, path; it has {', '.join(sorted(settings))}")
    return {"path": str(settings["path"])}


def _identity(config: dict[str, Any]) -> dict[str, Any]:
    info = Path(config["path"]) / INFO
    return {"content": read_json(info)["content_hash"]} if info.exists() else config


def _commands(work: Work) -> list[list[str]]:
    path = work.stage.config["path"]
    if "://" not in path and not (Path(path) / INFO).exists():
        raise UserError(f"{path} is no packed data set; make it with cclslr pack (docs/datasets.md)")
    return []


KIND = Kind(
    "packed",
    inputs=(),
    resolve=_resolve,
    identity=_identity,
    commands=_commands,
    output=lambda folder, config: config["path"],
    scores=lambda folder, config: {},
)

"""A fine-tuned stage (`from`) on other clips or another split: `cclslr evaluate`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from cclslr.errors import UserError
from cclslr.files import read_json
from cclslr.study.stage import Kind, Scores, Settings, Work


def _resolve(settings: Settings, seed: int) -> dict[str, Any]:
    """The split and overrides of the checkpoint's config; what they mean is checked when the checkpoint is there."""
    return {"split": settings.get("split", "test"), "overrides": {k: v for k, v in settings.items() if k != "split"}}


def _commands(work: Work) -> list[list[str]]:
    checkpoint = work.one("from")
    if checkpoint is None:
        raise UserError(f"stage {work.stage.name}: `from` must name the fine-tuned stage that is evaluated")
    config = work.stage.config
    overrides = [f"{key}={json.dumps(value)}" for key, value in config["overrides"].items()]
    shards = ["--shards", *work.inputs["shards"]]
    return [["evaluate", checkpoint, *shards, "--split", config["split"], "--out", str(work.folder), *overrides]]


def _scores(folder: Path, config: dict[str, Any]) -> Scores:
    return read_json(folder / f"{config['split']}.json")["scores"]


KIND = Kind(
    "evaluate",
    inputs=("shards", "from"),
    resolve=_resolve,
    identity=lambda config: config,
    commands=_commands,
    output=lambda folder, config: str(folder),
    scores=_scores,
)

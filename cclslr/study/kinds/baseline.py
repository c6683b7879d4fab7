"""A classifier on fixed features, of the same shards, splits and labels: `cclslr study baseline`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from cclslr.files import read_json
from cclslr.study.baselines import BaselineConfig
from cclslr.study.kinds import _training
from cclslr.study.stage import Kind, Scores, Work


def _commands(work: Work) -> list[list[str]]:
    return [["study", "baseline", "--config", _training.write_config(work, pretrained=work.one("from"))]]


def _scores(folder: Path, config: dict[str, Any]) -> Scores:
    return read_json(folder / f"{config['eval_split']}.json")["scores"]


KIND = Kind(
    "baseline",
    inputs=("shards", "from"),
    resolve=lambda settings, seed: _training.resolve(BaselineConfig, settings, seed),
    identity=_training.identity,
    commands=_commands,
    output=lambda folder, config: str(folder),
    scores=_scores,
)

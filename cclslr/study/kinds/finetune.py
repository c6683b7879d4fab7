"""Fine-tuning from a pre-trained stage (`from`) or from scratch, and its test: `cclslr finetune`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from cclslr.config import FinetuneConfig
from cclslr.files import read_json
from cclslr.study.kinds import _training
from cclslr.study.stage import Kind, Scores, Work


def _commands(work: Work) -> list[list[str]]:
    return [["finetune", "--config", _training.write_config(work, pretrained=work.one("from"))]]


def _output(folder: Path, config: dict[str, Any]) -> str:
    return str(folder / ("best.pt" if config["report"] == "best_val" else "last.pt"))


def _scores(folder: Path, config: dict[str, Any]) -> Scores:
    return read_json(folder / f"{config['eval_split']}.json")["scores"]


KIND = Kind(
    "finetune",
    inputs=("shards", "from"),
    resolve=lambda settings, seed: _training.resolve(FinetuneConfig, settings, seed),
    identity=_training.identity,
    commands=_commands,
    output=_output,
    scores=_scores,
)

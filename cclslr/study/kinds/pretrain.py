"""Pre-training: `cclslr train`. Scores are the last k-NN accuracies, where clips have labels, and what it cost."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from cclslr.config import PretrainConfig
from cclslr.study.kinds import _training
from cclslr.study.stage import Kind, Scores, Work
from cclslr.training.cost import cost_of

COST = "cost"  # in the place of a branch


def _commands(work: Work) -> list[list[str]]:
    return [["train", "--config", _training.write_config(work)]]


def _scores(folder: Path, config: dict[str, Any]) -> Scores:
    scores: Scores = {}
    for line in (folder / "metrics.jsonl").read_text(encoding="utf-8").splitlines():
        for name, value in json.loads(line).items():
            if name.startswith("knn_"):
                scores[name.removeprefix("knn_")] = {"knn_top1": value}
    cost = cost_of(folder)
    scores[COST] = {"TFLOP": cost.flops / 1e12, "seconds": cost.seconds, "processor seconds": cost.cpu_seconds}
    return scores


KIND = Kind(
    "pretrain",
    inputs=("shards",),
    resolve=lambda settings, seed: _training.resolve(PretrainConfig, settings, seed),
    identity=_training.identity,
    commands=_commands,
    output=lambda folder, config: str(folder / "last.pt"),
    scores=_scores,
)

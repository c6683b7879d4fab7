"""Pre-training: `cclslr train`. Scores are the last k-NN accuracies, where clips have labels."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from cclslr.config import PretrainConfig
from cclslr.study.kinds import _training
from cclslr.study.stage import Kind, Scores, Work


def _commands(work: Work) -> list[list[str]]:
    return [["train", "--config", _training.write_config(work)]]


def _scores(folder: Path, config: dict[str, Any]) -> Scores:
    scores: Scores = {}
    for line in (folder / "metrics.jsonl").read_text(encoding="utf-8").splitlines():
        for name, value in json.loads(line).items():
            if name.startswith("knn_"):
                scores[name.removeprefix("knn_")] = {"knn_top1": value}
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

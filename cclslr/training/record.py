"""A record: the values of one step by name, flat as in metrics.jsonl, and which kind of value a name stands for."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

# What a record holds beside loss terms, and where TensorBoard shows it. Every other number is a term of the loss.
GROUPS = {
    "step": "progress",
    "epoch": "progress",
    "seconds": "progress",
    "cpu_seconds": "progress",
    "seconds_left": "progress",
    "lr": "optimiser",
    "skipped_steps": "optimiser",
    "quarantined": "data",
    "clips_per_second": "speed",
    "waiting": "speed",
    "memory_gb": "speed",
}
GROUPS_BY_PREFIX = {"wait_": "speed", "knn_": "knn", "mined_": "mined", "val_": "val"}
# These are told in a line of their own
SCORES = {"knn": "k-NN", "mined": "SPM precision", "val": "validation"}


def group_of(name: str) -> str:
    """The group of a value by its name: loss, progress, optimiser, data, speed, knn, mined or val."""
    by_prefix = (group for prefix, group in GROUPS_BY_PREFIX.items() if name.startswith(prefix))
    return GROUPS.get(name) or next(by_prefix, "loss")


def numbers(values: Mapping[str, Any], group: str | None = None) -> dict[str, float]:
    """The numbers of a record, or those of one group."""
    return {
        name: value
        for name, value in values.items()
        if isinstance(value, int | float) and group in (None, group_of(name))
    }


def read_metrics(path: Path) -> list[dict[str, Any]]:
    """The records of metrics.jsonl. A line that a kill or a full disk broke is left out, as is a file not there."""
    records = []
    for line in path.read_text(encoding="utf-8", errors="replace").splitlines() if path.exists() else []:
        try:
            record = json.loads(line)
        except (json.JSONDecodeError, RecursionError):
            continue
        if isinstance(record, dict) and isinstance(record.get("step"), int):
            records.append(record)
    return records

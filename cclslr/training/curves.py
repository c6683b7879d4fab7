"""The curves of a run as one picture."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure  # without pyplot: no window system, and no state that others share

from cclslr.files import atomic_write
from cclslr.training.record import SCORES, numbers, read_metrics


def save_results(run_dir: str | Path) -> None:
    """Draw metrics.jsonl of a run as results.png."""
    figure = draw_results(read_metrics(Path(run_dir) / "metrics.jsonl"))
    with atomic_write(Path(run_dir) / "results.png") as file:
        figure.savefig(file, dpi=100, format="png")


def draw_results(records: list[dict[str, Any]]) -> Figure:
    """Losses, scores, learning rate, speed and waiting by epoch."""
    figure = Figure(figsize=(13, 8), layout="constrained")
    axes = figure.subplots(2, 2)
    epochs = _epochs(records)
    loss, scores, rate, speed = axes.flat
    for name, values in _columns(records, "loss").items():
        loss.plot(epochs, values, label=name, linewidth=2.0 if name == "loss" else 1.0)
    for group, title in SCORES.items():
        for name, values in _columns(records, group).items():
            if not name.endswith("_seconds"):
                known = np.isfinite(values)
                label = f"{title} {name.removeprefix(f'{group}_')}"
                scores.plot(epochs[known], values[known], "o-", markersize=3, label=label)
    rate.plot(epochs, _column(records, "lr"), color="black", label="learning rate")
    waits = {name: 100 * values for name, values in _columns(records, "speed").items() if name.startswith("wait_")}
    if waits:
        stacked = [np.nan_to_num(values) for values in waits.values()]
        speed.stackplot(epochs, *stacked, labels=[f"waiting for {name.removeprefix('wait_')}" for name in waits])
    rates = speed.twinx()
    rates.plot(epochs, _column(records, "clips_per_second"), color="black", linewidth=1.0)
    rates.set_ylabel("clips/s (black)")
    rates.set_ylim(bottom=0)
    speed.set_ylim(0, max(10.0, *(100 * _column(records, "waiting", 0.0))) if records else 10.0)
    for axis, title in ((loss, "loss"), (scores, "score, %"), (rate, "learning rate"), (speed, "waiting, % of time")):
        _finish(axis, title)
    if not scores.lines:
        scores.text(0.5, 0.5, "none while training", transform=scores.transAxes, ha="center", color="grey")
    if skipped := max((record.get("skipped_steps", 0) for record in records), default=0):
        figure.suptitle(f"{skipped:.0f} step(s) skipped: their gradients were not finite", color="red")
    return figure


def _epochs(records: list[dict[str, Any]]) -> np.ndarray:
    """Where each record stands; steps that say no epoch stand between those that do."""
    steps, epochs = _column(records, "step"), _column(records, "epoch")
    known = np.isfinite(epochs)
    return np.interp(steps, steps[known], epochs[known]) if known.any() else steps


def _columns(records: list[dict[str, Any]], group: str) -> dict[str, np.ndarray]:
    names = dict.fromkeys(name for record in records for name in numbers(record, group))
    return {name: _column(records, name) for name in names}


def _column(records: list[dict[str, Any]], name: str, absent: float = np.nan) -> np.ndarray:
    return np.array([record.get(name, absent) for record in records], dtype=np.float64)


def _finish(axis: Axes, title: str) -> None:
    axis.set(title=title, xlabel="epoch")
    axis.grid(alpha=0.3)
    if axis.get_legend_handles_labels()[0]:
        axis.legend(fontsize=8)

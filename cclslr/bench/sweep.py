"""The search for the micro-batch and the loader settings that suit a machine."""

from __future__ import annotations

import functools
import os
from collections.abc import Iterable
from typing import Any

import torch

from cclslr import train
from cclslr.bench.pretrain import Replay, Supply, changed, lean_step, random_batch, summary, take_turns
from cclslr.config import PretrainConfig
from cclslr.distributed import Process

TIE = 0.02  # settings closer than this to the best are told apart by their supply

Row = dict[str, Any]


def micro_batches(cfg: PretrainConfig, process: Process, warmup: int, steps: int, repeats: int) -> list[Row]:
    """Replay at every power of two that divides a rank's batch; one that exceeds the memory has an `error` instead."""
    rank_batch = cfg.optim.batch // process.world
    rows = []
    for size in (2**i for i in range(rank_batch.bit_length())):
        if rank_batch % size:
            continue
        trial = changed(cfg, f"optim.micro_batch={size}")
        row: Row = {"overrides": [f"optim.micro_batch={size}"]}
        try:
            step, batch = lean_step(train.build_learner(trial, process), trial, process), random_batch(trial, process)
            replay = Replay(functools.partial(step, batch), process)
            row |= summary(take_turns({"": replay}, warmup, steps, repeats)[""], cfg.optim.batch)
        except (torch.cuda.OutOfMemoryError, ValueError) as error:  # BatchNorm refuses a group of one value
            row["error"] = str(error).splitlines()[0]
        rows.append(row)
    return rows


def loader_settings(
    cfg: PretrainConfig, process: Process, shards: list[str], warmup: int, steps: int, repeats: int
) -> list[list[Row]]:
    """Supply and training rate by codec and placement, then by workers, then by prefetch, each from the best before.

    A setting that is not possible here has an `error` instead of rates.
    """
    learner = train.build_learner(cfg, process)
    devices = ("cpu", "gpu") if process.device.type == "cuda" else ("cpu",)
    placements: list[tuple[str, ...]] = [
        (f"data.shards=[{folder}]", f"data.backend={backend}", f"data.decode={decode}", f"data.device={device}")
        for folder in shards
        for backend, decode, device in (
            *(("dali", decode, device) for decode in ("dali", "libav") for device in devices),
            ("numba", "auto", "cpu"),
            ("ffcv", "auto", "cpu"),
        )
    ]
    cores = max(1, len(os.sched_getaffinity(0)) // int(os.environ.get("LOCAL_WORLD_SIZE", 1)))
    counts = sorted({max(1, cores // 2), cores, 2 * cores})
    rounds: list[Iterable[tuple[str, ...]]] = [
        placements,
        [(f"data.workers={workers}",) for workers in counts],
        [(f"data.prefetch={depth}",) for depth in (2, 4, 6)],
    ]
    chosen: tuple[str, ...] = ()
    tables = []
    for settings in rounds:
        rows = [_try_loader(learner, cfg, process, (*chosen, *setting), warmup, steps, repeats) for setting in settings]
        tables.append(rows)
        winner = best(rows)
        if winner is None:
            return tables
        chosen = tuple(winner["overrides"])
    return tables


def _try_loader(
    learner: train.Learner,
    cfg: PretrainConfig,
    process: Process,
    overrides: tuple[str, ...],
    warmup: int,
    steps: int,
    repeats: int,
) -> Row:
    row: Row = {"overrides": list(overrides)}
    try:
        trial = changed(cfg, *overrides)
        modes = {
            "supply": Supply(trial, process, None),
            "real": Supply(trial, process, lean_step(learner, trial, process)),
        }
        taken = take_turns(modes, warmup, steps, repeats)
    except (ValueError, ImportError, RuntimeError) as error:
        return row | {"error": (str(error).splitlines() or [type(error).__name__])[0]}
    return row | {name: summary(samples, cfg.optim.batch) for name, samples in taken.items()}


def best(rows: list[Row]) -> Row | None:
    """The row with the highest training rate; of those within `TIE` of it, the one whose loader alone is fastest."""
    possible = [row for row in rows if "error" not in row]
    if not possible:
        return None

    def rate(row: Row) -> float:
        return row.get("real", row)["clips_per_second"]

    top = max(map(rate, possible))
    close = [row for row in possible if rate(row) >= (1 - TIE) * top]
    return max(close, key=lambda row: row["supply"]["clips_per_second"] if "supply" in row else rate(row))

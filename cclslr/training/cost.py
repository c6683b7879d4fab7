"""What a pre-training cost: the arithmetic of its steps, counted on shapes, and the time that its journal tells."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from cclslr.config import PretrainConfig, load_config
from cclslr.data.plan import Plan
from cclslr.errors import UserError
from cclslr.models.flops import flops_per_clip
from cclslr.schedule import Timeline, batch_by_epoch, by_epoch
from cclslr.shards.reader import ShardSet
from cclslr.training.record import read_metrics


@dataclass(frozen=True)
class Cost:
    """Of all steps that a run has made."""

    flops: int  # of both encoders over all ranks, as `flops_per_clip` counts
    clips: int  # that went through steps; a clip counts in each epoch
    seconds: float  # by the clock: steps, evaluations and checkpoints, over all starts of the run
    cpu_seconds: float  # of the processor, by all threads of rank 0, likewise


def flops_of(cfg: PretrainConfig, timeline: Timeline, steps: int) -> int:
    """Operations of the first `steps` of a pre-training, each with the views of its phase."""
    return round(timeline.total(steps, by_epoch(cfg).map(lambda phase: sum(flops_per_clip(phase.cfg).values()))))


def cost_of(run_dir: Path) -> Cost:
    """What the pre-training in a run folder has cost until its last line of metrics.jsonl.

    Raises:
        UserError: nothing is recorded there, or its shards are gone.
    """
    records = read_metrics(run_dir / "metrics.jsonl")
    if not records or "cpu_seconds" not in records[-1]:
        raise UserError(f"{run_dir}/metrics.jsonl tells no step with its cpu_seconds; train there anew")
    last = records[-1]
    cfg = load_config(PretrainConfig, str(run_dir / "config.yaml"), [])
    shards = ShardSet(cfg.data.shards, split=cfg.data.split)
    timeline = Plan.for_training(shards, cfg.data, batch_by_epoch(cfg), cfg.run.seed).timeline
    clips = round(timeline.total(last["step"], by_epoch(cfg).map(lambda phase: 1)))
    return Cost(flops_of(cfg, timeline, last["step"]), clips, last["seconds"], last["cpu_seconds"])

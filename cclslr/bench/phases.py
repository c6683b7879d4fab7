"""What each phase of a pre-training costs: arithmetic, clips a second, cores, time (docs/scaling.md)."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from rich import box
from rich.table import Table

from cclslr.bench.capacity import Corpus, Forecast, Hardware, Work, forecast
from cclslr.config import PretrainConfig, ViewConfig
from cclslr.console import roughly
from cclslr.data.views import least_side
from cclslr.models.flops import flops_per_clip
from cclslr.schedule import Phase, Timeline, batch_by_epoch, phases
from cclslr.shards.format import serving

PLAIN = ViewConfig()  # the views that `Work` speaks of: the paper's
# Of the CPU's time for a clip, by where decoding and augmentation happen: reading, decoding, augmenting. An assumption,
# by the 5.7 to 7 ms of decoding and 12 ms of both that were measured on one core.
SHARES = {"gpu": (1.0, 0.0, 0.0), "libav": (0.07, 0.93, 0.0), "cpu": (0.04, 0.54, 0.42)}
FULL_SIDE = 256  # pixels of a packed frame that `Work` speaks of
BYTES = 1.4  # measured: 128 pixels have 0.37 to 0.39 of the bytes of 256, 192 have 0.65 to 0.67 (docs/results/sizes)
ASSUMED = (
    "the GPUs do as many operations a second on small views as on full ones",
    "decoding takes as long as it has pixels to decode: of the frames that are wanted of JPEG, of all of a video",
    f"frames that are r as wide have r^{BYTES} of the bytes",
    "augmenting takes as long as the views have pixels, reading a clip always as long",
)


@dataclass(frozen=True)
class Decoding:
    """What becomes of a packed clip before training sees it."""

    placement: str  # where it is decoded and augmented, of `SHARES`
    every_frame: bool  # whether decoding a few frames takes all before them, too: a video
    smaller: tuple[int, ...] = ()  # pixels of a side of the sizes that are packed besides the full one

    def scale(self, views: ViewConfig) -> float:
        """How much smaller than the full size the one is that serves `views`, along a side."""
        return (serving(self.smaller, least_side(views)) or FULL_SIDE) / FULL_SIDE


@dataclass(frozen=True)
class PhaseCost:
    """One phase on given hardware."""

    phase: Phase[PretrainConfig]
    clips: int  # of an epoch, in whole batches
    steps: int  # of the phase
    flops: dict[str, int]  # of a clip in a step, by branch
    work: Work
    forecast: Forecast

    @property
    def flops_of_a_clip(self) -> int:
        return sum(self.flops.values())

    @property
    def total_flops(self) -> int:
        """Of the phase."""
        return self.flops_of_a_clip * self.clips * self.phase.epochs

    @property
    def wanted(self) -> float:
        """Clips a second that the training step takes if it never waits: what the loader must make."""
        return next(stage.clips_per_second for stage in self.forecast.stages if stage.name == "compute")

    def cores(self, nodes: int) -> float:
        """Of a node, for the loader to make them."""
        return self.wanted * self.work.core_ms / 1e3 / nodes

    @property
    def seconds(self) -> float:
        """Of the phase; the run's first epoch may find its caches cold."""
        each, first = self.forecast.epoch_seconds, self.forecast.first_epoch_seconds
        return each * self.phase.epochs + (first - each if self.phase.first_epoch == 0 else 0.0)


def phase_costs(
    cfg: PretrainConfig, work: Work, hardware: Hardware, corpus: Corpus, decoding: Decoding
) -> list[PhaseCost]:
    """The phases of a run.

    Args:
        cfg: of the run.
        work: of a clip with the paper's views, 32 x 224² and 64 frames of pose; measured or assumed.
        hardware: what it runs on.
        corpus: what is trained on.
        decoding: of its clips.

    Raises:
        UserError: a schedule that cannot be, or a batch that is larger than the corpus.
    """
    full = sum(flops_per_clip(dataclasses.replace(cfg, views=PLAIN)).values())
    timeline = Timeline(corpus.clips, batch_by_epoch(cfg))
    costs = []
    for phase in phases(cfg):
        flops = flops_per_clip(phase.cfg)
        steps = timeline.first_step(phase.end_epoch) - timeline.first_step(phase.first_epoch)
        clips = timeline.steps_in(phase.first_epoch) * phase.cfg.optim.batch
        of_phase = work_of(phase.cfg, work, hardware.gpus, sum(flops.values()) / full, decoding)
        result = forecast(of_phase, hardware, dataclasses.replace(corpus, clips=clips))
        costs.append(PhaseCost(phase, clips, steps, flops, of_phase, result))
    return costs


def work_of(cfg: PretrainConfig, work: Work, gpus: int, arithmetic: float, decoding: Decoding) -> Work:
    """The work of a clip and a step with the views of `cfg`; what scales how is `ASSUMED`.

    Args:
        cfg: of one phase.
        work: with the paper's views.
        gpus: over all nodes.
        arithmetic: of a clip, as a share of that with the paper's views.
        decoding: as `phase_costs`.
    """
    views, batch = cfg.views, max(1, cfg.optim.batch // gpus)
    frames = views.rgb_frames / PLAIN.rgb_frames
    pixels = frames * (views.size / PLAIN.size) ** 2
    scale = decoding.scale(views)
    decoded = scale**2 * (1.0 if decoding.every_frame else frames)
    to_read, to_decode, to_augment = SHARES[decoding.placement]
    bus = {"gpu": scale**BYTES, "libav": scale**2 * frames, "cpu": pixels}[decoding.placement]
    return dataclasses.replace(
        work,
        compute=work.compute / arithmetic,
        batch=batch,
        micro_batches=max(1, batch // cfg.optim.micro_batch),
        core_ms=work.core_ms * (to_read + to_decode * decoded + to_augment * pixels),
        clip_bytes=work.clip_bytes * scale**BYTES,
        bus_bytes=work.bus_bytes * bus,
        view_bytes=work.view_bytes * pixels,
    )


def phase_table(costs: list[PhaseCost], nodes: int, title: str) -> Table:
    """What each phase costs, a column each, and all of them."""
    table = Table("", *(f"phase {cost.phase.number}" for cost in costs), "all", title=title, box=box.SIMPLE_HEAD)
    rows: dict[str, Callable[[PhaseCost], str]] = {
        "epochs": lambda cost: f"{cost.phase.first_epoch}-{cost.phase.end_epoch}",
        "RGB view": lambda cost: f"{cost.phase.cfg.views.rgb_frames} x {cost.phase.cfg.views.size}²",
        "clips a step": lambda cost: str(cost.phase.cfg.optim.batch),
        "steps": lambda cost: f"{cost.steps:,}",
        "GFLOP a clip": lambda cost: f"{cost.flops_of_a_clip / 1e9:.4g}",
        "EFLOP": lambda cost: f"{cost.total_flops / 1e18:.3g}",
        "the GPUs take, clips/s": lambda cost: f"{cost.wanted:,.0f}",
        "cores of a node for that": lambda cost: f"{cost.cores(nodes):.1f}",
        "the run makes, clips/s": lambda cost: f"{cost.forecast.clips_per_second:,.0f}",
        "its limit": lambda cost: cost.forecast.bottleneck.name,
        "time": lambda cost: roughly(cost.seconds),
    }
    whole = {
        "steps": f"{sum(cost.steps for cost in costs):,}",
        "EFLOP": f"{sum(cost.total_flops for cost in costs) / 1e18:.3g}",
        "time": roughly(sum(cost.seconds for cost in costs)),
    }
    for name, text in rows.items():
        table.add_row(name, *map(text, costs), whole.get(name, ""))
    return table


def phase_json(cost: PhaseCost, nodes: int) -> dict[str, Any]:
    """A phase for a file."""
    optim, views = cost.phase.cfg.optim, cost.phase.cfg.views
    return {
        "first_epoch": cost.phase.first_epoch,
        "end_epoch": cost.phase.end_epoch,
        "size": views.size,
        "rgb_frames": views.rgb_frames,
        "pose_frames": views.pose_frames,
        "batch": optim.batch,
        "lr": optim.lr,
        "steps": cost.steps,
        "flops_per_clip": cost.flops,
        "flops": cost.total_flops,
        "clips_per_second_wanted": cost.wanted,
        "cores_of_a_node_wanted": cost.cores(nodes),
        "clips_per_second": cost.forecast.clips_per_second,
        "limit": cost.forecast.bottleneck.name,
        "seconds": cost.seconds,
    }

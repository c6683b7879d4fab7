"""The pre-training step under the clock: compute alone, data alone, both, and each trick on and off.

Every figure is a median over repetitions that take turns with what they are compared with, in blocks of steps whose
first ones are not counted. Nothing here knows the algorithm: the steps are `cclslr.train`'s own.
"""

from __future__ import annotations

import contextlib
import statistics
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol
from unittest import mock

import torch

from cclslr import keypoints, train
from cclslr.bench import plain
from cclslr.bench.machine import synchronize
from cclslr.config import PretrainConfig, load_config, to_dict
from cclslr.data.batch import Batch
from cclslr.data.loader import Loader
from cclslr.data.plan import Plan
from cclslr.distributed import Process
from cclslr.models.objective import ccl_losses
from cclslr.shards.reader import ShardSet
from cclslr.training.optimise import Amp


@dataclass
class Sample:
    """One timed block of steps on all ranks."""

    seconds: float  # a step, of the slowest rank
    waited: dict[str, float] = field(default_factory=dict)  # seconds a step by reason, mean over ranks


class Mode(Protocol):
    """Something that makes steps."""

    def block(self, warmup: int, steps: int) -> Sample: ...


def random_batch(cfg: PretrainConfig, process: Process) -> Batch:
    """One rank's batch of noise, in the shape and memory layout of real ones."""
    size = cfg.optim.batch // process.world
    generator = torch.Generator().manual_seed(process.rank)
    views, rgb, pose = cfg.views, None, None
    if "rgb" in cfg.model.modalities:
        shape = (2, size, views.rgb_frames, views.size, views.size, 3)
        rgb = torch.randint(0, 256, shape, dtype=torch.uint8, generator=generator).to(process.device)
    if "pose" in cfg.model.modalities:
        pose = torch.rand(2, size, views.pose_frames, keypoints.NUM_JOINTS, 3, generator=generator).to(process.device)
    ids = torch.arange(process.rank * size, (process.rank + 1) * size, device=process.device)
    return Batch(rgb, pose, ids, torch.full_like(ids, -1))


def changed(cfg: PretrainConfig, *overrides: str) -> PretrainConfig:
    """`cfg` with some keys overridden."""
    return load_config(PretrainConfig, None, list(overrides), stored=to_dict(cfg))


def open_loader(cfg: PretrainConfig, process: Process) -> Loader:
    """The loader of a training run, from `cfg.data.shards`."""
    shards = ShardSet(cfg.data.shards, split=cfg.data.split)
    plan = Plan.for_training(shards, cfg.data, cfg.optim.batch, cfg.run.seed)
    return Loader(cfg.data, cfg.views, shards, plan, process, cfg.model.modalities, cfg.run.seed)


class Replay:
    """Compute alone: the same batch again and again."""

    def __init__(self, step: Callable[[int], Any], process: Process) -> None:
        self.step, self.process, self.done = step, process, 0

    def block(self, warmup: int, steps: int) -> Sample:
        for i in range(warmup + steps):
            if i == warmup:
                started = _all_ready(self.process)
            self.step(self.done)
            self.done += 1
        return Sample(_slowest(started, self.process) / steps)


class Supply:
    """The loader, alone (`step` is None) or feeding a trainer.

    Opened anew for each block, so that nothing works in the background of other modes; what was made ahead is not
    counted.
    """

    def __init__(self, cfg: PretrainConfig, process: Process, step: Callable[[Batch, int], Any] | None) -> None:
        self.cfg, self.process, self.step, self.done = cfg, process, step, 0

    def block(self, warmup: int, steps: int) -> Sample:
        warmup = max(warmup, self.cfg.data.prefetch + 1)
        loader = open_loader(self.cfg, self.process)
        with loader.start(self.done):
            for i in range(warmup + steps):
                if i == warmup:
                    before = dict(loader.waited)
                    started = _all_ready(self.process)
                batch = next(loader)
                if self.step is not None:
                    self.step(batch, self.done)
                self.done += 1
            seconds = _slowest(started, self.process) / steps
            mine = {name: (value - before[name]) / steps for name, value in loader.waited.items()}
        everyone = self.process.gather_objects(mine)
        return Sample(seconds, {name: statistics.mean(waited[name] for waited in everyone) for name in mine})


def _all_ready(process: Process) -> float:
    synchronize(process.device)
    process.gather_objects(None)  # a barrier
    return time.perf_counter()


def _slowest(started: float, process: Process) -> float:
    synchronize(process.device)
    return max(process.gather_objects(time.perf_counter() - started))


Samples = dict[str, list[Sample]]  # by mode


def take_turns(
    modes: Mapping[str, Mode],
    warmup: int,
    steps: int,
    repeats: int,
    keep: Callable[[Samples], Any] = lambda samples: None,
) -> Samples:
    """`repeats` blocks of every mode, interleaved; `keep` is told after each block what there is so far."""
    samples: Samples = {}
    for _ in range(repeats):
        for name, mode in modes.items():
            samples.setdefault(name, []).append(mode.block(warmup, steps))
            keep(samples)
    return samples


def summary(samples: list[Sample], batch: int) -> dict[str, Any]:
    """Median and spread of the clips a second over all ranks; where a step of the median length goes."""
    rates = [batch / sample.seconds for sample in samples]
    seconds = statistics.median(sample.seconds for sample in samples)
    result: dict[str, Any] = {
        "clips_per_second": statistics.median(rates),
        "min": min(rates),
        "max": max(rates),
        "n": len(rates),
        "step_ms": 1e3 * seconds,
    }
    if samples[0].waited:
        for name in samples[0].waited:
            result[f"wait_{name}_ms"] = 1e3 * statistics.median(sample.waited[name] for sample in samples)
        result["waiting_share"] = statistics.median(sum(s.waited.values()) / s.seconds for s in samples)
    return result


def lean_step(learner: train.Learner, cfg: PretrainConfig, process: Process) -> Callable[[Batch, int], Any]:
    """`cclslr.train.pretrain_step` on `learner`."""
    return lambda batch, step: train.pretrain_step(learner, batch, step, cfg, process)


def plain_replay(cfg: PretrainConfig, process: Process, batch: Batch) -> Replay:
    """The plain reference on the same batch, in the same arithmetic type; one rank only."""
    learner = plain.build_plain_learner(cfg, process.device, Amp(cfg.run.amp, process.device).dtype)
    return Replay(lambda step: plain.plain_step(learner, batch, step, cfg), process)


@dataclass(frozen=True)
class Trick:
    """One thing that is meant to make the step fast, and the config that flips it."""

    name: str
    flip: str | None  # None: `losses` flips it
    default: bool = True  # is it on in an ordinary run?
    losses: Callable[..., Any] = ccl_losses
    applies: Callable[[PretrainConfig, Process], bool] = lambda cfg, process: True


@contextlib.contextmanager
def cudnn_benchmark(on: bool) -> Iterator[None]:
    """As `run.cudnn_benchmark` says, for a while."""
    before = torch.backends.cudnn.benchmark
    torch.backends.cudnn.benchmark = on
    try:
        yield
    finally:
        torch.backends.cudnn.benchmark = before


def _on_gpu(cfg: PretrainConfig, process: Process) -> bool:
    return process.device.type == "cuda"


def _several(cfg: PretrainConfig, process: Process) -> bool:
    return process.world > 1


def _several_gpus(cfg: PretrainConfig, process: Process) -> bool:
    return _several(cfg, process) and _on_gpu(cfg, process)  # gloo has no compressed reduction


TRICKS = (
    Trick("channels_last", "run.channels_last=false", applies=lambda cfg, process: "rgb" in cfg.model.modalities),
    Trick("fused_momentum_update", "run.fused_momentum_update=false"),
    Trick("fused_optimizer", "run.fused_optimizer=false"),
    Trick("shared_similarity", None, losses=plain.plain_losses),  # how the losses are written: no key switches it
    Trick("mixed_precision", "run.amp=fp32", applies=_on_gpu),
    Trick("cudnn_benchmark", "run.cudnn_benchmark=false", applies=_on_gpu),
    Trick("compile", "run.compile=default", default=False),
    Trick("cuda_graphs", "run.compile=cuda_graphs", default=False, applies=_on_gpu),
    Trick("gradient_as_bucket_view", "run.gradient_as_bucket_view=false", applies=_several),
    Trick("gradient_compression", "run.gradient_compression=bf16", default=False, applies=_several_gpus),
)


class Flipped(Replay):
    """Replay with one trick flipped."""

    def __init__(self, trick: Trick, cfg: PretrainConfig, process: Process, batch: Batch) -> None:
        cfg = cfg if trick.flip is None else changed(cfg, trick.flip)
        step = lean_step(train.build_learner(cfg, process), cfg, process)
        super().__init__(lambda number: step(batch, number), process)
        self.trick, self.cudnn_benchmark = trick, cfg.run.cudnn_benchmark

    def block(self, warmup: int, steps: int) -> Sample:
        with mock.patch.object(train, "ccl_losses", self.trick.losses), cudnn_benchmark(self.cudnn_benchmark):
            return super().block(warmup, steps)


def worth(trick: Trick, flipped: list[Sample], usual: list[Sample], batch: int) -> dict[str, Any]:
    """How much faster a step is with the trick than without: median and spread of the ratios of neighbouring blocks."""
    on, off = (usual, flipped) if trick.default else (flipped, usual)
    ratios = [without.seconds / with_.seconds for with_, without in zip(on, off, strict=True)]
    return {
        "trick": trick.name,
        "on_by_default": trick.default,
        "on_clips_per_second": statistics.median(batch / sample.seconds for sample in on),
        "off_clips_per_second": statistics.median(batch / sample.seconds for sample in off),
        "speed_up": statistics.median(ratios),
        "min": min(ratios),
        "max": max(ratios),
        "n": len(ratios),
    }

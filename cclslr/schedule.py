"""Phases of a run: which views, how many clips a step and which learning rate at which epoch, and where steps lie then.

All of it is a pure function of the config and the epoch or the step: nothing remembers which phase it is. A run without
a schedule is one phase.
"""

from __future__ import annotations

import bisect
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Generic, TypeVar

from cclslr.config import FinetuneConfig, PhaseConfig, PretrainConfig, ViewConfig
from cclslr.errors import UserError

T = TypeVar("T")
Config = TypeVar("Config", bound=PretrainConfig | FinetuneConfig)


@dataclass(frozen=True)
class ByEpoch(Generic[T]):
    """A value that changes at epochs: each holds from its first epoch until the next one begins."""

    values: tuple[tuple[int, T], ...]  # (first epoch, value), rising from epoch 0

    def at(self, epoch: float) -> T:
        """The value at an epoch, counted from 0; within one, too."""
        return self.values[bisect.bisect_right(self.values, epoch, key=lambda item: item[0]) - 1][1]

    def map(self, function: Callable[[T], float]) -> ByEpoch[float]:
        """A number of each value."""
        return ByEpoch(tuple((epoch, function(value)) for epoch, value in self.values))

    @property
    def changes(self) -> list[tuple[int, T]]:
        """The values without those that equal the one before."""
        before = [None, *self.all]
        return [item for item, one in zip(self.values, before) if item[1] != one]

    def __str__(self) -> str:
        return ", then ".join(map(str, self.all))

    @property
    def all(self) -> list[T]:
        """The values, first to last."""
        return [value for _, value in self.values]


@dataclass(frozen=True)
class Phase(Generic[Config]):
    """A stretch of a run in which nothing changes but the learning rate's own course."""

    number: int  # from 1
    first_epoch: int  # counted from 0
    end_epoch: int  # the first one that is not part of it
    cfg: Config  # the run's config as it stands in it: views and optim are the phase's

    @property
    def epochs(self) -> int:
        return self.end_epoch - self.first_epoch

    def __str__(self) -> str:
        views, optim = self.cfg.views, self.cfg.optim
        return (
            f"epochs {self.first_epoch} to {self.end_epoch}: RGB views of {views.rgb_frames} x {views.size}², "
            f"pose views of {views.pose_frames} frames, {optim.batch} clips a step, learning rate {optim.lr:g}"
        )


def phases(cfg: Config) -> list[Phase[Config]]:
    """The phases of a run; one where it has no schedule.

    Raises:
        UserError: first epochs that do not rise from 0, or a phase that the run does not come to.
    """
    schedule = cfg.schedule if isinstance(cfg, PretrainConfig) else []
    if not schedule:
        return [Phase(1, 0, cfg.optim.epochs, cfg)]
    begins: list[int] = [phase.from_epoch for phase in schedule]
    if begins[0] != 0:
        raise UserError(f"schedule[0].from_epoch is {begins[0]}; the first phase begins at epoch 0")
    for number, (begin, before) in enumerate(zip(begins[1:], begins), 1):
        if begin <= before:
            raise UserError(f"schedule[{number}].from_epoch is {begin}; it must be above {before}, the phase before")
    if begins[-1] >= cfg.optim.epochs:
        raise UserError(
            f"schedule[{len(begins) - 1}].from_epoch is {begins[-1]}, but the run ends after optim.epochs="
            f"{cfg.optim.epochs}: the phase would never begin; leave it out, or set schedule=[]"
        )
    ends = [*begins[1:], cfg.optim.epochs]
    return [
        Phase(number, begin, end, _in_phase(cfg, phase))
        for number, (begin, end, phase) in enumerate(zip(begins, ends, schedule, strict=True), 1)
    ]


def _in_phase(cfg: Config, phase: PhaseConfig) -> Config:
    """The config with what the phase sets."""

    def chosen(*names: str) -> dict[str, int | float]:
        return {name: value for name in names if (value := getattr(phase, name)) is not None}

    views = replace(cfg.views, **chosen("size", "rgb_frames", "pose_frames"))  # type: ignore[arg-type]
    optim = replace(cfg.optim, **chosen("batch", "micro_batch", "lr"))  # type: ignore[arg-type]
    return replace(cfg, views=views, optim=optim)


def by_epoch(cfg: Config) -> ByEpoch[Phase[Config]]:
    """The phase of each epoch."""
    return ByEpoch(tuple((phase.first_epoch, phase) for phase in phases(cfg)))


def views_by_epoch(cfg: PretrainConfig | FinetuneConfig) -> ByEpoch[ViewConfig]:
    """The views of each epoch."""
    return ByEpoch(tuple((phase.first_epoch, phase.cfg.views) for phase in phases(cfg)))


def batch_by_epoch(cfg: PretrainConfig | FinetuneConfig) -> ByEpoch[int]:
    """Clips of a step over all ranks, at each epoch."""
    return ByEpoch(tuple((phase.first_epoch, phase.cfg.optim.batch) for phase in phases(cfg)))


def longest(cfg: Config) -> Phase[Config]:
    """The phase with the most epochs; of equals the first."""
    return max(phases(cfg), key=lambda phase: phase.epochs)


def pixels_of_a_clip(cfg: PretrainConfig | FinetuneConfig) -> float:
    """Pixels of an RGB view, or keypoints' frames where there is none: the arithmetic of a clip grows with it."""
    views = cfg.views
    return float(views.rgb_frames * views.size**2 if "rgb" in cfg.model.modalities else views.pose_frames)


class Timeline:
    """Which step lies in which epoch, where the clips a step change between epochs; steps count over all epochs.

    The last incomplete batch of an epoch is left out, so an epoch of N clips has N // batch steps.
    """

    def __init__(self, clips: int, batch: ByEpoch[int]) -> None:
        """
        Args:
            clips: of an epoch.
            batch: clips a step over all ranks, at each epoch.

        Raises:
            UserError: an epoch has no whole batch.
        """
        for of_phase in batch.all:
            if of_phase > clips:
                raise UserError(f"{clips} clips fill no batch of {of_phase}; lower optim.batch")
        self.clips, self.batch = clips, batch
        # Stretches of equal batches: first epoch, first step, steps an epoch. Neighbours that are equal are one, so a
        # border that changes nothing here changes no rounding either.
        self._stretches: list[tuple[int, int, int]] = []
        for epoch, of_phase in batch.changes:
            first_step = self.first_step(epoch) if self._stretches else 0
            self._stretches.append((epoch, first_step, clips // of_phase))

    def first_step(self, epoch: int) -> int:
        """The number of an epoch's first step: how many steps all epochs before it have."""
        first_epoch, first_step, an_epoch = self._stretch(epoch, 0)
        return first_step + (epoch - first_epoch) * an_epoch

    @property
    def steps(self) -> ByEpoch[int]:
        """Steps of an epoch, at each epoch."""
        return ByEpoch(tuple((epoch, self.steps_in(epoch)) for epoch, _ in self.batch.values))

    def steps_in(self, epoch: int) -> int:
        """Steps of an epoch."""
        return self._stretch(epoch, 0)[2]

    def place(self, step: int) -> tuple[int, int]:
        """The epoch of a step and its number within it, both from 0."""
        first_epoch, first_step, an_epoch = self._stretch(step, 1)
        epoch, number = divmod(step - first_step, an_epoch)
        return first_epoch + epoch, number

    def epochs(self, step: int) -> float:
        """How many epochs the steps before this one make, with fractions."""
        first_epoch, first_step, an_epoch = self._stretch(step, 1)
        return first_epoch + (step - first_step) / an_epoch

    def total(self, step: int, of_a_clip: ByEpoch[float]) -> float:
        """The sum over the clips of all steps before `step`, of what a clip counts at its epoch."""
        borders = sorted({epoch for by in (self.batch, of_a_clip) for epoch, _ in by.values})
        begins = [self.first_step(epoch) for epoch in borders]
        ends = [*begins[1:], step]
        return sum(
            max(min(end, step) - begin, 0) * self.batch.at(epoch) * of_a_clip.at(epoch)
            for epoch, begin, end in zip(borders, begins, ends, strict=True)
        )

    def _stretch(self, place: int, column: int) -> tuple[int, int, int]:
        """The stretch of an epoch (column 0) or of a step (column 1)."""
        return self._stretches[bisect.bisect_right(self._stretches, place, key=lambda item: item[column]) - 1]

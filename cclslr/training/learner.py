"""What a training changes, as the loop and its checkpoints see it."""

from __future__ import annotations

from typing import Any, Protocol

import torch

from cclslr.training.optimise import Amp
from cclslr.training.statistics import Statistics


class Learner(Protocol):
    """The networks of a program with their optimiser; each program has its own (`cclslr.train`, `cclslr.finetune`)."""

    optimizer: torch.optim.Optimizer
    amp: Amp
    statistics: Statistics

    def state(self) -> dict[str, Any]:
        """What a checkpoint holds of it: tensors and plain containers."""
        ...

    def load(self, state: dict[str, Any]) -> None:
        """Take over what `state` returned."""
        ...

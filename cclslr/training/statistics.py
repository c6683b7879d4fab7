"""BatchNorm's running statistics, which every process keeps from its own clips."""

from __future__ import annotations

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from cclslr.distributed import Process

_ALIGN = 64  # floats: each begins at an address that any kernel likes


class Statistics:
    """The running means and variances of some networks, moved into one piece of memory.

    So one copy keeps them over a step, one takes them back, and one reduction averages them over ranks. Build it
    before the networks are compiled or wrapped for several ranks.
    """

    def __init__(self, *networks: nn.Module) -> None:
        places = [
            (module, name)
            for network in networks
            for module in network.modules()
            if isinstance(module, _BatchNorm) and module.track_running_stats
            for name in ("running_mean", "running_var")
        ]
        old = [getattr(module, name) for module, name in places]
        sizes = [-(-x.numel() // _ALIGN) * _ALIGN for x in old]
        device = old[0].device if old else torch.device("cpu")
        self.values = torch.zeros(sum(sizes), device=device)
        for (module, name), x, piece in zip(places, old, self.values.split(sizes)):
            view = piece[: x.numel()].copy_(x)
            setattr(module, name, view)
        self._kept = torch.empty_like(self.values)

    @torch.no_grad()
    def keep(self) -> None:
        """Remember them as they are before a step."""
        self._kept.copy_(self.values)

    @torch.no_grad()
    def take_back_if(self, skipped: Tensor) -> None:
        """Undo a step that was skipped: what was not finite would stay in them for good. No host synchronisation.

        Args:
            skipped: scalar, not 0 where the step was skipped.
        """
        self.values.copy_(torch.where(skipped != 0, self._kept, self.values))

    @torch.no_grad()
    def average(self, process: Process) -> None:
        """Their mean over all ranks, on every rank; training does not read them, so it goes on as it would have."""
        if process.world > 1 and len(self.values):
            dist.all_reduce(self.values)
            self.values /= process.world

"""Ranks: start, gather, and the exchange that shuffles key views over the global batch."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

from cclslr.console import report_error
from cclslr.errors import UserError

TIMEOUT = timedelta(minutes=30)  # longest wait for a rank that evaluates, packs or writes while others are ready
_all_gather = getattr(dist, "all_gather_single", dist.all_gather_into_tensor)  # torch 2.13 renamed it
Result = TypeVar("Result")


@dataclass(frozen=True)
class Process:
    """This process among all ranks of the run."""

    rank: int
    world: int
    device: torch.device
    host_group: dist.ProcessGroup | None = None  # of the ranks' CPUs: what goes there never waits for the device

    @property
    def main(self) -> bool:
        return self.rank == 0

    def part(self, x_G: Tensor) -> Tensor:
        """This rank's contiguous part of something that has a row for each clip of the global batch."""
        size = len(x_G) // self.world
        return x_G[self.rank * size : (self.rank + 1) * size]

    def gather(self, x_B: Tensor) -> Tensor:
        """All ranks' rows, in rank order; no gradient."""
        if self.world == 1:
            return x_B
        x_G = x_B.new_empty((self.world * len(x_B), *x_B.shape[1:]))
        _all_gather(x_G, x_B.contiguous())
        return x_G

    def gather_objects(self, value: Any) -> list[Any]:
        """Every rank's picklable `value`, in rank order; for results of any size, not for the training step."""
        if self.world == 1:
            return [value]
        values: list[Any] = [None] * self.world
        dist.all_gather_object(values, value, self.host_group)
        return values

    def from_main(self, make: Callable[[], Result]) -> Result:
        """What `make` returns on rank 0, where alone it is called; picklable."""
        if self.world == 1:
            return make()
        values: list[Any] = [make() if self.main else None]
        dist.broadcast_object_list(values, 0, self.host_group)
        return values[0]

    def exchange(self, x_B: Tensor, source_G: Tensor) -> Tensor:
        """Row i of the global batch becomes what was row source_G[i]; returns this rank's part of the result.

        Every rank sends each row to the one rank that needs it (all-to-all): a world-th of what gathering would move.

        Args:
            x_B: this rank's rows, any dtype.
            source_G: permutation of the global batch, int64 on the CPU, the same on every rank.
        """
        size = len(x_B)
        if self.world == 1:
            return x_B[source_G.to(x_B.device, non_blocking=True)]
        owner_G = source_G // size
        send_rows, send_counts, receive_counts, receive_rows = [], [], [], []
        for other in range(self.world):
            wanted_by_other = source_G[other * size : (other + 1) * size]
            mine = wanted_by_other[wanted_by_other // size == self.rank]
            send_rows.append(mine % size)
            send_counts.append(len(mine))
            from_other = (self.part(owner_G) == other).nonzero()[:, 0]
            receive_rows.append(from_other)
            receive_counts.append(len(from_other))
        # A blocking copy of the indices would wait for everything that the device was given before them.
        send = torch.cat(send_rows).to(x_B.device, non_blocking=True)
        receive = torch.cat(receive_rows).to(x_B.device, non_blocking=True)
        received, shuffled = torch.empty_like(x_B), torch.empty_like(x_B)
        dist.all_to_all_single(received, x_B[send], receive_counts, send_counts)
        shuffled[receive] = received
        return shuffled


def pick_device(wanted: str) -> torch.device:
    """The device that `run.device` means: auto is a GPU where torch sees one."""
    if wanted == "cuda" and not torch.cuda.is_available():
        raise UserError(
            "run.device is cuda, but torch sees no GPU; use run.device=cpu or install a CUDA build of torch"
        )
    if wanted == "cpu" or not torch.cuda.is_available():
        return torch.device("cpu")
    device = torch.device("cuda", int(os.environ.get("LOCAL_RANK", 0)))
    torch.cuda.set_device(device)
    return device


@contextmanager
def process_group(device: str) -> Iterator[Process]:
    """Join the process group that torchrun described, or be alone; leave it at the end.

    After an error, a process of several ends here and at once: leaving the group could wait for ever for peers that
    wait for this one. torchrun then ends the peers.
    """
    picked = pick_device(device)
    world = int(os.environ.get("WORLD_SIZE", 1))
    if world == 1:
        # One rank computes on every core; torchrun already limits the threads of several.
        torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", os.cpu_count() or 1)))
        yield Process(0, 1, picked)
        return
    on_gpu = picked.type == "cuda"
    dist.init_process_group("nccl" if on_gpu else "gloo", timeout=TIMEOUT, device_id=picked if on_gpu else None)
    try:
        yield Process(dist.get_rank(), world, picked, dist.new_group(backend="gloo", timeout=TIMEOUT))
    except SystemExit:  # all ranks agreed to stop
        dist.destroy_process_group()
        raise
    except BaseException as error:
        code = report_error(error)
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
    dist.destroy_process_group()

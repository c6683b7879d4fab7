"""Signals that ask a training to stop: it ends after a step, with a checkpoint, on all ranks at once."""

from __future__ import annotations

import signal
import threading
from types import FrameType
from typing import Any

import torch
import torch.distributed as dist

from cclslr.distributed import Process

STOPS = (signal.SIGTERM, signal.SIGUSR1, signal.SIGINT)  # a cluster's end and its warning before, Ctrl-C


class Signals:
    """Notes signals instead of obeying them at once, and finds out whether any rank was sent one.

    Ranks are sent signals at different moments and must still stop at the same step. So each tells the others once a
    step, on the host and without waiting: what was said after a step is read after the next. Use as a context manager.
    A second Ctrl-C ends a process that is alone at once.
    """

    def __init__(self, process: Process) -> None:
        self.process = process
        self._noted = 0  # number of a signal
        self._before: dict[int, Any] = {}
        self._said: tuple[dist.Work, torch.Tensor] | None = None

    def __enter__(self) -> Signals:
        if threading.current_thread() is threading.main_thread():  # Python allows it nowhere else
            self._before = {number: signal.signal(number, self._note) for number in STOPS}
        return self

    def __exit__(self, *exception: Any) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _note(self, number: int, frame: FrameType | None) -> None:
        if number == signal.SIGINT and self._noted and self.process.world == 1:
            raise KeyboardInterrupt
        self._noted = number

    def agreed(self) -> str | None:
        """The name of a signal that a rank was sent, the same on every rank; call it once a step on all of them."""
        if self.process.world == 1:
            number = self._noted
        else:
            number = self._heard()
            if not number:
                mine = torch.tensor([self._noted])
                work = dist.all_reduce(mine, dist.ReduceOp.MAX, group=self.process.host_group, async_op=True)
                self._said = work, mine
        return signal.Signals(number).name if number else None

    def _heard(self) -> int:
        if self._said is None:
            return 0
        work, highest = self._said
        work.wait()
        return int(highest)

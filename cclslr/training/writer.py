"""Checkpoints are written beside training, which waits only while its state is copied to host memory."""

from __future__ import annotations

import copy
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

import torch

from cclslr import checkpoint
from cclslr.console import console
from cclslr.errors import UserError


@dataclass(frozen=True)
class Written:
    """A checkpoint that is on disk."""

    step: int
    name: str
    seconds: float  # that writing took
    waited: float  # seconds that training waited for it


@dataclass
class _Flight:
    step: int
    waited: float
    seconds: Future[dict[str, float]]  # by the file's name


class Writer:
    """Writes one checkpoint at a time in a thread of its own. Use as a context manager, which ends with the writing.

    All methods belong to the thread that trains. What the thread that writes finds wrong is raised by the next of them.

    Args:
        told: called with each checkpoint that was written.
    """

    def __init__(self, told: Callable[[Written], None]) -> None:
        self.told = told
        self._thread = ThreadPoolExecutor(1, "checkpoint")
        self._flight: _Flight | None = None

    def begin(self, step: int, paths: list[Path], state: dict[str, Any]) -> None:
        """Copy the state and begin to write it to `paths`; waits for the checkpoint before, if that is under way.

        Raises:
            UserError: the checkpoint before could not be written.
        """
        began = time.perf_counter()
        self.finish()
        held = on_host(state)
        self._flight = _Flight(step, time.perf_counter() - began, self._thread.submit(_write, paths, held))

    def look(self) -> None:
        """Tell of a checkpoint that has been written meanwhile; does not wait.

        Raises:
            UserError: it could not be written.
        """
        if self._flight is not None and self._flight.seconds.done():
            self.finish()

    def finish(self) -> None:
        """Wait until nothing is under way; raises as `look` does."""
        if self._flight is not None:
            flight, self._flight = self._flight, None
            for name, seconds in flight.seconds.result().items():
                self.told(Written(flight.step, name, seconds, flight.waited))

    def __enter__(self) -> Writer:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        try:
            self.finish()
        except UserError as second:
            if kind is None or issubclass(kind, OSError):  # a full disk fails the journal, too; this names the file
                raise
            console.print(str(second), style="red", soft_wrap=True)  # `error` is what ends the run
        finally:
            self._thread.shutdown()


def on_host(state: Any) -> Any:
    """Nested containers with a copy of each tensor in host memory, pinned where the tensor is on a GPU."""
    copied = _copied(state)
    if torch.cuda.is_available() and torch.cuda.is_initialized():
        torch.cuda.current_stream().synchronize()  # copies into pinned memory do not wait for one another
    return copied


def _copied(tree: Any) -> Any:
    if isinstance(tree, torch.Tensor):
        empty = torch.empty_like(tree, device="cpu", pin_memory=tree.is_cuda)
        return empty.copy_(tree.detach(), non_blocking=True)
    if isinstance(tree, dict):
        copied = copy.copy(tree)  # keeps what else a state_dict carries: versions of its modules
        copied.update((name, _copied(value)) for name, value in tree.items())
        return copied
    return [*map(_copied, tree)] if isinstance(tree, list) else copy.deepcopy(tree)


def _write(paths: list[Path], state: dict[str, Any]) -> dict[str, float]:
    """Write the state to each path; the seconds that each took, by name."""
    seconds = {}
    for path in paths:
        began = time.perf_counter()
        checkpoint.save(path, state)
        seconds[path.name] = time.perf_counter() - began
    return seconds

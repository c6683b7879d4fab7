"""How fast a run is: clips a second, the share of time that the trainer waited for its data, time left, memory."""

from __future__ import annotations

import os
import resource
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Protocol

import torch

WARM_SECONDS = 30.0


class Waiting(Protocol):
    """Anything that knows how long its consumer has waited for it, by reason, in seconds since it started."""

    @property
    def waited(self) -> dict[str, float]: ...


class Rate:
    """Rates between two log lines; asynchronous device work is counted where it is awaited."""

    def __init__(
        self,
        source: Waiting,
        clips: Callable[[int], float],
        last_step: int,
        work: Callable[[int], float] | None = None,
    ) -> None:
        """
        Args:
            source: whom the run waits for.
            clips: clips of all steps before a step, over all ranks.
            last_step: one past the last.
            work: of all steps before a step, in any unit; None: as the clips.
        """
        self.source, self.clips, self.last_step, self.work = source, clips, last_step, work or clips
        self.began: tuple[float, float] | None = None  # work done and time since when the time left is reckoned
        self.seconds = 0.0  # of all intervals that were reported
        self.waits = dict.fromkeys(source.waited, 0.0)  # seconds in them, by reason
        self.restart(0)

    def restart(self, step: int) -> None:
        """Leave out what happened since the last line (compilation, an evaluation)."""
        self.step, self.time, self.waited = step, time.perf_counter(), dict(self.source.waited)

    def since_last(self, step: int) -> dict[str, float]:
        """clips_per_second over all ranks, waiting (share of time) and its parts wait_<reason>, seconds_left.

        The time left is reckoned from the first line on, evaluations and checkpoints included.
        """
        now, waited = time.perf_counter(), dict(self.source.waited)
        seconds = max(now - self.time, 1e-9)
        waits = {name: waited[name] - self.waited[name] for name in waited}
        self.seconds += seconds
        for name, value in waits.items():
            self.waits[name] += value
        result = {
            "clips_per_second": (self.clips(step) - self.clips(self.step)) / seconds,
            "waiting": sum(waits.values()) / seconds,
            **{f"wait_{name}": value / seconds for name, value in waits.items()},
        }
        if self.began is None:
            self.began = self.work(self.step), self.time
        done, left = self.work(step) - self.began[0], self.work(self.last_step) - self.work(step)
        if done > 0 and left > 0:
            result["seconds_left"] = left * (now - self.began[1]) / done
        self.step, self.time, self.waited = step, now, waited
        return result

    @property
    def is_warm(self) -> bool:
        """Whether enough was reported to say how the run goes."""
        return self.seconds >= WARM_SECONDS

    def overall(self) -> dict[str, float]:
        """Share of time waited for data, by reason, over all that was reported so far."""
        return {name: value / max(self.seconds, 1e-9) for name, value in self.waits.items()}


def memory_gb(device: torch.device) -> float:
    """What a run needs of what is scarce: the peak that torch reserved on a GPU; without one, resident memory now."""
    if device.type == "cuda":
        return torch.cuda.max_memory_reserved(device) / 1e9
    statm = Path("/proc/self/statm")
    if statm.exists():
        return int(statm.read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 1e9
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e9  # its peak

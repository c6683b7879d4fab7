"""Clips a second, and the share of time that the trainer waited for its data."""

from __future__ import annotations

import time
from typing import Protocol


class Waiting(Protocol):
    """Anything that knows how long its consumer has waited for it, by reason, in seconds since it started."""

    @property
    def waited(self) -> dict[str, float]: ...


class Rate:
    """Rates between two log lines; asynchronous device work is counted where it is awaited."""

    def __init__(self, source: Waiting, batch: int) -> None:
        self.source, self.batch = source, batch
        self.restart(0)

    def restart(self, step: int) -> None:
        """Leave out what happened since the last line (compilation, an evaluation)."""
        self.step, self.time, self.waited = step, time.perf_counter(), dict(self.source.waited)

    def since_last(self, step: int) -> dict[str, float]:
        """clips_per_second over all ranks, waiting (share of time) and its parts wait_<reason>."""
        now, waited = time.perf_counter(), dict(self.source.waited)
        seconds = max(now - self.time, 1e-9)
        parts = {f"wait_{name}": (waited[name] - self.waited[name]) / seconds for name in waited}
        result = {
            "clips_per_second": (step - self.step) * self.batch / seconds,
            "waiting": sum(parts.values()),
            **parts,
        }
        self.step, self.time, self.waited = step, now, waited
        return result

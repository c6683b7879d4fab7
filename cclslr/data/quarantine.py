"""Clips that turned out to be unusable while training: counted, named, bounded."""

from __future__ import annotations

import threading
from collections.abc import Callable

from cclslr.console import console
from cclslr.distributed import Process
from cclslr.errors import UserError

_GRACE = 100  # clips; a share of fewer says nothing


def _say(text: str) -> None:
    console.print(text, style="yellow")


class Quarantine:
    """The bad clips of one rank. Safe to use from several threads."""

    def __init__(self, max_share: float) -> None:
        """`max_share` of the clips read so far (at least 100) may be bad."""
        self.max_share = max_share
        self.reasons: dict[int, str] = {}  # by clip id
        self.num_read = 0
        self._told: set[int] = set()  # clips of all ranks, on rank 0
        self._lock = threading.Lock()

    @property
    def count(self) -> int:
        """Different clips that were found bad."""
        return len(self.reasons)

    def found(self) -> dict[int, str]:
        """The reasons by clip id, as of now."""
        with self._lock:
            return dict(self.reasons)

    def found_by_all(self, process: Process, tell: Callable[[str], None] = _say) -> int:
        """Different clips that any rank found bad so far; rank 0 names those of the others. Every rank calls it."""
        for rank, found in enumerate(process.gather_objects(self.found())):
            for clip_id in sorted(found.keys() - self._told):
                self._told.add(clip_id)
                if rank > 0:
                    tell(f"quarantined clip {clip_id} (rank {rank}): {found[clip_id]}")
        return len(self._told)

    def passed(self) -> None:
        """Count a clip that was read and is good."""
        with self._lock:
            self.num_read += 1

    def add(self, clip_id: int, reason: str) -> None:
        """Quarantine a clip; the first time, say so.

        Raises:
            UserError: too large a share of the clips read so far is bad; names them.
        """
        with self._lock:
            if clip_id in self.reasons:
                return
            self.num_read += 1
            self.reasons[clip_id] = reason
            _say(f"quarantined clip {clip_id}: {reason}")
            if self.count > self.max_share * max(self.num_read, _GRACE):
                named = "\n  ".join(list(self.reasons.values())[:10])
                raise UserError(
                    f"{self.count} of {self.num_read} clips read are bad, more than data.max_bad_share allows"
                    f" ({self.max_share}); look at them with cclslr check and pack them again:\n  {named}"
                )

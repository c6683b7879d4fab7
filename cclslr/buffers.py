"""Memory that is used again, not asked for again: what is in use at a time stops growing once it was enough."""

from __future__ import annotations

import threading
import weakref
from collections import deque
from collections.abc import Callable

import numpy as np


class Buffers:
    """Arrays alike, each handed out again once nothing looks at it any more. Safe to use from several threads.

    Args:
        new: makes one more, when all are in use.
    """

    def __init__(self, new: Callable[[], np.ndarray]) -> None:
        self._new = new
        # Each array with the view of it that was handed out, longest ago first: all take turns, and all their pages
        # have been written to early on.
        self._lent: deque[tuple[np.ndarray, weakref.ref[np.ndarray]]] = deque()
        self._lock = threading.Lock()

    def take(self) -> np.ndarray:
        """An array of arbitrary content.

        It is in use as long as tensors or memoryviews made from it; an array made from it does not count, since NumPy
        makes slices of slices refer to the first array.
        """
        with self._lock:
            free = next((number for number, (_, user) in enumerate(self._lent) if user() is None), None)
            if free is None:
                array = self._new()
            else:
                array, _ = self._lent[free]
                del self._lent[free]
            view = array.view()
            self._lent.append((array, weakref.ref(view)))
            return view

    def __len__(self) -> int:
        """How many there are, in use or not."""
        return len(self._lent)

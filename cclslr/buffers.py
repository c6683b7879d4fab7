"""Memory that is used again, not asked for again: what is in use at a time stops growing once it was enough."""

from __future__ import annotations

import threading
import weakref
from collections.abc import Callable

import numpy as np


class Buffers:
    """Arrays alike, each handed out again once nothing looks at it any more. Safe to use from several threads.

    Args:
        new: makes one more, when all are in use.
    """

    def __init__(self, new: Callable[[], np.ndarray]) -> None:
        self._new = new
        self._buffers: list[np.ndarray] = []
        self._users: list[weakref.ref[np.ndarray]] = []  # the view of each that was handed out last
        self._lock = threading.Lock()

    def take(self) -> np.ndarray:
        """An array of arbitrary content.

        It is in use as long as tensors or memoryviews made from it; an array made from it does not count, since NumPy
        makes slices of slices refer to the first array.
        """
        with self._lock:
            free = next((number for number, user in enumerate(self._users) if user() is None), None)
            if free is None:
                free = len(self._buffers)
                self._buffers.append(self._new())
                self._users.append(weakref.ref(self._buffers[free]))
            view = self._buffers[free].view()
            self._users[free] = weakref.ref(view)
            return view

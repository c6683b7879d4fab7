"""Memory that is used again, not asked for again: what is in use at a time stops growing once it was enough."""

from __future__ import annotations

import threading
import weakref
from collections import deque
from collections.abc import Callable, Hashable
from typing import Generic, TypeVar

import numpy as np

T = TypeVar("T")


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


class Kept(threading.local, Generic[T]):
    """Things of this thread alone, by what they are for; of more than `most` the one unused longest is dropped."""

    def __init__(self, most: int) -> None:
        self._most, self._things = most, dict[Hashable, T]()

    def take(self, key: Hashable) -> T | None:
        """The one that was kept, which no longer is; None: there is none."""
        return self._things.pop(key, None)

    def keep(self, key: Hashable, thing: T) -> None:
        self._things[key] = thing
        if len(self._things) > self._most:
            del self._things[next(iter(self._things))]

    def clear(self) -> None:
        self._things.clear()

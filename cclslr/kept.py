"""What a thread uses again and again."""

from __future__ import annotations

import threading
from collections.abc import Hashable
from typing import Generic, TypeVar

T = TypeVar("T")


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

"""The files of one packed data set, on a disk of this machine or elsewhere."""

from __future__ import annotations

import contextlib
import errno
import os
import resource
import stat
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from cclslr.shards.cache import NodeCache
from cclslr.shards.format import BadClip
from cclslr.shards.index import INDEX_NAME, IndexFile, IndexSource
from cclslr.shards.info import DatasetInfo, load_info


class Store(Protocol):
    """Where the bytes of a data set come from. Safe to use from several threads."""

    name: str
    folder: Path | None  # None: not on a disk of this machine

    def load_info(self) -> DatasetInfo:
        """dataset.json, checked."""
        ...

    def index(self) -> IndexSource:
        """index.parquet."""
        ...

    def read(self, shard: str, begin: int, block: memoryview) -> int:
        """Fill `block` from a shard; how much of it, which is all unless the shard ends before.

        Raises:
            BadClip: it cannot be read.
        """
        ...

    def read_again(self, shard: str, begin: int, block: memoryview) -> int:
        """The same once more, after what came was damaged: from the source, not from a copy."""
        ...

    def close(self) -> None:
        """Close what is open; reading opens it again."""
        ...


def open_store(path: str, cache: NodeCache) -> Store:
    """The data set in a folder, or at a URL."""
    if "://" in path:
        from cclslr.shards.remote import RemoteStore

        return RemoteStore(path, cache)
    return FolderStore(path)


class FolderStore:
    """A data set in a folder; shards stay open, as many as one data set may keep of the files a process may open."""

    def __init__(self, path: str) -> None:
        self.name = path
        self.folder: Path | None = Path(path)
        self._folder = self.folder
        self._files: dict[str, _Open] = {}
        self._most = max(resource.getrlimit(resource.RLIMIT_NOFILE)[0] // 8, 8)
        self._lock = threading.Lock()

    def load_info(self) -> DatasetInfo:
        """dataset.json, checked."""
        return load_info(self._folder)

    def index(self) -> IndexSource:
        """index.parquet."""
        return IndexFile(self._folder / INDEX_NAME)

    def read(self, shard: str, begin: int, block: memoryview) -> int:
        """See `Store.read`."""
        filled = 0
        try:
            with self._opened(shard) as descriptor:
                while filled < len(block) and (more := os.preadv(descriptor, [block[filled:]], begin + filled)):
                    filled += more
        except OSError as error:
            raise BadClip(f"{self._folder / shard}: {error.strerror}") from error
        return filled

    read_again = read

    def close(self) -> None:
        """Close the shards."""
        with self._lock:
            self._close_idle()

    @contextlib.contextmanager
    def _opened(self, shard: str) -> Iterator[int]:
        """A descriptor of a shard that nobody closes meanwhile."""
        with self._lock:
            file = self._files.get(shard)
            if file is None:
                if len(self._files) >= self._most:
                    self._close_idle()
                try:
                    descriptor = open_file(self._folder / shard)
                except OSError as error:
                    if error.errno != errno.EMFILE:
                        raise
                    self._close_idle()
                    descriptor = open_file(self._folder / shard)
                file = self._files[shard] = _Open(descriptor)
            file.users += 1
        try:
            yield file.descriptor
        finally:
            with self._lock:
                file.users -= 1

    def _close_idle(self) -> None:
        for shard, file in list(self._files.items()):
            if file.users == 0:
                os.close(file.descriptor)
                del self._files[shard]


@dataclass
class _Open:
    """An open shard, and how many threads are reading from it."""

    descriptor: int
    users: int = 0


def open_file(path: Path) -> int:
    """Open a plain file; waiting for a pipe's other end, or reading from a terminal, would take for ever."""
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise OSError(errno.EINVAL, "is not a plain file")
    return descriptor

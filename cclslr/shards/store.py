"""The files of one packed data set, on a disk of this machine or elsewhere."""

from __future__ import annotations

import os
import threading
from pathlib import Path
from typing import Any, Protocol

from cclslr.files import read_json
from cclslr.shards.cache import NodeCache
from cclslr.shards.format import BadClip

INFO_NAME = "dataset.json"


class Store(Protocol):
    """Where the bytes of a data set come from. Safe to use from several threads."""

    name: str

    def load_info(self) -> dict[str, Any]:
        """dataset.json."""
        ...

    def load(self, name: str) -> bytes:
        """A small file as a whole."""
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
    """A data set in a folder; each shard stays open."""

    def __init__(self, path: str) -> None:
        self.name = path
        self._folder = Path(path)
        self._files: dict[str, int] = {}
        self._lock = threading.Lock()

    def load_info(self) -> dict[str, Any]:
        """dataset.json."""
        path = self._folder / INFO_NAME
        if not path.is_file():
            raise FileNotFoundError(f"{path} is not there: pack the data set with cclslr pack, or let it end")
        return read_json(path)

    def load(self, name: str) -> bytes:
        """A small file as a whole."""
        return (self._folder / name).read_bytes()

    def read(self, shard: str, begin: int, block: memoryview) -> int:
        """See `Store.read`."""
        filled = 0
        try:
            descriptor = self._descriptor(shard)
            while filled < len(block) and (more := os.preadv(descriptor, [block[filled:]], begin + filled)):
                filled += more
        except OSError as error:
            raise BadClip(f"{self._folder / shard}: {error.strerror}") from error
        return filled

    read_again = read

    def close(self) -> None:
        """Close the shards."""
        with self._lock:
            for descriptor in self._files.values():
                os.close(descriptor)
            self._files.clear()

    def _descriptor(self, shard: str) -> int:
        descriptor = self._files.get(shard)
        if descriptor is None:
            with self._lock:
                descriptor = self._files.get(shard)
                if descriptor is None:
                    descriptor = self._files[shard] = os.open(self._folder / shard, os.O_RDONLY | os.O_CLOEXEC)
        return descriptor

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

    def read(self, shard: str, begin: int, size: int) -> bytes:
        """`size` bytes of a shard, fewer where it ends before; BadClip where it cannot be read."""
        ...

    def read_again(self, shard: str, begin: int, size: int) -> bytes:
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
            raise FileNotFoundError(f"{path} is not there: pack the data set with tools/make_shards.py, or let it end")
        return read_json(path)

    def load(self, name: str) -> bytes:
        """A small file as a whole."""
        return (self._folder / name).read_bytes()

    def read(self, shard: str, begin: int, size: int) -> bytes:
        """`size` bytes of a shard."""
        try:
            descriptor = self._descriptor(shard)
            block = os.pread(descriptor, size, begin)
            while len(block) < size and (more := os.pread(descriptor, size - len(block), begin + len(block))):
                block += more
        except OSError as error:
            raise BadClip(f"{self._folder / shard}: {error.strerror}") from error
        return block

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

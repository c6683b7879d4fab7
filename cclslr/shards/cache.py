"""Whole shards of remote data sets on this node's disk, shared by all its processes, within a bound of bytes.

Files are called by their SHA-256: two data sets never mix, and a data set that was packed again is another file.
    <sha256>               a complete, checked shard
    <sha256>.<size>.part   one on its way; whoever downloads it holds a lock on it, and it counts with its full size
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
import re
import stat
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, Any, cast

from cclslr.shards.info import SHA256_PATTERN

CACHE_DIR, CACHE_GB = "~/.cache/cclslr", 200.0  # as in DataConfig
CHUNK = 8 << 20  # bytes of one request of a download
IDLE_SECONDS = 600.0  # a shard that nobody read for so long may make room for another

_OURS = re.compile(SHA256_PATTERN.pattern + r"(\.[0-9]{1,18}\.part)?")

Fetch = Callable[[int, int], bytes]
"""(begin, end) → the bytes of the remote object between them."""


class DamagedObject(Exception):
    """A remote object is not what dataset.json says of it."""


class NodeCache:
    """Shards in a folder; safe to use from many processes and threads at once.

    A shard comes in if there is room or if shards that were idle make room. Shards in use are never evicted: with a
    global shuffle every shard of a data set is equally likely to be wanted next, so throwing one out for another would
    only cost downloads.
    """

    def __init__(self, folder: str | Path, limit: int, idle_seconds: float = IDLE_SECONDS) -> None:
        self.folder = Path(folder).expanduser()
        self.limit = limit
        self.idle_seconds = idle_seconds
        self._touched: dict[str, float] = {}

    def read(self, sha256: str, begin: int, size: int) -> bytes | None:
        """A part of a cached shard; None where it is not cached."""
        path = self._path(sha256)
        try:
            # Opened for each read (10 microseconds): a file kept open would hold its space after eviction.
            with open(path, "rb", buffering=0) as file:
                block = os.pread(file.fileno(), size, begin)
        except OSError:  # not there, or not ours to read: then the server has it
            return None
        now = time.monotonic()
        if now - self._touched.get(sha256, -self.idle_seconds) >= self.idle_seconds / 10:
            self._touched[sha256] = now
            with contextlib.suppress(OSError):
                os.utime(path)
        return block

    def discard(self, sha256: str) -> None:
        """Forget a shard that turned out to be damaged on this disk."""
        with contextlib.suppress(OSError):
            self._path(sha256).unlink()

    def download(self, sha256: str, size: int, fetch: Fetch, stop: threading.Event) -> bool:
        """Bring in a shard, from where an earlier attempt stopped.

        Returns:
            Whether it is here now: not if there is no room, another process is at it, or `stop` was set.

        Raises:
            DamagedObject: what came does not have this size and checksum.
            Exception: whatever `fetch` raises; what has come so far is kept.
        """
        part = self._path(sha256).with_name(f"{sha256}.{size}.part")
        if not self._admit(sha256, size, part):
            return False
        with _locked_part(part) as file:
            if file is None:
                return (self.folder / sha256).exists()
            at = file.seek(0, os.SEEK_END)
            while at < size:
                if stop.is_set():
                    return False
                block = fetch(at, min(at + CHUNK, size))
                if not block or at + len(block) > size:
                    part.unlink()
                    raise DamagedObject(f"it has not the {size} bytes that dataset.json says")
                file.write(block)
                at += len(block)
            file.flush()
            os.fsync(file.fileno())
            file.seek(0)
            if hashlib.file_digest(cast(Any, file), "sha256").hexdigest() != sha256:
                part.unlink()
                raise DamagedObject("it has not the checksum that dataset.json says")
            os.replace(part, self.folder / sha256)
        return True

    def _admit(self, sha256: str, size: int, part: Path) -> bool:
        """Make room and reserve it."""
        with self._locked():
            if part.exists() or (self.folder / sha256).exists():
                return True
            files = {path: found for path in self.folder.iterdir() if (found := _stat(path)) is not None}
            over = sum(_size(path, found) for path, found in files.items()) + size - self.limit
            leave = []
            oldest_first = sorted(files.items(), key=lambda item: item[1].st_mtime)
            for path, found in oldest_first:
                if over <= 0:
                    break
                if time.time() - found.st_mtime >= self.idle_seconds and not _is_locked(path):
                    leave.append(path)
                    over -= _size(path, found)
            if over > 0:
                return False
            for path in leave:
                path.unlink(missing_ok=True)
            part.touch()
            return True

    def _path(self, sha256: str) -> Path:
        """Where a shard is cached; what is no checksum could lead anywhere, and is never made a path."""
        if not SHA256_PATTERN.fullmatch(sha256):
            raise ValueError(f"{sha256!r} is no SHA-256")
        return self.folder / sha256

    @contextlib.contextmanager
    def _locked(self) -> Iterator[None]:
        self.folder.mkdir(parents=True, exist_ok=True)
        with open(self.folder / ".lock", "w") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            yield


def _stat(path: Path) -> os.stat_result | None:
    """Of a file of this cache; whatever else lies in the folder is not ours to count, and never ours to remove."""
    if not _OURS.fullmatch(path.name):
        return None
    try:
        found = path.stat(follow_symlinks=False)
    except FileNotFoundError:
        return None
    return found if stat.S_ISREG(found.st_mode) else None


def _size(path: Path, found: os.stat_result) -> int:
    return int(path.name.split(".")[1]) if path.suffix == ".part" else found.st_size


def _is_locked(path: Path) -> bool:
    """Whether a process is at this file; one that has just been renamed or removed is not ours to remove either."""
    try:
        with open(path, "rb") as file:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except OSError:
        return True
    return False


@contextlib.contextmanager
def _locked_part(part: Path) -> Iterator[IO[bytes] | None]:
    """The part, opened for appending and locked for this process; None where another has it, or has finished it."""
    try:
        file = open(part, "r+b")  # noqa: SIM115
    except FileNotFoundError:
        yield None
        return
    with file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            yield None
            return
        # Between opening and locking, another process may have finished the part, or thrown it out.
        yield file if os.fstat(file.fileno()).st_nlink and part.exists() else None

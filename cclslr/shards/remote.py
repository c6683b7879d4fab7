"""Packed data sets that lie on s3://, gs://, https:// or hf://, through fsspec.

A clip is one range request until its shard is in the node's cache; shards come into the cache in the background, as far
as there is room. So the first batch does not wait for whole shards, and a data set larger than the cache costs a
request a clip, not a shard a clip.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable
from pathlib import Path
from typing import Any

from cclslr.console import console
from cclslr.errors import UserError
from cclslr.shards.cache import DamagedObject, NodeCache
from cclslr.shards.format import BadClip
from cclslr.shards.index import INDEX_NAME, IndexBytes, IndexSource
from cclslr.shards.info import INFO_NAME, DatasetInfo, parse_info

PATIENCE = 300.0  # seconds that a server may be away
_ASK_AGAIN = 60.0  # seconds until a shard that found no room is tried again


class RemoteStore:
    """The files of one remote data set.

    Args:
        url: folder of the data set, such as s3://bucket/shards/wlasl300. Credentials and endpoints are fsspec's matter
            (environment, ~/.aws, ~/.config/fsspec).
        cache: this node's.

    Raises:
        UserError: no such protocol, or its package is not installed.
        FileNotFoundError: no packed data set there.
        UserError: what is asked for is refused, such as for want of credentials; or dataset.json is not as it must be.
        ConnectionError: no answer for `PATIENCE` seconds.
    """

    def __init__(self, url: str, cache: NodeCache) -> None:
        self.name = url.rstrip("/")
        self.folder: Path | None = None
        self._files, self._root = files_at(self.name)
        self._cache = cache
        self._sizes: dict[str, tuple[str, int]] = {}  # name → sha256, bytes
        self._wanted: deque[str] = deque()
        self._not_now: dict[str, float] = {}  # shards that found no room, or are damaged: when to try again
        self._news = threading.Condition()
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None

    def load_info(self) -> DatasetInfo:
        """dataset.json, checked."""
        info = parse_info(self._fetch(INFO_NAME), f"{self.name}/{INFO_NAME}")
        self._sizes = {shard["name"]: (shard["sha256"], shard["bytes"]) for shard in info["shards"]}
        return info

    def index(self) -> IndexSource:
        """index.parquet, fetched when it is read."""
        return IndexBytes(f"{self.name}/{INDEX_NAME}", lambda: self._fetch(INDEX_NAME))

    def read(self, shard: str, begin: int, block: memoryview) -> int:
        """See `Store.read`.

        Raises:
            BadClip: the shard is not there.
            ConnectionError: no answer for `PATIENCE` seconds.
        """
        content = self._cache.read(self._sizes[shard][0], begin, len(block))
        if content is None:
            self._want(shard)
            try:
                content = self._fetch(shard, begin, begin + len(block))
            except FileNotFoundError as error:
                raise BadClip(f"{self.name}/{shard} is not there") from error
        block[: len(content)] = content
        return len(content)

    def read_again(self, shard: str, begin: int, block: memoryview) -> int:
        """The same from the server, after what came first was damaged; the cached shard is thrown away."""
        self._cache.discard(self._sizes[shard][0])
        return self.read(shard, begin, block)

    def close(self) -> None:
        """Stop downloading; what has come is kept, and reading starts it again."""
        self._stop.set()
        with self._news:
            self._news.notify_all()
        if self._thread is not None:
            self._thread.join(timeout=1.0)  # it may be waiting for a server; then it ends on its own
            self._thread = None

    def _fetch(self, name: str, begin: int | None = None, end: int | None = None) -> bytes:
        """Ask until there is an answer."""
        block: bytes = patiently(
            f"{self.name}/{name}", lambda: self._files.cat_file(f"{self._root}/{name}", start=begin, end=end)
        )
        # A web server that knows no ranges sends the whole file.
        return block if begin is None or end is None or len(block) <= end - begin else block[begin:end]

    def _want(self, shard: str) -> None:
        """Have the shard downloaded in the background."""
        with self._news:
            if shard in self._wanted or time.monotonic() < self._not_now.get(shard, 0.0):
                return
            self._wanted.append(shard)
            if self._thread is None:
                self._stop.clear()
                self._thread = threading.Thread(target=self._download_all, name="shards", daemon=True)
                self._thread.start()
            self._news.notify_all()

    def _download_all(self) -> None:
        while not self._stop.is_set():
            with self._news:
                if not self._wanted:
                    self._news.wait()
                    continue
                shard = self._wanted[0]
            pause = _ASK_AGAIN
            try:
                sha256, size = self._sizes[shard]
                self._cache.download(sha256, size, lambda begin, end: self._fetch(shard, begin, end), self._stop)  # noqa: B023
            except DamagedObject as error:
                console.print(f"{self.name}/{shard} is damaged: {error}; its whole clips are still used", style="red")
                pause = float("inf")
            except OSError as error:  # whoever reads clips from this server will say so; a full disk nobody else will
                console.print(f"{self.name}/{shard} cannot be cached: {error}")
            with self._news:
                self._wanted.popleft()
                self._not_now[shard] = time.monotonic() + pause


def files_at(url: str) -> tuple[Any, str]:
    """fsspec's file system of a URL, and the path in it.

    Raises:
        UserError: no such protocol, or its package is not installed.
    """
    from fsspec.core import url_to_fs  # here, because local data sets need none of it

    try:
        files, root = url_to_fs(url)
    except (ValueError, ImportError) as error:
        raise UserError(f"{url}: {error} (pip install 'cclslr[remote]' brings s3, gs, https and hf)") from error
    return files, root


def patiently(what: str, ask: Callable[[], Any]) -> Any:
    """What a server says to `ask`; asked again until there is an answer.

    Raises:
        FileNotFoundError: `what` is not there.
        NotImplementedError: the protocol cannot do it.
        UserError: refused.
        ConnectionError: no answer for `PATIENCE` seconds.
    """
    until, pause = time.monotonic() + PATIENCE, 0.1
    while True:
        try:
            return ask()
        except FileNotFoundError as error:
            raise FileNotFoundError(f"{what} is not there") from error
        except NotImplementedError:
            raise
        except Exception as error:  # each protocol has errors of its own
            if is_final(error):
                raise UserError(f"{what}: {error or type(error).__name__}") from error
            if time.monotonic() + pause > until:
                raise ConnectionError(f"{what}: no answer for {PATIENCE:.0f} s ({error})") from error
            if pause == 0.1:
                console.print(f"{what}: {error}; trying again for {PATIENCE:.0f} s")
        time.sleep(pause)
        pause = min(2 * pause, 10.0)


def is_final(error: Exception) -> bool:
    """Whether asking again cannot help: the server refuses, or this machine lacks what it takes to ask."""
    if isinstance(error, PermissionError | IsADirectoryError | NotADirectoryError | ImportError):
        return True
    if type(error).__name__ in ("NoCredentialsError", "PartialCredentialsError", "InvalidURL"):
        return True
    code = getattr(error, "status", getattr(error, "code", None))  # aiohttp's, gcsfs's
    return isinstance(code, int) and (400 <= code < 500 or code == 501) and code not in (408, 425, 429)

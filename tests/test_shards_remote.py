"""Remote data sets: the same clips, whatever the cache holds and whatever the server does."""

from __future__ import annotations

import contextlib
import functools
import hashlib
import http.server
import os
import pickle
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from object_storage import S3Server

from cclslr.shards import cache as cache_module
from cclslr.shards import remote
from cclslr.shards.cache import DamagedObject, NodeCache
from cclslr.shards.format import BadClip, ManifestRow, RawClip
from cclslr.shards.pack import PackOptions, pack
from cclslr.shards.parts import ClipData
from cclslr.shards.reader import ShardSet

NEVER = threading.Event()


@dataclass(frozen=True)
class Noise:
    number: int

    def load(self) -> RawClip:
        rng = np.random.default_rng(self.number)
        frames = rng.integers(0, 256, (4, 32, 32, 3), dtype=np.uint8)
        return RawClip(frames, rng.uniform(0, 32, (4, 133, 3)).astype(np.float32), 25.0)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("shards") / "set"
    rows = [ManifestRow(f"clip-{n}", Noise(n), n % 3, None, "train", None) for n in range(60)]
    pack(rows, out, PackOptions("jpeg", 32, "none", clips_per_shard=6), workers=0)
    return out


def same(a: ClipData, b: ClipData) -> bool:
    return (a.row, a.video, a.json_text) == (b.row, b.video, b.json_text) and np.array_equal(a.pose_TKC, b.pose_TKC)


def used_bytes(folder: Path) -> int:
    total = 0
    for path in folder.iterdir() if folder.exists() else ():
        with contextlib.suppress(FileNotFoundError):  # a download was finished, and renamed, in between
            total += path.stat().st_size
    return total


# --- the node's cache


def download(cache: NodeCache, data: bytes, fetch: Callable[[int, int], bytes] | None = None) -> bool:
    fetch = fetch or (lambda begin, end: data[begin:end])
    return cache.download(hashlib.sha256(data).hexdigest(), len(data), fetch, NEVER)


def test_a_broken_download_goes_on_where_it_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cache_module, "CHUNK", 100)
    data = os.urandom(1050)
    asked = []

    def fetch(begin: int, end: int) -> bytes:
        asked.append(begin)
        if len(asked) == 5:
            raise OSError("the line is cut")
        return data[begin:end]

    with pytest.raises(OSError, match="cut"):
        download(NodeCache(tmp_path, 2000), data, fetch)
    sha256 = hashlib.sha256(data).hexdigest()
    cache = NodeCache(tmp_path, 2000)  # as another process would
    assert cache.read(sha256, 0, 10) is None
    assert download(cache, data, fetch)
    assert asked == [0, 100, 200, 300, 400, 400, 500, 600, 700, 800, 900, 1000]
    assert cache.read(sha256, 137, 500) == data[137:637]


@pytest.mark.parametrize("fault", ["bit", "short", "long"])
def test_damaged_objects_are_not_kept(tmp_path: Path, fault: str) -> None:
    data = os.urandom(500)
    wrong = {"bit": bytes([data[0] ^ 1]) + data[1:], "short": data[:-1], "long": data + b"x"}[fault]
    cache = NodeCache(tmp_path, 2000)
    with pytest.raises(DamagedObject):
        download(cache, data, lambda begin, end: wrong[begin:end] if fault != "long" else wrong[begin:])
    assert used_bytes(tmp_path) == 0


def test_the_bound_holds_and_only_idle_shards_make_room(tmp_path: Path) -> None:
    shards = [os.urandom(400) for _ in range(4)]
    names = [hashlib.sha256(data).hexdigest() for data in shards]
    cache = NodeCache(tmp_path, 1000, idle_seconds=100)
    assert download(cache, shards[0])
    assert download(cache, shards[1])
    assert not download(cache, shards[2])
    for name, age in zip(names[:2], (200, 300)):
        os.utime(tmp_path / name, (time.time() - age,) * 2)
    assert cache.read(names[1], 0, 4) == shards[1][:4]  # the older of the two is in use again
    assert download(cache, shards[2])
    assert cache.read(names[0], 0, 4) is None
    assert cache.read(names[1], 0, 4) == shards[1][:4]
    assert not download(cache, shards[3])
    assert not download(NodeCache(tmp_path, 300), shards[3])
    assert used_bytes(tmp_path) == 800


def test_a_shard_on_its_way_counts_in_full(tmp_path: Path) -> None:
    cache = NodeCache(tmp_path, 1000)
    data = os.urandom(700)

    def fetch(begin: int, end: int) -> bytes:
        assert not download(cache, os.urandom(400))
        assert download(cache, b"x" * 300)
        return data[begin:end]

    assert download(cache, data, fetch)


def test_two_ranks_fetch_a_shard_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cache_module, "CHUNK", 10)
    data = os.urandom(300)
    asked: list[int] = []

    def fetch(begin: int, end: int) -> bytes:
        asked.append(begin)
        time.sleep(0.002)
        return data[begin:end]

    with ThreadPoolExecutor(4) as ranks:
        list(ranks.map(lambda _: download(NodeCache(tmp_path, 1000), data, fetch), range(4)))
    assert asked == list(range(0, 300, 10))


# --- a web server that knows no ranges


@pytest.fixture
def web(folder: Path) -> Iterator[str]:
    pytest.importorskip("aiohttp")

    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *_: object) -> None:
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Quiet, directory=str(folder)))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_address[1]}"
    server.shutdown()
    server.server_close()


def test_http_reads_like_local(web: str, folder: Path, tmp_path: Path) -> None:
    local = ShardSet([str(folder)])
    for cache_gb in (0.0, 1.0):
        shards = ShardSet([web], cache_dir=str(tmp_path / str(cache_gb)), cache_gb=cache_gb)
        assert all(same(shards.read(n), local.read(n)) for n in range(0, 60, 7))
        shards.close()
    with pytest.raises(FileNotFoundError, match="nowhere"):
        ShardSet([web + "/nowhere"], cache_dir=str(tmp_path))
    with pytest.raises(ValueError, match="gopher"):
        ShardSet(["gopher://somewhere/set"], cache_dir=str(tmp_path))


# --- a real S3 server in a process of its own


@pytest.fixture(scope="module")
def s3(folder: Path) -> Iterator[S3Server]:
    pytest.importorskip("boto3")
    pytest.importorskip("moto.server")
    import fsspec

    s3fs = pytest.importorskip("s3fs")
    server = S3Server()
    for path in folder.iterdir():
        server.put(f"set/{path.name}", path.read_bytes())
    server.start()
    fsspec.config.conf["s3"] = {"endpoint_url": server.url, "key": "test", "secret": "test"}
    s3fs.S3FileSystem.clear_instance_cache()
    yield server
    del fsspec.config.conf["s3"]
    if server._process is not None:
        server.stop()


URL = "s3://bucket/set"


def epoch(shards: ShardSet, seed: int) -> Iterator[tuple[int, ClipData]]:
    """All clips once in random order, by four threads."""
    order = np.random.default_rng(seed).permutation(len(shards)).tolist()
    with ThreadPoolExecutor(4) as pool:
        yield from zip(order, pool.map(shards.read, order))


def wait_until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_epoch_with_a_cache_smaller_than_the_data_set(s3: S3Server, folder: Path, tmp_path: Path) -> None:
    local = ShardSet([str(folder)])
    total = sum(shard["bytes"] for shard in local.info["shards"])
    limit = int(0.45 * total)
    shards = ShardSet([URL], cache_dir=str(tmp_path), cache_gb=limit / 1e9)
    assert shards.rows == local.rows
    for seed in (0, 1):
        count = 0
        for n, clip in epoch(shards, seed):
            assert same(clip, local.read(n))
            assert used_bytes(tmp_path) <= limit
            count += 1
        assert count == 60
    wait_until(lambda: len([path for path in tmp_path.iterdir() if len(path.name) == 64]) == 4)
    for n, clip in epoch(pickle.loads(pickle.dumps(shards)), 2):  # another rank, now from the cache too
        assert same(clip, local.read(n))
    shards.close()


def test_server_stopped_and_started_in_between(s3: S3Server, folder: Path, tmp_path: Path) -> None:
    local = ShardSet([str(folder)])
    shards = ShardSet([URL], cache_dir=str(tmp_path), cache_gb=1e-4)
    begun, stopped, away = [0], threading.Event(), threading.Event()

    def restart() -> None:
        away.wait()
        s3.stop()
        stopped.set()
        time.sleep(1.0)
        s3.start()

    def read(n: int) -> ClipData:
        begun[0] += 1
        if begun[0] > 20:  # these find the server gone
            away.set()
            stopped.wait()
        return shards.read(n)

    helper = threading.Thread(target=restart)
    helper.start()
    order = np.random.default_rng(0).permutation(len(shards)).tolist()
    with ThreadPoolExecutor(4) as pool:
        assert all(same(clip, local.read(n)) for n, clip in zip(order, pool.map(read, order)))
    helper.join()
    assert stopped.is_set()
    shards.close()


def test_server_that_stays_away_is_an_error_and_no_bad_clip(
    s3: S3Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shards = ShardSet([URL], cache_dir=str(tmp_path), cache_gb=0.0)
    monkeypatch.setattr(remote, "PATIENCE", 0.5)
    s3.stop()
    try:
        with pytest.raises(ConnectionError, match=rf"{URL}.*no answer"):
            shards.read(0)
    finally:
        s3.start()
        shards.close()


def test_corrupted_objects_are_noticed(s3: S3Server, folder: Path, tmp_path: Path) -> None:
    local = ShardSet([str(folder)])
    row = local.rows[0]
    whole = (folder / row.shard).read_bytes()
    damaged = bytearray(whole)
    damaged[row.components["mjpg"].offset + 50] ^= 1
    s3.put(f"set/{row.shard}", bytes(damaged))
    try:
        shards = ShardSet([URL], cache_dir=str(tmp_path), cache_gb=1.0)
        with pytest.raises(BadClip, match=rf"{URL}/{row.shard}: clip {row.key}: mjpg"):
            shards.read(0)
        assert shards.read(0, ("pose",)).pose_TKC is not None
        neighbours = [n for n, other in enumerate(local.rows) if other.shard == row.shard and n]
        assert all(same(shards.read(n), local.read(n)) for n in neighbours)
        store = shards._stores[0]
        assert isinstance(store, remote.RemoteStore)
        wait_until(lambda: row.shard in store._not_now)
        shards.close()
        assert not (tmp_path / local.info["shards"][0]["sha256"]).exists()
    finally:
        s3.put(f"set/{row.shard}", whole)


def test_damage_in_the_cache_is_healed_from_the_server(s3: S3Server, folder: Path, tmp_path: Path) -> None:
    local = ShardSet([str(folder)])
    shards = ShardSet([URL], cache_dir=str(tmp_path), cache_gb=1.0)
    cached = tmp_path / local.info["shards"][0]["sha256"]
    shards.read(0)
    wait_until(cached.exists)
    cached.write_bytes(b"\0" * cached.stat().st_size)
    assert same(shards.read(0), local.read(0))
    shards.close()

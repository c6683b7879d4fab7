"""What a data set says of itself is checked before anything is done with it, wherever it lies."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import fsspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from test_shards_reader import rows

from cclslr.errors import UserError
from cclslr.masking.methods import MpmOptions
from cclslr.masking.rewrite import plan as plan_masks
from cclslr.masking.settings import MaskSettings
from cclslr.shards import remote
from cclslr.shards.cache import NodeCache
from cclslr.shards.format import Component
from cclslr.shards.index import read_index, write_index
from cclslr.shards.info import load_info, parse_info
from cclslr.shards.pack import PackOptions, pack
from cclslr.shards.reader import ShardSet
from cclslr.shards.verify import plan_checks

DELETE = object()


@pytest.fixture(scope="module")
def packed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("packed") / "set"
    pack(rows(10), out, PackOptions("jpeg", 32, "none", clips_per_shard=2), workers=0)
    return out


@pytest.fixture
def folder(packed: Path, tmp_path: Path) -> Path:
    """A data set of five shards that a test may damage."""
    return Path(shutil.copytree(packed, tmp_path / "set"))


def change(folder: Path, path: str, value: Any) -> None:
    """Set what stands at a place such as shards.0.name of dataset.json."""
    info = json.loads((folder / "dataset.json").read_text())
    node: Any = info
    *way, last = [int(word) if word.isdigit() else word for word in path.split(".")]
    for word in way:
        node = node[word]
    if value is DELETE:
        del node[last]
    else:
        node[last] = value
    (folder / "dataset.json").write_text(json.dumps(info))


def change_index(folder: Path, **values: Any) -> None:
    """Give the first clip other values, and make the index's checksum fit."""
    first, *others = read_index(folder / "index.parquet")
    write_index(folder / "index.parquet", [replace(first, **values), *others])
    change(folder, "index_sha256", hashlib.sha256((folder / "index.parquet").read_bytes()).hexdigest())


def read_locally(folder: Path) -> None:
    ShardSet([str(folder)])


def read_remotely(folder: Path) -> None:
    memory = fsspec.filesystem("memory")
    for path in folder.iterdir():
        memory.pipe(f"/info/{path.name}", path.read_bytes())
    ShardSet(["memory://info"], cache_dir=str(folder.parent / "cache"))


WAYS: dict[str, Callable[[Path], object]] = {
    "local": read_locally,
    "remote": read_remotely,
    "check": lambda folder: plan_checks(folder, decode=False),
    "masks": lambda folder: plan_masks(folder, MaskSettings(MpmOptions(method="temporal_std")), "0" * 8),
}


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        ("shards.0.sha256", "/etc/passwd", "sha256 of shard-00000.tar is no SHA-256"),
        ("shards.0.sha256", "A" * 64, "no SHA-256"),
        ("shards.0.sha256", "a" * 64 + "\n", "no SHA-256"),
        ("shards.0.sha256", None, r"shards\[0\].sha256 is 'None'"),
        ("shards.0.name", "../victim.tar", "'../victim.tar' is no name of a shard"),
        ("shards.0.name", "/victim.tar", "no name of a shard"),
        ("shards.0.name", "shard-00001.tar", "a shard is listed twice"),
        ("shards.0.bytes", -1, "size below 0"),
        ("shards.0.bytes", True, "bytes is 'True'"),
        ("shards.0", 5, r"shards\[0\] is no shard"),
        ("shards", None, "shards is 'None'"),
        ("index_sha256", "0", "index_sha256 is no SHA-256"),
        ("content_hash", DELETE, "content_hash is no SHA-256"),
        ("format_version", 99, "format version 99, this program reads 1"),
        *((key, DELETE, f"{key} is missing") for key in ("clips", "classes", "shards", "codec", "size", "crop")),
        ("classes", [1], "classes are no texts"),
        ("clips", {"train": -3}, "clips are no counts"),
    ],
)
def test_a_bad_dataset_json_is_one_line(folder: Path, way: str, path: str, value: Any, message: str) -> None:
    change(folder, path, value)
    with pytest.raises(UserError, match=rf"dataset.json: .*{message}"):
        WAYS[way](folder)


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"shard": "../victim.tar"}, "'../victim.tar' is no name of a shard"),
        ({"key": "../victim"}, "key is ../victim"),
        ({"fps": float("nan")}, "fps is nan"),
        ({"split": "dev"}, "split is dev"),
        ({"label": -2}, "label is -2"),
        ({"components": {"mp4": Component(-512, 10, 0)}}, "components.offset is -512"),
        ({"components": {"mp4": Component(512, -10, 0)}}, "components.size is -10"),
        ({"signer": None}, "signer is missing in 1 places"),
    ],
)
def test_a_bad_index_is_one_line(folder: Path, way: str, values: dict[str, Any], message: str) -> None:
    change_index(folder, **values)
    with pytest.raises(UserError, match=rf"index.parquet: {message}"):
        WAYS[way](folder)


@pytest.mark.parametrize("way", ["local", "remote"])
@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"components": {}}, "has no component"),
        ({"shard": "shard-00009.tar"}, "in shard-00009.tar, which dataset.json lacks"),
        ({"components": {"mp4": Component(512, 1 << 60, 0)}}, "beyond the end of shard-00000.tar"),
    ],
)
def test_a_clip_that_lies_nowhere_is_refused(folder: Path, way: str, values: dict[str, Any], message: str) -> None:
    change_index(folder, **values)
    with pytest.raises(UserError, match=message):
        WAYS[way](folder)


JUNK = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
)


@settings(max_examples=300)
@given(junk=JUNK, place=st.sampled_from(["all", "shard", "bytes", "shards", "clips", "classes", "codec", "masks"]))
def test_whatever_stands_there_it_is_read_or_refused(junk: Any, place: str) -> None:
    sha = "a" * 64
    shard = {"name": "a.tar", "clips": 1, "bytes": 1, "sha256": sha}
    info: Any = {
        "format_version": 1, "clips": {"train": 1}, "classes": ["a"], "content_hash": sha, "index_sha256": sha,
        "shards": [shard], "codec": "jpeg", "size": 32, "crop": "none", "quality": 90, "masks": None,
    }  # fmt: skip
    assert parse_info(json.dumps(info).encode(), "x") == info
    if place == "all":
        info = junk
    elif place == "shard":
        info["shards"] = [junk]
    elif place == "bytes":
        shard["bytes"] = junk
    else:
        info[place] = junk
    with contextlib.suppress(UserError):
        assert parse_info(json.dumps(info).encode(), "x") == info


def test_a_remote_checksum_never_reaches_a_file_of_the_user(folder: Path, tmp_path: Path) -> None:
    """An absolute "sha256" once unlinked the file that it named."""
    precious = tmp_path / "precious"
    precious.write_text("mine")
    change(folder, "shards.0.sha256", str(precious))
    with pytest.raises(UserError, match="no SHA-256"):
        read_remotely(folder)
    cache = NodeCache(tmp_path / "cache", 1000)
    for name in (str(precious), "../precious"):
        for use in (cache.discard, lambda name: cache.read(name, 0, 1)):
            with pytest.raises(ValueError, match="no SHA-256"):
                use(name)
    assert precious.read_text() == "mine"


def test_the_cache_leaves_files_of_others_alone(tmp_path: Path) -> None:
    """A cache_dir that holds other things too: they are neither counted nor removed, whatever they are called."""
    for name in ("x.part", "letter.txt", f"{'a' * 64}.x.part", "b" * 63):
        (tmp_path / name).write_bytes(b"x" * 2000)
        os.utime(tmp_path / name, (0, 0))
    (tmp_path / ("c" * 64)).mkdir()
    old = tmp_path / ("d" * 64)
    old.write_bytes(b"y" * 900)
    os.utime(old, (0, 0))
    content = b"z" * 500
    sha256 = hashlib.sha256(content).hexdigest()
    cache = NodeCache(tmp_path, 1000)
    assert cache.download(sha256, len(content), lambda begin, end: content[begin:end], remote.threading.Event())
    assert not old.exists()  # it made room
    assert {path.name for path in tmp_path.iterdir()} == {
        ".lock", sha256, "x.part", "letter.txt", f"{'a' * 64}.x.part", "b" * 63, "c" * 64
    }  # fmt: skip


def test_a_cached_shard_that_is_a_folder_is_read_from_the_server(folder: Path, tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    for shard in load_info(folder)["shards"]:
        (cache / shard["sha256"]).mkdir(parents=True)
    memory = fsspec.filesystem("memory")
    for path in folder.iterdir():
        memory.pipe(f"/folder/{path.name}", path.read_bytes())
    shards, local = ShardSet(["memory://folder"], cache_dir=str(cache)), ShardSet([str(folder)])
    for n in range(len(local)):
        assert shards.read(n).video == local.read(n).video
    shards.close()


class Forbidden(Exception):
    """As aiohttp and gcsfs raise it."""

    def __init__(self, status: int) -> None:
        super().__init__(f"status {status}")
        self.status = status


@pytest.mark.parametrize(
    ("error", "final"),
    [
        (PermissionError("403"), True), (Forbidden(401), True), (Forbidden(404), True), (Forbidden(429), False),
        (Forbidden(503), False), (IsADirectoryError("x"), True), (ImportError("aiohttp"), True),
        (TimeoutError(), False), (ConnectionResetError(), False),
    ],
)  # fmt: skip
def test_errors_that_will_not_pass_end_at_once(
    folder: Path, monkeypatch: pytest.MonkeyPatch, error: Exception, final: bool
) -> None:
    asked: list[str] = []

    def fail(path: str, **_: Any) -> bytes:
        asked.append(path)
        raise error

    monkeypatch.setattr(remote, "PATIENCE", 0.3)
    store = remote.RemoteStore("memory://refused", NodeCache(folder.parent / "cache", 10))
    monkeypatch.setattr(store, "_files", type("Files", (), {"cat_file": staticmethod(fail)}))
    began = time.monotonic()
    with pytest.raises(UserError if final else ConnectionError, match=r"memory://refused/dataset\.json"):
        store.load_info()
    assert (len(asked) == 1) == final
    assert final or time.monotonic() - began > 0.1

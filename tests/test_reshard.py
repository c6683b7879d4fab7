"""Packed sets into others: the same clips, the same bytes, without decoding."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest

from cclslr.commands.pack import main
from cclslr.errors import ExitCode, UserError
from cclslr.shards import reshard as module
from cclslr.shards.format import ManifestRow, RawClip
from cclslr.shards.pack import PackOptions, pack
from cclslr.shards.reader import ShardSet
from cclslr.shards.reshard import reshard
from cclslr.shards.verify import check_shard, plan_checks


@dataclass(frozen=True)
class Noise:
    number: int

    def load(self) -> RawClip:
        rng = np.random.default_rng(self.number)
        frames = rng.integers(0, 256, (3 + self.number % 3, 32, 32, 3), dtype=np.uint8)
        return RawClip(frames, rng.uniform(0, 32, (len(frames), 133, 3)).astype(np.float32), 25.0, {"n": self.number})


OPTIONS = PackOptions("jpeg", 32, "none", clips_per_shard=7)


def rows(numbers: range, glosses: str = "abc") -> list[ManifestRow]:
    splits = ("train", "val", "test")
    return [
        ManifestRow(f"c{n}", Noise(n), n % len(glosses), glosses[n % len(glosses)], splits[n % 3], f"s{n % 4}")
        for n in numbers
    ]


@pytest.fixture(scope="module")
def packed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("packed")
    pack(rows(range(20)), folder / "a", OPTIONS, workers=0)
    pack(rows(range(100, 111), "cxa"), folder / "b", OPTIONS, workers=0)
    return folder


def faults(folder: Path) -> list[object]:
    tasks, found = plan_checks(folder, decode=True)
    return [*found, *(fault for task in tasks for fault in check_shard(task).faults)]


@pytest.mark.parametrize("per_shard", [1, 3, 7, 20, 1000])
def test_it_is_the_set_that_packing_would_have_made(packed: Path, tmp_path: Path, per_shard: int) -> None:
    result = reshard([str(packed / "a")], tmp_path / "dealt", per_shard, workers=0)
    anew = pack(rows(range(20)), tmp_path / "packed", replace(OPTIONS, clips_per_shard=per_shard), workers=0)
    assert result.info["content_hash"] == anew.info["content_hash"]
    assert result.info["index_sha256"] == anew.info["index_sha256"]
    assert result.info["classes"] == anew.info["classes"]
    assert result.info["clips"] == anew.info["clips"]
    assert faults(tmp_path / "dealt") == []


def test_two_sets_become_one(packed: Path, tmp_path: Path) -> None:
    sources = [str(packed / "a"), str(packed / "b")]
    result = reshard(sources, tmp_path / "both", 6, workers=0)
    assert result.clips == 31
    assert faults(tmp_path / "both") == []
    before, after = ShardSet(sources), ShardSet([str(tmp_path / "both")])
    assert after.classes == ["a", "b", "c", "x"]
    places = after.rows.find([row.key for row in before.rows])
    for clip_id, row in enumerate(before.rows):
        other = after.rows[places[row.key]]
        assert after.classes[other.label] == before.classes[row.label]
        kept = ("split", "signer", "num_frames", "width", "height", "fps", "frame_offsets")
        assert all(getattr(row, name) == getattr(other, name) for name in kept)
        old, new = before.read_bytes(clip_id), after.read_bytes(places[row.key])
        assert {**old, "json": b""} == {**new, "json": b""}
        meta = after.read(places[row.key]).meta
        assert {**before.read(clip_id).meta, "label": None} == {**meta, "label": None}
        assert meta["label"] == other.label
    origin = result.info["settings"]["from"]
    assert [each["content_hash"] for each in origin] == [info["content_hash"] for info in before.infos]


def test_the_same_key_twice_needs_a_prefix(packed: Path, tmp_path: Path) -> None:
    twin = tmp_path / "twin"
    pack(rows(range(5)), twin, OPTIONS, workers=0)
    with pytest.raises(UserError, match=r"clip c\d is in two of the sets; --prefix"):
        reshard([str(packed / "a"), str(twin)], tmp_path / "out", 6, workers=0)
    reshard([str(packed / "a"), str(twin)], tmp_path / "out", 6, prefix=True, workers=0)
    keys = {row.key for row in ShardSet([str(tmp_path / "out")]).rows}
    assert keys == {f"a-c{n}" for n in range(20)} | {f"twin-c{n}" for n in range(5)}
    assert faults(tmp_path / "out") == []


def test_it_goes_on_where_it_was_stopped(packed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = reshard([str(packed / "a")], tmp_path / "whole", 4, workers=0)
    build = module.build_from_packed

    def stop_at_the_third(task: module.ReshardTask) -> object:
        if task.name == "shard-00002.tar":
            raise KeyboardInterrupt
        return build(task)

    with monkeypatch.context() as patch:
        patch.setattr(module, "build_from_packed", stop_at_the_third)
        with pytest.raises(KeyboardInterrupt):
            reshard([str(packed / "a")], tmp_path / "out", 4, workers=0)
    result = reshard([str(packed / "a")], tmp_path / "out", 4, workers=0)
    assert result.shards_reused == 2
    assert result.info["content_hash"] == whole.info["content_hash"]
    (tmp_path / "out" / "shard-00001.tar").write_bytes(b"damaged")
    mended = reshard([str(packed / "a")], tmp_path / "out", 4, workers=0)
    assert mended.info["content_hash"] == whole.info["content_hash"]
    with pytest.raises(UserError, match="already holds a data set of other clips"):
        reshard([str(packed / "b")], tmp_path / "out", 4, workers=0)
    with pytest.raises(UserError, match="into itself"):
        reshard([str(packed / "b")], packed / "b", 4, workers=0)


def test_a_damaged_clip_is_left_out_and_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pack(rows(range(6)), tmp_path / "set", OPTIONS, workers=0)
    shards = ShardSet([str(tmp_path / "set")])
    row, path = shards.rows[2], shards.path(2)
    data = bytearray(path.read_bytes())
    data[row.components["mjpg"].offset + 50] ^= 1
    path.write_bytes(data)
    code = main(["--from", str(tmp_path / "set"), "--out", str(tmp_path / "out"), "--clips-per-shard", "4"])
    assert code == ExitCode.SOME_BAD
    assert "5 clips packed in 2 shards, 1 rejected" in " ".join(capsys.readouterr().out.split())
    assert row.key not in {row.key for row in ShardSet([str(tmp_path / "out")]).rows}
    assert f"clip {row.key}: mjpg: the checksum" in (tmp_path / "out" / "rejected.csv").read_text()


def test_sets_that_are_packed_otherwise_are_refused(packed: Path, tmp_path: Path) -> None:
    pack(rows(range(30, 34)), tmp_path / "set", replace(OPTIONS, size=16), workers=0)
    with pytest.raises(UserError, match=r"set is packed with size=16, .*a with 32"):
        reshard([str(packed / "a"), str(tmp_path / "set")], tmp_path / "out", 4, workers=0)


def test_workers_make_the_same(packed: Path, tmp_path: Path) -> None:
    sources = [str(packed / "a"), str(packed / "b")]
    one = reshard(sources, tmp_path / "one", 3, workers=0)
    two = reshard(sources, tmp_path / "two", 3, workers=2)
    assert one.info["content_hash"] == two.info["content_hash"]

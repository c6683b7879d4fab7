"""Packing: what is refused, what is the same, what stock readers see."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cclslr.errors import ExitCode
from cclslr.files import read_json
from cclslr.shards.format import BadClip, ManifestRow, RawClip
from cclslr.shards.pack import PackOptions, pack, read_rejected
from cclslr.shards.reader import ShardSet
from cclslr.shards.verify import check_shard, plan_checks

ROOT = Path(__file__).parents[1]


@dataclass(frozen=True)
class Noise:
    """A clip of noise, or one of the ways in which clips are bad."""

    number: int
    fault: str = ""

    def load(self) -> RawClip:
        rng = np.random.default_rng(self.number)
        length = 3 + self.number % 3
        frames = rng.integers(0, 256, (length, 32, 32, 3), dtype=np.uint8)
        pose = rng.uniform(0, 32, (length, 133, 3)).astype(np.float32)
        if self.fault == "unreadable":
            raise BadClip("unreadable video: of no use")
        if self.fault == "empty":
            frames = frames[:0]
        if self.fault == "pose length":
            pose = pose[1:]
        if self.fault == "pose shape":
            pose = pose[:, :75]
        if self.fault == "nothing":
            return RawClip(None, None, 25.0)
        return RawClip(frames, pose, 25.0)


def rows(count: int) -> list[ManifestRow]:
    return [ManifestRow(f"clip-{n}", Noise(n), n % 3, f"sign {n % 3}", "train", None) for n in range(count)]


OPTIONS = PackOptions("jpeg", 32, "none", clips_per_shard=7)


def test_every_bad_clip_is_listed_with_its_reason_and_the_rest_goes_on(tmp_path: Path) -> None:
    good = rows(10)
    bad = {
        "unreadable video": ManifestRow("u", Noise(50, "unreadable"), 0, "a", "train", None),
        "the video has no frame": ManifestRow("e", Noise(51, "empty"), 0, "a", "train", None),
        "the pose has 4 frames, the video 5": ManifestRow("l", Noise(53, "pose length"), 0, "a", "train", None),
        "keypoints have shape": ManifestRow("k", Noise(54, "pose shape"), 0, "a", "train", None),
        "neither video nor pose": ManifestRow("n", Noise(55, "nothing"), 0, "a", "train", None),
        "duplicate key": replace(good[3], source=Noise(99)),
        "no label": replace(good[0], key="m", label=None),
        "negative label": replace(good[0], key="neg", label=-2),
        "characters outside": replace(good[0], key="a.b"),
        "longer than": replace(good[0], key="a" * 100),
        "unknown split": replace(good[0], key="s", split="dev"),
    }
    report = pack([*good, *bad.values()], tmp_path / "set", OPTIONS, workers=0)
    reasons = {item.key: item.reason for item in read_rejected(tmp_path / "set")}
    assert len(reasons) == len(report.rejected) == len(bad) == report.info["rejected"]
    for reason, row in bad.items():
        assert reason in reasons[row.key], row.key
    shards = ShardSet([str(tmp_path / "set")])
    assert sorted(row.key for row in shards.rows) == sorted(row.key for row in good)
    kept = next(n for n, row in enumerate(shards.rows) if row.key == "clip-3")
    assert shards.read(kept).row.num_frames == 3  # the first of the two that share the key


def test_unlabelled_clips_are_packed_when_asked_for(tmp_path: Path) -> None:
    unlabelled = [replace(row, label=None, gloss=None) for row in rows(4)]
    pack(unlabelled, tmp_path / "set", replace(OPTIONS, allow_unlabelled=True), workers=0)
    shards = ShardSet([str(tmp_path / "set")])
    assert {row.label for row in shards.rows} == {-1}
    assert shards.classes == []


def test_same_input_same_bytes_whatever_the_workers_and_the_order(tmp_path: Path) -> None:
    pack(rows(20), tmp_path / "a", OPTIONS, workers=0)
    pack(rows(20)[::-1], tmp_path / "b", OPTIONS, workers=2)
    for name in ("index.parquet", *(path.name for path in (tmp_path / "a").glob("shard-*"))):
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes(), name
    a, b = (read_json(tmp_path / name / "dataset.json") for name in "ab")
    assert a["content_hash"] == b["content_hash"]
    changed = rows(20)
    changed[7] = replace(changed[7], source=Noise(1000))
    pack(changed, tmp_path / "c", OPTIONS, workers=0)
    c = read_json(tmp_path / "c" / "dataset.json")
    assert c["content_hash"] != a["content_hash"]
    assert sum(x != y for x, y in zip(a["shards"], c["shards"])) == 1


def test_shards_are_balanced_and_each_a_fair_sample(tmp_path: Path) -> None:
    ordered = [replace(row, label=n // 100) for n, row in enumerate(rows(300))]  # sorted by class, as lists are
    report = pack(ordered, tmp_path / "set", replace(OPTIONS, clips_per_shard=64), workers=0)
    counts = [shard["clips"] for shard in report.info["shards"]]
    assert max(counts) - min(counts) <= 1
    for name in {row.shard for row in ShardSet([str(tmp_path / "set")]).rows}:
        labels = [row.label for row in ShardSet([str(tmp_path / "set")]).rows if row.shard == name]
        assert min(labels.count(label) for label in range(3)) >= 0.15 * len(labels)


def test_a_second_run_does_nothing_and_other_settings_are_refused(tmp_path: Path) -> None:
    first = pack(rows(10), tmp_path / "set", OPTIONS, workers=0)
    stamps = {path.name: path.stat().st_mtime_ns for path in (tmp_path / "set").iterdir()}
    second = pack(rows(10), tmp_path / "set", OPTIONS, workers=0)
    assert second.info == first.info
    assert second.shards_reused == 2
    assert stamps == {path.name: path.stat().st_mtime_ns for path in (tmp_path / "set").iterdir()}
    with pytest.raises(ValueError, match="other clips or settings"):
        pack(rows(10), tmp_path / "set", replace(OPTIONS, quality=50), workers=0)
    with pytest.raises(ValueError, match="other clips or settings"):
        pack(rows(11), tmp_path / "set", OPTIONS, workers=0)


@dataclass(frozen=True)
class Breaks(Noise):
    """Fails as a program does, not as a clip does."""

    def load(self) -> RawClip:
        raise RuntimeError("a fault of the program")


def test_an_interrupted_run_continues_with_what_is_missing(tmp_path: Path) -> None:
    whole = pack(rows(20), tmp_path / "whole", OPTIONS, workers=0)
    order = [row.key for row in ShardSet([str(tmp_path / "whole")]).rows]
    broken = [replace(row, source=Breaks(0)) if row.key == order[-1] else row for row in rows(20)]
    out = tmp_path / "set"
    with pytest.raises(RuntimeError):
        pack(broken, out, OPTIONS, workers=0)
    assert not (out / "dataset.json").exists()
    (out / ".shard-00001.tar.123.tmp").write_bytes(b"left by a killed process")
    (out / "shard-00077.tar").write_bytes(b"of another plan")
    done = {path.name: path.stat().st_mtime_ns for path in out.glob("shard-0000*.tar")}
    assert 0 < len(done) < 3
    report = pack(rows(20), out, OPTIONS, workers=0)
    assert report.info["content_hash"] == whole.info["content_hash"]
    assert report.shards_reused == len(done)
    assert all((out / name).stat().st_mtime_ns == stamp for name, stamp in done.items())
    assert sorted(path.name for path in out.iterdir()) == sorted(path.name for path in (tmp_path / "whole").iterdir())


@given(st.lists(st.from_regex(r"[A-Za-z0-9_-]{1,91}", fullmatch=True), min_size=1, max_size=6, unique=True),
       st.integers(1, 5))  # fmt: skip
@settings(max_examples=6, deadline=None)
def test_any_key_survives(keys: list[str], clips_per_shard: int) -> None:
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        clips = [ManifestRow(key, Noise(n), 0, "ç☃", "test", "ß") for n, key in enumerate(keys)]
        pack(clips, folder, replace(OPTIONS, clips_per_shard=clips_per_shard), workers=0)
        shards = ShardSet([folder])
        numbers = {key: n for n, key in enumerate(keys)}
        assert sorted(row.key for row in shards.rows) == sorted(keys)
        for n, row in enumerate(shards.rows):
            assert shards.read(n).row.num_frames == 3 + numbers[row.key] % 3
            assert shards.read(n).meta["gloss"] == "ç☃"
        tasks, faults = plan_checks(folder, decode=True)
        assert not faults
        assert not any(check_shard(task).faults for task in tasks)


def test_webdatasets_own_loader_reads_a_shard(tmp_path: Path) -> None:
    import webdataset

    pack(rows(10), tmp_path / "set", OPTIONS, workers=0)
    shards = ShardSet([str(tmp_path / "set")])
    paths = [str(path) for path in sorted((tmp_path / "set").glob("*.tar"))]
    samples = list(webdataset.WebDataset(paths, shardshuffle=False, empty_check=False))
    assert [sample["__key__"] for sample in samples] == [row.key for row in shards.rows]
    for n, sample in enumerate(samples):
        assert sample["mjpg"] == shards.read(n).video
        assert json.loads(sample["json"]) == shards.read(n).meta


def test_dalis_stock_reader_reads_a_shard_by_its_index(tmp_path: Path) -> None:
    dali = pytest.importorskip("nvidia.dali")
    pack(rows(10), tmp_path / "set", OPTIONS, workers=0)
    shards = ShardSet([str(tmp_path / "set")])
    paths = sorted((tmp_path / "set").glob("*.tar"))

    @dali.pipeline_def(batch_size=10, num_threads=1, device_id=None)
    def graph() -> tuple:
        mjpg, pose, text = dali.fn.readers.webdataset(
            paths=[str(path) for path in paths],
            index_paths=[str(path.with_suffix(".idx")) for path in paths],
            ext=["mjpg", "pose.npy", "json"],
            missing_component_behavior="error",
        )
        return mjpg, pose, text

    pipeline = graph()
    pipeline.build()
    mjpg, pose, text = pipeline.run()
    for n in range(10):
        clip = shards.read(n)
        assert bytes(np.asarray(mjpg.at(n))) == clip.video
        assert bytes(np.asarray(text.at(n))) == clip.json_text
        assert bytes(np.asarray(pose.at(n)))[-clip.pose_TKC.nbytes :] == clip.pose_TKC.tobytes()


def test_stock_index_is_that_of_dalis_own_tool(tmp_path: Path) -> None:
    pytest.importorskip("wds2idx")
    pack(rows(10), tmp_path / "set", OPTIONS, workers=0)
    for path in (tmp_path / "set").glob("*.tar"):
        theirs = tmp_path / "theirs.idx"
        subprocess.run([sys.executable, "-m", "wds2idx", path, theirs], check=True, stdout=subprocess.DEVNULL)
        assert theirs.read_text() == path.with_suffix(".idx").read_text()


@pytest.mark.parametrize(
    ("what", "message"),
    [("component", "checksum differs"), ("padding", "sha256"), ("idx", ".idx"), ("missing", "No such file"),
     ("cut", "bytes, expected"), ("extra", "not in dataset.json")],
)  # fmt: skip
def test_check_finds_what_is_wrong(tmp_path: Path, what: str, message: str) -> None:
    out = tmp_path / "set"
    pack(rows(10), out, OPTIONS, workers=0)
    run = [sys.executable, "-m", "cclslr", "check", str(out), "--workers", "0"]
    if what == "component":
        good = subprocess.run(run, capture_output=True, text=True)
        assert good.returncode == 0, good.stderr
        assert "nothing is wrong" in good.stdout
    path = out / "shard-00001.tar"
    data = bytearray(path.read_bytes())
    if what == "component":
        data[1600] ^= 4
    elif what == "padding":
        data[-1] ^= 4
    elif what == "cut":
        del data[-512:]
    path.write_bytes(data)
    if what == "idx":
        path.with_suffix(".idx").write_text("v1.2 0\n")
    elif what == "missing":
        path.unlink()
    elif what == "extra":
        (out / "shard-00002.tar").write_bytes(data)
    tasks, faults = plan_checks(out, decode=False)
    faults += [fault for task in tasks for fault in check_shard(task).faults]
    assert any(message in fault.what for fault in faults), faults
    assert {fault.shard for fault in faults} <= {"shard-00001.tar", "shard-00002.tar"}
    if what == "component":
        bad = subprocess.run(run, capture_output=True, text=True)
        assert bad.returncode == ExitCode.SOME_BAD
        assert "checksum differs" in bad.stdout


def test_options_out_of_range_are_refused() -> None:
    for change in ({"codec": "gif"}, {"crop": "face"}, {"size": 33}, {"clips_per_shard": 0}):
        with pytest.raises(ValueError, match=re.escape(str(next(iter(change.values()))))):
            PackOptions(**change)

"""`cclslr pack --add`: what comes out is what packing all at once gives, byte by byte; nothing is packed twice."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, cast

import numpy as np
import pytest
import torch
from hypothesis import Phase, given, settings
from hypothesis import strategies as st
from packing import contents

from cclslr.commands.pack import main as command
from cclslr.datasets.base import importers
from cclslr.datasets.repeat import OF_THE_RUN, PATHS
from cclslr.distributed import Process
from cclslr.errors import ExitCode, UserError
from cclslr.files import read_json
from cclslr.masking import rewrite, shard
from cclslr.masking.methods import MpmOptions
from cclslr.shards.add import add
from cclslr.shards.difference import Difference, compare, merged
from cclslr.shards.done import ADDING_NAME
from cclslr.shards.format import BadClip, ManifestRow, RawClip
from cclslr.shards.pack import PackOptions, PackReport, pack
from cclslr.shards.reader import ShardSet
from cclslr.shards.reshard import reshard
from cclslr.shards.sources import SOURCES_NAME
from cclslr.shards.verify import check_shard, plan_checks

OPTIONS = PackOptions("jpeg", 32, "none", clips_per_shard=3)
GLOSSES = ["a", "b", "c"]


@dataclass(frozen=True)
class Made:
    """A clip by its number and version; counts what is loaded."""

    number: int
    version: int = 0
    bad: bool = False
    loaded: ClassVar[list[int]] = []

    def load(self) -> RawClip:
        Made.loaded.append(self.number)
        if self.bad:
            raise BadClip("unreadable: of no use")
        rng = np.random.default_rng((self.number, self.version))
        frames = rng.integers(0, 256, (2 + self.number % 3, 32, 32, 3), dtype=np.uint8)
        pose = rng.uniform(0, 32, (len(frames), 133, 3)).astype(np.float32)
        return RawClip(frames, pose, 25.0, {"v": self.version})


def rows(clips: dict[int, tuple[int, bool, int]], glosses: list[str] = GLOSSES) -> list[ManifestRow]:
    """Clips by number: version, whether it is bad, label."""
    return [
        ManifestRow(f"c{n}", Made(n, version, bad), label, glosses[label], ("train", "val", "test")[n % 3], f"s{n % 4}")
        for n, (version, bad, label) in clips.items()
    ]


def added(
    out: Path, found: list[ManifestRow], classes: list[str] = GLOSSES, *, drop_gone: bool = False
) -> tuple[Difference, PackReport]:
    difference = compare(out, found, OPTIONS, classes, drop_gone=drop_gone)
    return difference, add(difference, OPTIONS, workers=0)


def faults(folder: Path) -> list[object]:
    tasks, found = plan_checks(folder, decode=True)
    return [*found, *(fault for task in tasks for fault in check_shard(task).faults)]


# Clip by clip --------------------------------------------------------------------------------------------------------

some_clips = st.dictionaries(st.integers(0, 14), st.tuples(st.integers(0, 2), st.booleans(), st.integers(0, 2)))


@given(before=some_clips, after=some_clips)
@settings(max_examples=25, deadline=None, phases=[Phase.explicit, Phase.generate])
def test_it_is_the_set_that_packing_all_at_once_makes(
    before: dict[int, tuple[int, bool, int]], after: dict[int, tuple[int, bool, int]]
) -> None:
    """Whatever is new, mended, broken, said otherwise or gone."""
    before[99], after[99] = (0, False, 0), (0, False, 0)  # one at least is good
    with tempfile.TemporaryDirectory() as folder:
        out, at_once = Path(folder, "set"), Path(folder, "at once")
        pack(rows(before), out, OPTIONS, classes=GLOSSES, workers=0)
        pack(rows(after), at_once, OPTIONS, classes=GLOSSES, workers=0)
        Made.loaded.clear()
        difference, report = added(out, rows(after), drop_gone=True)
        as_it_was = {n for n in after if n in before and before[n][:2] == after[n][:2] and not after[n][1]}
        assert sorted(Made.loaded) == sorted(after.keys() - as_it_was)
        assert set(difference.unchanged) == {f"c{n}" for n in as_it_was}
        assert contents(out) == contents(at_once)
        assert sorted(item.key for item in report.rejected) == sorted(f"c{n}" for n in after if after[n][1])
        assert not faults(out)
        assert len(ShardSet([str(out)]).rows) == report.clips
        assert pack(rows(after), out, OPTIONS, classes=GLOSSES, workers=0).shards_reused  # it is this very set


@given(before=some_clips, after=some_clips)
@settings(max_examples=12, deadline=None, phases=[Phase.explicit, Phase.generate])
def test_clips_that_are_gone_are_kept(
    before: dict[int, tuple[int, bool, int]], after: dict[int, tuple[int, bool, int]]
) -> None:
    before[99] = (0, False, 0)
    both = {**before, **after}
    held = {n: clip for n, clip in both.items() if n in after or not before[n][1]}
    with tempfile.TemporaryDirectory() as folder:
        out, at_once = Path(folder, "set"), Path(folder, "at once")
        pack(rows(before), out, OPTIONS, classes=GLOSSES, workers=0)
        pack(rows(held), at_once, OPTIONS, classes=GLOSSES, workers=0)
        difference, _ = added(out, rows(after))
        assert set(difference.kept) == {f"c{n}" for n in before if n not in after and not before[n][1]}
        made, wanted = read_json(out / "dataset.json"), read_json(at_once / "dataset.json")
        assert made["content_hash"] == wanted["content_hash"]
        assert made["index_sha256"] == wanted["index_sha256"]
        assert not faults(out)
        again, report = added(out, rows(after))  # once more changes nothing but what may have become good
        assert (again.new, again.mended) == ([], [])
        assert report.info["content_hash"] == wanted["content_hash"]


def test_shards_of_which_nothing_changes_are_not_written_again(tmp_path: Path) -> None:
    clips = dict.fromkeys(range(12), (0, False, 0))
    pack(rows(clips), tmp_path / "set", OPTIONS, classes=GLOSSES, workers=0)
    before = {path.name: path.stat().st_ino for path in (tmp_path / "set").glob("*.tar")}
    added(tmp_path / "set", rows({**clips, 5: (1, False, 0)}))
    after = {path.name: path.stat().st_ino for path in (tmp_path / "set").glob("*.tar")}
    assert len(before) == 4
    assert sum(before[name] == after[name] for name in before) == 3
    _, report = added(tmp_path / "set", rows({**clips, 5: (1, False, 0)}))
    assert report.shards_reused == 4
    assert {path.name: path.stat().st_ino for path in (tmp_path / "set").glob("*.tar")} == after


def test_a_disk_without_links_gives_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    clips = dict.fromkeys(range(12), (0, False, 0))
    for name in ("with", "without"):
        pack(rows(clips), tmp_path / name, OPTIONS, classes=GLOSSES, workers=0)
    mended = rows({**clips, 5: (1, False, 0)})
    added(tmp_path / "with", mended)

    def refuse(*_: object) -> None:
        raise OSError("no links here")

    monkeypatch.setattr(os, "link", refuse)
    added(tmp_path / "without", mended)
    assert contents(tmp_path / "with") == contents(tmp_path / "without")


def test_damaged_clips_of_the_set_are_packed_from_their_sources(tmp_path: Path) -> None:
    clips = dict.fromkeys(range(7), (0, False, 0))
    more = {**clips, 7: (0, False, 1)}
    for name, content in (("set", clips), ("at once", more)):
        pack(rows(content), tmp_path / name, OPTIONS, classes=GLOSSES, workers=0)
    gone = Path(shutil.copytree(tmp_path / "set", tmp_path / "gone"))
    for out in (tmp_path / "set", gone):
        shards = ShardSet([str(out)])
        path, row = shards.path(1), shards.rows[1]
        data = bytearray(path.read_bytes())
        data[row.components["mjpg"].offset + 40] ^= 4
        path.write_bytes(data)
    added(tmp_path / "set", rows(more))
    assert contents(tmp_path / "set") == contents(tmp_path / "at once")
    _, report = added(gone, rows({7: (0, False, 1)}))  # neither whole nor found
    assert [(item.key, "its source was not found" in item.reason) for item in report.rejected] == [(row.key, True)]
    assert report.clips == 7


def test_a_set_that_does_not_know_its_sources_is_packed_again_but_for_what_is_gone(tmp_path: Path) -> None:
    clips = dict.fromkeys(range(7), (0, False, 0))
    pack(rows(clips), tmp_path / "old", OPTIONS, classes=GLOSSES, workers=0)
    good = (tmp_path / "old" / SOURCES_NAME).read_bytes()
    for damage in (None, good[: len(good) // 2], b""):
        out = Path(shutil.copytree(tmp_path / "old", tmp_path / f"set {damage and len(damage)}"))
        (out / SOURCES_NAME).unlink()
        if damage is not None:
            (out / SOURCES_NAME).write_bytes(damage)
        difference = compare(out, rows({n: clips[n] for n in range(5)}), OPTIONS, GLOSSES)
        assert (len(difference.mended), len(difference.kept), len(difference.unchanged)) == (5, 2, 0)
        report = add(difference, OPTIONS, workers=0)
        assert report.info["content_hash"] == read_json(tmp_path / "old" / "dataset.json")["content_hash"]
    (tmp_path / "old" / SOURCES_NAME).unlink()  # the command that packed it, again: it enters them
    pack(rows(clips), tmp_path / "old", OPTIONS, classes=GLOSSES, workers=0)
    assert (tmp_path / "old" / SOURCES_NAME).read_bytes() == good


def test_sets_that_were_made_of_packed_ones_are_added_to(tmp_path: Path) -> None:
    one = {n: (0, False, n % 3) for n in range(6)}
    two = {n: (0, False, n % 3) for n in range(6, 11)}
    for name, clips in (("one", one), ("two", two), ("at once", {**one, **two, 3: (1, False, 0), 11: (0, False, 2)})):
        pack(rows(clips), tmp_path / name, OPTIONS, classes=GLOSSES, workers=0)
    reshard([str(tmp_path / "one"), str(tmp_path / "two")], tmp_path / "set", 3, workers=0)
    more = rows({**one, **two, 3: (1, False, 0), 11: (0, False, 2)})
    difference, _ = added(tmp_path / "set", more)
    assert (difference.new, difference.mended, len(difference.unchanged)) == (["c11"], ["c3"], 10)
    assert contents(tmp_path / "set") == contents(tmp_path / "at once")


@pytest.mark.parametrize(
    ("new", "old", "used", "expected"),
    [
        (["a", "c"], ["b", "d"], {0}, ["a", "b", "c"]),  # as the folder of all of them is sorted
        (["a", "b"], ["b", "a"], {0, 1}, ["a", "b"]),
        (["z", "a"], ["b", "d"], {0}, ["b", "d", "z", "a"]),  # of a list: the set's labels keep their numbers
        (["a", "a"], ["a", "a", "a"], {2}, ["a", "a", "a"]),
        (["a"], ["b"], set(), ["a"]),
    ],
)
def test_classes_of_both(new: list[str], old: list[str], used: set[int], expected: list[str]) -> None:
    classes, of_new, of_old = merged(new, old, used)
    assert classes == expected
    assert [classes[of_new[label]] for label in range(len(new))] == new
    assert len(set(of_new.values())) == len(new)
    assert [classes[of_old[label]] for label in sorted(used)] == [old[label] for label in sorted(used)]


# Masks ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", ["temporal_std", "flow+pose"])
def test_masks_are_made_of_new_clips_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, method: str) -> None:
    from cclslr.masking.options import with_flow

    mask, alone = with_flow(MpmOptions(method=method), torch.device("cpu")), Process(0, 1, torch.device("cpu"))
    clips = {n: (0, False, n % 3) for n in range(7)}
    more = {**clips, 2: (1, False, 2), 7: (0, False, 1), 8: (0, False, 0)}
    for name, content in (("set", clips), ("at once", more)):
        pack(rows(content), tmp_path / name, OPTIONS, classes=GLOSSES, workers=0)
        rewrite.make_masks(tmp_path / name, mask, 0, alone)
    added(tmp_path / "set", rows(more))
    unfinished = read_json(tmp_path / "set" / "dataset.json")["masks"]
    assert (unfinished["complete"], unfinished["recipe"]) == (False, mask.recipe())
    assert len(ShardSet([str(tmp_path / "set")]).rows.lacking("mask")) == 3
    made: list[int] = []
    decode = shard._decode
    monkeypatch.setattr(shard, "_decode", lambda clip, task: made.append(1) or decode(clip, task))
    rewrite.make_masks(tmp_path / "set", mask, 0, alone)
    assert len(made) == 3
    mine, wanted = contents(tmp_path / "set"), contents(tmp_path / "at once")
    one, two = (read_json(tmp_path / name / "dataset.json")["masks"] for name in ("set", "at once"))
    assert one["share_kept"] == pytest.approx(two["share_kept"])  # the sum of floats in another order
    assert one["totals"]["clips"] == two["totals"]["clips"] == 9
    del mine["dataset.json"], wanted["dataset.json"]
    assert mine == wanted
    assert not faults(tmp_path / "set")


# The command ---------------------------------------------------------------------------------------------------------


@pytest.fixture
def signs(tmp_path: Path, write_video: Callable[..., Path]) -> Path:
    """Eight clips of two signs."""
    for number in range(8):
        write_video(tmp_path / "v" / ("drink", "house")[number % 2] / f"{number}.mp4", 4 + number)
    return tmp_path / "v"


PACKING = ["--codec", "h264", "--size", "64", "--crop", "none", "--clips-per-shard", "2", "--test-share", "0.3"]


def said(capfd: pytest.CaptureFixture[str]) -> str:
    return " ".join(capfd.readouterr().out.split())


def test_options_are_those_of_the_set(
    signs: Path, tmp_path: Path, write_video: Callable[..., Path], capfd: pytest.CaptureFixture[str]
) -> None:
    out, at_once = tmp_path / "set", tmp_path / "at once"
    assert command(["folder", str(signs), "--out", str(out), *PACKING]) == 0
    write_video(signs / "drink" / "new.mp4", 9)
    write_video(signs / "apple" / "first.mp4", 9)  # every label moves by one
    before = contents(out)
    assert command(["folder", str(signs), "--out", str(out), "--add", "--dry-run"]) == 0
    assert contents(out) == before
    assert "2 clips are new, 0 mended, 8 as they were" in said(capfd)
    assert command(["folder", str(signs), "--out", str(out), "--add"]) == 0
    assert command(["folder", str(signs), "--out", str(at_once), *PACKING]) == 0
    assert contents(out) == contents(at_once)
    assert read_json(out / "dataset.json")["classes"] == ["apple", "drink", "house"]
    capfd.readouterr()
    assert command(["folder", str(signs), "--out", str(out), "--add"]) == 0
    assert "0 clips are new, 0 mended, 10 as they were" in said(capfd)
    assert command(["folder", str(signs), "--out", str(out), "--add", "--test-share", "0.6"]) == 0
    assert "--test-share was 0.3, is 0.6" in said(capfd)
    assert not faults(out)


def test_options_that_differ_are_named_before_work_begins(signs: Path, tmp_path: Path) -> None:
    out = tmp_path / "set"
    command(["folder", str(signs), "--out", str(out), *PACKING])
    before = contents(out)
    add_to = ["folder", str(signs), "--out", str(out), "--add"]
    with pytest.raises(UserError) as error:
        command([*add_to, "--size", "32", "--codec", "jpeg", "--clips-per-shard", "2", "--layout", "coco17"])
    assert f"{out} was packed with --codec h264, --size 64, --layout (not given), " in str(error.value)
    assert "this command says --codec jpeg, --size 32, --layout coco17: leave them out" in str(error.value)
    assert "clips-per-shard 2" not in str(error.value)
    with pytest.raises(UserError, match="holds no data set yet"):
        command(["folder", str(signs), "--out", str(tmp_path / "none"), "--add"])
    with pytest.raises(UserError, match="needs --add"):
        command([*add_to[:-1], "--drop-gone"])
    with pytest.raises(UserError, match="cclslr pack --from OLD NEW --out BOTH"):
        command(["--from", str(out), "--add", "--out", str(tmp_path / "b")])
    with pytest.raises(UserError, match="--add takes new and mended clips into it"):
        command(["folder", str(signs), "--out", str(out), *PACKING, "--fps", "30"])
    assert contents(out) == before


def test_a_folder_of_new_clips_alone(
    signs: Path, tmp_path: Path, write_video: Callable[..., Path], capfd: pytest.CaptureFixture[str]
) -> None:
    """Whose labels begin at 0 again; and the originals are gone meanwhile."""
    out = tmp_path / "set"
    command(["folder", str(signs), "--out", str(out), *PACKING])
    for path in (signs / "apple" / "x.mp4", signs / "house" / "y.mp4"):
        write_video(path, 5)
    command(["folder", str(signs), "--out", str(tmp_path / "at once"), *PACKING])
    for name in ("apple/x.mp4", "house/y.mp4"):
        (tmp_path / "more" / name).parent.mkdir(parents=True)
        shutil.move(signs / name, tmp_path / "more" / name)
    shutil.rmtree(signs)
    capfd.readouterr()
    assert command(["folder", str(tmp_path / "more"), "--out", str(out), "--add"]) == 0
    told = said(capfd)
    assert "2 clips are new, 0 mended, 0 as they were" in told
    assert "8 clips of the set were not found now and are kept" in told
    made, wanted = (read_json(folder / "dataset.json") for folder in (out, tmp_path / "at once"))
    assert made["content_hash"] == wanted["content_hash"]
    assert made["classes"] == wanted["classes"] == ["apple", "drink", "house"]
    assert made["settings"]["before"] == [
        {"importer": "folder", "conventions": {"splits": "by the hash of the key", "clips": "8 with video alone"}}
    ]
    assert not faults(out)
    assert command(["folder", str(tmp_path / "more"), "--out", str(out), "--add", "--drop-gone"]) == 0
    assert "8 clips of the set were not found now and are taken out" in said(capfd)
    assert len(ShardSet([str(out)]).rows) == 2


def test_what_was_rejected_is_tried_again(
    signs: Path, tmp_path: Path, write_video: Callable[..., Path], capfd: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "set"
    (signs / "drink" / "bad.mp4").write_bytes(b"no video")
    (signs / "drink" / "worse.mp4").write_bytes(b"no video")
    assert command(["folder", str(signs), "--out", str(out), *PACKING]) == ExitCode.SOME_BAD
    write_video(signs / "drink" / "bad.mp4", 5)
    capfd.readouterr()
    assert command(["folder", str(signs), "--out", str(out), "--add"]) == ExitCode.SOME_BAD
    told = said(capfd)
    assert "1 clips are new, 0 mended, 8 as they were" in told
    assert "1 that were rejected before are tried again" in told
    assert "9 clips packed in 5 shards, 1 rejected" in told
    command(["folder", str(signs), "--out", str(tmp_path / "at once"), *PACKING])
    assert contents(out) == contents(tmp_path / "at once")


def test_a_table_with_masks(tmp_path: Path, signs: Path, write_video: Callable[..., Path]) -> None:
    def table(numbers: range) -> Path:
        lines = [f"{('drink', 'house')[n % 2]}/{n}.mp4,k{n},{n % 2},w{n % 2},train,s{n % 3}\n" for n in numbers]
        (signs / "t.csv").write_text("video,key,label,gloss,split,signer\n" + "".join(lines))
        return signs / "t.csv"

    masks = ["--masks", "--mask-options", "method=temporal_std"]
    assert command(["csv", str(table(range(6))), "--out", str(tmp_path / "set"), *PACKING, *masks]) == 0
    write_video(signs / "drink" / "2.mp4", 11)  # mended
    arguments = ["csv", str(table(range(8))), "--out", str(tmp_path / "set"), "--add"]
    with pytest.raises(UserError, match="--mask-options says others"):
        command([*arguments, "--masks", "--mask-options", "method=pose_discs"])
    assert command(arguments) == 0
    assert command(["csv", str(signs / "t.csv"), "--out", str(tmp_path / "at once"), *PACKING, *masks]) == 0
    mine, wanted = contents(tmp_path / "set"), contents(tmp_path / "at once")
    del mine["dataset.json"], wanted["dataset.json"]  # sums of floats in another order
    assert mine == wanted
    assert not faults(tmp_path / "set")


def test_keypoints_of_a_mended_video_are_estimated_again(
    signs: Path, tmp_path: Path, write_video: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    from cclslr.datasets.estimate import with_keypoints
    from cclslr.poses import EstimatorOptions, extract

    class Stub:
        name = version = "stub"

        def __call__(self, frames_THWC: np.ndarray) -> np.ndarray:
            return np.full((len(frames_THWC), 133, 3), 7, np.float32) / np.float32([1, 1, 7])

    monkeypatch.setattr(extract, "_estimator", lambda options: Stub())

    def in_process(rows: list[ManifestRow], folder: Path, *_: object) -> object:
        return with_keypoints(rows, folder, EstimatorOptions("stub"), workers=0)

    monkeypatch.setattr("cclslr.datasets.estimate.with_keypoints", in_process)
    out = tmp_path / "set"
    assert command(["folder", str(signs), "--out", str(out), *PACKING, "--estimate", "mediapipe"]) == 0
    write_video(signs / "drink" / "2.mp4", 21)
    later = time.time() + 5
    os.utime(signs / "drink" / "2.mp4", (later, later))
    assert command(["folder", str(signs), "--out", str(out), "--add"]) == 0  # --estimate as before
    shards = ShardSet([str(out)])
    assert not len(shards.rows.lacking("pose"))
    assert 21 in shards.rows.numbers("num_frames")


def test_paths_are_taken_over_where_the_clips_are_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import argparse

    from cclslr.datasets.repeat import as_before, command_of
    from cclslr.shards.info import DatasetInfo

    monkeypatch.chdir(tmp_path)
    packed: dict[str, Any] = {"codec": "jpeg", "size": 256, "crop": "none", "quality": None}
    common = {"importer": "folder", "out": "set", "fps": 25.0, **packed}
    before = command_of(argparse.Namespace(**common, source="videos/", poses="poses"))
    for source, taken in (("./videos", "poses"), (str(tmp_path / "videos"), "poses"), ("more", None)):
        args = argparse.Namespace(**common, source=source, poses=None)
        told = as_before(args, ["source"], before, cast(DatasetInfo, packed))
        assert args.poses == taken
        assert args.source == source
        assert told == ([] if taken else ["--poses was poses; of clips that lie elsewhere it is not taken over"])


def test_every_option_that_is_a_path_is_known_as_one() -> None:
    """Those are not taken over where the clips are others."""
    import argparse

    for importer in importers().values():
        parser = argparse.ArgumentParser()
        importer.add_arguments(parser)
        for action in parser._actions:
            if action.metavar in ("DIR", "FILE", "PATH"):
                assert action.dest in PATHS, f"{importer.name}: {action.dest}"
            else:
                assert action.dest not in (*PATHS, *OF_THE_RUN)


# Kills ---------------------------------------------------------------------------------------------------------------


def start(*arguments: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "cclslr", "pack", *arguments], stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        text=True, start_new_session=True,
    )  # fmt: skip


@pytest.mark.parametrize("workers", ["1", pytest.param("2", marks=pytest.mark.slow)])
def test_killed_half_way_and_repeated(
    signs: Path, tmp_path: Path, write_video: Callable[..., Path], workers: str
) -> None:
    out = tmp_path / "set"
    assert command(["folder", str(signs), "--out", str(out), *PACKING]) == 0
    for number in range(8, 20):
        write_video(signs / ("drink", "house")[number % 2] / f"{number}.mp4", 4 + number)
    write_video(signs / "house" / "3.mp4", 30)
    before = {row.key: row for row in ShardSet([str(out)]).rows}
    kills = 0
    for count in (1, 4, 7):
        process = start("folder", str(signs), "--out", str(out), "--add", "--workers", workers)
        while process.poll() is None and len(list((out / ADDING_NAME).glob("shard-*.tar"))) < count:
            time.sleep(0.002)
        if process.poll() is None and (out / "dataset.json").exists() and (out / ADDING_NAME).exists():
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            kills += (out / ADDING_NAME).exists()
            if (out / ADDING_NAME).exists():
                assert {row.key: row for row in ShardSet([str(out)]).rows} == before  # the old set is all there
                assert not faults(out)
        process.communicate()
    assert kills
    process = start("folder", str(signs), "--out", str(out), "--add", "--workers", workers)
    told, _ = process.communicate()
    assert process.returncode == 0, told
    assert "shards were already there" in told
    assert command(["folder", str(signs), "--out", str(tmp_path / "at once"), *PACKING]) == 0
    assert contents(out) == contents(tmp_path / "at once")


@pytest.mark.parametrize("by", ["add", "pack"])
@pytest.mark.parametrize(("old", "new"), [(3, 8), (8, 3)])
def test_killed_at_every_step_of_the_exchange(tmp_path: Path, by: str, old: int, new: int) -> None:
    """The new set in the place of the old one, file by file, with more shards and with fewer."""
    program = Path(__file__).with_name("exchange_steps.py")
    done = subprocess.run(
        [sys.executable, str(program), str(tmp_path), str(old), str(new), by], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert int(done.stdout.split()[-1]) > 10

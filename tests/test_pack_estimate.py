"""Packing estimates the keypoints that clips lack, once, and rejects the clips of which it cannot."""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import pytest
from videos import encode, moving_bar

from cclslr.commands.pack import main as command
from cclslr.datasets.base import Import, importers
from cclslr.datasets.estimate import with_keypoints
from cclslr.errors import UserError
from cclslr.keypoints import NUM_WHOLEBODY
from cclslr.poses import EstimatorOptions, extract
from cclslr.shards.format import ManifestRow
from cclslr.shards.pack import PackOptions, pack
from cclslr.shards.reader import ShardSet


class Stub:
    """An estimator that sees a body in the middle; counts its clips."""

    name = "stub"
    clips = 0

    def __init__(self, version: str = "stub 1") -> None:
        self.version = version

    def __call__(self, frames_THWC: np.ndarray) -> np.ndarray:
        Stub.clips += 1
        points = np.linspace(5, 40, NUM_WHOLEBODY, dtype=np.float32)
        one = np.stack([points, points[::-1], np.ones_like(points)], 1)
        return np.repeat(one[None], len(frames_THWC), 0)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Two videos alone, one with keypoints, one that is none."""
    monkeypatch.setattr(extract, "_estimator", lambda options: Stub())
    Stub.clips = 0
    root = tmp_path / "videos"
    for name in ("drink/a", "house/b", "house/c"):
        path = root / f"{name}.mp4"
        path.parent.mkdir(parents=True, exist_ok=True)
        encode(path, moving_bar(6))
    np.save(root / "house/c.npy", np.full((6, NUM_WHOLEBODY, 3), 7, np.float32) / (1, 1, 7))
    (root / "drink/bad.mp4").write_bytes(b"no video")
    return root


def load(root: Path) -> Import:
    parser = argparse.ArgumentParser()
    importers()["folder"].add_arguments(parser)
    return importers()["folder"].load(parser.parse_args([str(root)]))


def estimated(root: Path, out: Path) -> tuple[list[ManifestRow], list[str]]:
    rows, refused = with_keypoints(load(root).rows, out, EstimatorOptions("stub"), workers=0)
    return rows, [item.reason for item in refused]


def test_what_is_missing_is_estimated_once(folder: Path, tmp_path: Path) -> None:
    rows, refused = estimated(folder, tmp_path / "mine.poses")
    assert len(rows) == 3
    assert Stub.clips == 2
    assert ["bad.mp4" in reason for reason in refused] == [True]
    report = pack(rows, tmp_path / "mine", PackOptions(size=64))
    assert (report.clips, report.without_keypoints) == (3, 0)
    shards = ShardSet([str(tmp_path / "mine")])
    by_gloss = {row.key: shards.read(n) for n, row in enumerate(shards.rows)}
    told = sorted(clip.meta.get("pose", {}).get("version", "of the user") for clip in by_gloss.values())
    assert told == ["of the user", "stub 1", "stub 1"]

    again, _ = estimated(folder, tmp_path / "mine.poses")
    assert Stub.clips == 2
    assert [row.source for row in again] == [row.source for row in rows]
    assert pack(again, tmp_path / "mine", PackOptions(size=64)).shards_reused  # nothing is packed again


def test_two_estimators_are_not_mixed(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    estimated(folder, tmp_path / "mine.poses")
    monkeypatch.setattr(extract, "_estimator", lambda options: Stub("stub 2"))
    with pytest.raises(UserError, match="was made with stub 1, this run uses stub 2"):
        estimated(folder, tmp_path / "mine.poses")


def test_the_command_passes_what_was_asked_for(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its worker processes would open the real estimator, so what they are given is looked at."""
    asked: list[object] = []

    def stand_in(rows: list[ManifestRow], *given: object) -> object:
        asked.extend(given)
        return rows, []

    monkeypatch.setattr("cclslr.datasets.estimate.with_keypoints", stand_in)
    out = tmp_path / "mine"
    command(["folder", str(folder), "--out", str(out), "--size", "64", "--estimate", "mediapipe"])
    poses, options, workers, scheduler = asked
    assert (poses, options.backend, workers, scheduler) == (tmp_path / "mine.poses", "mediapipe", 1, None)

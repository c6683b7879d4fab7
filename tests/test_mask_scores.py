"""Scores of masks against keypoints: by hand, against a slow reading of the definition, and by the command."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cclslr.commands.masks import main as command
from cclslr.errors import UserError
from cclslr.masking.score import ClipScore, moves, score_clip, summarise
from cclslr.masking.signer import signer_boxes
from cclslr.shards.clip import PackOptions
from cclslr.shards.format import ManifestRow, RawClip
from cclslr.shards.pack import pack


def slow_score(masks_THW: np.ndarray, points_TKC: np.ndarray, size: tuple[int, int]) -> tuple[float | None, ...]:
    """Hands, face and background, point by point and pixel by pixel."""
    height, width = size
    seen: dict[str, list[bool]] = {"hands": [], "face": [], "background": []}
    for mask_HW, points_KC in zip(masks_THW, points_TKC):
        sure = [(k, float(x), float(y)) for k, (x, y, c) in enumerate(points_KC) if c > 0.3]
        for k, x, y in sure:
            column, row = (x + 0.5) / width * 64, (y + 0.5) / height * 64
            if k >= 23 and 0 <= column < 64 and 0 <= row < 64:
                seen["face" if k < 91 else "hands"].append(bool(mask_HW[int(row), int(column)]))
        if not sure:
            continue
        xs, ys = [x for _, x, _ in sure], [y for _, _, y in sure]
        more = 0.1 * max(max(xs) - min(xs), max(ys) - min(ys))
        for row in range(64):
            for column in range(64):
                x, y = (column + 0.5) * width / 64 - 0.5, (row + 0.5) * height / 64 - 0.5
                in_x = min(xs) - more <= x <= max(xs) + more
                if not (in_x and min(ys) - more <= y <= max(ys) + more):
                    seen["background"].append(bool(mask_HW[row, column]))
    return tuple(sum(kept) / len(kept) if kept else None for kept in seen.values())


@settings(max_examples=15, deadline=None)
@given(
    seed=st.integers(0, 10**6),
    frames=st.integers(1, 3),
    size=st.tuples(st.integers(20, 200), st.integers(20, 200)),
    found=st.sampled_from([0.0, 0.02, 0.5]),
)
def test_scores_are_those_of_the_slow_reading(seed: int, frames: int, size: tuple[int, int], found: float) -> None:
    rng = np.random.default_rng(seed)
    masks = rng.random((frames, 64, 64)) < 0.4
    points = rng.uniform(-0.2, 1.2, (frames, 133, 3)).astype(np.float32) * np.float32([size[1], size[0], 0])
    points[..., 2] = np.where(rng.random((frames, 133)) < found, 0.9, 0.1)
    score = score_clip(masks, points, size)
    for mine, slow in zip((score.hands, score.face, score.background), slow_score(masks, points, size)):
        assert (mine is None) == (slow is None)
        if slow is not None:
            assert mine == pytest.approx(slow, abs=1e-9)


def test_a_case_by_hand() -> None:
    points = np.zeros((2, 133, 3), np.float32)
    points[0, 91] = (10, 20, 0.9)  # left hand
    points[0, 112] = (40, 20, 0.9)  # right hand
    points[0, 30] = (20, 60, 0.9)  # face
    points[0, 31] = (-9, 60, 0.9)  # out of the frame: counts for the box alone
    points[1, 91] = (10, 20, 0.3)  # not confident
    mask = np.zeros((2, 64, 64), np.uint8)
    mask[0, 20, 10] = 1  # the left hand's pixel
    mask[0, 0, 0] = 1  # outside the box
    mask[1] = 1
    # The box of the points is -9 to 40, 20 to 60; a tenth of 49 more: -13.9 to 44.9, 15.1 to 64.9.
    assert signer_boxes(points)[0].tolist() == pytest.approx([-13.9, 15.1, 44.9, 64.9], abs=1e-5)
    inside = 45 * 48  # columns 0 to 44, rows 16 to 63
    score = score_clip(mask, points, (64, 64))
    assert (score.hands, score.face, score.background) == (0.5, 0.0, 1 / (64 * 64 - inside))
    assert not score.hides_nothing
    assert not score.hides_all


def test_degenerate_clips_are_those_that_move() -> None:
    ones, zeros = np.ones((3, 64, 64)), np.zeros((3, 64, 64))
    still = np.full((3, 40, 50, 3), 90, np.uint8)
    square = still.copy()
    square[1, 10:20, 10:20] = 200
    grain = still + np.random.default_rng(0).integers(0, 2, still.shape).astype(np.uint8)
    assert moves(square)
    assert not moves(still)
    assert not moves(grain)
    assert not moves(square[:1])
    scores = [score_clip(mask, None, (40, 50)) for mask in (ones, ones, zeros)]
    assert scores[0] == ClipScore(None, None, None, 1.0, True, False)
    moving = [ClipScore(**{**vars(s), "moves": m}) for s, m in zip(scores, (True, False, False))]
    result = summarise(moving)
    assert (result.nothing_hidden_though_moving, result.all_hidden) == (1, 1)
    assert result.hands is None


def test_means_are_over_clips_that_have_the_thing() -> None:
    clips = [
        ClipScore(1.0, None, 0.1, 0.5, False, False, True),
        ClipScore(0.5, 0.8, 0.3, 0.1, False, False, True),
        ClipScore(None, None, None, 0.3, False, False, True),
    ]
    result = summarise(clips)
    assert (result.hands, result.hands_worst, result.face, result.face_worst) == (0.75, 0.5, 0.8, 0.8)
    assert (result.background, result.background_worst) == (pytest.approx(0.2), 0.3)
    assert result.kept == pytest.approx(0.3)


class Square:
    """A square that crosses the frame, with a hand's keypoints on it."""

    def load(self) -> RawClip:
        frames = np.full((9, 64, 64, 3), 100, np.uint8)
        keypoints = np.zeros((9, 133, 3), np.float32)
        for t in range(9):
            frames[t, 20:36, 5 * t : 5 * t + 16] = 250
            keypoints[t, 91:112] = (5 * t + 8, 28, 0.9)
            keypoints[t, 23:91] = (32, 8, 0.9)
        return RawClip(frames, keypoints, 25.0)

    def __repr__(self) -> str:
        return "Square()"


def test_the_command_scores_a_packed_set_and_changes_nothing(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    rows = [ManifestRow(f"c{i}", Square(), 0, "sign", "train", None) for i in range(3)]
    pack(rows, tmp_path / "set", PackOptions(codec="jpeg", size=64, crop="none", clips_per_shard=2), workers=0)
    with pytest.raises(UserError, match="cclslr masks"):
        command([str(tmp_path / "set"), "--score"])
    command([str(tmp_path / "set"), "--method", "temporal_std", "--workers", "1"])
    before = {path: path.read_bytes() for path in (tmp_path / "set").iterdir()}
    command([str(tmp_path / "set"), "--score", "--out", str(tmp_path / "std.json")])
    assert {path: path.read_bytes() for path in (tmp_path / "set").iterdir()} == before
    assert "0 (" not in capsys.readouterr().err
    command([str(tmp_path / "set"), "--workers", "1"])  # the default
    command([str(tmp_path / "set"), "--score", "--out", str(tmp_path / "default.json")])
    motion, both = (json.loads((tmp_path / f"{name}.json").read_text()) for name in ("std", "default"))
    assert motion["masks"]["options"]["method"] == "temporal_std"
    assert both["masks"]["options"]["method"] == "flow+pose"
    assert motion["scores"]["face"] == 0
    assert both["scores"]["hands"] == both["scores"]["face"] == 1
    assert both["scores"]["background"] < 0.1
    assert both["scores"]["nothing_hidden_though_moving"] == 0
    assert sorted(both["clips"]) == ["c0", "c1", "c2"]


def test_scores_go_nowhere_without_score(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="--score"):
        command([str(tmp_path), "--out", "x.json"])

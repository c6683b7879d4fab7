"""Fusing branches: the paper's sum, and temperatures fitted on held-out clips."""

from __future__ import annotations

import math
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from small_runs import TINY, finish, start, tiny_shards

from cclslr import checkpoint
from cclslr.data.plan import hold_out
from cclslr.files import read_json
from cclslr.models.fusion import PRIOR, fit_temperatures, fuse


def branch(labels_N: torch.Tensor, classes: int, right: float, loud: float, seed: int) -> torch.Tensor:
    """Logits (N, K) of a branch that is right with some probability, and as loud when it is wrong."""
    generator = torch.Generator().manual_seed(seed)
    wrong_N = torch.rand(len(labels_N), generator=generator) >= right
    said_N = torch.where(wrong_N, torch.randint(classes, labels_N.shape, generator=generator), labels_N)
    return loud * (F.one_hot(said_N, classes) + 0.5 * torch.randn(len(labels_N), classes, generator=generator))


def accuracy(logits_NK: torch.Tensor, labels_N: torch.Tensor) -> float:
    return (logits_NK.argmax(1) == labels_N).double().mean().item()


def test_branches_in_bf16_are_added_in_float32() -> None:
    rgb, pose = torch.tensor([[256.0, 256.0]]).bfloat16(), torch.tensor([[0.5, 0.0]]).bfloat16()
    fused = fuse({"rgb": rgb, "pose": pose}, {"rgb": 1.0, "pose": 1.0})
    assert fused["fused"].tolist() == fused["calibrated"].tolist() == [[256.5, 256.0]]


def test_a_loud_weak_branch_no_longer_hurts() -> None:
    """The sum loses to the good branch; calibrated on other clips, it does not."""
    labels_N = torch.arange(2000) % 10
    logits = {"rgb": branch(labels_N, 10, 0.15, 8.0, 1), "pose": branch(labels_N, 10, 0.8, 2.0, 2)}
    held, test = slice(0, 200), slice(200, None)
    temperatures = fit_temperatures({m: x[held] for m, x in logits.items()}, labels_N[held])
    scores = {n: accuracy(x[test], labels_N[test]) for n, x in fuse(logits, temperatures).items()}
    assert scores["fused"] < scores["pose"] - 0.1
    assert scores["calibrated"] >= scores["pose"] - 0.01


def test_two_good_branches_still_help_each_other() -> None:
    labels_N = torch.arange(2000) % 10
    logits = {"rgb": branch(labels_N, 10, 0.6, 3.0, 3), "pose": branch(labels_N, 10, 0.6, 1.0, 4)}
    held, test = slice(0, 200), slice(200, None)
    temperatures = fit_temperatures({m: x[held] for m, x in logits.items()}, labels_N[held])
    scores = {n: accuracy(x[test], labels_N[test]) for n, x in fuse(logits, temperatures).items()}
    assert scores["calibrated"] > max(scores["rgb"], scores["pose"]) + 0.02


@given(st.integers(0, 10**6), st.floats(0.2, 5), st.floats(0.2, 5))
@settings(max_examples=25, deadline=None)
def test_no_other_weights_are_better(seed: int, loud_rgb: float, loud_pose: float) -> None:
    """Against a search on a grid of weights."""
    labels_N = torch.arange(60) % 4
    logits = {"rgb": branch(labels_N, 4, 0.4, loud_rgb, seed), "pose": branch(labels_N, 4, 0.6, loud_pose, seed + 1)}

    def loss(rgb: float, pose: float) -> float:
        away = (rgb - 1) ** 2 + (pose - 1) ** 2
        return F.cross_entropy(rgb * logits["rgb"] + pose * logits["pose"], labels_N).item() + PRIOR / 2 * away

    found = fit_temperatures(logits, labels_N)
    best = loss(1 / found["rgb"], 1 / found["pose"])
    grid = [0, 0.05, 0.1, 0.2, 0.4, 0.8, 1, 1.5, 2, 3]
    assert best <= min(loss(rgb, pose) for rgb in grid for pose in grid) + 1e-5


def test_a_branch_that_speaks_against_the_truth_is_left_out() -> None:
    labels_N = torch.arange(40) % 4
    logits = {"rgb": -5.0 * F.one_hot(labels_N, 4).float(), "pose": branch(labels_N, 4, 0.7, 2.0, 5)}
    temperatures = fit_temperatures(logits, labels_N)
    assert temperatures["rgb"] == math.inf
    torch.testing.assert_close(fuse(logits, temperatures)["calibrated"], logits["pose"] / temperatures["pose"])


def test_clips_that_are_all_right_give_finite_temperatures() -> None:
    labels_N = torch.arange(8) % 4
    logits = {"rgb": 3.0 * F.one_hot(labels_N, 4), "pose": 3.0 * F.one_hot(labels_N, 4)}
    temperatures = fit_temperatures(logits, labels_N)
    assert temperatures["rgb"] == pytest.approx(temperatures["pose"], rel=1e-3)
    assert 0.1 < temperatures["rgb"] < 10


def test_one_branch_is_not_fused() -> None:
    logits = {"pose": torch.ones(2, 3)}
    assert set(fuse(logits)) == {"pose"}
    assert set(fuse(logits, {"pose": 2.0})) == {"pose"}
    two = fuse({"rgb": torch.ones(2, 3), "pose": torch.ones(2, 3)})
    assert set(two) == {"rgb", "pose", "fused"}
    assert two["fused"].tolist() == [[2.0] * 3] * 2


@given(st.lists(st.integers(0, 4), min_size=1, max_size=60), st.integers(0, 9), st.floats(0, 0.5))
@settings(deadline=None)
def test_held_out_clips_are_a_share_of_each_class(labels: list[int], seed: int, share: float) -> None:
    labels_N = np.array(labels)
    clip_ids = np.arange(len(labels))
    kept, held = hold_out(clip_ids, labels_N, seed, share)
    assert sorted([*kept, *held]) == clip_ids.tolist()
    counts, left_out = Counter(labels), Counter(labels_N[held].tolist())
    for label, count in counts.items():
        assert left_out[label] == min(round(share * count), count - 1)
    # What is drawn does not depend on which other classes take part.
    alone = clip_ids[labels_N == labels[0]]
    assert set(hold_out(alone, labels_N, seed, share)[1]) == {clip for clip in held if labels[clip] == labels[0]}


def test_fine_tuning_fits_temperatures_that_evaluation_takes_from_the_checkpoint(tmp_path: Path) -> None:
    shards = tiny_shards(tmp_path / "tiny", per_class=(6, 0, 3))
    plain = [*TINY, f"data.shards=[{shards}]", "optim.epochs=2"]
    output = finish(start("cclslr.finetune", *plain, f"run.dir={tmp_path}/fine", "fuse=calibrated"))
    assert "from 4 clips that a first run left out" in output
    finish(start("cclslr.finetune", *plain, f"run.dir={tmp_path}/sum"))
    calibrated, summed = (read_json(tmp_path / run / "test.json")["scores"] for run in ("fine", "sum"))
    assert set(calibrated) == {"rgb", "pose", "fused", "calibrated"}
    assert calibrated == summed | {"calibrated": calibrated["calibrated"]}  # the run proper trains on all clips
    temperatures = checkpoint.load(tmp_path / "fine/last.pt")["temperatures"]
    assert all(value > 0 for value in temperatures.values())
    finish(start("cclslr.evaluate", str(tmp_path / "fine/last.pt"), "--out", str(tmp_path / "again")))
    assert read_json(tmp_path / "again/test.json")["scores"] == calibrated

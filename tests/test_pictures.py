"""The sheet of a batch shows that batch, and the picture of a confusion names the pairs that were confused."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from PIL import Image
from small_runs import tiny_shards

from cclslr.config import DataConfig, ViewConfig
from cclslr.data.loader import Loader
from cclslr.data.plan import Plan
from cclslr.distributed import Process
from cclslr.inspect import contact
from cclslr.inspect.confusion import save_confusion, worst_pairs
from cclslr.keypoints import FLIP
from cclslr.shards.reader import ShardSet

VIEWS = ViewConfig(rgb_frames=5, pose_frames=9, size=32, mask_alpha=0.0)
SEED = 3


@pytest.fixture(scope="module")
def shards(tmp_path_factory) -> Path:
    return tiny_shards(tmp_path_factory.mktemp("shards") / "tiny")


def batch_of(shards: Path, modalities: list[str], step: int, batch: int = 4):
    opened = ShardSet([str(shards)], split="train")
    plan = Plan(len(opened), batch, SEED)
    alone = Process(0, 1, torch.device("cpu"))
    cfg = DataConfig(shards=[str(shards)], workers=1)
    with Loader(cfg, VIEWS, opened, plan, alone, modalities, SEED).start(step) as loader:
        return opened, plan.rank_batch(*divmod(step, plan.batches_per_epoch), 0, 1), next(loader)


@pytest.mark.parametrize("modalities", [["rgb", "pose"], ["rgb"], ["pose"]])
def test_the_sheet_shows_the_batch_of_any_step(shards, modalities, monkeypatch):
    step, epoch = 9, 1  # 32 clips: 8 steps an epoch
    opened, slots, batch = batch_of(shards, modalities, step)
    drawn = []
    monkeypatch.setattr(contact, "draw_sheet", lambda clips: drawn.extend(clips))
    before = torch.get_rng_state(), np.random.get_state()[1].copy()  # noqa: NPY002
    contact.batch_sheet(batch, slots, epoch, opened, VIEWS, SEED, clips=3, frames=4)
    assert torch.equal(torch.get_rng_state(), before[0])
    assert np.array_equal(np.random.get_state()[1], before[1])  # noqa: NPY002
    assert len(drawn) == 3
    for b, clip in enumerate(drawn):
        row = opened.rows[int(batch.clip_ids_B[b])]
        assert row.key in clip.title
        assert clip.frames_VT.max() < row.num_frames
        if "rgb" in modalities:
            assert np.array_equal(clip.rgb_VTHWC, batch.rgb_VBTHWC[:, b][:, [0, 1, 3, 4]].numpy())
        if "pose" in modalities:
            assert np.array_equal(clip.pose_VTJC, batch.pose_VBTJC[:, b][:, [0, 3, 5, 8]].numpy())
        assert (clip.rgb_VTHWC is None) == ("rgb" not in modalities) == (clip.points_VTJC is None)


def test_keypoints_lie_where_the_pose_view_has_them(shards):
    """Without rotation and scaling, the body's joints in RGB and pose views differ by a shift and a scale."""
    views = replace(VIEWS, rotation=0.0, scale=(1.0, 1.0), masked_joints=0, pose_frames=5)
    opened, seen = ShardSet([str(shards)], split="train"), set()
    for clip_id in range(6):
        clip = contact._packed_views(opened, clip_id, views, SEED, frames=5)
        for v, caption in enumerate(clip.captions_V):
            flipped = "flipped" in caption
            joints = FLIP[:7] if flipped else np.arange(7)  # in a mirrored pose left is right
            rgb_TJC, pose_TJC = clip.points_VTJC[v][:, joints], clip.pose_VTJC[v][:, :7]
            found_TJ = (rgb_TJC[..., 2] > 0) & (pose_TJC[..., 2] > 0)
            for axis in range(2):
                x, y = rgb_TJC[..., axis][found_TJ], pose_TJC[..., axis][found_TJ]
                assert np.corrcoef(x, y)[0, 1] > 0.98, (clip.title, caption, axis)
            seen.add(flipped)
    assert seen == {True, False}


@pytest.mark.parametrize("modalities", [["rgb", "pose"], ["pose"]])
def test_a_sheet_is_a_picture(shards, modalities, tmp_path):
    opened, slots, batch = batch_of(shards, modalities, 0)
    sheet = contact.batch_sheet(batch, slots, 0, opened, VIEWS, SEED)
    contact.save_png(tmp_path / "first_batch.png", sheet)
    saved = np.asarray(Image.open(tmp_path / "first_batch.png"))
    assert np.array_equal(saved, sheet)
    assert saved.shape[1] > 1000
    assert saved.std() > 10


counts = st.integers(1, 7).flatmap(lambda k: arrays(np.int64, (k, k), elements=st.integers(0, 4)))


@given(counts)
def test_worst_pairs_are_all_confusions_and_sorted(counts_KK):
    pairs = worst_pairs(counts_KK)
    wrong = {(a, b) for a in range(len(counts_KK)) for b in range(len(counts_KK)) if a != b and counts_KK[a, b]}
    assert set(pairs) == wrong
    assert len(pairs) == len(wrong)
    found = [counts_KK[pair] for pair in pairs]
    assert found == sorted(found, reverse=True)


@pytest.mark.parametrize("classes", [1, 12, 300])
def test_confusion_of_few_and_of_many_classes(classes, tmp_path):
    rng = np.random.default_rng(0)
    counts_KK = np.diag(rng.integers(0, 5, classes)) + (rng.random((classes, classes)) < 0.02)
    glosses = [f"a $gloss_ [x] \\ {number} of quite some length" for number in range(classes)]
    save_confusion(tmp_path / "confusion.png", counts_KK.astype(np.int64), glosses)
    assert Image.open(tmp_path / "confusion.png").size == (1500, 800)

"""Masks from motion and keypoints: what each adds, what happens where one is missing, and old sets."""

from __future__ import annotations

import dataclasses
import json

import numpy as np
import pytest
import torch

from cclslr.errors import UserError
from cclslr.masking.architecture import flow_config
from cclslr.masking.flow import Flow, FlowCard
from cclslr.masking.methods import MpmOptions, MpmReport, motion_alone, motion_mask
from cclslr.masking.methods.flow_pose import join
from cclslr.masking.options import mask_options
from cclslr.masking.settings import MaskSettings, MaskTotals
from cclslr.masking.signer import HOLD, around, discs, fill_hands, outside, signer_boxes

SIZE = (64, 64)
REAL = MpmReport(0.1, 0.5, None)


def keypoints(frames: int = 20) -> np.ndarray:
    """A signer in the middle: shoulders, elbows, wrists, a face, and the left hand at its wrist."""
    points = np.zeros((frames, 133, 3), np.float32)
    for joint, x, y in ((5, 40, 30), (6, 24, 30), (7, 44, 42), (8, 20, 42), (9, 36, 48), (10, 24, 52)):
        points[:, joint] = (x, y, 0.9)
    points[:, 23:91] = (32, 14, 0.9)
    points[:, 91:112] = (36, 48, 0.9)
    return points


def test_motion_counts_within_the_signers_box_only() -> None:
    points = keypoints()
    everywhere = np.ones((20, 64, 64), np.uint8)
    mask, report = join((everywhere, REAL), points, SIZE, 0.06)
    inside = ~outside(signer_boxes(points), SIZE)
    covered = discs(fill_hands(points)[:, 23:], SIZE, 0.06)
    assert (mask.astype(bool) == inside | covered).all()
    assert report.degenerate is report.note is None
    assert report.share_kept == pytest.approx(mask.mean())
    assert report.share_latents_masked == 0.5


def test_resting_hands_and_face_stay_without_any_motion_there() -> None:
    points = keypoints()
    mask, _ = join((np.zeros((20, 64, 64), np.uint8), REAL), points, SIZE, 0.06)
    assert mask[:, 48, 36].all()
    assert mask[:, 14, 32].all()
    assert not mask[:, 30, 40].any()  # a shoulder is neither
    assert not mask[:, :, :8].any()


def test_what_is_missing_is_said() -> None:
    motion = np.zeros((20, 64, 64), np.uint8)
    motion[:, 5:9, 5:9] = 1
    for nothing in (None, np.zeros((20, 133, 3), np.float32)):
        mask, report = join((motion, REAL), nothing, SIZE, 0.06)
        assert (mask == motion).all()
        assert report.note == "no keypoints: motion alone"
        assert report.degenerate is None
    still = (np.ones((20, 64, 64), np.uint8), MpmReport(1.0, 1.0, "everything static"))
    mask, report = join(still, keypoints(), SIZE, 0.06)
    assert 0 < mask.mean() < 0.2
    assert report.note == "everything static: keypoints alone"
    assert report.degenerate is None
    mask, report = join(still, None, SIZE, 0.06)
    assert mask.all()
    assert report.degenerate == "everything static"
    totals = MaskTotals()
    totals.add(report)
    totals.add(join((motion, REAL), None, SIZE, 0.06)[1])
    twice = MaskTotals(**json.loads(json.dumps(dataclasses.asdict(totals))))
    twice.merge(totals)
    assert (twice.degenerate, twice.notes) == ({"everything static": 2}, {"no keypoints: motion alone": 2})


def test_a_frame_of_which_nothing_is_known_keeps_everything() -> None:
    points = keypoints(40)
    points[20:, :, 2] = 0
    motion = np.zeros((40, 64, 64), np.uint8)
    motion[39, 3, 3] = 1
    mask, _ = join((motion, REAL), points, SIZE, 0.06)
    hidden = mask.mean((1, 2))
    assert (hidden[:20] < 0.2).all()
    assert mask[20 + HOLD : 39].all()
    assert mask[39].sum() == 1


def test_a_hand_that_is_not_found_follows_its_wrist_then_hangs_from_the_forearm() -> None:
    points = keypoints(40)
    points[:, [7, 9], 0] += np.arange(40)[:, None]  # elbow and wrist go to the right, a pixel a frame
    points[10:, 91:112] = 0
    filled = fill_hands(points)
    assert (filled[:10, :112] == points[:10, :112]).all()
    for t in range(10, 10 + HOLD):
        assert filled[t, 95].tolist() == pytest.approx([36 + t - 9, 48, 0.9])
    later = filled[30, 91:112]
    forearm = points[30, 9, :2] - points[30, 7, :2]
    assert (later[:3, 2] > 0.3).all()
    assert (later[3:, 2] == 0).all()
    assert later[2, :2].tolist() == pytest.approx((points[30, 9, :2] + 0.5 * forearm).tolist())
    points[:, 9, 2] = 0  # no wrist either: held in place, then gone
    filled = fill_hands(points)
    assert (filled[10 : 9 + HOLD, 91:112] == points[9, 91:112]).all()
    assert (filled[30, 91:112] == 0).all()


def test_boxes_reach_over_the_frames_around() -> None:
    boxes = np.full((6, 4), np.nan)
    boxes[1], boxes[2] = (0, 0, 1, 1), (5, -2, 9, 3)
    wide = around(boxes, 1)
    assert wide[:3].tolist() == [[0, 0, 1, 1], [0, -2, 9, 3], [0, -2, 9, 3]]
    assert wide[3].tolist() == [5, -2, 9, 3]
    assert np.isnan(wide[4:]).all()


def test_discs_are_those_of_the_slow_loop() -> None:
    rng = np.random.default_rng(0)
    points = rng.uniform(0, 100, (3, 30, 3)).astype(np.float32)
    points[..., 2] /= 100
    expected = np.zeros((3, 64, 64), bool)
    for t, row, column in np.ndindex(3, 64, 64):
        x, y = (column + 0.5) * 100 / 64 - 0.5, (row + 0.5) * 80 / 64 - 0.5
        expected[t, row, column] = any(c > 0.3 and (x - a) ** 2 + (y - b) ** 2 <= 49 for a, b, c in points[t])
    assert (discs(points, (80, 100), 0.07) == expected).all()


def test_the_default_takes_both() -> None:
    torch.set_num_threads(1)
    torch.manual_seed(0)
    flow = Flow(flow_config("tiny", 32), FlowCard("trained"))
    flow.normalise_to(0.5 + 0.1 * torch.randn(64, 3, 32, 32))
    frames = np.repeat(np.random.default_rng(0).integers(100, 130, (1, 64, 64, 3)).astype(np.uint8), 20, 0)
    for t in range(20):
        frames[t, 40:54, 4 + 2 * t : 16 + 2 * t] = 240
    both, _ = motion_mask(frames, MpmOptions(), flow.eval(), keypoints())
    alone, _ = motion_mask(frames, motion_alone(threshold="quantile", binarize="decoded_motion"), flow)
    discs_alone, _ = motion_mask(frames, MpmOptions(method="pose_discs"), None, keypoints())
    assert (both >= discs_alone).all()
    assert (both == join((alone, REAL), keypoints(), SIZE, 0.06)[0]).all()
    assert (both.astype(bool) & ~discs(fill_hands(keypoints())[:, 23:], SIZE, 0.06)).any()
    without, report = motion_mask(frames, MpmOptions(), flow)
    assert (without == alone).all()
    assert report.note == "no keypoints: motion alone"


@pytest.mark.parametrize(
    ("method", "recipe"),
    [
        ("temporal_std", "b641e3315a95"),
        ("pose_discs", "c4661dedc6bf"),
    ],
)
def test_recipes_of_old_sets_stay(method: str, recipe: str) -> None:
    """An option that a method does not use is not part of its recipe, whatever the default of it is."""
    options = MpmOptions(method=method)
    assert MaskSettings(options).recipe().startswith(recipe)
    assert options.recorded() == {**dataclasses.asdict(motion_alone()), "method": method}
    assert motion_alone().recorded() == dataclasses.asdict(motion_alone())
    assert MpmOptions().recorded() == dataclasses.asdict(MpmOptions())
    assert MpmReport(1.0, None, None).recorded() == {
        "share_kept": 1.0, "share_latents_masked": None, "degenerate": None,
    }  # fmt: skip


def test_options_in_words() -> None:
    assert mask_options([]) == MpmOptions()
    assert mask_options(["method=flow", "threshold=absolute", "binarize=decoded_deviation"]) == motion_alone()
    assert mask_options(["p=0.25"]) == MpmOptions(p=0.25)
    for wrong in ("colour=red", "method", "p=much", "method=optical"):
        with pytest.raises(UserError, match="mask option"):
            mask_options([wrong])

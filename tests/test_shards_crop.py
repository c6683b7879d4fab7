"""The square around the signer: frames and keypoints must move together."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cclslr.keypoints import SELECTED
from cclslr.shards.crop import CONFIDENT, MARGIN, crop_and_resize, signer_box
from cclslr.shards.format import BadClip, RawClip

LEFT_WRIST = 9


def fiducial_clip(width: int, height: int, seed: int, num_frames: int = 3) -> RawClip:
    """Frames with a bright spot at the wrist's keypoint, and the other keypoints around it."""
    rng = np.random.default_rng(seed)
    keypoints = np.zeros((num_frames, 133, 3), dtype=np.float32)
    centre = rng.uniform(0.3, 0.7, 2) * (width, height)
    keypoints[..., :2] = centre + rng.uniform(-0.25, 0.25, (num_frames, 133, 2)) * min(width, height)
    keypoints[..., 2] = 0.9
    y, x = np.mgrid[:height, :width] + 0.5  # centres of the pixels
    frames = np.zeros((num_frames, height, width, 3), dtype=np.uint8)
    spot = 0.03 * min(width, height)
    for frame, (at_x, at_y) in zip(frames, keypoints[:, LEFT_WRIST, :2]):
        frame[:] = (250 * np.exp(-((x - at_x) ** 2 + (y - at_y) ** 2) / (2 * spot**2)))[..., None]
    return RawClip(frames, keypoints, 25.0)


def spot_of(frame_HWC: np.ndarray) -> np.ndarray:
    """Centroid of the brightness, in continuous pixels."""
    weight = frame_HWC[..., 0].astype(np.float64)
    y, x = np.mgrid[: weight.shape[0], : weight.shape[1]] + 0.5
    return np.array(((x * weight).sum(), (y * weight).sum())) / weight.sum()


@given(st.integers(60, 300), st.integers(60, 300), st.sampled_from([64, 96, 256]), st.sampled_from(["signer", "none"]),
       st.integers(0, 1000))  # fmt: skip
@settings(max_examples=40, deadline=None)
def test_keypoints_stay_on_what_they_mark(width: int, height: int, size: int, crop: str, seed: int) -> None:
    clip = crop_and_resize(fiducial_clip(width, height, seed), size, crop)
    assert clip.frames_THWC is not None
    assert clip.keypoints_TKC is not None
    if crop == "signer":
        assert clip.frames_THWC.shape[1:3] == (size, size)
    else:
        assert min(clip.frames_THWC.shape[1:3]) == size
        assert not clip.frames_THWC.shape[1] % 2
        assert not clip.frames_THWC.shape[2] % 2
    for frame, keypoints in zip(clip.frames_THWC, clip.keypoints_TKC):
        np.testing.assert_allclose(spot_of(frame), keypoints[LEFT_WRIST, :2], atol=0.02 * size)


@given(st.integers(20, 400), st.integers(20, 400), st.integers(0, 1000))
@settings(max_examples=60, deadline=None)
def test_square_holds_the_signer_and_leaves_the_frame_only_when_it_must(width: int, height: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    keypoints = np.concatenate(
        [rng.uniform(-0.3, 1.3, (5, 133, 2)) * (width, height), rng.choice([0.1, 0.9], (5, 133, 1))], axis=-1
    ).astype(np.float32)
    clip = crop_and_resize(RawClip(np.zeros((5, height, width, 3), np.uint8), keypoints, 25.0), 32, "signer")
    x0, y0, x1, y1 = clip.meta["crop_box"]
    side = x1 - x0
    assert side == y1 - y0
    inside = keypoints[:, list(SELECTED)]
    points = np.clip(inside[inside[..., 2] >= CONFIDENT][:, :2], 0, (width, height))
    extent = np.ptp(points, axis=0).max()
    assert (points >= np.array((x0, y0)) - 1).all()
    assert (points <= np.array((x1, y1)) + 1).all()
    assert side <= extent * (1 + 2 * MARGIN) + 2
    for low, high, limit in ((x0, x1, width), (y0, y1, height)):
        if side <= limit:
            assert low >= 0
            assert high <= limit


def test_padding_is_black_and_centred() -> None:
    frames = np.full((2, 40, 100, 3), 255, dtype=np.uint8)
    keypoints = np.zeros((2, 133, 3), dtype=np.float32)
    keypoints[:, SELECTED[0]] = (10, 20, 1)
    keypoints[:, SELECTED[1]] = (90, 20, 1)
    packed = crop_and_resize(RawClip(frames, keypoints, 25.0), 80, "signer").frames_THWC
    assert packed is not None
    assert packed[:, :18].max() == 0
    assert packed[:, -18:].max() == 0
    assert packed[:, 22:58].min() == 255


def test_one_slip_of_the_estimator_does_not_move_the_square() -> None:
    keypoints = np.tile(np.random.default_rng(0).uniform(40, 60, (1, 133, 3)).astype(np.float32), (60, 1, 1))
    keypoints[..., 2] = 1
    expected = signer_box(keypoints, (200, 200))
    keypoints[30, 0, :2] = 199
    assert signer_box(keypoints, (200, 200)) == expected


def test_without_keypoints_the_given_box_or_the_middle() -> None:
    frames = np.zeros((2, 100, 200, 3), dtype=np.uint8)
    boxed = crop_and_resize(RawClip(frames, None, 25.0, {"box": [100.0, 10.0, 150.0, 60.0]}), 32, "signer")
    assert boxed.meta["crop_box"] == [95, 5, 155, 65]
    unknown = np.zeros((2, 133, 3), dtype=np.float32)
    middle = crop_and_resize(RawClip(frames, unknown, 25.0), 32, "signer")
    assert middle.meta["crop_box"] == [50, 0, 150, 100]
    nonsense = crop_and_resize(RawClip(frames, None, 25.0, {"box": [300.0, 10.0, 310.0, 60.0]}), 32, "signer")
    assert nonsense.meta["crop_box"] == [50, 0, 150, 100]


def test_poses_alone_get_the_coordinates_their_frames_would_have() -> None:
    clip = fiducial_clip(400, 400, 3)
    together = crop_and_resize(clip, 256, "signer").keypoints_TKC
    alone = crop_and_resize(RawClip(None, clip.keypoints_TKC, 25.0), 256, "signer").keypoints_TKC
    assert together is not None
    assert alone is not None
    np.testing.assert_allclose(alone, together, atol=2.0)  # whole pixels of the source against none
    in_unit_square = RawClip(None, clip.keypoints_TKC / np.float32([400, 400, 1]), 25.0)
    np.testing.assert_allclose(crop_and_resize(in_unit_square, 256, "signer").keypoints_TKC, alone, atol=0.01)


def test_points_not_found_become_zero_and_nonsense_is_refused() -> None:
    clip = fiducial_clip(100, 100, 0)
    assert clip.keypoints_TKC is not None
    clip.keypoints_TKC[0, 5] = (50, 50, 0)
    clip.keypoints_TKC[1, 6] = (np.nan, 50, 1)
    clip.keypoints_TKC[2, 7] = (50, np.inf, 1)
    packed = crop_and_resize(clip, 64, "signer").keypoints_TKC
    assert packed is not None
    for t, k in ((0, 5), (1, 6), (2, 7)):
        assert not packed[t, k].any()
    assert np.isfinite(packed).all()
    clip.keypoints_TKC[0, 20] = (1e9, 0, 1)
    with pytest.raises(BadClip, match="too far"):
        crop_and_resize(clip, 64, "signer")

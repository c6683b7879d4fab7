"""The pose kernels against a slow float64 reference that shares no code with them."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cclslr.config import ViewConfig
from cclslr.data.batch import ViewParams
from cclslr.data.pose import pose_views
from cclslr.data.views import draw_views, eval_views, to_view
from cclslr.keypoints import FLIP, SELECTED, SLICES

_BODY = (0, 5, 7, 9, 6, 8, 10)


def _normalised(keypoints_TKC: np.ndarray, width: int, height: int) -> np.ndarray:
    """(T, 75, 3) float64."""
    points = keypoints_TKC.astype(np.float64)
    points[..., :2] /= (width or 1, height or 1)
    sure = points[..., 2] > 0.3
    body = points[:, _BODY, :2][sure[:, _BODY]]
    out = np.zeros((len(points), 75, 3))
    if len(body) < 4:
        return out
    low, high = body.min(axis=0), body.max(axis=0)
    half = (high - low).max() / 2
    if half == 0:
        return out
    anchors = {"left_hand": (91, 9), "right_hand": (112, 10), "face": (53, 0), "mouth": (53, 0)}
    for t, frame in enumerate(points):
        for group, joints in SLICES.items():
            if group == "body":
                origin = (low + high) / 2
            else:
                known = [k for k in anchors[group] if sure[t, k]]
                if not known:
                    continue
                origin = frame[known[0], :2]
            for joint in range(joints.start, joints.stop):
                if sure[t, SELECTED[joint]]:
                    x, y, c = frame[SELECTED[joint]]
                    out[t, joint] = (*np.clip((np.array([x, y]) - origin) / half, -1, 1), c)
    return out


def reference(keypoints_TKC: np.ndarray, size: tuple[int, int], params: ViewParams, v: int, b: int) -> np.ndarray:
    """One view of one clip: (T, 75, 3) float64."""
    view = _normalised(keypoints_TKC, *size)[params.pose_index_VBT[v, b]]
    if params.flip_VB[v, b]:
        view = view[:, FLIP] * (-1, 1, 1)
    angle, scale = float(params.rotation_VB[v, b]), float(params.scale_VB[v, b])
    turn = scale * np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    view[..., :2] = view[..., :2] @ turn.T
    view[:, params.hidden_VBJ[v, b]] = 0
    return view


def _clip(rng: np.random.Generator, frames: int, size: tuple[int, int], sure: float, dtype: type) -> np.ndarray:
    """A plausible person with points of low confidence strewn in."""
    width, height = size[0] or 256, size[1] or 256
    points = np.empty((frames, 133, 3))
    points[..., :2] = rng.normal(0.5, 0.2, (frames, 133, 2)) * (width, height)
    points[..., 2] = np.where(rng.random((frames, 133)) < sure, rng.uniform(0.35, 1, (frames, 133)), 0.25)
    return points.astype(dtype)


@settings(deadline=None, max_examples=60)
@given(
    st.integers(0, 2**31),
    st.lists(st.integers(1, 90), min_size=1, max_size=4),
    st.sampled_from([(256, 256), (320, 240), (0, 0)]),
    st.sampled_from([1.0, 0.8, 0.3, 0.01, 0.0]),
    st.sampled_from([np.float16, np.float32]),
)
def test_agrees_with_the_reference(seed: int, frames: list[int], size: tuple[int, int], sure: float, dtype) -> None:
    rng = np.random.default_rng(seed)
    clips = [_clip(rng, n, size, sure, dtype) for n in frames]
    sizes = np.tile(size, (len(clips), 1))
    params = draw_views(ViewConfig(), seed, 0, np.arange(len(clips)), np.array(frames), sizes)
    views = pose_views(clips, sizes, params)
    assert views.shape == (2, len(clips), 64, 75, 3)
    assert views.dtype == np.float32
    for v in range(2):
        for b, clip in enumerate(clips):
            np.testing.assert_allclose(views[v, b], reference(clip, size, params, v, b), atol=1e-5, rtol=0)


def _person(frames: int = 20) -> np.ndarray:
    points = _clip(np.random.default_rng(0), frames, (256, 256), 1.0, np.float32)
    points[..., :2] = np.random.default_rng(1).uniform(60, 200, points[..., :2].shape)
    return points


def _view(points: np.ndarray, size: tuple[int, int] = (256, 256), **changes: np.ndarray) -> np.ndarray:
    """The evaluation view of one clip, all frames, with some parameters changed."""
    sizes = np.array([size])
    params = eval_views(ViewConfig(pose_frames=len(points)), np.array([len(points)]), sizes)
    return pose_views([points], sizes, dataclasses.replace(params, **changes))[0, 0]


def test_body_fills_the_square_and_groups_sit_on_their_reference() -> None:
    view = _view(_person())
    body = view[:, SLICES["body"], :2]
    assert np.isclose(body.max(axis=(0, 1)) - body.min(axis=(0, 1)), 2, atol=1e-6).any()
    assert abs(body).max() <= 1 + 1e-6
    for joint in (SLICES["left_hand"].start, SLICES["right_hand"].start, SLICES["face"].start + 17):
        np.testing.assert_array_equal(view[:, joint, :2], 0)


def test_does_not_depend_on_where_and_how_large_the_signer_is() -> None:
    points = _person()
    moved = points.copy()
    moved[..., :2] = points[..., :2] * 0.5 + (10, 90)
    np.testing.assert_allclose(_view(moved), _view(points), atol=1e-5)


def test_flipping_twice_changes_nothing_and_equals_mirroring_the_video() -> None:
    points = _person()
    flipped = _view(points, flip_VB=np.array([[True]]))
    mirrored = points.copy()
    mirrored[..., 0] = 256 - mirrored[..., 0]
    whole = np.arange(133)
    whole[list(SELECTED)] = np.array(SELECTED)[FLIP]  # exchange the keypoints as an estimator would name them
    np.testing.assert_allclose(_view(mirrored[:, whole]), flipped, atol=1e-5)
    np.testing.assert_allclose(_view(mirrored[:, whole], flip_VB=np.array([[True]])), _view(points), atol=1e-5)


def test_rotation_turns_differences_within_any_group() -> None:
    """An image turned about any point, normalised by the same square, differs within a group by that turn alone."""
    points, angle = _person(), np.float32(0.15)
    plain, turned = _view(points), _view(points, rotation_VB=np.array([[angle]]))
    for group in SLICES.values():
        before = (plain[:, group, 0] + 1j * plain[:, group, 1]) * np.exp(1j * angle)
        np.testing.assert_allclose(turned[:, group, 0], before.real, atol=1e-5)
        np.testing.assert_allclose(turned[:, group, 1], before.imag, atol=1e-5)


def test_stand_ins_for_reference_points() -> None:
    points = _person()
    points[:, 9] = points[:, 91]  # the body's wrist lies where the hand's does
    points[:, 0] = points[:, 53]
    lost = points.copy()
    lost[5:, 91, 2] = lost[5:, 53, 2] = 0.1
    whole, stood_in = _view(points), _view(lost)
    hand, tip = SLICES["left_hand"], SLICES["face"].start + 17
    np.testing.assert_array_equal(stood_in[5:, [hand.start, tip]], 0)
    rest = np.setdiff1d(np.arange(75), [hand.start, tip])
    np.testing.assert_allclose(stood_in[:, rest], whole[:, rest], atol=1e-6)
    lost[5:, 9, 2] = 0.1  # now nothing is left to measure the hand from
    assert (_view(lost)[5:, hand] == 0).all()


@pytest.mark.parametrize(("confident", "zero"), [(3, True), (4, False)])
def test_too_few_body_points(confident: int, zero: bool) -> None:
    points = _person()
    points[:, _BODY, 2] = 0.2
    points.reshape(-1, 3)[np.flatnonzero(np.isin(np.arange(133), _BODY))[:confident], 2] = 0.9  # in the first frame
    assert (_view(points) == 0).all() == zero


def test_all_body_points_in_one_place() -> None:
    points = _person()
    points[:, _BODY, :2] = 128
    assert (_view(points) == 0).all()


def test_hidden_joints_are_zero_and_the_others_untouched() -> None:
    points, hidden = _person(), np.zeros((1, 1, 75), bool)
    hidden[..., [0, 17, 60]] = True
    view, plain = _view(points, hidden_VBJ=hidden), _view(points)
    assert (view[:, [0, 17, 60]] == 0).all()
    rest = ~hidden[0, 0]
    np.testing.assert_array_equal(view[:, rest], plain[:, rest])


def test_rgb_and_pose_views_show_the_same_signer() -> None:
    """Body joints mapped onto the RGB view are the pose view up to one scale and shift: the same side is left."""
    points = _person(40)
    sizes = np.array([(256, 256)])
    cfg = ViewConfig(rotation=0, scale=(1, 1), masked_joints=0, rgb_frames=64, ratio=(1, 1))
    for clip in range(8):
        params = draw_views(cfg, 0, 0, np.array([clip]), np.array([40]), sizes)
        views = pose_views([points], sizes, params)
        for v in range(2):
            np.testing.assert_array_equal(params.rgb_index_VBT[v], params.pose_index_VBT[v])
            whole = np.array(SELECTED)[SLICES["body"]]
            if params.flip_VB[v, 0]:
                whole = np.array(SELECTED)[FLIP][SLICES["body"]]
            pixels = to_view(points[params.rgb_index_VBT[v, 0]][:, whole, :2], params, v, 0, 224).reshape(-1, 2)
            pose = views[v, 0][:, SLICES["body"], :2].reshape(-1, 2)
            for axis in range(2):
                slope, shift = np.polyfit(pose[:, axis], pixels[:, axis], 1)
                assert slope > 0
                np.testing.assert_allclose(slope * pose[:, axis] + shift, pixels[:, axis], atol=0.05)

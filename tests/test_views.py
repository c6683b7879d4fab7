"""Draws of the views against plain loops and step-by-step colour arithmetic."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from cclslr.config import ViewConfig
from cclslr.data.batch import ViewParams
from cclslr.data.draw import Purpose, hash_words, uniform
from cclslr.data.views import colour_matrix, draw_views, eval_views, to_view

_MANY = 4000


def _many(cfg: ViewConfig | None = None, frames: int = 60, size: tuple[int, int] = (320, 240)) -> ViewParams:
    ids = np.arange(_MANY)
    return draw_views(cfg or ViewConfig(), 0, 0, ids, np.full(_MANY, frames), np.tile(size, (_MANY, 1)))


@settings(deadline=None, max_examples=30)
@given(
    st.integers(0, 2**31),
    st.integers(0, 500),
    st.integers(0, 2**31),
    st.integers(1, 300),
    st.tuples(st.integers(16, 640), st.integers(16, 640)),
)
def test_geometry_and_time_by_hand(seed: int, epoch: int, clip: int, frames: int, size: tuple[int, int]) -> None:
    cfg = ViewConfig()
    params = draw_views(cfg, seed, epoch, np.array([5, clip]), np.array([9, frames]), np.array([(64, 64), size]))
    for v in range(2):

        def lot(purpose: Purpose, view: int = v) -> float:
            return float(uniform(seed, epoch, clip, view, purpose))

        length = (cfg.min_length + (1 - cfg.min_length) * lot(Purpose.LENGTH)) * frames
        start = lot(Purpose.START) * (frames - length)
        for index_T in (params.rgb_index_VBT[v, 1], params.pose_index_VBT[v, 1]):
            by_hand = [min(int(start + (i + 0.5) / len(index_T) * length), frames - 1) for i in range(len(index_T))]
            assert index_T.tolist() == by_hand

        area = cfg.area[0] + (cfg.area[1] - cfg.area[0]) * lot(Purpose.AREA)
        low, high = map(math.log, cfg.ratio)
        ratio = math.exp(low + (high - low) * lot(Purpose.RATIO))
        w = min(math.sqrt(area * size[0] * size[1] * ratio), size[0])
        h = min(math.sqrt(area * size[0] * size[1] / ratio), size[1])
        x, y = lot(Purpose.CROP_X) * (size[0] - w), lot(Purpose.CROP_Y) * (size[1] - h)
        np.testing.assert_allclose(params.crop_VB4[v, 1], (x, y, x + w, y + h), rtol=1e-5, atol=1e-3)
        x0, y0, x1, y1 = params.crop_VB4[v, 1]
        assert -1e-3 <= x0 < x1 <= size[0] + 1e-3
        assert -1e-3 <= y0 < y1 <= size[1] + 1e-3

        assert params.flip_VB[v, 1] == (lot(Purpose.FLIP) < 0.5)
        assert params.masked_VB[v, 1] == (lot(Purpose.MASK) < 0.2)
        hidden = math.floor(lot(Purpose.HIDDEN_COUNT) * 11)
        lots = [int(hash_words(seed, epoch, clip, v, Purpose.HIDDEN_JOINT, joint)) for joint in range(75)]
        assert set(np.flatnonzero(params.hidden_VBJ[v, 1])) == set(np.argsort(lots, kind="stable")[:hidden].tolist())


def test_a_clip_has_the_same_views_alone_and_in_any_batch() -> None:
    ids, frames, sizes = np.array([3, 99, 7]), np.array([30, 75, 64]), np.array([(256, 256), (320, 240), (256, 256)])
    together = draw_views(ViewConfig(), 1, 2, ids, frames, sizes)
    for b in range(3):
        alone = draw_views(ViewConfig(), 1, 2, ids[b : b + 1], frames[b : b + 1], sizes[b : b + 1])
        for name, value in vars(alone).items():
            np.testing.assert_array_equal(value[:, 0], getattr(together, name)[:, b], err_msg=name)


def test_views_clips_and_epochs_differ() -> None:
    params = _many()
    assert len({crop.tobytes() for crop in params.crop_VB4.reshape(-1, 4)}) == 2 * _MANY
    other = draw_views(ViewConfig(), 0, 1, np.arange(_MANY), np.full(_MANY, 60), np.tile((320, 240), (_MANY, 1)))
    assert not (params.crop_VB4 == other.crop_VB4).all(axis=-1).any()


def test_types_and_distributions() -> None:
    params = _many()
    kinds = {name: (value.dtype.name, value.shape[2:]) for name, value in vars(params).items()}
    assert kinds == {
        "rgb_index_VBT": ("int32", (32,)),
        "pose_index_VBT": ("int32", (64,)),
        "crop_VB4": ("float32", (4,)),
        "flip_VB": ("bool", ()),
        "colour_VB34": ("float32", (3, 4)),
        "masked_VB": ("bool", ()),
        "rotation_VB": ("float32", ()),
        "scale_VB": ("float32", ()),
        "hidden_VBJ": ("bool", (75,)),
    }
    assert abs(params.flip_VB.mean() - 0.5) < 0.03
    assert abs(params.masked_VB.mean() - 0.2) < 0.03
    degrees = np.degrees(params.rotation_VB).ravel()
    assert stats.kstest(degrees, stats.uniform(-10, 20).cdf).pvalue > 1e-3
    assert stats.kstest(params.scale_VB.ravel(), stats.uniform(0.9, 0.2).cdf).pvalue > 1e-3
    hidden = params.hidden_VBJ.sum(axis=-1).ravel()
    assert stats.chisquare(np.bincount(hidden, minlength=11)).pvalue > 1e-3
    assert stats.chisquare(params.hidden_VBJ.sum(axis=(0, 1))).pvalue > 1e-3
    w, h = (params.crop_VB4[..., 2:] - params.crop_VB4[..., :2]).reshape(-1, 2).T
    inside = (w < 319.9) & (h < 239.9)  # not clamped
    assert inside.mean() > 0.5
    assert (w * h / (320 * 240))[inside].min() > 0.3999
    assert (w / h)[inside].min() > 0.7499
    assert (w / h)[inside].max() < 4 / 3 + 1e-3


def test_rgb_and_pose_span_the_same_time() -> None:
    params = _many(frames=1000)
    spans = [index[..., -1] - index[..., 0] for index in (params.rgb_index_VBT, params.pose_index_VBT)]
    lengths = [span / (1 - 1 / n) for span, n in zip(spans, (32, 64), strict=True)]
    np.testing.assert_allclose(lengths[0], lengths[1], atol=3)
    np.testing.assert_allclose(params.rgb_index_VBT.mean(-1), params.pose_index_VBT.mean(-1), atol=1.5)
    assert 95 < lengths[0].min() < 120
    assert 980 < lengths[0].max() < 1005


def _jitter(rgb: np.ndarray, brightness: float, contrast: float, saturation: float, hue: float) -> np.ndarray:
    """Colour jitter one operation after the other, on one pixel in 0..255."""
    rgb = rgb * brightness
    rgb = (rgb - 127.5) * contrast + 127.5
    luma = 0.299 * rgb[0] + 0.587 * rgb[1] + 0.114 * rgb[2]
    rgb = luma + saturation * (rgb - luma)
    luma = 0.299 * rgb[0] + 0.587 * rgb[1] + 0.114 * rgb[2]
    i = 0.595716 * rgb[0] - 0.274453 * rgb[1] - 0.321263 * rgb[2]
    q = 0.211456 * rgb[0] - 0.522591 * rgb[1] + 0.311135 * rgb[2]
    turned = (i + 1j * q) * np.exp(2j * np.pi * hue)
    return luma + np.array([0.9563, -0.2721, -1.1070]) * turned.real + np.array([0.6210, -0.6474, 1.7046]) * turned.imag


_FACTOR = st.floats(0.6, 1.4)


@settings(deadline=None)
@given(_FACTOR, _FACTOR, _FACTOR, st.floats(-0.5, 0.5), st.tuples(*[st.integers(0, 255)] * 3))
def test_colour_matrix(b: float, c: float, s: float, hue: float, rgb: tuple[int, int, int]) -> None:
    matrix = colour_matrix(*(np.array(x) for x in (b, c, s, hue)))
    pixel = np.array(rgb, float)
    np.testing.assert_allclose(matrix[:, :3] @ pixel + matrix[:, 3], _jitter(pixel, b, c, s, hue), atol=0.2)


def test_colour_matrix_leaves_grey_grey() -> None:
    rng = np.random.default_rng(0)
    matrices = colour_matrix(*rng.uniform(0.6, 1.4, (3, 50)), rng.uniform(-0.1, 0.1, 50))
    for matrix in matrices:
        grey = matrix[:, :3] @ np.full(3, 90.0) + matrix[:, 3]
        assert np.ptp(grey) < 1e-2


def test_evaluation_view() -> None:
    params = eval_views(ViewConfig(rgb_frames=4, pose_frames=8), np.array([8, 3]), np.array([(320, 240), (200, 256)]))
    assert params.rgb_index_VBT.tolist() == [[[1, 3, 5, 7], [0, 1, 1, 2]]]
    assert params.pose_index_VBT[0, 0].tolist() == list(range(8))
    assert params.crop_VB4.tolist() == [[[40, 0, 280, 240], [0, 28, 200, 228]]]
    np.testing.assert_allclose(params.colour_VB34, np.tile(np.eye(3, 4), (1, 2, 1, 1)), atol=1e-6)
    assert not params.flip_VB.any()
    assert not params.masked_VB.any()
    assert not params.hidden_VBJ.any()
    assert (params.rotation_VB == 0).all()
    assert (params.scale_VB == 1).all()


@pytest.mark.parametrize("v", [0, 1])
def test_to_view(v: int) -> None:
    params = _many()
    for b in range(20):
        x0, y0, x1, y1 = params.crop_VB4[v, b]
        corners = to_view(np.array([(x0, y0), (x1, y1), ((x0 + x1) / 2, y0)]), params, v, b, 112)
        left, right = (112, 0) if params.flip_VB[v, b] else (0, 112)
        np.testing.assert_allclose(corners, [(left, 0), (right, 112), (56, 0)], atol=1e-3)


def test_nothing_random_when_every_range_is_closed() -> None:
    closed = ViewConfig(
        min_length=1.0, area=(1.0, 1.0), ratio=(1.0, 1.0), flip=0.0, brightness=0.0, contrast=0.0, saturation=0.0,
        hue=0.0, mask_alpha=0.0, rotation=0.0, scale=(1.0, 1.0), masked_joints=0,
    )  # fmt: skip
    ids = np.arange(5)
    drawn = draw_views(closed, 0, 0, ids, np.full(5, 60), np.tile((256, 256), (5, 1)))
    fixed = eval_views(closed, np.full(5, 60), np.tile((256, 256), (5, 1)))
    for name, value in vars(fixed).items():
        for v in range(2):
            np.testing.assert_allclose(getattr(drawn, name)[v], value[0], atol=1e-4, err_msg=name)

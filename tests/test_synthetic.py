"""SynthSign: determinism, the truth about a clip, the rasteriser against supersampling, what twins differ by."""

from __future__ import annotations

import dataclasses
import json
import pickle

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.linear_model import LogisticRegression

from cclslr.datasets.synthetic import SynthClip, SynthOptions, manifest, moving_region, render
from cclslr.datasets.synthetic.__main__ import contact_sheet
from cclslr.datasets.synthetic.body import FOREARM, UPPER_ARM, skeleton
from cclslr.datasets.synthetic.signs import MAX_CLASSES, PATHS, path_offset, sign
from cclslr.keypoints import FLIP, select
from cclslr.shards.format import KEY_PATTERN

SMALL = SynthOptions(classes=6, clips_per_class=(3, 1, 2), signers=(3, 1, 2), size=64, frames=(12, 20))
HANDS = (slice(91, 112), slice(112, 133))


def _clips(options: SynthOptions) -> list[SynthClip]:
    clips = []
    for row in manifest(options):
        assert isinstance(row.source, SynthClip)
        clips.append(row.source)
    return clips


def test_manifest_counts_keys_and_disjoint_signers():
    rows = manifest(SMALL)
    assert len({row.key for row in rows}) == len(rows) == 6 * (3 + 1 + 2)
    assert all(KEY_PATTERN.fullmatch(row.key) for row in rows)
    signers = {split: {row.signer for row in rows if row.split == split} for split in ("train", "val", "test")}
    assert [len(signers[split]) for split in ("train", "val", "test")] == [3, 1, 2]
    assert len(set.union(*signers.values())) == 6
    for split, count in (("train", 3), ("val", 1), ("test", 2)):
        labels = [row.label for row in rows if row.split == split]
        assert labels == sorted(list(range(6)) * count)


@pytest.mark.parametrize(
    "wrong", [{"classes": 0}, {"classes": MAX_CLASSES + 1}, {"signers": (0, 1, 1)}, {"frames": (20, 10)}, {"size": 16}]
)
def test_wrong_options_are_named(wrong):
    with pytest.raises(ValueError, match=next(iter(wrong))):
        SynthOptions(**wrong)


def test_a_clip_is_a_function_of_its_seed_and_number():
    clip = _clips(SMALL)[7]
    first = clip.load()
    np.random.seed(1)  # noqa: NPY002 - global state must not matter
    _clips(SMALL)[3].load()
    again = pickle.loads(pickle.dumps(clip)).load()
    np.testing.assert_array_equal(first.frames_THWC, again.frames_THWC)
    np.testing.assert_array_equal(first.keypoints_TKC, again.keypoints_TKC)
    assert first.meta == again.meta
    other = _clips(dataclasses.replace(SMALL, seed=1))[7].load()
    assert other.meta["true_signer"] != first.meta["true_signer"]


def test_a_signer_stays_the_same_and_signs_differently_each_time():
    by_signer: dict[int, list[SynthClip]] = {}
    for clip in _clips(SMALL):
        by_signer.setdefault(clip.signer_id, []).append(clip)
    assert len({clips[0].signer for clips in by_signer.values()}) == len(by_signer)
    for clips in by_signer.values():
        assert len({clip.signer for clip in clips}) == 1
        assert len({clip.performance().mouth_T2.tobytes() for clip in clips}) == len(clips)


def test_a_loaded_clip_keeps_the_contract():
    for clip in _clips(SMALL)[::7]:
        raw = clip.load()
        frames = clip.num_frames
        assert 12 <= frames <= 20
        assert raw.frames_THWC.shape == (frames, 64, 64, 3)
        assert raw.frames_THWC.dtype == np.uint8
        assert raw.keypoints_TKC.shape == (frames, 133, 3)
        assert raw.keypoints_TKC.dtype == np.float32
        assert raw.keypoints_TKC[..., 2].min() >= 0
        assert raw.keypoints_TKC[..., 2].max() <= 1
        assert np.isfinite(raw.keypoints_TKC).all()
        assert len(json.dumps(raw.meta)) < 3000
        first, last = raw.meta["span"]
        assert 0 <= first < last <= frames


def test_keypoints_are_the_same_without_video():
    silent = _clips(dataclasses.replace(SMALL, video=False))[7].load()
    assert silent.frames_THWC is None
    np.testing.assert_array_equal(silent.keypoints_TKC, _clips(SMALL)[7].load().keypoints_TKC)


def test_without_noise_and_drop_out_the_estimator_tells_the_truth():
    clip = _clips(dataclasses.replace(SMALL, noise=0.0, drop_out=0.0))[0]
    observed, true = clip.load().keypoints_TKC, clip.clean_keypoints()
    np.testing.assert_allclose(observed[..., :2], true[..., :2], atol=1e-4)
    assert (observed[:, 91:, 2] > 0.3).all()


def test_hands_are_lost_whole_and_as_often_as_by_real_estimators():
    found, changes = [], []
    for clip in _clips(SynthOptions(classes=10, clips_per_class=(4, 0, 0), size=32)):
        keypoints = clip.load().keypoints_TKC
        for hand in HANDS:
            seen = keypoints[:, hand, 2] > 0
            assert (seen.all(axis=1) | ~seen.any(axis=1)).all()
            assert (keypoints[~seen[:, 0], hand] == 0).all()
            found.append(seen[:, 0].mean())
            changes.append((seen[1:, 0] != seen[:-1, 0]).mean())
    assert 0.34 < np.mean(found) < 0.86
    independent = 2 * np.mean(found) * (1 - np.mean(found))  # how often neighbours would differ without bursts
    assert np.mean(changes) < 0.5 * independent


def test_hand_joints_lie_in_the_moving_region_and_there_things_move():
    inside, inner, outer = [], [], []
    for clip in _clips(dataclasses.replace(SMALL, size=96, camera=0.0))[::5]:
        region = moving_region(clip)
        frames = clip.load().frames_THWC.astype(np.float64)
        assert region.shape == frames.shape[:3]
        assert region.dtype == bool
        joints = np.floor(clip.clean_keypoints()[:, 91:133, :2]).astype(int)
        within = ((joints >= 0) & (joints < 96)).all(axis=-1)
        t = np.broadcast_to(np.arange(len(frames))[:, None], within.shape)[within]
        inside.append(region[t, joints[within][:, 1], joints[within][:, 0]].mean())
        motion = np.abs(np.diff(frames, axis=0)).mean(axis=(0, 3))
        swept = region.any(axis=0)
        inner.append(motion[swept].mean())
        outer.append(motion[~swept].mean())
    assert np.mean(inside) > 0.97
    assert np.mean(inner) > 2.5 * np.mean(outer)


def test_keypoints_lie_on_what_is_drawn():
    """Fiducial: the inside of an open mouth is dark where the inner lips' keypoints say it is."""
    options = dataclasses.replace(SMALL, size=128, frames=(24, 24), camera=1.0)
    clip = SynthClip(options, index=0, label=2, signer_id=1)
    assert clip.sign.mouth == "open"
    points, mouth = clip.clean_keypoints(), clip.performance().mouth_T2
    frames, region = clip.load().frames_THWC, moving_region(clip)
    checked = 0
    for t in np.flatnonzero(mouth[:, 1] > 0.35):
        x, y = points[t, 83:91, :2].mean(axis=0).astype(int)
        if not region[t, y - 4 : y + 5, x - 4 : x + 5].any():
            chin = np.floor(points[t, 31, :2] - (0, 2.5)).astype(int)
            assert frames[t, y, x].mean() < 0.6 * frames[t, chin[1], chin[0]].mean()
            checked += 1
    assert checked >= 2


@pytest.mark.parametrize("label", [2, 4, 6, 12])
def test_bones_keep_their_length(label):
    clip = SynthClip(dataclasses.replace(SMALL, classes=20), index=label, label=label, signer_id=0)
    points = skeleton(clip.performance(), clip.signer)
    for first in (0, 1):
        hand = points[:, HANDS[first]]
        bones = [points[:, 7 + first] - points[:, 5 + first], points[:, 9 + first] - points[:, 7 + first]]
        lengths = np.linalg.norm(bones, axis=-1)
        np.testing.assert_allclose(lengths[0], UPPER_ARM * clip.signer.arm, rtol=1e-6)
        np.testing.assert_allclose(lengths[1], FOREARM * clip.signer.arm, rtol=1e-6)
        for finger in range(5):
            chain = hand[:, 4 * finger + 1 : 4 * finger + 5]
            lengths = np.linalg.norm(np.diff(chain, axis=1), axis=-1)
            np.testing.assert_allclose(lengths, np.broadcast_to(lengths[:1], lengths.shape), rtol=1e-6)


def test_a_left_handed_signer_is_the_mirror_image():
    clip = SynthClip(SMALL, index=0, label=4, signer_id=0)
    performance = clip.performance()
    performance.sway_T2[:, 0] = 0
    right = dataclasses.replace(clip.signer, left_handed=False)
    left = dataclasses.replace(clip.signer, left_handed=True)
    mirrored = select(skeleton(performance, left))[:, FLIP] * (-1, 1, 1)
    np.testing.assert_allclose(mirrored, select(skeleton(performance, right)), atol=1e-9)


def test_every_class_is_its_own_and_twins_differ_by_one_cue():
    cues = ("place", "path", "hands", "tilt", "roll", "handshape", "mouth", "fine")
    contents = [tuple(getattr(sign(label), cue) for cue in cues) for label in range(MAX_CLASSES)]
    assert len(set(contents)) == MAX_CLASSES
    for one, other in zip(contents[::2], contents[1::2]):
        assert sum(a != b for a, b in zip(one, other)) == 1
        assert one[:5] == other[:5]
    assert {sign(label).differs for label in range(1, 12, 2)} == {"handshape", "mouth", "fine"}
    assert len({sign(label).gloss for label in range(20)}) == 20
    assert SynthOptions(classes=6, twins=2).signs == (0, 1, 2, 3, 4, 6)
    assert SynthOptions(classes=5).signs == (0, 1, 2, 3, 4)
    assert [row.source.sign.differs for row in manifest(SynthOptions(classes=4, twins=0))][-1] == "plain"
    for wrong in ({"classes": 3, "twins": 2}, {"classes": MAX_CLASSES, "twins": 0}):
        with pytest.raises(ValueError, match="twins"):
            SynthOptions(**wrong)
    for label in (-1, MAX_CLASSES):
        with pytest.raises(ValueError, match="classes"):
            sign(label)


@pytest.mark.parametrize("path", PATHS)
def test_paths_move_within_reach(path):
    offset = path_offset(path, np.linspace(0, 1, 101))
    assert offset.shape == (101, 3)
    assert np.abs(offset).max() <= 1 + 1e-9
    assert np.ptp(offset, axis=0).max() > 1


NUMBER = st.floats(4, 28, allow_nan=False)
RADIUS = st.floats(1.5, 6, allow_nan=False)


def _supersampled(primitive: np.ndarray, size: int, factor: int = 8) -> np.ndarray:
    """Share of every pixel that a primitive covers, by brute force."""
    at = (np.arange(size * factor) + 0.5) / factor
    x, y = np.meshgrid(at, at)
    ax, ay, ar, bx, by, br = primitive[:6]
    if br < 0:
        u = ((x - ax) * np.cos(by) + (y - ay) * np.sin(by)) / ar
        v = ((y - ay) * np.cos(by) - (x - ax) * np.sin(by)) / bx
        inside = u**2 + v**2 <= 1
    else:
        along = np.clip(((x - ax) * (bx - ax) + (y - ay) * (by - ay)) / ((bx - ax) ** 2 + (by - ay) ** 2 + 1e-6), 0, 1)
        inside = np.hypot(x - ax - along * (bx - ax), y - ay - along * (by - ay)) <= ar + along * (br - ar)
    return inside.reshape(size, factor, size, factor).mean(axis=(1, 3))


@settings(max_examples=40, deadline=None)
@given(st.tuples(NUMBER, NUMBER, RADIUS, NUMBER, NUMBER, RADIUS), st.booleans())
def test_the_rasteriser_agrees_with_supersampling(shape, ellipse):
    primitive = np.array((*shape, 255, 255, 255), dtype=np.float64)
    if ellipse:
        primitive[3:6] = shape[5], shape[3], -1
    canvas = np.zeros((1, 32, 32, 3), dtype=np.uint8)
    render.paint(canvas, primitive[None, None], 0.0)
    difference = canvas[0, ..., 0] / 255 - _supersampled(primitive, 32)
    assert np.abs(difference).mean() < 0.01
    assert np.abs(difference).max() < 0.4


def test_exposure_lights_and_adds_grain_of_the_given_strength():
    frames = np.full((4, 64, 64, 3), 100, dtype=np.uint8)
    light = np.full((64, 64), 0.8, dtype=np.float32)
    render.expose(frames, light, 3.0, 12345)
    assert abs(frames.mean() - 79.5) < 0.2  # truncated, not rounded
    assert abs(frames[..., 0].std() - 3.0) < 0.15
    assert np.array_equal(frames[..., 0], frames[..., 2])


def test_backgrounds_differ_between_signers():
    walls = [render.background(32, seed).astype(int) for seed in range(6)]
    apart = [np.abs(a - b).mean() for i, a in enumerate(walls) for b in walls[:i]]
    assert min(apart) > 8


def test_true_keypoints_of_unseen_signers_tell_the_families_apart():
    options = SynthOptions(classes=8, clips_per_class=(8, 0, 6), signers=(8, 0, 6), size=64, frames=(16, 24))
    features, families, train = [], [], []
    for row in manifest(options):
        points = row.source.clean_keypoints()[:, [5, 6, 7, 8, 9, 10], :2] / 64
        features.append(np.concatenate([part.mean(axis=0).ravel() for part in np.array_split(points, 6)]))
        families.append(row.label // 2)
        train.append(row.split == "train")
    features, families, train = np.array(features), np.array(families), np.array(train)
    model = LogisticRegression(C=10.0, max_iter=500).fit(features[train], families[train])
    assert model.score(features[~train], families[~train]) > 0.7


def test_contact_sheet_shows_the_keypoints():
    sheet = np.asarray(contact_sheet(_clips(SMALL)[:4]))
    assert sheet.shape == (2 * 64, 2 * 4 * 64, 3)
    assert (sheet[:64, 128:192] != sheet[:64, 192:256]).any()

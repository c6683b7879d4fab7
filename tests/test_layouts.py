"""Keypoints of other layouts: each point where it belongs, fractions made pixels, the wrong name refused."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from importing import make

from cclslr.commands import pack
from cclslr.datasets.base import VideoFile
from cclslr.errors import BadClip, UserError
from cclslr.shards.keypoint_file import PoseReading, load_keypoints
from cclslr.shards.layouts import BODY, FACE, LAYOUTS, layout_named, to_wholebody
from cclslr.shards.reader import ShardSet

# Where a few of the 133 lie in each layout, from its program's documentation: nose, left and right wrist, left big toe,
# chin, left and right tip of the index finger.
ASKED = (0, 9, 10, 17, 31, 99, 120)
PLACES = {
    "wholebody133": ASKED,
    "coco17": (0, 9, 10, None, None, None, None),
    "mediapipe33": (0, 15, 16, 31, None, None, None),
    "mediapipe75": (0, 15, 16, 31, None, 33 + 8, 54 + 8),
    "mediapipe543": (0, 15, 16, 31, 33 + 152, 501 + 8, 522 + 8),
    "mediapipe553": (0, 15, 16, 31, 33 + 152, 511 + 8, 532 + 8),
    "kaggle543": (489, 504, 505, 520, 152, 468 + 8, 522 + 8),
    "openpose137": (0, 7, 4, 19, 25 + 8, 95 + 8, 116 + 8),
    "openpose137_hands_first": (0, 7, 4, 19, 67 + 8, 25 + 8, 46 + 8),
}


@pytest.mark.parametrize("name", LAYOUTS)
def test_points_go_where_they_belong(name: str) -> None:
    layout = layout_named(name)
    rng = np.random.default_rng(0)
    points_TKC = rng.uniform(1, 500, (4, layout.points, 3))
    points_TKC[..., 2] = rng.uniform(0.4, 1, points_TKC.shape[:2])
    keypoints_TKC = to_wholebody(points_TKC, layout)
    assert keypoints_TKC.shape == (4, 133, 3)
    for target, place in zip(ASKED, PLACES[name], strict=True):
        expected = np.zeros((4, 3)) if place is None else points_TKC[:, place].copy()
        if layout.depth and place is not None:
            expected[:, 2] = 1  # a depth is no confidence
        np.testing.assert_allclose(keypoints_TKC[:, target], expected, rtol=1e-6)
    used = [place for place in layout.sources if place >= 0]
    assert max(used) < layout.points
    repeated = {31, 32} if layout.depth else set()  # MediaPipe has one toe for two
    assert len(used) - len(set(used)) == (2 if repeated else 0)


def test_what_was_not_found_has_no_confidence() -> None:
    points_TKC = np.full((3, 543, 4), 0.5, np.float32)
    points_TKC[..., 3] = 0  # as MediaPipe leaves the visibility of hands and face
    points_TKC[:, :33, 3] = 0.9
    points_TKC[0, 501:522] = np.nan
    points_TKC[1, 522:] = 0
    points_TKC[2, 15, 0] = np.inf
    keypoints_TKC = to_wholebody(points_TKC, layout_named("mediapipe543"))
    assert not keypoints_TKC[0, 91:112, 2].any()
    assert not keypoints_TKC[1, 112:, 2].any()
    assert keypoints_TKC[2, 112:, 2].all()
    np.testing.assert_allclose(keypoints_TKC[0, :17, 2], 0.9, rtol=1e-6)
    assert not np.isfinite(keypoints_TKC[2, 9]).all()  # stays, so that packing counts it
    assert np.isnan(keypoints_TKC[0, 91:112, 0]).all()


@pytest.mark.parametrize("shape", [(4, 542, 3), (4, 543, 5), (4, 543, 1), (543, 3)])
def test_other_shapes_are_refused(tmp_path: Path, shape: tuple[int, ...]) -> None:
    np.save(tmp_path / "k.npy", np.ones(shape))
    with pytest.raises(BadClip, match=r"k\.npy: the keypoints have shape"):
        load_keypoints(tmp_path / "k.npy", "mediapipe543")


def test_the_names_that_fit_are_said(tmp_path: Path) -> None:
    np.save(tmp_path / "k.npy", np.ones((4, 543, 3)))
    with pytest.raises(BadClip, match="--layout mediapipe543 or kaggle543 reads them"):
        load_keypoints(tmp_path / "k.npy")
    with pytest.raises(UserError, match="no layout of keypoints is called 'x'; known are wholebody133"):
        load_keypoints(tmp_path / "k.npy", "x")


def points(frames: int = 12) -> np.ndarray:
    """OpenPose's 137 as fractions of the frame."""
    rng = np.random.default_rng(3)
    points_TKC = rng.uniform(0.2, 0.8, (frames, 137, 3))
    points_TKC[..., 2] = 0.9
    return points_TKC


def test_fractions_of_another_layout_are_packed(tmp_path: Path, write_video: Callable[..., Path]) -> None:
    write_video(tmp_path / "v" / "house" / "a.mp4", 12)
    np.savez(tmp_path / "v" / "house" / "a.npz", keypoints=points())
    np.savez(make(tmp_path / "alone", "house/x.txt") / "house" / "b.npz", keypoints=points())
    common = ["--out", str(tmp_path / "out"), "--crop", "none", "--size", "64"]
    argv = ["folder", str(tmp_path / "v"), *common, "--layout", "openpose137", "--normalised"]
    assert pack.main(argv) == 0
    clip = ShardSet([str(tmp_path / "out")]).read(0)
    assert clip.pose_TKC is not None
    expected = points()[:, 0, :2] * (clip.row.width, clip.row.height)
    np.testing.assert_allclose(clip.pose_TKC[:, 0, :2], expected, atol=0.6)
    alone = [
        "folder",
        str(tmp_path / "alone"),
        "--out",
        str(tmp_path / "two"),
        "--layout",
        "openpose137",
        "--normalised",
    ]
    with pytest.raises(UserError, match="no clip to pack"):  # nobody says of what they are fractions
        pack.main(alone)
    assert pack.main([*alone, "640", "480"]) == 0
    for wrong in (["640"], ["0", "480"]):
        with pytest.raises(UserError, match="takes nothing, or WIDTH HEIGHT"):
            pack.main([*alone, *wrong])
    with pytest.raises(UserError, match="are for keypoint files"):
        pack.main(["synthetic", "--out", str(tmp_path / "three"), "--layout", "coco17"])


@pytest.mark.parametrize(("scale", "shift", "reason"), [(640, 0, "but pixels"), (2, -1, "about the middle")])
def test_what_is_no_fraction_is_refused(tmp_path: Path, scale: float, shift: float, reason: str) -> None:
    keypoints_TKC = np.ones((5, 133, 3))
    keypoints_TKC[..., :2] = np.random.default_rng(0).uniform(0, 1, (5, 133, 2)) * scale + shift
    np.savez(tmp_path / "k.npz", keypoints=keypoints_TKC)
    with pytest.raises(BadClip, match=reason):
        VideoFile(None, str(tmp_path / "k.npz"), reading=PoseReading(None, True, (640, 480))).load()


def test_a_fingerprint_is_as_before_until_files_are_read_otherwise(tmp_path: Path) -> None:
    """What was packed before there were layouts is not packed again."""
    plain = VideoFile(None, "k.npz")
    assert "reading" not in plain.fingerprint()
    assert plain.fingerprint() != VideoFile(None, "k.npz", reading=PoseReading("coco17")).fingerprint()


@pytest.mark.parametrize("kind", ["holistic", "contours", "openpose", "unknown"])
def test_pose_files(tmp_path: Path, kind: str) -> None:
    pose_format = pytest.importorskip("pose_format")
    from pose_format.numpy import NumPyPoseBody
    from pose_format.pose_header import PoseHeader, PoseHeaderComponent, PoseHeaderDimensions

    from cclslr.shards.dot_pose import _POSE

    hand, contours = [str(n) for n in range(21)], [str(n) for n in FACE]
    parts: dict[str, list[tuple[str, list[str]]]] = {
        "holistic": [("POSE_LANDMARKS", list(_POSE)), ("FACE_LANDMARKS", [str(n) for n in range(468)]),
                     ("LEFT_HAND_LANDMARKS", hand), ("RIGHT_HAND_LANDMARKS", hand),
                     ("POSE_WORLD_LANDMARKS", list(_POSE))],
        "contours": [("FACE_LANDMARKS", contours), ("POSE_LANDMARKS", list(_POSE[:17]))],
        "openpose": [("pose_keypoints_2d", [f"p{n}" for n in range(25)]),
                     ("hand_right_keypoints_2d", [f"r{n}" for n in range(21)])],
        "unknown": [("BODY_135", ["a", "b"])],
    }  # fmt: skip
    components = [PoseHeaderComponent(name, names, [], [], "XYC") for name, names in parts[kind]]
    header = PoseHeader(0.2, PoseHeaderDimensions(640, 480, 0), components)
    total = sum(len(names) for _, names in parts[kind])
    rng = np.random.default_rng(0)
    data_TPK2 = rng.uniform(10, 400, (6, 2, total, 2)).astype(np.float32)
    confidence_TPK = np.stack([np.full((6, total), 0.4), np.full((6, total), 0.8)], axis=1).astype(np.float32)
    body = NumPyPoseBody(25.0, np.ma.masked_array(data_TPK2, np.zeros(data_TPK2.shape, bool)), confidence_TPK)
    with open(tmp_path / "k.pose", "wb") as file:
        pose_format.Pose(header, body).write(file)
    if kind == "unknown":
        with pytest.raises(BadClip, match=r"k\.pose: of its parts none is known: BODY_135"):
            load_keypoints(tmp_path / "k.pose")
        return
    keypoints_TKC, _ = load_keypoints(tmp_path / "k.pose")
    person = data_TPK2[:, 1]  # the one that is found best
    places = {
        "holistic": (BODY[9], 33 + FACE[8], 522 + 8),
        "contours": (68 + BODY[9], 8, None),
        "openpose": (7, None, 25 + 8),
    }
    for target, place in zip((9, 31, 120), places[kind], strict=True):
        if place is None:
            assert not keypoints_TKC[:, target].any()
        else:
            np.testing.assert_allclose(keypoints_TKC[:, target, :2], person[:, place])
            np.testing.assert_allclose(keypoints_TKC[:, target, 2], 0.8)
    (tmp_path / "broken.pose").write_bytes(b"no pose at all")
    with pytest.raises(BadClip, match=r"broken\.pose: "):
        load_keypoints(tmp_path / "broken.pose")

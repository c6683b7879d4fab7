"""Keypoints out of `.pose` files and into them, by the library pose-format (extra `pose`); parts go by their names."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from cclslr.errors import UserError
from cclslr.files import atomic_write
from cclslr.keypoints import NUM_WHOLEBODY
from cclslr.shards.foreign import MAX_KEYPOINT_BYTES
from cclslr.shards.format import BadClip
from cclslr.shards.layouts import LAYOUTS

# The 33 points of a MediaPipe pose, as the files call them; faces are numbered, hands are whole or not at all.
_SIDES = ("EYE_INNER", "EYE", "EYE_OUTER")
_POSE = (
    "NOSE", *(f"LEFT_{name}" for name in _SIDES), *(f"RIGHT_{name}" for name in _SIDES), "LEFT_EAR", "RIGHT_EAR",
    "MOUTH_LEFT", "MOUTH_RIGHT",
    *(f"{side}_{name}" for name in ("SHOULDER", "ELBOW", "WRIST", "PINKY", "INDEX", "THUMB", "HIP", "KNEE", "ANKLE",
                                    "HEEL", "FOOT_INDEX") for side in ("LEFT", "RIGHT")),
)  # fmt: skip
# Of each component: the layout it is a part of, where it begins there, how many points it has.
_COMPONENTS = {
    "BODY": ("wholebody133", 0, 23),
    "FACE": ("wholebody133", 23, 68),
    "LEFT_HAND": ("wholebody133", 91, 21),
    "RIGHT_HAND": ("wholebody133", 112, 21),
    "BODY_133": ("wholebody133", 0, 23),  # AlphaPose
    "FACE_133": ("wholebody133", 23, 68),
    "LEFT_HAND_133": ("wholebody133", 91, 21),
    "RIGHT_HAND_133": ("wholebody133", 112, 21),
    "POSE_LANDMARKS": ("mediapipe543", 0, 33),
    "FACE_LANDMARKS": ("mediapipe543", 33, 468),
    "LEFT_HAND_LANDMARKS": ("mediapipe543", 501, 21),
    "RIGHT_HAND_LANDMARKS": ("mediapipe543", 522, 21),
    "pose_keypoints_2d": ("openpose137", 0, 25),
    "face_keypoints_2d": ("openpose137", 25, 70),
    "hand_left_keypoints_2d": ("openpose137", 95, 21),
    "hand_right_keypoints_2d": ("openpose137", 116, 21),
}


def load_dot_pose(path: Path) -> np.ndarray:
    """The keypoints of a `.pose` file: float32 (T, 133, 3), x and y as the file has them, confidence; of several people
    the one that is found best.

    Raises:
        BadClip: no such file, the library is absent, or none of its parts is known.
    """
    try:
        from pose_format import Pose
    except ImportError as error:
        raise BadClip("reading .pose files takes the library pose-format: pip install 'cclslr[pose]'") from error
    if path.stat().st_size > MAX_KEYPOINT_BYTES:
        raise BadClip(f"it has more than {MAX_KEYPOINT_BYTES >> 20} MiB")
    pose = Pose.read(path.read_bytes())
    confidence_TPK = np.asarray(pose.body.confidence, dtype=np.float32)
    if confidence_TPK.ndim != 3 or not confidence_TPK.size:
        raise BadClip("the keypoints have no frame")
    person = int(np.nan_to_num(confidence_TPK).sum(axis=(0, 2)).argmax())
    xy_TK2 = np.asarray(pose.body.data[:, person, :, :2].filled(0), dtype=np.float32)
    points_TKC = np.concatenate([xy_TK2, confidence_TPK[:, person, :, None]], axis=-1)
    keypoints_TKC = np.zeros((len(points_TKC), NUM_WHOLEBODY, 3), np.float32)
    known, begin = 0, 0
    for component in pose.header.components:
        for target, place in _places(component):
            keypoints_TKC[:, target] = points_TKC[:, begin + place]
            known += 1
        begin += len(component.points)
    if not known:
        names = ", ".join(component.name for component in pose.header.components)
        raise BadClip(f"of its parts none is known: {names}; known are {', '.join(_COMPONENTS)}")
    return keypoints_TKC


def require_pose_format() -> None:
    """Raises UserError where `.pose` files cannot be written."""
    try:
        import pose_format  # noqa: F401
    except ImportError as error:
        raise UserError("writing .pose files takes the library pose-format: pip install 'cclslr[pose]'") from error


def write_dot_pose(path: Path, keypoints_TKC: np.ndarray, fps: float, size: tuple[int, int]) -> None:
    """Write the 133 points of one person as a `.pose` file (version 0.2), atomically; `load_dot_pose` gives them back.

    The parts are those that pose-format has for COCO-WholeBody: BODY (23), FACE (68), LEFT_HAND and RIGHT_HAND (21).

    Args:
        keypoints_TKC: (T, 133, 3): x, y in pixels, confidence; numbers that are not finite are written as not found.
        size: width and height of the frames, below 65,536.
    """
    from pose_format import Pose
    from pose_format.numpy import NumPyPoseBody
    from pose_format.pose_header import PoseHeader, PoseHeaderDimensions
    from pose_format.utils.cocowholebody133_header import cocowholebody_components

    finite_TK1 = np.isfinite(keypoints_TKC).all(axis=-1, keepdims=True)
    points_TPKC = np.where(finite_TK1, keypoints_TKC, 0).astype(np.float32)[:, None]
    header = PoseHeader(0.2, PoseHeaderDimensions(*size, 0), cocowholebody_components())
    body = NumPyPoseBody(fps, np.ma.masked_array(points_TPKC[..., :2]), points_TPKC[..., 2])
    with atomic_write(path) as file:
        Pose(header, body).write(file)


def _places(component: Any) -> list[tuple[int, int]]:
    """Which of the 133 a component gives, and at which of its points."""
    if component.name not in _COMPONENTS:
        return []
    layout, begin, count = _COMPONENTS[component.name]
    numbers = {number: number for number in range(count)} if len(component.points) == count else {}
    if component.name == "POSE_LANDMARKS":
        numbers = {_POSE.index(name): place for place, name in enumerate(component.points) if name in _POSE}
    if component.name == "FACE_LANDMARKS":  # some files keep the contours alone
        numbers = {int(name): place for place, name in enumerate(component.points) if name.isdecimal()}
    sources = enumerate(LAYOUTS[layout].sources)
    return [(target, numbers[source - begin]) for target, source in sources if source - begin in numbers]

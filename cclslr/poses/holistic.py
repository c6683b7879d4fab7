"""MediaPipe Holistic as a whole-body estimator; works offline, its models are in the wheel (extra `mediapipe`)."""

from __future__ import annotations

from typing import Any

import numpy as np

from cclslr.errors import UserError
from cclslr.keypoints import CONFIDENT, NUM_WHOLEBODY
from cclslr.poses.base import Backend, EstimatorOptions
from cclslr.poses.person import choose, link
from cclslr.shards.layouts import BODY, FACE, FEET


class Holistic:
    """`Estimator` of MediaPipe Holistic 0.10.14, its default model. One frame takes about 56 ms on two cores."""

    name = "mediapipe"

    def __init__(self, options: EstimatorOptions) -> None:
        try:
            import mediapipe
        except ImportError as error:
            raise BACKEND.absent(error) from error
        if not hasattr(mediapipe, "solutions"):
            raise UserError(f"mediapipe {mediapipe.__version__} has no Holistic any more: install mediapipe==0.10.14")
        self.version = f"mediapipe {mediapipe.__version__} holistic"
        self._open = mediapipe.solutions.holistic.Holistic

    def __call__(self, frames_THWC: np.ndarray) -> np.ndarray:
        """See `Estimator`. Confidence: visibility of body and feet, 1 for a face or a hand that was found.

        Holistic follows one person by itself, but may pick up another when it loses the first: frames of any but the
        clip's person are left empty.
        """
        _, height, width, _ = frames_THWC.shape
        with self._open(static_image_mode=False, model_complexity=1) as model:
            keypoints_TKC = np.stack([to_wholebody(model.process(frame), width, height) for frame in frames_THWC])
        return keep_one_person(keypoints_TKC, width, height)

    def follow(self) -> Following:
        """See `FrameEstimator`: one graph for all frames, which looks for the person where it was before."""
        return Following(self._open(static_image_mode=False, model_complexity=1))


class Following:
    """`FrameEstimator` of an open Holistic."""

    def __init__(self, model: Any) -> None:
        self._model = model

    def __call__(self, frame_HWC: np.ndarray) -> np.ndarray:
        height, width, _ = frame_HWC.shape
        return to_wholebody(self._model.process(np.ascontiguousarray(frame_HWC)), width, height)

    def close(self) -> None:
        self._model.close()


def to_wholebody(result: Any, width: int, height: int) -> np.ndarray:
    """The 133 points of one frame of Holistic: float32 (133, 3), x and y in pixels, confidence."""
    keypoints_KC = np.zeros((NUM_WHOLEBODY, 3), dtype=np.float32)
    scale = np.array([width, height, 1.0])
    if result.pose_landmarks is not None:
        points = np.array([(p.x, p.y, p.visibility) for p in result.pose_landmarks.landmark]) * scale
        keypoints_KC[:23] = points[[*BODY, *FEET]]
    for first, indices, landmarks in (
        (23, FACE, result.face_landmarks),
        (91, range(21), result.left_hand_landmarks),
        (112, range(21), result.right_hand_landmarks),
    ):
        if landmarks is not None:
            points = np.array([(p.x, p.y, 1.0) for p in landmarks.landmark]) * scale
            keypoints_KC[first : first + len(indices)] = points[list(indices)]
    return keypoints_KC


def keep_one_person(keypoints_TKC: np.ndarray, width: int, height: int) -> np.ndarray:
    """Empty the frames whose body is not the clip's person's; frames without a body stay as they are."""
    boxes: dict[int, np.ndarray] = {}
    for frame, keypoints_KC in enumerate(keypoints_TKC):
        xy = keypoints_KC[:17, :2][keypoints_KC[:17, 2] > CONFIDENT]
        if len(xy) >= 2:
            boxes[frame] = np.concatenate([xy.min(axis=0), xy.max(axis=0)]).astype(np.float64)[None]
    person = choose(link(boxes), width, height)
    if person is None:
        return keypoints_TKC
    others = sorted(set(boxes) - set(person.frames))
    keypoints_TKC = keypoints_TKC.copy()
    keypoints_TKC[others] = 0
    return keypoints_TKC


BACKEND = Backend(
    "mediapipe",
    "MediaPipe Holistic; works offline and on a CPU: about 18 frames a second on two cores",
    "mediapipe==0.10.14",
    Holistic,
)

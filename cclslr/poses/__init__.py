"""Whole-body keypoints out of videos: RTMPose through rtmlib, or MediaPipe Holistic.

Each estimator lives in an extra of its own and is imported only when it is opened; nothing here needs torch or DALI.
"""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

import numpy as np

from cclslr.errors import UserError

BACKENDS = ("rtmpose", "mediapipe")

# RTMPose-x whole-body, the estimator of the paper, is published as a PyTorch checkpoint only, so there is no default to
# download; rtmlib's own default is RTMW, another model.
POSE_MODEL_VARIABLE = "CCLSLR_POSE_MODEL"
PERSON_MODEL = (
    "https://download.openmmlab.com/mmpose/v1/projects/rtmposev1/onnx_sdk/yolox_m_8xb8-300e_humanart-c2c7a14a.zip"
)


@dataclass(frozen=True)
class EstimatorOptions:
    """Which estimator, and how it runs. All but the backend is for rtmpose."""

    backend: str = "rtmpose"
    pose_model: str = field(default_factory=lambda: os.environ.get(POSE_MODEL_VARIABLE, ""))  # .onnx file, or URL …
    person_model: str = PERSON_MODEL  # … of a file that rtmlib downloads once
    device: str = "cpu"  # cpu | cuda | cuda:1
    batch: int = 16  # frames that pass the model together
    detect_every: int = 5  # frames between two looks for people; boxes between them are interpolated


class Estimator(Protocol):
    """What a backend is."""

    name: str
    version: str  # package and models: written beside the keypoints

    def __call__(self, frames_THWC: np.ndarray) -> np.ndarray:
        """Keypoints of one person: uint8 RGB (T, H, W, 3) → float32 (T, 133, 3), x and y in pixels, confidence.

        A point that was not found is (0, 0, 0). Each call is a clip of its own: nothing is remembered.
        """
        ...


def open_estimator(options: EstimatorOptions) -> Estimator:
    """Load the backend's models.

    Raises:
        UserError: unknown backend, its extra is not installed, a model file is not there or does not fit.
    """
    if options.backend == "rtmpose":
        from cclslr.poses.rtmpose import RtmPose

        return RtmPose(options)
    if options.backend == "mediapipe":
        from cclslr.poses.holistic import Holistic

        return Holistic()
    raise UserError(f"unknown pose backend {options.backend!r}; choose one of {', '.join(BACKENDS)}")


def estimate(path: str | Path, backend: str = "rtmpose", options: EstimatorOptions | None = None) -> np.ndarray:
    """Keypoints of a video file: float32 (T, 133, 3), x and y in its pixels, confidence.

    Estimators disagree by a few pixels, so use the one that the model was trained with.

    Raises:
        UserError: as `open_estimator`; `BadClip`, which is one, for an unreadable video.
    """
    from cclslr.shards.decode import decode_file

    estimator = open_estimator(EstimatorOptions(backend=backend) if options is None else options)
    clip = decode_file(path)
    assert clip.frames_THWC is not None
    return estimator(clip.frames_THWC)

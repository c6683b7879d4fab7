"""Whole-body keypoints out of videos, by one of several estimators.

Each estimator lives in an extra of its own and is imported only when it is opened; nothing here needs torch or DALI.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from cclslr.poses.base import (
    DEFAULT,
    Backend,
    Estimator,
    EstimatorOptions,
    FrameEstimator,
    backends,
    complete,
    find_backend,
    follow,
)

__all__ = [
    "Backend",
    "Estimator",
    "EstimatorOptions",
    "FrameEstimator",
    "backends",
    "complete",
    "estimate",
    "follow",
    "open_estimator",
]


def open_estimator(options: EstimatorOptions) -> Estimator:
    """Load the backend's models.

    Raises:
        UserError: unknown backend, its extra is not installed, a model file is not there or does not fit.
    """
    return find_backend(options.backend).open(complete(options))


def estimate(path: str | Path, backend: str = DEFAULT, options: EstimatorOptions | None = None) -> np.ndarray:
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

"""What a pose estimator is, and how it is chosen.

Adding one is adding a module to this package that defines a `Backend`; `backends` finds it.
"""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from cclslr import registry
from cclslr.errors import UserError

DEFAULT = "rtmpose"  # the estimator of the paper


@dataclass(frozen=True)
class EstimatorOptions:
    """Which estimator, and how it runs. A backend has its own default models, and may have no use for the rest."""

    backend: str = DEFAULT
    pose_model: str = ""  # .onnx file, or the URL of one; empty: the backend's own
    person_model: str = ""  # likewise
    device: str = "cpu"  # cpu | cuda | cuda:1
    batch: int = 16  # frames that pass the model together
    detect_every: int = 5  # frames between two looks for people; boxes between them are interpolated


class Estimator(Protocol):
    """What a backend opens."""

    name: str
    version: str  # package and models: written beside the keypoints

    def __call__(self, frames_THWC: np.ndarray) -> np.ndarray:
        """Keypoints of one person: uint8 RGB (T, H, W, 3) → float32 (T, 133, 3), x and y in pixels, confidence.

        A point that was not found is (0, 0, 0). Each call is a clip of its own: nothing is remembered.
        """
        ...


class FrameEstimator(Protocol):
    """Keypoints of frames as a camera gives them, one after the other."""

    def __call__(self, frame_HWC: np.ndarray) -> np.ndarray:
        """uint8 RGB (H, W, 3) → float32 (133, 3), as `Estimator`; may remember the frames before."""
        ...

    def close(self) -> None:
        """Give back what it holds."""
        ...


class OneByOne:
    """`FrameEstimator` of an estimator that has none of its own: each frame is a clip."""

    def __init__(self, estimator: Estimator) -> None:
        self._estimator = estimator

    def __call__(self, frame_HWC: np.ndarray) -> np.ndarray:
        return self._estimator(frame_HWC[None])[0]

    def close(self) -> None:
        """Nothing is held."""


def follow(estimator: Estimator) -> FrameEstimator:
    """What estimates the frames of a camera: the estimator's own `follow`, where it has one."""
    own = getattr(estimator, "follow", None)
    return OneByOne(estimator) if own is None else own()


@dataclass(frozen=True)
class Backend:
    """One estimator: an entry of the table that `cclslr poses`, `cclslr predict` and the tests share."""

    name: str
    help: str  # one line
    packages: str  # what pip installs
    open: Callable[[EstimatorOptions], Estimator]
    model_variable: str = ""  # environment variable that names its pose model
    pose_model: str = ""  # taken where neither an option nor the variable names one
    person_model: str = ""

    def absent(self, error: ImportError) -> UserError:
        """The error of a backend whose packages are not installed."""
        return UserError(
            f"the pose backend {self.name} is not installed ({error}): pip install -c constraints.txt {self.packages}; "
            "about its models: docs/keypoints.md"
        )


def backends() -> dict[str, Backend]:
    """Every estimator, by name."""
    return registry.find(__package__, Backend)


def find_backend(name: str) -> Backend:
    """The backend of that name.

    Raises:
        UserError: there is none.
    """
    known = backends()
    if name not in known:
        raise UserError(f"unknown pose backend {name!r}; choose one of {', '.join(known)}")
    return known[name]


def complete(options: EstimatorOptions) -> EstimatorOptions:
    """The options with the backend's own models where none are named: what a process elsewhere is to be given, since
    its environment may name others. A variable belongs to one backend, so no model reaches another.

    Raises:
        UserError: unknown backend.
    """
    backend = find_backend(options.backend)
    named = os.environ.get(backend.model_variable, "") if backend.model_variable else ""
    return dataclasses.replace(
        options,
        pose_model=options.pose_model or named or backend.pose_model,
        person_model=options.person_model or backend.person_model,
    )

"""Signing before a camera: frames come as they come, signs are what lies between two rests of the hands.

A window of frames grows while a hand is up. It is named while it grows, twice a second, and for good when the hands
have rested; one that grows beyond `Live.longest` slides. The pose branch alone names it: that is what two cores keep up
with. Frames that arrive while one is estimated are dropped, and counted.
"""

from __future__ import annotations

import time
from collections import deque
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch

from cclslr.config import to_dict
from cclslr.export.preprocess import prepare
from cclslr.inference.model import Model, Prediction
from cclslr.keypoints import CONFIDENT
from cclslr.poses import FrameEstimator

RATE = 15.0  # frames a second of the window, whatever the camera and the estimator give
SHOULDERS, ELBOWS, WRISTS = (5, 6), (7, 8), (9, 10)  # of the 133 points, left and right
TOP = 5


def hand_is_up(points_KC: np.ndarray) -> bool:
    """Whether a hand signs: a wrist that was found is not far below its elbow.

    In the rest pose the arms hang or the hands lie in the lap: wrists far below the elbows, or out of the picture. The
    shoulders' distance is the measure.
    """
    found_K = points_KC[:, 2] > CONFIDENT
    if not found_K[list(SHOULDERS)].all():
        return False
    unit = float(np.linalg.norm(points_KC[SHOULDERS[0], :2] - points_KC[SHOULDERS[1], :2]))
    return any(
        bool(found_K[wrist] and found_K[elbow] and points_KC[wrist, 1] < points_KC[elbow, 1] + 0.25 * unit)
        for elbow, wrist in zip(ELBOWS, WRISTS)
    )


@dataclass
class Live:
    """One camera. Give it each frame; it says what it shows."""

    model: Model
    estimator: FrameEstimator
    shortest: float = 0.3  # seconds of a sign; what is shorter was none
    longest: float = 4.0
    rest: float = 0.4  # seconds of rest that end a sign
    every: float = 0.5  # seconds between two guesses while it grows
    processed: int = 0
    _window: deque[tuple[float, np.ndarray]] = field(default_factory=deque)  # time and keypoints (133, 3)
    _up: float | None = None  # when a hand was up last
    _guessed: float = 0.0

    def __post_init__(self) -> None:
        self._config = {"config": to_dict(self.model.config), "packing": self.model.how_to_pack()}

    def __call__(self, frame_HWC: np.ndarray, seconds: float) -> dict[str, Any]:
        """Take a frame.

        Args:
            frame_HWC: uint8 RGB.
            seconds: when the camera saw it; later than the frame before.

        Returns:
            "points": [[x, y], …] of the 133 in pixels, null where not found; "state": rest or signing; "ms" of
            estimator and model; "top" with "final" where there is something to say.
        """
        began = time.perf_counter()
        points_KC = self.estimator(frame_HWC)
        estimated = time.perf_counter()
        self.processed += 1
        size = frame_HWC.shape[1], frame_HWC.shape[0]
        said = self._step(points_KC, seconds, size)
        found_K = points_KC[:, 2] > CONFIDENT
        points = [[round(x), round(y)] if found else None for (x, y, _), found in zip(points_KC.tolist(), found_K)]
        ended = time.perf_counter()
        ms = {"keypoints": round(1000 * (estimated - began), 1), "model": round(1000 * (ended - estimated), 1)}
        return {"points": points, "size": size, "state": "signing" if self._window else "rest", "ms": ms, **said}

    def _step(self, points_KC: np.ndarray, seconds: float, size: tuple[int, int]) -> dict[str, Any]:
        up = hand_is_up(points_KC)
        if up:
            self._up = seconds
        if up or self._window:
            self._window.append((seconds, points_KC))
        if not self._window:
            return {}
        while seconds - self._window[0][0] > self.longest:
            self._window.popleft()
        if self._up is None or seconds - self._up > self.rest:
            window = [item for item in self._window if self._up is not None and item[0] <= self._up]
            self._window.clear()
            if window and window[-1][0] - window[0][0] >= self.shortest:
                return {"top": self.name(window, size), "final": True}
            return {}
        if seconds - self._guessed >= self.every and seconds - self._window[0][0] >= self.shortest:
            self._guessed = seconds
            return {"top": self.name(list(self._window), size), "final": False}
        return {}

    def name(self, window: list[tuple[float, np.ndarray]], size: tuple[int, int]) -> list[tuple[str, float]]:
        """The likeliest glosses of a window, by the pose branch: evenly in time, though frames were dropped."""
        times_N = np.array([at for at, _ in window])
        wanted_T = np.arange(times_N[0], times_N[-1] + 1e-9, 1 / RATE)
        nearest_T = abs(times_N[None] - wanted_T[:, None]).argmin(1)
        keypoints_TKC = np.stack([window[n][1] for n in nearest_T])
        views = prepare(None, keypoints_TKC, self._config, frame_size=size)
        with torch.inference_mode():
            logits = self.model.forward({"pose": torch.from_numpy(views["pose"]).to(self.model.device)})["logits_pose"]
        said = Prediction(self.model.classes, {"pose": logits[0].float().cpu().numpy()})
        return [(gloss, round(share, 4)) for gloss, share in said.top(TOP)]

    def close(self) -> None:
        """Give the estimator back."""
        self.estimator.close()

"""What a pose estimator would report of a clip: keypoints that err, jitter and drop out, and confidences."""

from __future__ import annotations

import numpy as np

LEFT_HAND, RIGHT_HAND, FACE, MOUTH = slice(91, 112), slice(112, 133), slice(23, 91), slice(71, 91)
HANDS = (LEFT_HAND, RIGHT_HAND)
_ANGLE = np.radians(np.concatenate((np.arange(180, 540, 30), np.arange(180, 540, 45))))
_ROUND_LIPS = np.stack((np.cos(_ANGLE), np.sin(_ANGLE)), axis=1)  # outer and inner lips of a mouth of radius 1


def _wander(rng: np.random.Generator, frames: int, points: int, memory: float) -> np.ndarray:
    """Unit-variance first-order autoregressive noise: (T, points, 2)."""
    noise = rng.normal(size=(frames, points, 2))
    fresh = np.sqrt(1 - memory**2)
    for t in range(1, frames):
        noise[t] = memory * noise[t - 1] + fresh * noise[t]
    return noise


def _bursts(rng: np.random.Generator, hazard_T: np.ndarray, recovery: float) -> np.ndarray:
    """Frames in which a hand is lost: lost with probability `hazard`, found again with `recovery`: (T,) bool."""
    lost = np.empty(len(hazard_T), dtype=bool)
    draws, state = rng.uniform(size=(len(hazard_T), 2)), rng.uniform() < hazard_T[0] / (hazard_T[0] + recovery)
    for t, hazard in enumerate(hazard_T):
        state = draws[t, 0] >= recovery if state else draws[t, 1] < hazard
        lost[t] = state
    return lost


def observe(true_TK3: np.ndarray, unit: float, noise: float, drop_out: float, rng: np.random.Generator) -> np.ndarray:
    """Estimated keypoints of true ones.

    Args:
        true_TK3: (T, 133, 3), pixels.
        unit: a shoulder width in pixels.
        noise: factor on every error of position.
        drop_out: factor on the rate at which hands are lost.

    Returns:
        (T, 133, 3) float32: x, y, confidence; a lost hand is (0, 0, 0).
    """
    frames, points, _ = true_TK3.shape
    scale = np.full(points, 0.02)
    scale[FACE], scale[MOUTH] = 0.008, 0.014
    scale[LEFT_HAND] = scale[RIGHT_HAND] = 0.025
    error = 0.6 * _wander(rng, frames, points, 0.9) + 0.6 * rng.normal(size=(frames, points, 2))
    error += 0.8 * rng.normal(size=(1, points, 2))  # an estimator errs about the same way all through a clip
    xy = true_TK3[..., :2].copy()
    lips = xy[:, MOUTH]  # lips are small: part of what is reported is a mouth that the estimator expected
    expected = lips.mean(axis=1, keepdims=True) + unit * rng.uniform((0.06, 0.0), (0.14, 0.08)) * _ROUND_LIPS
    xy[:, MOUTH] = lips + min(1.0, noise * rng.uniform(0.3, 0.8)) * (expected - lips)
    xy += noise * unit * scale[:, None] * error

    confidence = np.clip(0.9 - 0.06 * np.abs(error).sum(axis=-1) + 0.04 * rng.normal(size=(frames, points)), 0.31, 1)
    confidence[:, 13:23] = rng.uniform(0.0, 0.15, (frames, 10))  # legs and feet lie outside the frame
    hand_TH2 = np.stack([true_TK3[:, hand, :2].mean(axis=1) for hand in HANDS], axis=1) / unit
    face_T2 = true_TK3[:, FACE, :2].mean(axis=1) / unit
    apart_T = np.linalg.norm(hand_TH2[:, 0] - hand_TH2[:, 1], axis=-1)
    rate, recovery = drop_out * 0.05 * rng.uniform(0.5, 2.0), rng.uniform(0.08, 0.25)
    for side, hand in enumerate(HANDS):
        speed_T = np.linalg.norm(np.gradient(hand_TH2[:, side], axis=0), axis=-1)
        near_T = np.linalg.norm(hand_TH2[:, side] - face_T2, axis=-1)
        hazard_T = rate * (1 + 10 * speed_T + 2.0 * (near_T < 0.5) + 2.5 * (apart_T < 0.5))
        lost_T = _bursts(rng, np.clip(hazard_T, 0, 0.9), recovery)
        xy[lost_T, hand], confidence[lost_T, hand] = 0, 0
    return np.concatenate((xy, confidence[..., None]), axis=-1).astype(np.float32)

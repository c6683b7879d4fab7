"""One performance of a sign: where both hands are, how they are turned and bent, and the mouth, frame by frame.

Positions are in mean shoulder widths from the middle of the shoulders, in the frame of one hand's own side: outwards,
down, towards the camera. Both hands therefore share all formulas, and mirroring is the body's business.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from .signer import Signer
from .signs import HANDSHAPES, MOUTHS, PLACES, Sign, path_offset

REST_SHAPE = np.array((0.3, 0.35, 0.35, 0.35, 0.35, 0.2))
REST_ANGLES = np.array((165.0, 60.0))  # tilt, roll


@dataclass
class HandMotion:
    """One hand over a clip."""

    place_T3: np.ndarray  # centre of the hand
    angles_T2: np.ndarray  # degrees: tilt inwards from upright, roll of the palm away from the camera
    shape_T6: np.ndarray  # as HANDSHAPES


@dataclass
class Performance:
    """A sign as one signer makes it once."""

    dominant: HandMotion
    other: HandMotion
    mouth_T2: np.ndarray  # width, opening
    sway_T2: np.ndarray  # displacement of head and shoulders
    span: tuple[int, int]  # first frame of the sign, one past its last


def _smooth(x: np.ndarray) -> np.ndarray:
    x = np.clip(x, 0, 1)
    return x * x * (3 - 2 * x)


def _mix(rest: np.ndarray, active: np.ndarray, weight_T: np.ndarray) -> np.ndarray:
    return rest + weight_T[:, None] * (active - rest)


def perform(sign: Sign, signer: Signer, num_frames: int, rng: np.random.Generator) -> Performance:
    """`sign` by `signer` in `num_frames` frames: rest, raise, sign, lower, rest, each of a length of its own."""
    length = np.clip(0.58 * signer.tempo * rng.uniform(0.85, 1.15), 0.35, 0.85) * num_frames
    rise = rng.uniform(0.08, 0.14) * num_frames
    start = rise * 0.5 + rng.uniform() * max(0.0, num_frames - length - rise)
    time = np.arange(num_frames, dtype=np.float64)
    phase = np.clip((time - start) / length, 0, 1)
    phase = phase + rng.uniform(-0.08, 0.08) * np.sin(2 * np.pi * phase)  # not evenly timed
    up = _smooth((time - start) / rise + 1) * _smooth((start + length - time) / rise + 1)

    size = 0.3 * signer.amplitude * rng.uniform(0.85, 1.15)
    slip = rng.normal(0, 0.05, 3) + signer.offset
    angles = np.array((sign.tilt, sign.roll)) + rng.normal(0, 6, 2) + signer.turn
    low = rng.uniform(-0.1, 0.1)

    def hand(active: bool, shift: float) -> HandMotion:
        rest = np.array((0.55, 1.55 + low, 0.25)) + rng.normal(0, 0.04, 3)
        drift = 0.01 * np.cumsum(rng.normal(0, 1, (num_frames, 3)), axis=0) / np.sqrt(num_frames)
        if not active and sign.hands == "one":
            still = np.ones((num_frames, 1))
            return HandMotion(rest + drift, still * REST_ANGLES, still * REST_SHAPE)
        if not active and sign.hands == "base":
            place, turned = np.broadcast_to((0.12, 0.95, 0.55), (num_frames, 3)) + slip, np.array((75.0, 100.0))
            shape = np.broadcast_to(HANDSHAPES["flat"], (num_frames, 6))
            return HandMotion(_mix(rest, place, up) + drift, _mix(REST_ANGLES, turned, up), _mix(REST_SHAPE, shape, up))
        place = PLACES[sign.place] + slip + size * path_offset(sign.path, np.abs(phase - shift))
        turned = np.broadcast_to(angles, (num_frames, 2)).copy()
        shape = np.array(HANDSHAPES[sign.handshape]) + np.zeros((num_frames, 1)) + rng.normal(0, 0.06, 6)
        wave = 2 * np.pi * (4 * phase[:, None] + np.arange(5) * 0.2)
        strength = signer.amplitude * rng.uniform(0.8, 1.2)
        if sign.fine == "wiggle":
            shape[:, :5] = shape[:, :5] * 0.6 + 0.2 + 0.32 * strength * np.sin(wave)
        elif sign.fine == "twist":
            turned[:, 1] += 35 * strength * np.sin(wave[:, 0])
        elif sign.fine == "nod":
            turned[:, 0] += 22 * strength * np.sin(wave[:, 0])
        bent = np.clip(_mix(REST_SHAPE, shape, up), 0, 1)
        return HandMotion(_mix(rest, place, up) + drift, _mix(REST_ANGLES, turned, up), bent)

    neutral, shaped = np.array(MOUTHS["neutral"]), np.array(MOUTHS[sign.mouth])
    swell = up * (0.75 + 0.25 * np.sin(2 * np.pi * (2 * phase + rng.uniform()))) * signer.mouthing
    mouth = _mix(neutral, shaped, swell) + (0, 0.1) * np.abs(rng.normal(0, 1, (num_frames, 1)))
    sway = 0.03 * np.sin(2 * np.pi * (rng.uniform(0.3, 1.0, 2) * time[:, None] / num_frames + rng.uniform(size=2)))
    first, last = np.flatnonzero(up > 0)[[0, -1]]
    alternate = 0.5 if sign.hands == "alternate" else 0.0
    return Performance(hand(True, 0.0), hand(False, alternate), mouth, sway, (int(first), int(last) + 1))

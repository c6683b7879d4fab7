"""The articulated body: from a performance to 133 keypoints in space, in pixels of the frame.

The camera looks at the signer from the front, without perspective: x to the right of the image, y down, z towards the
camera. The signer's right side is on the left of the image.
"""

from __future__ import annotations

import numpy as np

from ...keypoints import NUM_WHOLEBODY
from .motion import HandMotion, Performance
from .signer import Signer

UPPER_ARM, FOREARM = 0.85, 0.75
# Roots of the fingers in the palm (towards the fingertips, towards the thumb), lengths of their three bones; in hands.
_ROOTS = np.array(((0.14, 0.15), (0.46, 0.15), (0.48, 0.04), (0.45, -0.07), (0.40, -0.17)))
_BONES = np.array(((0.20, 0.17, 0.14), (0.24, 0.14, 0.11), (0.27, 0.15, 0.11), (0.25, 0.14, 0.11), (0.18, 0.11, 0.10)))
_FAN = np.array((0.0, 12.0, 2.0, -8.0, -20.0))  # degrees each finger leans to the thumb when all are spread
_FOOT = ((0.4, 4.0, 0.0), (0.45, 4.0, 0.0), (0.28, 3.85, 0.0))  # big toe, small toe, heel
_FLEXION = np.radians((80.0, 100.0, 60.0))  # of the three joints of a folded finger


def _elbow(shoulder_T3: np.ndarray, wrist_T3: np.ndarray, upper: float, fore: float) -> tuple[np.ndarray, np.ndarray]:
    """Elbow, and wrist pulled into reach, by two-bone inverse kinematics; the elbow hangs down and outwards."""
    reach = wrist_T3 - shoulder_T3
    far = np.linalg.norm(reach, axis=1, keepdims=True)
    direction = reach / far
    far = np.clip(far, abs(upper - fore) + 0.05, 0.99 * (upper + fore))
    along = (upper**2 - fore**2 + far**2) / (2 * far)
    hint = np.array((0.45, 0.8, -0.5))
    side = hint - direction * (direction @ hint)[:, None]
    side /= np.linalg.norm(side, axis=1, keepdims=True)
    elbow = shoulder_T3 + along * direction + np.sqrt(np.maximum(upper**2 - along**2, 0)) * side
    return elbow, shoulder_T3 + far * direction


def _hand_axes(angles_T2: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Directions of the fingers, of the thumb's side and out of the palm: three of (T, 3)."""
    tilt, roll = np.radians(angles_T2).T
    zero = np.zeros_like(tilt)
    fingers = np.stack((-np.sin(tilt), -np.cos(tilt), zero), axis=1)
    across = np.stack((-np.cos(tilt), np.sin(tilt), zero), axis=1)
    ahead = np.array((0.0, 0.0, 1.0))
    thumb = np.cos(roll)[:, None] * across - np.sin(roll)[:, None] * ahead
    palm = np.sin(roll)[:, None] * across + np.cos(roll)[:, None] * ahead
    return fingers, thumb, palm


def hand_joints(motion: HandMotion, wrist_T3: np.ndarray, size: float) -> np.ndarray:
    """The 21 joints of a hand whose wrist is at `wrist_T3`: (T, 21, 3)."""
    fingers, thumb, palm = _hand_axes(motion.angles_T2)
    joints = np.empty((len(wrist_T3), 21, 3))
    joints[:, 0] = wrist_T3
    for finger in range(5):
        bend, spread = motion.shape_T6[:, finger, None], motion.shape_T6[:, 5, None]
        if finger == 0:  # the thumb folds across the palm rather than into it
            lean, flexion = np.radians(60 - 75 * bend), np.zeros((len(bend), 3)) + 0.5 * bend
        else:
            lean, flexion = np.radians(_FAN[finger]) * (0.15 + spread), np.cumsum(bend * _FLEXION, axis=1)
        straight = np.cos(lean) * fingers + np.sin(lean) * thumb
        at = wrist_T3 + size * (_ROOTS[finger, 0] * fingers + _ROOTS[finger, 1] * thumb)
        joints[:, 4 * finger + 1] = at
        for bone in range(3):
            angle = flexion[:, bone, None]
            at = at + size * _BONES[finger, bone] * (np.cos(angle) * straight + np.sin(angle) * palm)
            joints[:, 4 * finger + 2 + bone] = at
    return joints


def _arm(motion: HandMotion, shoulder_T3: np.ndarray, signer: Signer) -> tuple[np.ndarray, np.ndarray]:
    """Elbow (T, 3) and hand (T, 21, 3) of one side, x outwards."""
    fingers, _, _ = _hand_axes(motion.angles_T2)
    wrist = motion.place_T3 - 0.45 * signer.hand * fingers
    elbow, wrist = _elbow(shoulder_T3, wrist, UPPER_ARM * signer.arm, FOREARM * signer.arm)
    return elbow, hand_joints(motion, wrist, signer.hand)


def _ellipse(centre_T2: np.ndarray, half_T2: np.ndarray, degrees: np.ndarray) -> np.ndarray:
    """Points of an ellipse by angle, 0 to the right of the image, 90 down: (T, N, 2)."""
    angle = np.radians(degrees)
    return centre_T2[:, None] + half_T2[:, None] * np.stack((np.cos(angle), np.sin(angle)), axis=-1)


def _face(centre_T2: np.ndarray, mouth_T2: np.ndarray, signer: Signer) -> np.ndarray:
    """The 68 points of the face: contour, brows, nose, eyes, outer and inner lips: (T, 68, 2)."""
    half = np.broadcast_to(signer.head, centre_T2.shape)
    face = np.empty((len(centre_T2), 68, 2))
    face[:, :17] = _ellipse(centre_T2, half * (0.95, 1.0), np.linspace(185, -5, 17))
    for first, side in ((17, -1), (22, 1)):
        x = np.linspace(-0.2, 0.2, 5)
        face[:, first : first + 5] = centre_T2[:, None] + half[:, None] * np.stack(
            (side * 0.42 + x, -0.33 + 1.5 * x**2), axis=-1
        )
    y = np.linspace(-0.15, 0.15, 4)
    face[:, 27:31] = centre_T2[:, None] + half[:, None] * np.stack((0 * y, y), axis=-1)
    face[:, 31:36] = _ellipse(centre_T2 + half * (0, 0.2), half * (0.17, 0.04), np.array((180, 120, 90, 60, 0)))
    for first, side in ((36, -1), (42, 1)):
        eye = centre_T2 + half * (side * 0.4, -0.12)
        face[:, first : first + 6] = _ellipse(eye, half * (0.17, 0.07), np.array((180, 240, 300, 0, 60, 120)))
    mouth, inner = mouth_shape(centre_T2, mouth_T2, signer)
    face[:, 48:60] = _ellipse(mouth, inner + half * (0.06, 0.07), np.arange(180, 540, 30))
    face[:, 60:68] = _ellipse(mouth, inner, np.arange(180, 540, 45))
    return face


def mouth_shape(centre_T2: np.ndarray, mouth_T2: np.ndarray, signer: Signer) -> tuple[np.ndarray, np.ndarray]:
    """Centre and half axes of the inner lips: two of (T, 2)."""
    half = np.array(signer.head)
    inner = half * (0.36, 0.24) * mouth_T2 + half * (0.0, 0.012)
    return centre_T2 + half * (0, 0.5) + inner * (0, 0.35), inner


def skeleton(performance: Performance, signer: Signer) -> np.ndarray:
    """All 133 keypoints in shoulder widths around the middle of the shoulders: (T, 133, 3)."""
    frames = len(performance.mouth_T2)
    points = np.zeros((frames, NUM_WHOLEBODY, 3))
    sway = np.concatenate((performance.sway_T2, np.zeros((frames, 1))), axis=1)
    left_handed = signer.left_handed
    for side, first, motion in (
        (1, 0, performance.dominant if left_handed else performance.other),  # the signer's left: right in the image
        (-1, 1, performance.other if left_handed else performance.dominant),
    ):
        outwards = np.array((side, 1, 1))
        shoulder = np.array((signer.shoulders / 2, 0.08, 0)) + 0.5 * sway * outwards
        elbow, hand = _arm(motion, shoulder, signer)
        start = 91 + 21 * first
        points[:, 5 + first], points[:, 7 + first] = shoulder * outwards, elbow * outwards
        points[:, start : start + 21] = hand * outwards
        points[:, 9 + first] = points[:, start]
        points[:, 11 + first] = np.array((0.34 * signer.shoulders * side, 1.75, 0))
        for joint, (x, y) in enumerate(((0.3, 2.8), (0.3, 3.8))):
            points[:, 13 + 2 * joint + first] = (x * side, y, 0)
        points[:, 17 + 3 * first : 20 + 3 * first] = np.multiply(_FOOT, outwards)
    centre = np.array((0, -signer.neck - signer.head[1])) + performance.sway_T2
    face = _face(centre, performance.mouth_T2, signer)
    points[:, 23:91, :2] = face
    points[:, 0, :2] = face[:, 30]
    points[:, 1, :2], points[:, 2, :2] = face[:, 42:48].mean(axis=1), face[:, 36:42].mean(axis=1)
    points[:, 3, :2], points[:, 4, :2] = centre + np.array((signer.head[0], 0)), centre - np.array((signer.head[0], 0))
    return points

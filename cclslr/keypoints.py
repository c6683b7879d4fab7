"""The skeleton: which of the 133 whole-body keypoints are used, how they connect, how they flip (CCL-SLR §4).

Indices into COCO-WholeBody's 133 keypoints are 0-based. Everything after `select` speaks of the 75 *joints*, in the
order body, left hand, right hand, face, mouth.
"""

from __future__ import annotations

import numpy as np

from cclslr.errors import UserError

NUM_WHOLEBODY = 133
CONFIDENT = 0.3  # a point of a confidence above it counts as found (CCL-SLR §4)

WHOLEBODY: dict[str, tuple[int, ...]] = {
    "body": (0, 5, 7, 9, 6, 8, 10),  # nose; left shoulder, elbow, wrist; right shoulder, elbow, wrist
    "left_hand": tuple(range(91, 112)),
    "right_hand": tuple(range(112, 133)),
    "face": (*range(23, 40), 53),  # contour, nose tip
    "mouth": tuple(range(83, 91)),  # inner lip
}
GROUPS = tuple(WHOLEBODY)
SELECTED: tuple[int, ...] = tuple(index for group in GROUPS for index in WHOLEBODY[group])
NUM_JOINTS = len(SELECTED)
assert NUM_JOINTS == 75


def _slices() -> dict[str, slice]:
    slices, start = {}, 0
    for group, indices in WHOLEBODY.items():
        slices[group] = slice(start, start + len(indices))
        start += len(indices)
    return slices


SLICES: dict[str, slice] = _slices()
"""Where each group lies among the 75 joints."""


def _flip() -> np.ndarray:
    mirrored = {
        "body": (0, 6, 8, 10, 5, 7, 9),
        "left_hand": WHOLEBODY["right_hand"],
        "right_hand": WHOLEBODY["left_hand"],
        "face": (*range(39, 22, -1), 53),
        "mouth": (87, 86, 85, 84, 83, 90, 89, 88),
    }
    position = {index: joint for joint, index in enumerate(SELECTED)}
    return np.array([position[index] for group in GROUPS for index in mirrored[group]], dtype=np.int64)


FLIP: np.ndarray = _flip()
"""(75,) int64: joint j of the mirrored skeleton is joint FLIP[j] of the original."""

_FINGERS = tuple((0 if k == 0 else 4 * finger + k, 4 * finger + k + 1) for finger in range(5) for k in range(4))

EDGES: dict[str, tuple[tuple[int, int], ...]] = {
    # (parent, child) inside the group; the first joint named by no edge as a child is the root
    "body": ((0, 1), (1, 2), (2, 3), (0, 4), (4, 5), (5, 6)),
    "left_hand": _FINGERS,
    "right_hand": _FINGERS,
    "face": (*((17, k) for k in range(17)), *((k, k + 1) for k in range(16))),
    "mouth": tuple((k, (k + 1) % 8) for k in range(8)),
}
ROOTS: dict[str, int] = {"body": 0, "left_hand": 0, "right_hand": 0, "face": 17, "mouth": 0}

NOSE, LEFT_WRIST, RIGHT_WRIST = 0, 3, 6  # joints of the body group
NOSE_TIP = SLICES["face"].start + 17


def select(keypoints_TKC: np.ndarray) -> np.ndarray:
    """The 75 joints of whole-body keypoints: (..., 133, C) → (..., 75, C)."""
    if keypoints_TKC.shape[-2] != NUM_WHOLEBODY:
        raise UserError(f"expected {NUM_WHOLEBODY} whole-body keypoints, got shape {keypoints_TKC.shape}")
    return keypoints_TKC[..., list(SELECTED), :]

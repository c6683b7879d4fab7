"""Keypoints of other estimators as the 133 of COCO-WholeBody: one table of named mappings.

The 133: body 0 to 16 as COCO, feet 17 to 22 (big toe, small toe, heel; left, right), face 23 to 90 (the usual 68
points), left hand 91 to 111, right hand 112 to 132. A point that a layout lacks is not found: zeros.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from cclslr.errors import BadClip, UserError
from cclslr.keypoints import NUM_WHOLEBODY

# Where each of the 133 comes from in MediaPipe Holistic.
BODY = (0, 2, 5, 7, 8, 11, 12, 13, 14, 15, 16, 23, 24, 25, 26, 27, 28)  # of the 33 pose landmarks: nose … ankles
FEET = (31, 31, 29, 32, 32, 30)  # big toe, small toe, heel; MediaPipe has one toe
FACE = (  # of the 468 mesh points: those that lie where the 68 points of the usual face annotation do
    162, 234, 93, 58, 172, 136, 149, 148, 152, 377, 378, 365, 397, 288, 323, 454, 389,  # contour
    71, 63, 105, 66, 107, 336, 296, 334, 293, 301,  # brows
    168, 197, 5, 4, 75, 97, 2, 326, 305,  # nose
    33, 160, 158, 133, 153, 144, 362, 385, 387, 263, 373, 380,  # eyes
    61, 39, 37, 0, 267, 269, 291, 405, 314, 17, 84, 181,  # outer lip
    78, 82, 13, 312, 308, 317, 14, 87,  # inner lip
)  # fmt: skip
# Of OpenPose's BODY_25, which has the right side first, a neck and a middle of the hips.
BODY_25 = (0, 16, 15, 18, 17, 5, 2, 6, 3, 7, 4, 12, 9, 13, 10, 14, 11, 19, 20, 21, 22, 23, 24)
FACE_TARGET, LEFT_TARGET, RIGHT_TARGET = 23, 91, 112  # where face and hands begin among the 133


@dataclass(frozen=True)
class Layout:
    """How one program orders the points of a frame."""

    name: str
    about: str
    points: int
    sources: tuple[int, ...] = field(repr=False)  # of each of the 133 its place in this layout; -1: it has none
    depth: bool = False  # the third number of a point is its depth, and a fourth its visibility; else confidence


def _sources(**starts: int) -> tuple[int, ...]:
    """Places of the 133, from where the parts of a layout begin.

    Args:
        starts: mediapipe (33 points), mesh (468), body_25, face (70 or 68), coco (17), left, right (21 each).
    """
    sources = np.full(NUM_WHOLEBODY, -1)
    for part, (target, indices) in {
        "mediapipe": (0, (*BODY, *FEET)),
        "mesh": (FACE_TARGET, FACE),
        "body_25": (0, BODY_25),
        "coco": (0, tuple(range(17))),
        "face": (FACE_TARGET, tuple(range(68))),  # OpenPose's points 68 and 69 are the pupils
        "left": (LEFT_TARGET, tuple(range(21))),
        "right": (RIGHT_TARGET, tuple(range(21))),
    }.items():
        if part in starts:
            sources[target : target + len(indices)] = np.array(indices) + starts[part]
    return tuple(sources.tolist())


LAYOUTS: dict[str, Layout] = {
    layout.name: layout
    for layout in (
        Layout("wholebody133", "COCO-WholeBody: body, feet, face, hands", 133, tuple(range(NUM_WHOLEBODY))),
        Layout("coco17", "COCO: body alone", 17, _sources(coco=0)),
        Layout(
            "mediapipe543", "Holistic: 33 of the pose, 468 of the face, left hand, right hand", 543,
            _sources(mediapipe=0, mesh=33, left=501, right=522), depth=True,
        ),
        Layout(
            "mediapipe553", "the same with irises: 33, 478, left hand, right hand", 553,
            _sources(mediapipe=0, mesh=33, left=511, right=532), depth=True,
        ),
        Layout(
            "kaggle543", "Holistic in the order of Kaggle's asl-signs: face, left hand, pose, right hand", 543,
            _sources(mesh=0, left=468, mediapipe=489, right=522), depth=True,
        ),
        Layout(
            "mediapipe75", "Holistic without a face: 33 of the pose, left hand, right hand", 75,
            _sources(mediapipe=0, left=33, right=54), depth=True,
        ),
        Layout("mediapipe33", "MediaPipe Pose: body alone", 33, _sources(mediapipe=0), depth=True),
        Layout(
            "openpose137", "BODY_25, face 70, left hand, right hand", 137,
            _sources(body_25=0, face=25, left=95, right=116),
        ),
        Layout(
            "openpose137_hands_first", "BODY_25, left hand, right hand, face 70", 137,
            _sources(body_25=0, left=25, right=46, face=67),
        ),
    )
}  # fmt: skip


def layout_named(name: str) -> Layout:
    """Raises UserError where there is no such layout."""
    if name not in LAYOUTS:
        raise UserError(f"no layout of keypoints is called {name!r}; known are {', '.join(LAYOUTS)}")
    return LAYOUTS[name]


def layouts_of(points: int) -> list[str]:
    """The names of the layouts that have so many points."""
    return [layout.name for layout in LAYOUTS.values() if layout.points == points]


def to_wholebody(points_TKC: np.ndarray, layout: Layout) -> np.ndarray:
    """Points of another layout as the 133.

    Args:
        points_TKC: (T, layout.points, 2 to 4) numbers: x, y and, where there are more, confidence; in MediaPipe's
            layouts depth and visibility. A point of zeros, or with a number that is not finite, was not found.

    Returns:
        float32 (T, 133, 3): x, y as they were, confidence: 1 for what was found where the layout says none. Numbers
        that are not finite stay, so that they are counted.

    Raises:
        BadClip: another number of points, or of numbers a point.
    """
    numbers = points_TKC.shape[2] if points_TKC.ndim == 3 else 0
    if points_TKC.ndim != 3 or points_TKC.shape[1] != layout.points or not 2 <= numbers <= (4 if layout.depth else 3):
        raise BadClip(
            f"the keypoints have shape {points_TKC.shape}, but {layout.name} is (T, {layout.points}, "
            f"{'2 to 4' if layout.depth else '2 or 3'})"
        )
    with np.errstate(over="ignore"):
        xy_TK2 = points_TKC[..., :2].astype(np.float32)
    found_TK = (np.isfinite(xy_TK2).all(axis=-1) & (xy_TK2 != 0).any(axis=-1)).astype(np.float32)
    confidence_TK = found_TK
    if numbers == 3 and not layout.depth:
        confidence_TK = points_TKC[..., 2].astype(np.float32)
    has, places = np.array(layout.sources) >= 0, np.array(layout.sources)
    keypoints_TKC = np.zeros((len(points_TKC), NUM_WHOLEBODY, 3), np.float32)
    keypoints_TKC[:, has, :2] = xy_TK2[:, places[has]]
    keypoints_TKC[:, has, 2] = confidence_TK[:, places[has]]
    if numbers == 4:  # MediaPipe says visibility of the body alone; of faces and hands it is always 0
        body = places[:FACE_TARGET]
        keypoints_TKC[:, :FACE_TARGET, 2] = points_TKC[:, body, 3] * found_TK[:, body]
    return keypoints_TKC

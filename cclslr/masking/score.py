"""How well masks keep a sign, measured with the keypoints of their clip.

A good mask keeps hands and face and hides what is not the signer (CCL-SLR §3.3). Kept shares of one clip:

- hands, face: of the confident keypoints of either, those whose pixel the frame's mask keeps;
- background: of the pixels outside the signer's box, those that the mask keeps. A frame's box holds all of its
  confident keypoints, and MARGIN more on every side; a frame without confident keypoints has none and does not count.

Points outside the frame count nowhere. Keypoints that a method drew its masks from score themselves: to see what such a
method does where no keypoint was found, hide some from it (`cclslr study masks`).

Shapes: T frames, K = 133 whole-body keypoints (x and y in pixels of the frame, confidence), masks of MASK_SIZE squared
that cover the whole frame.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from cclslr.keypoints import CONFIDENT
from cclslr.masking.mpm import MIN_DIFFERENCE, blurred, resize, to_gray, to_unit
from cclslr.masking.signer import outside, signer_boxes
from cclslr.shards.describe import StatisticsTask
from cclslr.shards.format import MASK_SIZE, BadClip
from cclslr.shards.reader import ShardSet

FACE, HANDS = slice(23, 91), slice(91, 133)  # of the 133 whole-body keypoints


@dataclass(frozen=True)
class ClipScore:
    """Kept shares of one clip's masks; None where the clip has nothing of the kind."""

    hands: float | None
    face: float | None
    background: float | None
    kept: float  # of all pixels
    hides_nothing: bool  # all ones
    hides_all: bool  # all zeros
    moves: bool | None = None  # None: not looked at


@dataclass(frozen=True)
class Scores:
    """Means over the clips that have the thing, each clip counted once; None where no clip has it."""

    clips: int
    hands: float | None
    hands_worst: float | None  # of any clip
    face: float | None
    face_worst: float | None
    background: float | None
    background_worst: float | None
    kept: float
    nothing_hidden_though_moving: int  # clips
    all_hidden: int  # clips


def score_clip(masks_THW: np.ndarray, keypoints_TKC: np.ndarray | None, size: tuple[int, int]) -> ClipScore:
    """The score of one clip. A pure function.

    Args:
        masks_THW: {0, 1} (T, 64, 64).
        keypoints_TKC: (T, 133, 3), or None.
        size: height and width of its frames in pixels.
    """
    masks_THW = masks_THW.astype(bool)
    hands = face = background = None
    if keypoints_TKC is not None:
        points_TKC = np.asarray(keypoints_TKC, np.float32)
        cells_TK2, found_TK = cells(points_TKC, size)
        frames_TK = np.arange(len(masks_THW))[:, None].repeat(found_TK.shape[1], 1)
        kept_TK = masks_THW[frames_TK, cells_TK2[..., 1], cells_TK2[..., 0]]
        hands, face = (_share(kept_TK[:, part], found_TK[:, part]) for part in (HANDS, FACE))
        background = _share(masks_THW, outside(signer_boxes(points_TKC), size))
    everything, nothing = bool(masks_THW.all()), not masks_THW.any()
    return ClipScore(hands, face, background, float(masks_THW.mean()), everything, nothing)


def moves(frames_THWC: np.ndarray) -> bool:
    """Whether anything moves in uint8 frames (T, H, W, 3): blurred, some gray deviates by MIN_DIFFERENCE over time."""
    if len(frames_THWC) < 2:
        return False
    gray_T1HW = to_gray(to_unit(resize(frames_THWC, MASK_SIZE)))
    return float(blurred(gray_T1HW).std(0).max()) >= MIN_DIFFERENCE


def summarise(scores: Sequence[ClipScore]) -> Scores:
    """Means over clips, and how many are degenerate: all ones though the clip moves, or all zeros."""

    def over(values: list[float | None], worst: bool = False, high: bool = False) -> float | None:
        known = [value for value in values if value is not None]
        if not known:
            return None
        return (max(known) if high else min(known)) if worst else float(np.mean(known))

    hands, face, background = ([getattr(s, name) for s in scores] for name in ("hands", "face", "background"))
    return Scores(
        clips=len(scores),
        hands=over(hands),
        hands_worst=over(hands, worst=True),
        face=over(face),
        face_worst=over(face, worst=True),
        background=over(background),
        background_worst=over(background, worst=True, high=True),
        kept=float(np.mean([s.kept for s in scores])) if scores else 0.0,
        nothing_hidden_though_moving=sum(s.hides_nothing and s.moves is not False for s in scores),
        all_hidden=sum(s.hides_all for s in scores),
    )


def cells(points_TKC: np.ndarray, size: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
    """Where points lie in the grid of a mask, (T, K, 2) int x and y, and which are confident and in the frame (T, K).

    The middle of the first pixel is at 0.
    """
    height, width = size
    unit_TK2 = (np.nan_to_num(points_TKC[..., :2], nan=-1.0) + 0.5) / np.array([width, height])
    found_TK = (points_TKC[..., 2] > CONFIDENT) & (unit_TK2 >= 0).all(-1) & (unit_TK2 < 1).all(-1)
    return (unit_TK2.clip(0, 1) * MASK_SIZE).astype(int).clip(0, MASK_SIZE - 1), found_TK


def _share(kept: np.ndarray, among: np.ndarray) -> float | None:
    return float(kept[among].mean()) if among.any() else None


def score_shard(task: StatisticsTask) -> dict[str, ClipScore | None]:
    """The scores of a shard's clips by key; None: no video, no mask, or damaged."""
    shards = ShardSet([task.folder])
    found: dict[str, ClipScore | None] = {}
    for clip_id in task.clip_ids.tolist():
        row = shards.rows[clip_id]
        found[row.key] = None
        try:
            clip = shards.read(clip_id)
            if clip.video is None or (masks_THW := clip.masks_THW) is None:
                continue
            moving = moves(shards.codec(clip_id).decode(clip.video))
        except BadClip:
            continue
        score = score_clip(masks_THW, clip.pose_TKC, (row.height, row.width))
        found[row.key] = dataclasses.replace(score, moves=moving)
    shards.close()
    return found

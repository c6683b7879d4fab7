"""The paper's motion within the signer's box, joined with discs around the keypoints of hands and face.

Motion alone loses hands that rest and nearly all of the face, and keeps what a moving camera moves. So, frame by frame:

- motion: as in flow.py, but only within the box of the keypoints of the frames around (`signer_boxes`, HOLD);
- discs around confident points of face and hands; a hand that is not found is where it was, or beyond its wrist
  (`fill_hands`).

A clip without keypoints has motion alone, one without motion has discs alone: its report says so. A frame of which
neither says anything keeps everything.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from cclslr.keypoints import CONFIDENT
from cclslr.masking.flow import Flow
from cclslr.masking.methods.base import MaskMethod, Masks, MpmOptions
from cclslr.masking.methods.pose_discs import HANDS_AND_FACE
from cclslr.masking.mpm import finish, flow_masks, resize
from cclslr.masking.signer import HOLD, around, discs, fill_hands, outside, signer_boxes


@dataclass(frozen=True)
class Prepared:
    """A clip: its frames at the flow's size, and its keypoints with the size of the frames that they speak of."""

    frames_TCHW: Tensor
    keypoints_TKC: np.ndarray | None
    size: tuple[int, int]


def prepare(
    frames_THWC: np.ndarray, keypoints_TKC: np.ndarray | None, options: MpmOptions, flow: Flow | None
) -> Prepared:
    """The frames at the flow's size."""
    assert flow is not None
    return Prepared(resize(frames_THWC, flow.size), keypoints_TKC, (frames_THWC.shape[1], frames_THWC.shape[2]))


def masks(prepared: list[Prepared], options: MpmOptions, flow: Flow | None) -> list[Masks]:
    """The flow runs on frames of all clips together."""
    assert flow is not None
    motion = flow_masks([clip.frames_TCHW for clip in prepared], options, flow)
    return [join(each, clip.keypoints_TKC, clip.size, options.radius) for each, clip in zip(motion, prepared)]


def join(motion: Masks, keypoints_TKC: np.ndarray | None, size: tuple[int, int], radius: float) -> Masks:
    """The masks of one clip from those of its motion and from its keypoints. A pure function.

    Args:
        motion: uint8 (T, 64, 64) and its report, which says if there was none.
        keypoints_TKC: (T, 133, 3), or None.
        size: height and width of the frames in pixels.
        radius: of the discs, in widths of the frame.
    """
    motion_THW, report = motion
    points_TKC = None if keypoints_TKC is None else np.asarray(keypoints_TKC, np.float32)
    if points_TKC is None or not (points_TKC[..., 2] > CONFIDENT).any():
        return motion_THW, dataclasses.replace(report, note="no keypoints: motion alone")
    mask_THW, note = discs(fill_hands(points_TKC)[:, HANDS_AND_FACE], size, radius), None
    if report.degenerate is None:
        mask_THW |= motion_THW.astype(bool) & ~outside(around(signer_boxes(points_TKC), HOLD), size)
    else:
        note = f"{report.degenerate}: keypoints alone"
    mask_THW[~mask_THW.any((1, 2))] = True
    masks_THW, joined = finish(torch.from_numpy(mask_THW), None, report.share_latents_masked)
    if masks_THW.all():
        return masks_THW, dataclasses.replace(joined, degenerate=report.degenerate or "nothing to hide")
    return masks_THW, dataclasses.replace(joined, note=note)


METHOD = MaskMethod(
    "flow+pose",
    "its motion within the signer's box, and pose_discs",
    prepare,
    masks,
    needs_flow=True,
    uses=("keep", "threshold", "p", "binarize", "radius"),
)

"""A baseline without a flow: discs around the keypoints of hands and face."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from cclslr.errors import UserError
from cclslr.masking.flow import Flow
from cclslr.masking.methods.base import MaskMethod, Masks, MpmOptions
from cclslr.masking.mpm import finish
from cclslr.masking.signer import discs

HANDS_AND_FACE = (*range(23, 91), *range(91, 133))  # of the 133 whole-body keypoints


def prepare(frames_THWC: np.ndarray, keypoints_TKC: np.ndarray | None, options: MpmOptions, flow: Flow | None) -> Masks:
    """A mask for each frame.

    Raises:
        UserError: the clip has no keypoints.
    """
    if keypoints_TKC is None:
        raise UserError("masks of method pose_discs need keypoints; pack the clips with their pose")
    return finish(*_pose_discs(keypoints_TKC, frames_THWC.shape[1:3], options.radius))


def _pose_discs(keypoints_TKC: np.ndarray, size: tuple[int, int], radius: float) -> tuple[Tensor, str | None]:
    """Discs around confident hand and face keypoints. A frame without any keeps everything."""
    mask_THW = discs(np.asarray(keypoints_TKC, np.float32)[:, HANDS_AND_FACE], size, radius)
    mask_THW[~mask_THW.any((1, 2))] = True
    return torch.from_numpy(mask_THW), "no confident keypoints" if mask_THW.all() else None


METHOD = MaskMethod(
    "pose_discs", "discs around the keypoints of hands and face, without a flow", prepare, uses=("radius",)
)

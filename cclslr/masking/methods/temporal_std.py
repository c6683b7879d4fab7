"""A baseline without a flow: the standard deviation of each pixel's gray over the clip, thresholded."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from cclslr.masking.flow import Flow
from cclslr.masking.methods.base import MaskMethod, Masks, MpmOptions
from cclslr.masking.mpm import finish, resize, split_map, to_gray, to_unit
from cclslr.shards.format import MASK_SIZE


def prepare(frames_THWC: np.ndarray, keypoints_TKC: np.ndarray | None, options: MpmOptions, flow: Flow | None) -> Masks:
    """The same mask for all frames of the clip."""
    return finish(*_temporal_std(resize(frames_THWC, MASK_SIZE)))


def _temporal_std(frames_TCHW: Tensor) -> tuple[Tensor, str | None]:
    shape = (len(frames_TCHW), MASK_SIZE, MASK_SIZE)
    if len(frames_TCHW) < 2:
        return torch.ones(shape), "single frame"
    mask_1HW, reason = split_map(to_gray(to_unit(frames_TCHW)).std(0, keepdim=True))
    return torch.ones(shape) if mask_1HW is None else mask_1HW.expand(shape), reason


METHOD = MaskMethod("temporal_std", "what changes over the clip, without a flow", prepare)

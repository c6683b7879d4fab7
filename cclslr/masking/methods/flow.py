"""Motion-preserving masking, the paper's: a normalising flow tells what moves from what is static (CCL-SLR §3.3)."""

from __future__ import annotations

import numpy as np
from torch import Tensor

from cclslr.masking.flow import Flow
from cclslr.masking.methods.base import MaskMethod, Masks, MpmOptions
from cclslr.masking.mpm import flow_masks, resize


def prepare(
    frames_THWC: np.ndarray, keypoints_TKC: np.ndarray | None, options: MpmOptions, flow: Flow | None
) -> Tensor:
    """The frames at the flow's size."""
    assert flow is not None
    return resize(frames_THWC, flow.size)


def masks(prepared: list[Tensor], options: MpmOptions, flow: Flow | None) -> list[Masks]:
    """The flow runs on frames of all clips together."""
    assert flow is not None
    return flow_masks(prepared, options, flow)


METHOD = MaskMethod(
    "flow",
    "motion-preserving masking, the paper's",
    prepare,
    masks,
    needs_flow=True,
    uses=("keep", "threshold", "p", "binarize"),
)

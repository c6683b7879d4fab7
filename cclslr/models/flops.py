"""How much arithmetic a pass takes, counted on shapes alone.

Convention: a multiply-accumulate is 2 operations; convolutions and matrix products count, everything elementwise does
not. Counting runs on the meta device: nothing is computed and the module is left as it is.
"""

from __future__ import annotations

import copy
from dataclasses import replace

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from cclslr import keypoints
from cclslr.config import PretrainConfig
from cclslr.models.ccl import Branches


def forward_flops(module: nn.Module, shape: tuple[int, ...], dtype: torch.dtype = torch.float32) -> int:
    """Floating-point operations of one training-mode forward pass on an input of `shape` and `dtype`."""
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        _forward(module, shape, dtype)
    return counter.get_total_flops()


def training_flops(module: nn.Module, shape: tuple[int, ...], dtype: torch.dtype = torch.float32) -> int:
    """Floating-point operations of a forward and a backward pass, no gradient with respect to the input.

    That is less than three times the forward pass: the first layer only has its weights' gradient to compute.
    """
    with FlopCounterMode(display=False) as counter:
        _forward(module, shape, dtype).sum().backward()
    return counter.get_total_flops()


def flops_per_clip(cfg: PretrainConfig) -> dict[str, int]:
    """Of one clip in one step of pre-training, by modality: query forward and backward, key forward; encoders only."""
    with torch.device("meta"):
        query = Branches(replace(cfg.model, rgb_weights=None))
    shapes: dict[str, tuple[tuple[int, ...], torch.dtype]] = {
        "rgb": ((2, cfg.views.rgb_frames, cfg.views.size, cfg.views.size, 3), torch.uint8),
        "pose": ((2, cfg.views.pose_frames, keypoints.NUM_JOINTS, 3), torch.float32),
    }
    counted = {}
    for m in cfg.model.modalities:
        encoder = query.get_submodule(f"branch.{m}.encoder")
        counted[m] = (training_flops(encoder, *shapes[m]) + forward_flops(encoder, *shapes[m])) // 2  # two clips
    return counted


def _forward(module: nn.Module, shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
    shadow = copy.deepcopy(module).to("meta").train()
    return shadow(torch.empty(shape, dtype=dtype, device="meta"))

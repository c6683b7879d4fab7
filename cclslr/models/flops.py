"""How much arithmetic a forward pass takes, counted on shapes alone."""

from __future__ import annotations

import copy

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode


def forward_flops(module: nn.Module, shape: tuple[int, ...], dtype: torch.dtype = torch.float32) -> int:
    """Floating-point operations of one training-mode forward pass on an input of `shape` and `dtype`.

    Convention: a multiply-accumulate is 2 operations; convolutions and matrix products count, everything elementwise
    does not. Runs on the meta device: nothing is computed, `module` is left as it is.
    """
    shadow = copy.deepcopy(module).to("meta").train()
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        shadow(torch.empty(shape, dtype=dtype, device="meta"))
    return counter.get_total_flops()

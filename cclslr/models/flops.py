"""How much arithmetic a pass takes, counted on shapes alone.

Convention: a multiply-accumulate is 2 operations; convolutions and matrix products count, everything elementwise does
not. Counting runs on the meta device: nothing is computed and the module is left as it is.
"""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode


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


def _forward(module: nn.Module, shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
    shadow = copy.deepcopy(module).to("meta").train()
    return shadow(torch.empty(shape, dtype=dtype, device="meta"))

"""Architectures of the flows, from FrEIA's blocks.

- `advflow`: the architecture of AdvFlow (Dolatabadi et al., NeurIPS 2020), the one the paper takes; its published
  checkpoints can be imported (cclslr/masking/advflow.py).
- `glow`: a multi-scale Glow (Kingma and Dhariwal, 2018) on Haar wavelets, for those who train on their own frames.
  `tiny` is the same with a few narrow steps: it trains in minutes on a CPU.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from FrEIA.framework import GraphINN, InputNode, Node, OutputNode
from FrEIA.modules import (
    AllInOneBlock,
    Concat,
    Fixed1x1Conv,
    GLOWCouplingBlock,
    HaarDownsampling,
    IRevNetDownsampling,
    PermuteRandom,
    Reshape,
    Split,
)
from torch import Tensor, nn

from cclslr.errors import UserError

SIZES = (32, 64, 128)


@dataclass(frozen=True)
class FlowConfig:
    """Everything that determines a flow's architecture."""

    preset: str
    size: int  # S: frames are S x S
    family: str  # advflow | glow
    width: int  # hidden channels of every coupling subnet
    levels: int = 0  # glow: scales
    steps: int = 0  # glow: steps of flow a scale

    @property
    def finest(self) -> int:
        """Side of the feature maps in the first couplings: a glow halves its frames before them."""
        return self.size if self.family == "advflow" else self.size // 2


_PRESETS: dict[str, dict[str, Any]] = {
    "advflow": {"family": "advflow", "width": 128},
    "glow": {"family": "glow", "width": 128, "levels": 3, "steps": 8},
    "tiny": {"family": "glow", "width": 32, "levels": 3, "steps": 4},
}
PRESETS = tuple(_PRESETS)


def flow_config(preset: str, size: int) -> FlowConfig:
    """The architecture of a named preset at a frame size.

    Raises:
        UserError: unknown preset or size.
    """
    if preset not in _PRESETS:
        raise UserError(f"unknown flow preset {preset!r}; choose one of {', '.join(PRESETS)}")
    if size not in SIZES:
        raise UserError(f"flow size {size}; choose one of {', '.join(map(str, SIZES))}")
    return FlowConfig(preset=preset, size=size, **_PRESETS[preset])


def build(config: FlowConfig) -> GraphINN:
    """The invertible network of a configuration: frames (B, 3, S, S) to latents (B, 3·S·S), freshly initialised."""
    with _numpy_seed(0):
        return GraphINN(_advflow_nodes(config) if config.family == "advflow" else _glow_nodes(config))


class Subnet(nn.Module):
    """The network inside a coupling layer: layers in `dtype`, in and out in float32.

    Only the subnets may run in half precision: the couplings around them stay exactly invertible in float32, because
    both directions evaluate the same subnet on the same input. Convolutions run channels last: CPUs do that faster.
    """

    def __init__(self, layers: nn.Sequential) -> None:
        super().__init__()
        self.layers = layers.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        last = layers[-1]
        assert isinstance(last, (nn.Conv2d, nn.Linear))
        nn.init.zeros_(last.weight)  # a fresh coupling is the identity
        nn.init.zeros_(last.bias)  # type: ignore[arg-type]
        self.dtype = torch.float32

    def forward(self, x: Tensor) -> Tensor:
        if x.dim() == 4:
            x = x.contiguous(memory_format=torch.channels_last)
        with torch.autocast(x.device.type, dtype=self.dtype, enabled=self.dtype != torch.float32):
            return self.layers(x).float()


def _conv_subnet(width: int, slope: float, middle: int) -> Callable[[int, int], Subnet]:
    def rectifier() -> nn.Module:
        return nn.LeakyReLU(slope, inplace=True) if slope else nn.ReLU(inplace=True)  # the plain one is faster

    def build(channels_in: int, channels_out: int) -> Subnet:
        return Subnet(
            nn.Sequential(
                nn.Conv2d(channels_in, width, 3, padding=1),
                rectifier(),
                nn.Conv2d(width, width, middle, padding=middle // 2),
                rectifier(),
                nn.Conv2d(width, channels_out, 3, padding=1),
            )
        )

    return build


def _linear_subnet(width: int) -> Callable[[int, int], Subnet]:
    def build(features_in: int, features_out: int) -> Subnet:
        hidden = [layer for _ in range(2) for layer in (nn.Linear(width, width), nn.ReLU(inplace=True))]
        return Subnet(
            nn.Sequential(nn.Linear(features_in, width), nn.ReLU(inplace=True), *hidden, nn.Linear(width, features_out))
        )

    return build


CLAMP = 1.5  # AdvFlow's bound on the log-scale of a coupling


def soft_clamp(s: Tensor) -> Tensor:
    """AdvFlow's bound of a log-scale, before the factor `CLAMP`; FrEIA's own, since 2021, does not divide inside."""
    return 0.636 * torch.atan(s / CLAMP)


def _advflow_nodes(config: FlowConfig) -> list[Node]:
    size, pixels = config.size, 3 * config.size * config.size
    nodes: list[Node] = [InputNode(3, size, size)]
    conv, linear = _conv_subnet(config.width, slope=0.1, middle=3), _linear_subnet(config.width)

    def append(module: type, **arguments: Any) -> None:
        nodes.append(Node(nodes[-1], module, arguments))

    def coupling(subnet: Callable[[int, int], Subnet]) -> None:
        channels = nodes[-1].output_dims[0][0]
        append(
            GLOWCouplingBlock,
            subnet_constructor=subnet,
            clamp=CLAMP,
            clamp_activation=soft_clamp,
            split_len=channels // 2,  # of 3 channels, 1 and 2: FrEIA 0.2 alone would round to 2 and 1
        )

    for k in range(4):
        coupling(conv)
        append(PermuteRandom, seed=k)
    append(IRevNetDownsampling, legacy_backend=True)
    mix = np.random.RandomState(0)
    for k in range(6):
        orthogonal = np.linalg.qr(mix.randn(12, 12))[0]
        append(Fixed1x1Conv, M=torch.tensor(orthogonal, dtype=torch.float32))
        coupling(conv)
        append(PermuteRandom, seed=k)
    append(Reshape, output_dims=(pixels,))
    append(Split, section_sizes=(pixels // 4, 3 * pixels // 4))
    split = nodes[-1]
    for k in range(6):
        coupling(linear)
        append(PermuteRandom, seed=k)
    nodes.append(Node([(nodes[-1], 0), (split, 1)], Concat, {}))
    return [*nodes, OutputNode(nodes[-1])]


def _glow_nodes(config: FlowConfig) -> list[Node]:
    subnet = _conv_subnet(config.width, slope=0.0, middle=1)
    nodes: list[Node] = [InputNode(3, config.size, config.size)]
    outputs: list[tuple[Node, int]] = []

    def append(source: Any, module: type, **arguments: Any) -> Node:
        nodes.append(Node(source, module, arguments))
        return nodes[-1]

    def flatten(source: tuple[Node, int]) -> tuple[Node, int]:
        shape = source[0].output_dims[source[1]]
        return append(source, Reshape, output_dims=(math.prod(shape),)), 0

    here: tuple[Node, int] = (nodes[0], 0)
    for level in range(config.levels):
        node = append(here, HaarDownsampling)
        for _ in range(config.steps):
            node = append(
                node,
                AllInOneBlock,
                subnet_constructor=subnet,
                affine_clamping=2.0,
                global_affine_type="EXP",
                permute_soft=True,
            )
        here = (node, 0)
        if level + 1 < config.levels:
            channels = node.output_dims[0][0]
            split = append(node, Split, section_sizes=(channels // 2, channels - channels // 2))
            outputs.append(flatten((split, 1)))
            here = (split, 0)
    outputs.append(flatten(here))
    append(outputs, Concat)
    return [*nodes, OutputNode(nodes[-1])]


@contextlib.contextmanager
def _numpy_seed(seed: int) -> Iterator[None]:
    """FrEIA draws its fixed permutations from numpy's global generator: seed it and leave no trace."""
    state = np.random.get_state()  # noqa: NPY002
    np.random.seed(seed)  # noqa: NPY002
    try:
        yield
    finally:
        np.random.set_state(state)  # noqa: NPY002

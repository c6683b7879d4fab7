"""Normalising flows of single frames behind one small interface: `encode`, `decode`, `forward` (CCL-SLR §3.3).

Two families, built from FrEIA's blocks:

- `advflow`: the architecture of AdvFlow (Dolatabadi et al., NeurIPS 2020), the one the paper takes; its published
  checkpoints can be imported (cclslr/masking/advflow.py).
- `glow`: a multi-scale Glow (Kingma and Dhariwal, 2018) on Haar wavelets, for those who train on their own frames.
  `tiny` is the same with a few narrow steps: it trains in minutes on a CPU.

Frames are float RGB in [0, 1], (B, 3, S, S); latents are (B, 3·S·S), standard normal under a trained flow.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import json
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import safetensors
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
from safetensors.torch import load as load_tensors
from safetensors.torch import save as save_tensors
from torch import Tensor, nn

from cclslr.files import atomic_write

METADATA_KEY = "cclslr_flow"
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


_PRESETS: dict[str, dict[str, Any]] = {
    "advflow": {"family": "advflow", "width": 128},
    "glow": {"family": "glow", "width": 128, "levels": 3, "steps": 8},
    "tiny": {"family": "glow", "width": 32, "levels": 3, "steps": 4},
}
PRESETS = tuple(_PRESETS)


def flow_config(preset: str, size: int) -> FlowConfig:
    """The architecture of a named preset at a frame size.

    Raises:
        ValueError: unknown preset or size.
    """
    if preset not in _PRESETS:
        raise ValueError(f"unknown flow preset {preset!r}; choose one of {', '.join(PRESETS)}")
    if size not in SIZES:
        raise ValueError(f"flow size {size}; choose one of {', '.join(map(str, SIZES))}")
    return FlowConfig(preset=preset, size=size, **_PRESETS[preset])


@dataclass
class FlowCard:
    """What is known of a flow beyond its weights: goes into the weights' file, and from there into the shards."""

    origin: str = "untrained"  # untrained | trained | advflow
    sha256: str = ""  # of the weights
    training: dict[str, Any] = field(default_factory=dict)  # settings and results of tools/train_flow.py


class Subnet(nn.Module):
    """The network inside a coupling layer: layers in `dtype`, in and out in float32.

    Only the subnets may run in half precision: the couplings around them stay exactly invertible in float32, because
    both directions evaluate the same subnet on the same input.
    """

    def __init__(self, layers: nn.Sequential) -> None:
        super().__init__()
        self.layers = layers
        last = layers[-1]
        assert isinstance(last, (nn.Conv2d, nn.Linear))
        nn.init.zeros_(last.weight)  # a fresh coupling is the identity
        nn.init.zeros_(last.bias)  # type: ignore[arg-type]
        self.dtype = torch.float32

    def forward(self, x: Tensor) -> Tensor:
        with torch.autocast(x.device.type, dtype=self.dtype, enabled=self.dtype != torch.float32):
            return self.layers(x).float()


def _conv_subnet(width: int, slope: float, middle: int) -> Callable[[int, int], Subnet]:
    def build(channels_in: int, channels_out: int) -> Subnet:
        return Subnet(
            nn.Sequential(
                nn.Conv2d(channels_in, width, 3, padding=1),
                nn.LeakyReLU(slope, inplace=True),
                nn.Conv2d(width, width, middle, padding=middle // 2),
                nn.LeakyReLU(slope, inplace=True),
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


class Flow(nn.Module):
    """An invertible map between frames and latents. Another library's flow may take its place with the same methods."""

    def __init__(self, config: FlowConfig, card: FlowCard | None = None) -> None:
        super().__init__()
        self.config = config
        self.card = card or FlowCard()
        with _numpy_seed(0):
            nodes = _advflow_nodes(config) if config.family == "advflow" else _glow_nodes(config)
            self.net = GraphINN(nodes)

    @property
    def size(self) -> int:
        return self.config.size

    @property
    def latent_dim(self) -> int:
        return 3 * self.size**2

    @property
    def device(self) -> torch.device:
        return next(self.parameters()).device

    def encode(self, frames_BCHW: Tensor) -> tuple[Tensor, Tensor]:
        """Frames in [0, 1] → latents (B, D) and log |det dz/dx| (B,)."""
        return self.net(frames_BCHW)

    def decode(self, latents_BD: Tensor) -> Tensor:
        """Latents (B, D) → frames (B, 3, S, S), not clipped."""
        return self.net(latents_BD, rev=True, jac=False)[0]

    def forward(self, frames_BCHW: Tensor) -> Tensor:
        """Negative log-likelihood of each frame in bits per dimension (B,), of a density over values 0..256."""
        latents, log_det = self.encode(frames_BCHW)
        nats = 0.5 * latents.square().sum(1) + 0.5 * self.latent_dim * math.log(2 * math.pi) - log_det
        return nats / (self.latent_dim * math.log(2)) + 8.0

    def set_dtype(self, dtype: torch.dtype) -> Flow:
        """Run the subnets in float32, bfloat16 or float16; weights stay in float32."""
        for module in self.modules():
            if isinstance(module, Subnet):
                module.dtype = dtype
        return self

    @torch.no_grad()
    def normalise_to(self, frames_BCHW: Tensor) -> None:
        """Data-dependent initialisation of a fresh glow (ActNorm): every step then puts out zero mean, unit variance.

        Deterministic in its input, so ranks agree when they are given the same frames. AdvFlow has no such layers.
        """

        def adapt(block: nn.Module, inputs: tuple[Any, ...]) -> None:
            assert isinstance(block, AllInOneBlock)
            x = inputs[0][0]  # a fresh coupling is the identity, so the block's input is what its affine layer sees
            scale = 1.0 / (x.std(dim=(0, 2, 3), keepdim=True) + 1e-3)
            block.global_scale.copy_(scale.log())
            block.global_offset.copy_(-x.mean(dim=(0, 2, 3), keepdim=True) * scale)

        blocks = [module for module in self.net.module_list if isinstance(module, AllInOneBlock)]
        hooks = [block.register_forward_pre_hook(adapt) for block in blocks]
        self.encode(frames_BCHW)
        for hook in hooks:
            hook.remove()


def weights_hash(flow: Flow) -> str:
    """SHA-256 over names, shapes, types and bytes of all tensors of a flow."""
    digest = hashlib.sha256()
    for name, tensor in sorted(flow.state_dict().items()):
        digest.update(f"{name} {tuple(tensor.shape)} {tensor.dtype}".encode())
        digest.update(tensor.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()


def save_flow(flow: Flow, path: str | Path) -> None:
    """Write the flow as safetensors, architecture and card in its metadata; sets `flow.card.sha256`."""
    flow.card.sha256 = weights_hash(flow)
    meta = {"config": dataclasses.asdict(flow.config), "card": dataclasses.asdict(flow.card)}
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in flow.state_dict().items()}
    with atomic_write(path) as file:
        file.write(save_tensors(tensors, metadata={METADATA_KEY: json.dumps(meta)}))


def load_flow(path: str | Path, device: torch.device | str = "cpu") -> Flow:
    """Read a flow written by `save_flow`, for inference.

    Raises:
        FileNotFoundError: no such file.
        ValueError: not a flow of this project, or its weights differ from their recorded hash.
    """
    path = Path(path)
    data = path.read_bytes()
    try:
        with safetensors.safe_open(str(path), framework="pt") as file:
            meta = json.loads((file.metadata() or {})[METADATA_KEY])
        config, card = FlowConfig(**meta["config"]), FlowCard(**meta["card"])
        flow = Flow(config, card)
        flow.load_state_dict(load_tensors(data))
    except (KeyError, TypeError, RuntimeError, json.JSONDecodeError, safetensors.SafetensorError) as error:
        raise ValueError(f"{path}: no flow of this project ({error}); make one with tools/train_flow.py") from error
    if weights_hash(flow) != card.sha256:
        raise ValueError(f"{path}: the weights differ from their recorded hash; the file is damaged, copy it again")
    return flow.requires_grad_(False).eval().to(device)

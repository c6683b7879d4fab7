"""Normalising flows of single frames behind one small interface: `encode`, `decode`, `forward` (CCL-SLR §3.3).

Frames are float RGB in [0, 1], (B, 3, S, S); latents are (B, 3·S·S), standard normal under a trained flow.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import safetensors
import torch
from FrEIA.modules import AllInOneBlock
from safetensors.torch import load as load_tensors
from safetensors.torch import save as save_tensors
from torch import Tensor, nn

from cclslr.errors import UserError
from cclslr.files import atomic_write
from cclslr.masking.architecture import FlowConfig, Subnet, build

METADATA_KEY = "cclslr_flow"
CACHED_VALUES = 1 << 22  # of a layer's output, in bfloat16 or float32: what a CPU core's share of the cache holds
GPU_FRAMES_PER_PASS = 64


@dataclass
class FlowCard:
    """What is known of a flow beyond its weights: goes into the weights' file, and from there into the shards."""

    origin: str = "untrained"  # untrained | trained | advflow
    sha256: str = ""  # of the weights
    training: dict[str, Any] = field(default_factory=dict)  # settings and results of cclslr flow


class Flow(nn.Module):
    """An invertible map between frames and latents. Another library's flow may take its place with the same methods."""

    def __init__(self, config: FlowConfig, card: FlowCard | None = None) -> None:
        super().__init__()
        self.config = config
        self.card = card or FlowCard()
        self.net = build(config)

    @property
    def size(self) -> int:
        return self.config.size

    @property
    def latent_dim(self) -> int:
        return 3 * self.size**2

    @property
    def frames_per_pass(self) -> int:
        """How many frames should go through together: on a CPU as many as leave the widest output in the cache."""
        if self.device.type != "cpu":
            return GPU_FRAMES_PER_PASS
        return max(1, CACHED_VALUES // (self.config.width * self.config.finest**2))

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
        UserError: not a flow of this project, or its weights differ from their recorded hash.
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
        raise UserError(f"{path}: no flow of this project ({error}); make one with cclslr flow") from error
    if weights_hash(flow) != card.sha256:
        raise UserError(f"{path}: the weights differ from their recorded hash; the file is damaged, copy it again")
    return flow.requires_grad_(False).eval().to(device)

"""Branches with a query and a momentum key path, and the memory banks (CCL-SLR §3.1)."""

from __future__ import annotations

import copy

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cclslr.config import ModelConfig
from cclslr.models.pose import PoseEncoder
from cclslr.models.r3d import R3D, build_rgb

ByModality = dict[str, Tensor]  # keys are "rgb" and "pose"; results of a classifier also have "fused"


def build_encoder(modality: str, cfg: ModelConfig) -> R3D | PoseEncoder:
    """The encoder of one modality; its `dim` is the size of the feature g."""
    return build_rgb(cfg.rgb, cfg.rgb_weights) if modality == "rgb" else PoseEncoder(cfg)


class Branch(nn.Module):
    """Encoder and projection head of one modality.

    x → g (B, D), f (B, embedding), both L2-normalised float32. x is (B, T, H, W, 3) uint8 or (B, T, 75, 3) float32.
    """

    def __init__(self, modality: str, cfg: ModelConfig) -> None:
        super().__init__()
        self.encoder = build_encoder(modality, cfg)
        self.dim = dim = self.encoder.dim
        self.head = nn.Sequential(nn.Linear(dim, dim), nn.ReLU(inplace=True), nn.Linear(dim, cfg.embedding))

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        feature = self.encoder(x)
        return F.normalize(feature.float(), dim=1), F.normalize(self.head(feature).float(), dim=1)


class Branches(nn.Module):
    """The branches of all modalities; the query path is one of these, the key path its momentum copy."""

    def __init__(self, cfg: ModelConfig) -> None:
        super().__init__()
        branches = {m: Branch(m, cfg) for m in cfg.modalities}
        self.branch = nn.ModuleDict(branches)
        self.dims = {m: branch.dim for m, branch in branches.items()}  # of g

    def forward(self, views: ByModality) -> tuple[ByModality, ByModality]:
        """Views by modality → (g, f) by modality."""
        embedded = {m: branch(views[m]) for m, branch in self.branch.items()}
        return {m: g for m, (g, _) in embedded.items()}, {m: f for m, (_, f) in embedded.items()}


def key_copy(query: Branches) -> Branches:
    """The key path: same weights, no gradient."""
    return copy.deepcopy(query).requires_grad_(False)


@torch.no_grad()
def momentum_update(key: Branches, query: nn.Module, gamma: float, fused: bool = True) -> None:
    """theta_k ← γ theta_k + (1-γ) theta_q, in one call for all parameters or one for each (CCL-SLR Eq. 2).

    `gamma` is `objective.momentum`. The momentum of SGD is another thing (`optim.momentum`), and `optim.gamma` is the
    factor of the learning rate.
    """
    theta_k: list[Tensor] = [*key.parameters()]
    theta_q: list[Tensor] = [*query.parameters()]
    if fused:
        torch._foreach_lerp_(theta_k, theta_q, 1.0 - gamma)
    else:
        for one_k, one_q in zip(theta_k, theta_q, strict=True):
            one_k.lerp_(one_q, 1.0 - gamma)


class MemoryBanks(nn.Module):
    """FIFO queues M_f and M_g of key embeddings; slot i is the same clip in every bank.

    Buffers: `f_<m>` (N, embedding) and `g_<m>` (N, D) float32, `clip_ids` (N,) int64, -1 in a slot never filled.
    """

    clip_ids: Tensor

    def __init__(self, query: Branches, cfg: ModelConfig, size: int) -> None:
        super().__init__()
        self.modalities = list(cfg.modalities)
        for m in self.modalities:
            self.register_buffer(f"f_{m}", torch.zeros(size, cfg.embedding))
            self.register_buffer(f"g_{m}", torch.zeros(size, query.dims[m]))
        self.register_buffer("clip_ids", torch.full((size,), -1))
        self.size = size
        self.enqueued = 0  # on the host: moving the queue's head needs no device synchronisation

    @property
    def f(self) -> ByModality:
        """M_f by modality."""
        return {m: getattr(self, f"f_{m}") for m in self.modalities}

    @property
    def g(self) -> ByModality:
        """M_g by modality."""
        return {m: getattr(self, f"g_{m}") for m in self.modalities}

    def usable(self, query_ids_B: Tensor, exclude_same_clip: bool) -> Tensor:
        """(B, N) bool: filled slots, without the query's own older embeddings if those are to be left out."""
        usable_BN = (self.clip_ids >= 0).expand(len(query_ids_B), -1)
        return usable_BN & (self.clip_ids != query_ids_B[:, None]) if exclude_same_clip else usable_BN

    @torch.no_grad()
    def enqueue(self, f_k: ByModality, g_k: ByModality, clip_ids_B: Tensor) -> None:
        """Replace the oldest slots by the keys of one global batch, the same on every rank.

        A key that is not finite would poison its slot for a whole turn of the queue: its slot stays unfilled instead.
        """
        assert len(clip_ids_B) <= self.size
        slots = torch.arange(self.enqueued, self.enqueued + len(clip_ids_B), device=clip_ids_B.device) % self.size
        finite_B = torch.ones_like(clip_ids_B, dtype=torch.bool)
        for m in self.modalities:
            finite_B &= f_k[m].isfinite().all(1) & g_k[m].isfinite().all(1)
        for m in self.modalities:
            self.f[m][slots] = torch.where(finite_B[:, None], f_k[m], 0.0)
            self.g[m][slots] = torch.where(finite_B[:, None], g_k[m], 0.0)
        self.clip_ids[slots] = torch.where(finite_B, clip_ids_B, -1)
        self.enqueued += len(clip_ids_B)

    def get_extra_state(self) -> int:
        return self.enqueued

    def set_extra_state(self, state: int) -> None:
        self.enqueued = state

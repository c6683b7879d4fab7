"""The pre-training step written plainly: what the step of `cclslr.train` must be as exact as, and faster than.

Eager, contiguous convolutions, one similarity product a loss term, momentum update and optimiser parameter by
parameter, on one device. Same clips in the same BatchNorm groups, same dropout, same arithmetic type: same losses as
`cclslr.train.pretrain_step` within rounding.
"""

from __future__ import annotations

import copy
import functools
from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor, nn

from cclslr.config import OptimConfig, PretrainConfig
from cclslr.data.batch import Batch
from cclslr.data.draw import Purpose, hash_words
from cclslr.models.ccl import Branches, ByModality
from cclslr.models.objective import Losses, Similarity, ccl_losses


def plain_momentum_update(key: nn.Module, query: nn.Module, gamma: float) -> None:
    """theta_k ← γ theta_k + (1-γ) theta_q, one parameter after the other (CCL-SLR Eq. 2)."""
    for key_parameter, query_parameter in zip(key.parameters(), query.parameters(), strict=True):
        key_parameter.data = key_parameter.data * gamma + query_parameter.data * (1 - gamma)


def plain_sgd(parameters: list[nn.Parameter], cfg: OptimConfig) -> torch.optim.SGD:
    """SGD that loops over the parameters."""
    return torch.optim.SGD(parameters, cfg.lr, cfg.momentum, weight_decay=cfg.weight_decay, foreach=False, fused=False)


def own_similarity(f_q: ByModality, bank_f: ByModality) -> Similarity:
    """A product of its own for each loss term that wants one."""
    return lambda a, b: f_q[a] @ bank_f[b].T


plain_losses = functools.partial(ccl_losses, similarity=own_similarity)


@dataclass
class PlainLearner:
    """What a plain step changes."""

    query: Branches
    key: Branches
    bank_f: ByModality
    bank_g: ByModality
    bank_ids_N: Tensor
    optimizer: torch.optim.Optimizer
    scaler: torch.amp.GradScaler
    dtype: torch.dtype
    pointer: int = 0


def build_plain_learner(cfg: PretrainConfig, device: torch.device, dtype: torch.dtype) -> PlainLearner:
    """The same weights as `cclslr.train.build_learner`."""
    torch.manual_seed(cfg.run.seed)
    query = Branches(cfg.model).to(device)
    key = copy.deepcopy(query).requires_grad_(False)
    size = cfg.objective.bank_size
    dims = {m: cast(int, query.get_submodule(f"branch.{m}.encoder").dim) for m in cfg.model.modalities}
    return PlainLearner(
        query,
        key,
        {m: torch.zeros(size, cfg.model.embedding, device=device) for m in dims},
        {m: torch.zeros(size, dim, device=device) for m, dim in dims.items()},
        torch.full((size,), -1, device=device),
        plain_sgd(list(query.parameters()), cfg.optim),
        torch.amp.GradScaler(device.type, enabled=dtype == torch.float16),
        dtype,
    )


def plain_step(learner: PlainLearner, batch: Batch, step: int, cfg: PretrainConfig) -> Losses:
    """One optimiser step on the whole batch; returns the loss terms, mean over the batch."""
    micro, size, seed = cfg.optim.micro_batch, len(batch.clip_ids_B), cfg.run.seed
    views = {m: x for m, x in {"rgb": batch.rgb_VBTHWC, "pose": batch.pose_VBTJC}.items() if x is not None}
    device = batch.clip_ids_B.device
    autocast = torch.autocast(device.type, learner.dtype, enabled=learner.dtype != torch.float32)
    groups = [slice(start, start + micro) for start in range(0, size, micro)]

    plain_momentum_update(learner.key, learner.query, cfg.objective.momentum)
    order_B = torch.arange(size)
    if cfg.objective.shuffle_bn:
        order_B = torch.from_numpy(hash_words(seed, Purpose.SHUFFLE_BN, step, order_B.numpy()).argsort())
    f_k = {m: torch.zeros(size, cfg.model.embedding, device=device) for m in views}
    g_k = {m: torch.zeros_like(learner.bank_g[m][:size]) for m in views}
    with torch.no_grad(), autocast:
        for number, group in enumerate(groups):
            torch.manual_seed(int(hash_words(seed, Purpose.KEY_DROPOUT, step, number)))
            g, f = learner.key({m: x[1][order_B[group].to(device)] for m, x in views.items()})
            for m in views:
                f_k[m][order_B[group].to(device)], g_k[m][order_B[group].to(device)] = f[m], g[m]

    learner.optimizer.zero_grad()
    total: Losses = {}
    for number, group in enumerate(groups):
        torch.manual_seed(int(hash_words(seed, Purpose.QUERY_DROPOUT, step, number)))
        with autocast:
            g_q, f_q = learner.query({m: x[0, group] for m, x in views.items()})
        usable_BN = (learner.bank_ids_N >= 0).expand(micro, -1)
        if cfg.objective.exclude_same_clip:
            usable_BN = usable_BN & (learner.bank_ids_N != batch.clip_ids_B[group, None])
        keys = {m: x[group] for m, x in f_k.items()}
        losses = plain_losses(f_q, g_q, keys, learner.bank_f, learner.bank_g, usable_BN, cfg.objective)
        learner.scaler.scale(sum(losses.values(), torch.zeros((), device=device)) / len(groups)).backward()
        for name, loss in losses.items():
            total[name] = total.get(name, 0) + loss.detach() / len(groups)
    learner.scaler.step(learner.optimizer)
    learner.scaler.update()

    slots = (learner.pointer + torch.arange(size, device=device)) % cfg.objective.bank_size
    for m in views:
        learner.bank_f[m][slots], learner.bank_g[m][slots] = f_k[m], g_k[m]
    learner.bank_ids_N[slots] = batch.clip_ids_B
    learner.pointer += size
    return total

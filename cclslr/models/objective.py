"""The CCL-SLR objective on embeddings: InfoNCE, semantic positive mining and the cross-modal loss (CCL-SLR §3).

Pure functions of float32 tensors. Rows are the B queries of a micro-batch, columns the N slots of the banks; every
bank holds the same clip in the same slot, so one (B, N) mask and one (B, N) label serve all of them.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from cclslr.config import ObjectiveConfig
from cclslr.models.ccl import ByModality

Losses = dict[str, Tensor]  # the terms of a loss by name, each a scalar


def info_nce(positive_B: Tensor, negatives_BN: Tensor, usable_BN: Tensor, tau: float) -> Tensor:
    """InfoNCE of cosine similarities, mean over the batch (CCL-SLR Eq. 3).

    Args:
        positive_B: similarity of each query with its own key.
        negatives_BN: similarity of each query with every bank slot.
        usable_BN: bool; a slot that is not usable is no negative.
        tau: temperature.
    """
    negatives_BN = negatives_BN.masked_fill(~usable_BN, float("-inf"))
    logits = torch.cat([positive_B[:, None], negatives_BN], dim=1) / tau
    return (logits.logsumexp(dim=1) - logits[:, 0]).mean()


def mine_positives(similarity_BN: Tensor, usable_BN: Tensor, k: int) -> Tensor:
    """y^m: true on the k usable slots nearest to each query (CCL-SLR Eq. 6). (B, N) float → (B, N) bool."""
    ranked = similarity_BN.masked_fill(~usable_BN, float("-inf"))
    nearest_Bk = ranked.topk(min(k, ranked.shape[1]), dim=1).indices
    return torch.zeros_like(usable_BN).scatter(1, nearest_Bk, True) & usable_BN


def spm(similarity_BN: Tensor, positive_BN: Tensor, usable_BN: Tensor, tau_spm: float) -> Tensor:
    """Binary cross-entropy of sigmoid(f_q · M_f / tau_spm) with the mined labels, mean over slots (CCL-SLR Eq. 7-8)."""
    loss_BN = F.binary_cross_entropy_with_logits(
        similarity_BN / tau_spm, positive_BN.to(similarity_BN.dtype), reduction="none"
    )
    return ((loss_BN * usable_BN).sum(1) / usable_BN.sum(1).clamp(min=1)).mean()


Similarity = Callable[[str, str], Tensor]  # (a, b) → f_q^a · M_f^b, (B, N)


def shared_similarity(f_q: ByModality, bank_f: ByModality) -> Similarity:
    """One product a bank serves the single-modal, the mining and the cross-modal terms."""
    modalities = list(f_q)
    queries = torch.cat([f_q[m] for m in modalities])
    products = {m: (queries @ bank_f[m].T).chunk(len(modalities)) for m in modalities}
    return lambda a, b: products[b][modalities.index(a)]


def ccl_losses(
    f_q: ByModality,
    g_q: ByModality,
    f_k: ByModality,
    bank_f: ByModality,
    bank_g: ByModality,
    usable_BN: Tensor,
    cfg: ObjectiveConfig,
    similarity: Callable[[ByModality, ByModality], Similarity] = shared_similarity,
) -> Losses:
    """The terms of the total loss, by name; their sum is L (CCL-SLR Eq. 9-14).

    Args:
        f_q, g_q: query embeddings by modality, (B, 128) and (B, D), L2-normalised.
        f_k: key embeddings of the same clips, (B, 128), without gradient.
        bank_f, bank_g: the banks M_f (N, 128) and M_g (N, D).
        usable_BN: bool; slots that take part for each query.
        similarity: how products of queries and banks are had; the plain step of `cclslr bench train` has its own way.
    """
    modalities = list(f_q)
    sim = similarity(f_q, bank_f)
    losses: Losses = {}
    for m in modalities:
        losses[f"cl_{m}"] = info_nce((f_q[m] * f_k[m]).sum(1), sim(m, m), usable_BN, cfg.tau)
    if cfg.spm:
        with torch.no_grad():
            y = torch.zeros_like(usable_BN)
            for m in modalities:
                y |= mine_positives(g_q[m] @ bank_g[m].T if cfg.mine_from == "g" else sim(m, m), usable_BN, cfg.k)
        for m in modalities:
            losses[f"spm_{m}"] = spm(sim(m, m), y, usable_BN, cfg.tau_spm)
    if cfg.cross and len(modalities) == 2:
        for a, b in (modalities, modalities[::-1]):  # the key and bank of a teach the query of b
            losses[f"{a}_to_{b}"] = info_nce((f_q[b] * f_k[a]).sum(1), sim(b, a), usable_BN, cfg.tau)
    return losses

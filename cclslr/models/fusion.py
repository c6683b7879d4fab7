"""How the logits of the branches become one prediction, and their features one feature.

Logits: the paper's sum, or a sum with a temperature a branch.

The paper adds the logits (CCL-SLR §3.4). Then a branch that knows little, but says so loudly, spoils one that is good.
Calibrated fusion divides the logits of each branch by a temperature of its own, fitted on clips that the branches were
not trained on; an infinite temperature leaves a branch out.
"""

from __future__ import annotations

import math

import numpy as np
import torch
import torch.nn.functional as F
from scipy.optimize import minimize
from torch import Tensor

PRIOR = 0.01  # how strongly 1/T keeps to 1, the plain sum: it decides where the clips do not, as when all are right


def fuse(logits: dict[str, Tensor], temperatures: dict[str, float] | None = None) -> dict[str, Tensor]:
    """The logits (N, K) of each branch and, where there are several, their sum as `fused`.

    With `temperatures`, by branch, also the sum of logits over temperature as `calibrated`. Added in float32: where the
    logits are bf16, a sum in bf16 would make ties of what differs.
    """
    fused = {m: x.float() for m, x in logits.items()}
    if len(logits) > 1:
        fused["fused"] = torch.stack(list(fused.values())).sum(0)
        if temperatures is not None:
            fused["calibrated"] = torch.stack([fused[m] / temperatures[m] for m in logits]).sum(0)
    return fused


def join(features: dict[str, Tensor]) -> dict[str, Tensor]:
    """L2-normalised features (N, D) of each branch and, where there are several, all of them side by side as `fused`.

    Those are normalised again, so the cosine of two clips by `fused` is the mean of their cosines by branch.
    """
    if len(features) < 2:
        return dict(features)
    return {**features, "fused": F.normalize(torch.cat(list(features.values()), dim=1), dim=1)}


def fit_temperatures(logits: dict[str, Tensor], labels_N: Tensor) -> dict[str, float]:
    """The temperature of each branch with which the fused prediction has the least cross-entropy.

    Fitted together, not branch by branch: two branches that err alike count less than two that differ. In the weights
    1/T >= 0 the problem is convex, so there is one answer.

    Args:
        logits: (N, K) of each branch, of clips that it was not trained on.
        labels_N: (N,) int64.

    Returns:
        T > 0 by branch; infinite for a branch that is of no use.
    """
    z_MNK = torch.stack(list(logits.values())).double().numpy()
    truth_N = labels_N.numpy()
    rows_N = np.arange(len(truth_N))

    def loss(weights_M: np.ndarray) -> tuple[float, np.ndarray]:
        sum_NK = np.tensordot(weights_M, z_MNK, 1)
        sum_NK -= sum_NK.max(1, keepdims=True)
        log_norm_N1 = np.log(np.exp(sum_NK).sum(1, keepdims=True))
        error_NK = np.exp(sum_NK - log_norm_N1)  # probabilities, less 1 at the truth
        error_NK[rows_N, truth_N] -= 1
        value = -(sum_NK - log_norm_N1)[rows_N, truth_N].mean()
        gradient_M = (z_MNK * error_NK).sum((1, 2)) / len(truth_N)
        away_M = weights_M - 1
        return value + PRIOR / 2 * (away_M**2).sum(), gradient_M + PRIOR * away_M

    start_M = np.ones(len(z_MNK))
    found = minimize(loss, start_M, jac=True, method="L-BFGS-B", bounds=[(0, None)] * len(z_MNK))
    return {m: 1 / weight if weight > 1e-6 else math.inf for m, weight in zip(logits, found.x.tolist())}

"""What the features know of labels that training never sees: a k-NN probe, and how right SPM's positives are."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from cclslr.config import ObjectiveConfig, PretrainConfig
from cclslr.distributed import Process
from cclslr.inference.passes import over_clips
from cclslr.models.ccl import Branches, ByModality, MemoryBanks
from cclslr.models.fusion import join
from cclslr.models.objective import mine_positives
from cclslr.models.precision import Precision
from cclslr.shards.reader import ShardSet

MAX_ASKING = 4096  # slots that ask for their neighbours: a percentage to 0.3 points, and 0.3 GB at N = 16384


def knn_top1(
    bank_ND: Tensor, bank_labels_N: Tensor, query_QD: Tensor, labels_Q: Tensor, k: int, tau: float = 0.07
) -> float:
    """Top-1 in percent of a similarity-weighted vote (weight exp(cosine/tau)) among the k nearest of the bank."""
    similarity, nearest = (query_QD @ bank_ND.T).topk(min(k, len(bank_ND)), dim=1)
    votes = torch.zeros(len(query_QD), int(bank_labels_N.max()) + 1)
    votes.scatter_add_(1, bank_labels_N[nearest], (similarity / tau).exp())
    return 100 * (votes.argmax(1) == labels_Q).float().mean().item()


def mined_precision(banks: MemoryBanks, labels_N: np.ndarray, cfg: ObjectiveConfig) -> dict[str, float]:
    """How many of the positives that SPM mines are clips of the same sign, in percent (CCL-SLR Eq. 6).

    Every key in the banks asks for its k nearest in the banks, its own clip left out, as a query does in a step.
    `mined_<m>` are those of one modality, `mined_union` all that the loss takes for positives, and `mined_chance` is
    the share of the same sign among all slots. Measured with `objective.spm` off as well: what it would mine. Nothing
    without labels.

    Args:
        labels_N: int, the label of each clip of the data set by its id, -1 where it has none.
    """
    clip_ids = banks.clip_ids.cpu()
    labels = torch.from_numpy(np.where(clip_ids >= 0, labels_N[clip_ids.clamp(min=0)], -1))
    asking = (labels >= 0).nonzero()[:, 0][:MAX_ASKING]
    usable_QN = (labels >= 0) & (clip_ids != clip_ids[asking, None])
    right_QN = labels[asking, None] == labels
    source = banks.g if cfg.mine_from == "g" else banks.f
    mined = {m: mine_positives(x[asking] @ x.T, usable_QN.to(x.device), cfg.k).cpu() for m, x in source.items()}
    if len(mined) > 1:
        mined["union"] = torch.stack(list(mined.values())).any(0)
    mined["chance"] = usable_QN
    if not usable_QN.any():
        return {}
    return {f"mined_{name}": 100 * (y & right_QN).sum().item() / y.sum().item() for name, y in mined.items()}


def knn_probe(query: Branches, cfg: PretrainConfig, process: Process) -> dict[str, float]:
    """Top-1 of the test clips among the training clips by g, per branch and both together; {} without labels."""

    def features(split: str) -> tuple[ByModality, Tensor]:
        shards = ShardSet(cfg.data.shards, split=split)
        precision, micro = Precision(cfg.run.amp, process.device), cfg.optim.micro_batch
        g, _, labels = over_clips(
            lambda x: query(x)[0], shards, cfg.data, cfg.views, cfg.model.modalities, micro, precision, process
        )
        return {m: x[labels >= 0] for m, x in join(g).items()}, labels[labels >= 0]

    if not {cfg.data.split, "test"} <= ShardSet(cfg.data.shards).rows.labelled_splits:
        return {}
    query.eval()
    (bank, bank_labels), (test, labels) = features(cfg.data.split), features("test")
    query.train()
    return {f"knn_{m}": knn_top1(bank[m], bank_labels, test[m], labels, cfg.run.knn_neighbours) for m in bank}

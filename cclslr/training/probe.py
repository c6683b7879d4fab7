"""A k-NN probe: how well the features separate labelled clips, without training anything."""

from __future__ import annotations

import torch
from torch import Tensor

from cclslr.config import PretrainConfig
from cclslr.distributed import Process
from cclslr.inference.passes import over_clips
from cclslr.models.ccl import Branches, ByModality
from cclslr.models.fusion import join
from cclslr.models.precision import Precision
from cclslr.shards.reader import ShardSet


def knn_top1(
    bank_ND: Tensor, bank_labels_N: Tensor, query_QD: Tensor, labels_Q: Tensor, k: int, tau: float = 0.07
) -> float:
    """Top-1 in percent of a similarity-weighted vote (weight exp(cosine/tau)) among the k nearest of the bank."""
    similarity, nearest = (query_QD @ bank_ND.T).topk(min(k, len(bank_ND)), dim=1)
    votes = torch.zeros(len(query_QD), int(bank_labels_N.max()) + 1)
    votes.scatter_add_(1, bank_labels_N[nearest], (similarity / tau).exp())
    return 100 * (votes.argmax(1) == labels_Q).float().mean().item()


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

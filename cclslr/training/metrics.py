"""Accuracies as isolated sign language recognition reports them (CCL-SLR §4.1), each test clip counted once."""

from __future__ import annotations

import torch
from torch import Tensor
from torchmetrics.functional.classification import multiclass_accuracy, multiclass_stat_scores


def accuracies(logits_NK: Tensor, labels_N: Tensor) -> dict[str, float]:
    """Per-instance and per-class top-1 and top-5 in percent.

    Per class is the mean over the classes that the labels contain: WLASL2000's test set lacks one class, which is
    neither right nor wrong.
    """
    classes = logits_NK.shape[1]
    present = labels_N.bincount(minlength=classes) > 0
    result = {}
    for k in (1, 5):
        top_k = min(k, classes)
        micro = multiclass_accuracy(logits_NK, labels_N, classes, average="micro", top_k=top_k)
        scores = multiclass_stat_scores(logits_NK, labels_N, classes, average=None, top_k=top_k)
        hits, support = scores[:, 0], scores[:, 4]
        result[f"per_instance_top{k}"] = 100 * micro.item()
        result[f"per_class_top{k}"] = 100 * (hits[present] / support[present]).mean().item()
    return result


def confusion(logits_NK: Tensor, labels_N: Tensor) -> Tensor:
    """(K, K) int64 counts, rows are labels, columns are predictions."""
    classes = logits_NK.shape[1]
    return torch.bincount(labels_N * classes + logits_NK.argmax(1), minlength=classes**2).reshape(classes, classes)

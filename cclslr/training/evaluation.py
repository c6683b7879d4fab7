"""Scores of a classifier on one split: per branch and fused, per instance and per class, each clip once."""

from __future__ import annotations

import csv
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.table import Table
from torch import Tensor

from cclslr.config import FinetuneConfig
from cclslr.distributed import Process
from cclslr.errors import UserError
from cclslr.files import atomic_write, write_json
from cclslr.inference.passes import over_clips
from cclslr.inspect.confusion import save_confusion
from cclslr.models.ccl import ByModality
from cclslr.models.classifier import Classifier
from cclslr.models.fusion import fuse
from cclslr.models.precision import Precision
from cclslr.shards.reader import ShardSet
from cclslr.training.metrics import accuracies, confusion

Scores = dict[str, dict[str, float]]  # branch or fused → metric → percent


@dataclass(frozen=True)
class Scored:
    """What a classifier said of the clips of one split."""

    split: str
    scores: Scores
    logits: ByModality  # (N, classes) by branch; with two also "fused", and "calibrated" where temperatures are known
    clip_ids: Tensor  # (N,) rows of `shards`
    labels: Tensor  # (N,) places in `classes`, -1 where a clip has no label
    classes: list[str]  # as the classifier numbers them
    shards: ShardSet


def evaluate(classifier: Classifier, classes: list[str], cfg: FinetuneConfig, split: str, process: Process) -> Scored:
    """Score the classifier, which knows `classes`, on one split of cfg.data.shards; leaves it in evaluation mode.

    Raises:
        UserError: no labelled clip, or one of a class that the classifier does not know.
    """
    shards = ShardSet(cfg.data.shards, split=split)
    place = torch.tensor([*match_classes(shards, classes), -1])  # -1, the label of unlabelled clips, stays -1
    classifier.eval()
    precision = Precision(cfg.run.amp, process.device)
    micro, modalities = cfg.optim.micro_batch, cfg.model.modalities
    logits, clip_ids, labels = over_clips(
        lambda views: fuse(classifier(views), classifier.temperatures),
        shards,
        cfg.data,
        cfg.views,
        modalities,
        micro,
        precision,
        process,
    )
    labels = place[labels]
    labelled = labels >= 0
    if not labelled.any():
        raise UserError(f"{', '.join(cfg.data.shards)}: no labelled clip in split {split!r}")
    scores = {name: accuracies(x[labelled], labels[labelled]) for name, x in logits.items()}
    return Scored(split, scores, logits, clip_ids, labels, classes, shards)


def match_classes(shards: ShardSet, classes: list[str]) -> list[int]:
    """For each class of `shards` the place of its name in `classes`; -1 for one that no clip of the split has.

    Raises:
        UserError: clips of a class that is not among `classes`, or is there twice.
    """
    if shards.classes == classes:
        return list(range(len(classes)))
    places = {name: place for place, name in enumerate(classes)}
    labels = shards.rows.labels_N
    used = np.unique(labels[labels >= 0]).tolist()
    missing = [shards.classes[label] for label in used if shards.classes[label] not in places]
    if missing:
        named = ", ".join(missing[:5]) + (", …" if len(missing) > 5 else "")
        raise UserError(f"the checkpoint does not know {len(missing)} of {len(used)} classes of these shards: {named}")
    if twice := [name for name in places if classes.count(name) > 1]:
        raise UserError(
            f"the checkpoint has class {twice[0]!r} more than once: it was trained on several data sets and can only "
            "be evaluated on all of them, in the same order"
        )
    return [places.get(name, -1) for name in shards.classes]


def score_table(scores: Scores, title: str) -> Table:
    """The scores as a table for people."""
    table = Table("branch", "top-1", "top-5", "per class top-1", "per class top-5", title=title)
    for name, score in scores.items():
        columns = ("per_instance_top1", "per_instance_top5", "per_class_top1", "per_class_top5")
        table.add_row(name, *(f"{score[column]:.2f}" for column in columns))
    return table


def write_report(folder: Path, scored: Scored) -> None:
    """Write `<split>.json`, `<split>_predictions.csv` and `<split>_confusion.png` into `folder`."""
    split, logits, labels, classes = scored.split, scored.logits, scored.labels, scored.classes
    report: dict[str, Any] = {"split": split, "clips": len(labels), "scores": scored.scores}
    main = "fused" if "fused" in logits else next(iter(logits))
    confused_KK = confusion(logits[main][labels >= 0], labels[labels >= 0])
    report["confusion"] = confused_KK.tolist()
    report["classes"] = classes
    write_json(folder / f"{split}.json", report)
    save_confusion(folder / f"{split}_confusion.png", confused_KK.numpy(), classes)
    with atomic_write(folder / f"{split}_predictions.csv", "w") as file:
        table = csv.writer(file)
        table.writerow(
            ["key", "label", "gloss", *(f"{name}_{column}" for name in logits for column in ("top1", "top5"))]
        )
        for row, (clip, label) in enumerate(zip(scored.clip_ids.tolist(), labels.tolist())):
            top5 = [x[row].topk(min(5, x.shape[1])).indices.tolist() for x in logits.values()]
            ranked = [column for top in top5 for column in (top[0], " ".join(map(str, top)))]
            table.writerow([scored.shards.rows[clip].key, label, classes[label] if label >= 0 else "", *ranked])

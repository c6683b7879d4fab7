"""Scores of a classifier on one split: per branch and fused, per instance and per class, each clip once."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

from rich.table import Table
from torch import Tensor

from cclslr.config import FinetuneConfig
from cclslr.errors import UserError
from cclslr.files import atomic_write, write_json
from cclslr.models.ccl import ByModality
from cclslr.models.classifier import Classifier, fuse
from cclslr.shards.reader import ShardSet
from cclslr.training.distributed import Process
from cclslr.training.inference import over_clips
from cclslr.training.metrics import accuracies, confusion
from cclslr.training.optimise import Amp

Scores = dict[str, dict[str, float]]  # branch or fused → metric → percent


def evaluate(
    classifier: Classifier, cfg: FinetuneConfig, split: str, process: Process
) -> tuple[Scores, ByModality, Tensor, ShardSet]:
    """Scores of the classifier on one split; also the logits, the clip ids and the data set they speak of."""
    shards = ShardSet(cfg.data.shards, split=split)
    classifier.eval()
    amp = Amp(cfg.run.amp, process.device)
    batch, modalities = cfg.optim.batch, cfg.model.modalities
    logits, clip_ids, labels = over_clips(
        lambda views: fuse(classifier(views)), shards, cfg.data, cfg.views, modalities, batch, amp, process
    )
    labelled = labels >= 0
    if not labelled.any():
        raise UserError(f"{', '.join(cfg.data.shards)}: no labelled clip in split {split!r}")
    scores = {name: accuracies(x[labelled], labels[labelled]) for name, x in logits.items()}
    return scores, logits, clip_ids, shards


def score_table(scores: Scores, title: str) -> Table:
    """The scores as a table for people."""
    table = Table("branch", "top-1", "top-5", "per class top-1", "per class top-5", title=title)
    for name, score in scores.items():
        columns = ("per_instance_top1", "per_instance_top5", "per_class_top1", "per_class_top5")
        table.add_row(name, *(f"{score[column]:.2f}" for column in columns))
    return table


def write_report(
    folder: Path, split: str, scores: Scores, logits: ByModality, clip_ids: Tensor, shards: ShardSet, classes: list[str]
) -> None:
    """Write `<split>.json` and `<split>_predictions.csv` into `folder`."""
    labels = [shards.rows[clip].label for clip in clip_ids.tolist()]
    report: dict[str, Any] = {"split": split, "clips": len(labels), "scores": scores}
    main = "fused" if "fused" in logits else next(iter(logits))
    labelled = [i for i, label in enumerate(labels) if label >= 0]
    report["confusion"] = confusion(logits[main][labelled], clip_ids.new_tensor([labels[i] for i in labelled])).tolist()
    report["classes"] = classes
    write_json(folder / f"{split}.json", report)
    with atomic_write(folder / f"{split}_predictions.csv", "w") as file:
        table = csv.writer(file)
        table.writerow(
            ["key", "label", "gloss", *(f"{name}_{column}" for name in logits for column in ("top1", "top5"))]
        )
        for row, (clip, label) in enumerate(zip(clip_ids.tolist(), labels)):
            top5 = [x[row].topk(min(5, x.shape[1])).indices.tolist() for x in logits.values()]
            ranked = [column for top in top5 for column in (top[0], " ".join(map(str, top)))]
            table.writerow([shards.rows[clip].key, label, classes[label] if label >= 0 else "", *ranked])


if __name__ == "__main__":
    from cclslr.__main__ import run

    run("evaluate")

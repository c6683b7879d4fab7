"""The whole job on data that it makes itself, pack to evaluate.

Every stage is a command of its own, printed before it runs, so this is also the tour of the tools. Ends with a table,
fine-tuned with few labels, pre-trained against from scratch, and says what it wrote.
"""

from __future__ import annotations

import argparse
import json
import os
import shlex
import shutil
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.table import Table

from cclslr.cli import command_parser
from cclslr.console import console, duration
from cclslr.files import read_json, write_json

GROUP, PLACE = "training", 1

METRICS = {  # and their headings
    "per_instance_top1": "top-1",
    "per_instance_top5": "top-5",
    "per_class_top1": "per class\ntop-1",
    "per_class_top5": "per class\ntop-5",
}

WRITTEN = {
    "summary.json": "this table, and how long each stage took",
    "views.png": "training views, with keypoints and masks",
    "pretrain/first_batch.png": "the first batch as the trainer saw it",
    "pretrain/results.png": "curves of losses, k-NN, learning rate, waiting",
    "*/test_confusion.png": "which signs are taken for which",
}

# Masks from motion alone. With the default ones and the recipe before, RGB learned less at seed 0 (50.6, not 60.3 %),
# and packing takes longer (docs/results/demo).
MASKS = ("--mask-options", "method=flow", "threshold=absolute", "binarize=decoded_deviation")

# What `quick` changes: enough to show that every stage works, too little to learn much.
DATA = ["--size", "80", "--frames", "24", "36", "--classes", "12", "--twins", "3", "--signers", "24", "0", "8"]
FULL_DATA = ["--clips-per-class", "150", "0", "30"]
QUICK_DATA = ["--clips-per-class", "8", "0", "3"]
QUICK_PRETRAIN = ["optim.epochs=3"]
QUICK_FINETUNE = ["optim.epochs=4"]


@dataclass(frozen=True)
class Stage:
    """One command of this project."""

    name: str
    title: str
    arguments: tuple[str, ...]  # of python

    def run(self, number: int, of: int) -> float:
        """Run it as a process of its own; its wall time in seconds."""
        console.rule(f"{number}/{of} {self.title}")
        console.print(f"$ python {shlex.join(self.arguments)}", style="dim", soft_wrap=True)
        began = time.perf_counter()
        subprocess.run([sys.executable, *self.arguments], check=True)
        seconds = time.perf_counter() - began
        console.print(f"{self.title}: done in {duration(seconds)}", style="dim")
        return seconds


def epoch_means(metrics: Path) -> tuple[list[float], list[float]]:
    """Mean loss of each epoch, and the clips/s of every logged interval."""
    losses: dict[int, list[float]] = {}
    rates = []
    for line in metrics.read_text().splitlines():
        record = json.loads(line)
        if "loss" in record:
            losses.setdefault(int(record["epoch"] - 1e-6), []).append(record["loss"])
            rates += [record["clips_per_second"]] if record["clips_per_second"] > 0 else []
    return [sum(values) / len(values) for _, values in sorted(losses.items())], rates


def summary(run: Path, seconds: float, stages: dict[str, float]) -> dict[str, Any]:
    """What the demo reached, from the files that its stages wrote."""
    loss, rates = epoch_means(run / "pretrain" / "metrics.jsonl")
    last = json.loads((run / "pretrain" / "metrics.jsonl").read_text().splitlines()[-1])
    scores = {start: read_json(run / start / "test.json")["scores"] for start in ("pretrained", "scratch")}
    return {
        "seconds": round(seconds, 1),
        "stages": {name: round(value, 1) for name, value in stages.items()},
        "pretrain": {
            "steps": last["step"],
            "clips_per_second": round(sorted(rates)[len(rates) // 2], 1) if rates else 0.0,
            "loss": [round(value, 4) for value in loss],
        },
        "finetune": {
            start: {branch: {m: round(score[m], 2) for m in METRICS} for branch, score in of_start.items()}
            for start, of_start in scores.items()
        },
    }


def result_table(result: dict[str, Any]) -> Table:
    table = Table("start", "branch", *METRICS.values(), title="Test accuracy (%) after fine-tuning with few labels")
    for start, branches in result["finetune"].items():
        for branch, score in branches.items():
            table.add_row(start, branch, *(f"{score[m]:.1f}" for m in METRICS))
    return table


def plan_stages(args: argparse.Namespace, quick: bool) -> list[Stage]:
    """What the demo does, in this order."""
    seed, shards, pretrained = str(args.seed), f"data.shards=[{args.shards}]", f"{args.run}/pretrain/last.pt"
    pack = Stage(
        "pack",
        "Pack a data set of rendered signers, with motion-preserving masks",
        ("-m", "cclslr", "pack", "synthetic", "--out", str(args.shards), "--seed", seed, "--codec", "jpeg",
         "--workers", str(os.cpu_count() or 1), "--masks", *MASKS, *DATA, *(QUICK_DATA if quick else FULL_DATA)),
    )  # fmt: skip
    pretrain = Stage(
        "pretrain",
        "Pre-train both branches without labels",
        ("-m", "cclslr.train", "--config", "configs/pretrain_short.yaml", shards, f"run.dir={args.run}/pretrain",
         f"run.seed={seed}", *(QUICK_PRETRAIN if quick else []), *args.overrides),
    )  # fmt: skip
    finetune = [
        Stage(
            name,
            f"Fine-tune with few labels, {words}",
            ("-m", "cclslr.finetune", "--config", "configs/finetune_small.yaml", shards, f"pretrained={checkpoint}",
             f"run.dir={args.run}/{name}", f"run.seed={seed}", *(QUICK_FINETUNE if quick else [])),
        )
        for name, words, checkpoint in (
            ("pretrained", "pre-trained", pretrained),
            ("scratch", "from scratch", "null"),
        )
    ]  # fmt: skip
    picture = Stage(
        "picture",
        "Draw the views",
        ("-m", "cclslr", "sheet", str(args.shards), "--config", "configs/pretrain_short.yaml",
         "--out", str(args.run / "views.png"), "views.size=128"),
    )  # fmt: skip
    return [pack, Stage("check", "Check it", ("-m", "cclslr", "check", str(args.shards))), pretrain, *finetune, picture]


def main(argv: list[str] | None = None) -> None:
    parser = command_parser(__name__, __doc__)
    parser.add_argument(
        "--size", choices=("full", "quick"), default="full", help="quick: a smoke test of a few minutes"
    )
    parser.add_argument("--seed", type=int, default=0, help="of the data, the training and the choice of labels")
    parser.add_argument("--run", type=Path, default=Path("runs/demo"), help="folder of the results")
    parser.add_argument("--shards", type=Path, default=Path("shards/demo"), help="folder of the data set")
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="for pre-training, e.g. views.mask_alpha=0")
    args = parser.parse_intermixed_args(argv)
    os.environ.setdefault("PYTHONUNBUFFERED", "1")
    for old in (args.run, args.shards):
        shutil.rmtree(old, ignore_errors=True)

    began = time.perf_counter()
    stages = plan_stages(args, quick=args.size == "quick")
    seconds = {stage.name: stage.run(number, len(stages)) for number, stage in enumerate(stages, 1)}
    result = summary(args.run, time.perf_counter() - began, seconds)
    write_json(args.run / "summary.json", result)
    console.print(result_table(result))
    console.print(f"{duration(result['seconds'])} in all; written into {args.run}:")
    for name, meaning in WRITTEN.items():
        console.print(f"  {name:26}{meaning}")

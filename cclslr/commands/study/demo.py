"""The demo over several seeds: do pre-training and fusing help?

A seed decides data, training and choice of labels.

    cclslr study demo --seeds 3 --out docs/results/demo

Writes demo.csv: a row for each seed, start and branch. A seed that has its summary.json already is not run again.
"""

from __future__ import annotations

import csv
import subprocess
import sys
from collections import defaultdict
from pathlib import Path

import numpy as np
from rich.table import Table

from cclslr.cli import command_parser
from cclslr.console import console
from cclslr.files import atomic_write, read_json

METRIC = "per_instance_top1"


def main(argv: list[str] | None = None) -> None:
    parser = command_parser(__name__, __doc__)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--out", type=Path, default=Path("docs/results/demo"), help="folder of the table")
    parser.add_argument("--runs", type=Path, default=Path("runs/study_demo"), help="folder of the runs")
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="for pre-training, e.g. views.mask_alpha=0")
    args = parser.parse_intermixed_args(argv)
    rows = []
    for seed in range(args.seeds):
        run = args.runs / f"seed{seed}"
        if not (run / "summary.json").exists():
            command = [sys.executable, "-m", "cclslr", "demo", "--seed", str(seed), "--run", str(run)]
            subprocess.run([*command, "--shards", f"shards/study_demo{seed}", *args.overrides], check=True)
        for start, branches in read_json(run / "summary.json")["finetune"].items():
            rows += [{"seed": seed, "start": start, "branch": name} | score for name, score in branches.items()]
    with atomic_write(args.out / "demo.csv", "w") as file:
        writer = csv.DictWriter(file, rows[0])
        writer.writeheader()
        writer.writerows(rows)
    groups = defaultdict(list)
    for row in rows:
        groups[row["start"], row["branch"]].append(row[METRIC])
    table = Table("start", "branch", "top-1, mean", "standard deviation", title=f"{args.seeds} seeds, top-1 in percent")
    for (start, branch), values in groups.items():
        deviation = np.std(values, ddof=1) if len(values) > 1 else float("nan")
        table.add_row(start, branch, f"{np.mean(values):.1f}", f"{deviation:.1f}")
    console.print(table)

"""What masking does: pre-train with other values of α.

The data are those of the demo's study.

    cclslr study demo --seeds 3                      # first: packs the data, and is the study of α = 0.5
    cclslr study alpha --seeds 3 --alphas 0 0.2 1 --out docs/results/masking

Backgrounds differ between signers, and test signers are new: an RGB branch that looks at the background pays for it.
Writes alpha.csv: a row for each seed, α and branch. A run whose test.json is there already is not made again.
"""

from __future__ import annotations

import csv
import subprocess
import sys
from pathlib import Path

import numpy as np
from rich.table import Table

from cclslr.cli import command_parser
from cclslr.console import console
from cclslr.errors import UserError
from cclslr.files import atomic_write, read_json

DEMO_ALPHA = 0.5


def one_run(alpha: float, seed: int, shards: Path, run: Path) -> None:
    """Pre-train and fine-tune as the demo does, with another α."""
    common = [f"data.shards=[{shards}]", f"run.seed={seed}"]
    for module, config, more in (
        ("cclslr.train", "configs/demo_pretrain.yaml", [f"run.dir={run}/pretrain", f"views.mask_alpha={alpha}"]),
        ("cclslr.finetune", "configs/demo_finetune.yaml", [f"run.dir={run}", f"pretrained={run}/pretrain/last.pt"]),
    ):
        subprocess.run([sys.executable, "-m", module, "--config", config, *common, *more], check=True)


def main(argv: list[str] | None = None) -> None:
    parser = command_parser(__name__, __doc__)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--alphas", type=float, nargs="+", default=[0.0, 0.2, 1.0])
    parser.add_argument("--demos", type=Path, default=Path("runs/study_demo"), help="runs of cclslr study demo")
    parser.add_argument("--runs", type=Path, default=Path("runs/study_alpha"), help="folder of the runs")
    parser.add_argument("--out", type=Path, default=Path("docs/results/masking"), help="folder of the table")
    args = parser.parse_args(argv)
    rows = []
    for seed in range(args.seeds):
        for alpha in sorted({DEMO_ALPHA, *args.alphas}):
            run = args.demos / f"seed{seed}/pretrained" if alpha == DEMO_ALPHA else args.runs / f"seed{seed}_{alpha}"
            if not (run / "test.json").exists():
                if alpha == DEMO_ALPHA:
                    raise UserError(f"{run} is missing; run first: cclslr study demo --seeds {args.seeds}")
                one_run(alpha, seed, Path(f"shards/study_demo{seed}"), run)
            for branch, score in read_json(run / "test.json")["scores"].items():
                rows.append({"seed": seed, "alpha": alpha, "branch": branch} | score)
    with atomic_write(args.out / "alpha.csv", "w") as file:
        writer = csv.DictWriter(file, rows[0])
        writer.writeheader()
        writer.writerows(rows)
    table = Table("α", "branch", "top-1, mean", "each seed", title="fine-tuned top-1 in percent")
    for alpha in sorted({row["alpha"] for row in rows}):
        for branch in dict.fromkeys(row["branch"] for row in rows):
            values = [r["per_instance_top1"] for r in rows if (r["alpha"], r["branch"]) == (alpha, branch)]
            table.add_row(f"{alpha}", branch, f"{np.mean(values):.1f}", "  ".join(f"{value:.1f}" for value in values))
    console.print(table)

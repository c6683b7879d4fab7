"""Repeat the studies behind the figures: configs x seeds, each once.

    cclslr study table3                                 a shipped study, studies/table3.yaml
    cclslr study mine.yaml --dry-run                    which stages there are, and which are done
    cclslr study table3 --override data=paper           the paper's data sets instead of rendered ones
    cclslr study signs13 --override pack.source=signs13_wholebody.npz --workers 2

Stopped or killed, the same command goes on where it was. Stages lie in --store, found by their config, inputs and
seed: what several cells or studies share runs once. Writes results.csv, results.json, tables.md, plots and index.html
to --out.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from cclslr.study.spec import Study

GROUP, PLACE = "measuring", 3


def main(argv: list[str] | None = None) -> int:
    """Run a study; the exit code is 3 where stages failed."""
    from cclslr.cli import command_parser
    from cclslr.study.spec import find, load

    parser = command_parser(__name__, __doc__)
    parser.add_argument("study", metavar="FILE|NAME", help="a study file, or the name of one of studies/")
    add_options(parser)
    args = parser.parse_args(argv)
    return carry_out(load(find(args.study), args.override, args.seeds), args)


def add_options(parser: argparse.ArgumentParser) -> None:
    """What any study can be told."""
    parser.add_argument(
        "--override", nargs="+", action="extend", default=[], metavar="KEY=VALUE",
        help="for all cells: data=NAME, or stage.key=value, e.g. pretrain.optim.epochs=2",
    )  # fmt: skip
    parser.add_argument("--seeds", type=int, nargs="+", metavar="N", help="instead of those in the file")
    parser.add_argument("--out", type=Path, metavar="DIR", help="folder of the results (default: runs/studies/NAME)")
    parser.add_argument("--store", type=Path, default=Path("runs/stages"), help="folder of stages (runs/stages)")
    parser.add_argument("--workers", type=int, default=1, metavar="N", help="stages at a time on this machine (1)")
    parser.add_argument("--scheduler", metavar="ADDRESS", help="dask.distributed scheduler to use instead")
    parser.add_argument("--dry-run", action="store_true", help="list the stages and what is there, and stop")


def carry_out(study: Study, args: argparse.Namespace) -> int:
    """Run what a study lacks, write what came out, show its tables; the exit code."""
    from rich.table import Table

    from cclslr.console import console
    from cclslr.errors import ExitCode
    from cclslr.study.graph import build
    from cclslr.study.run import Place, run
    from cclslr.study.write import stage_rows, write_study

    graph = build(study)
    if args.dry_run:
        table = Table("stage", "for", "state", "folder", title=f"{study.title}: {len(graph.stages)} stages")
        for row in stage_rows(graph, args.store, {}):
            table.add_row(row["stage"], row["for"], row["state"], Path(row["folder"]).name)
        console.print(table)
        return 0
    out = args.out or Path("runs/studies") / study.name
    errors = run(graph, Place(args.store, args.workers, args.scheduler), out / "log.txt")
    console.print(write_study(study, graph, args.store, out, errors))
    console.print(f"written: {out}/index.html, tables.md, results.csv, results.json", soft_wrap=True)
    return ExitCode.SOME_BAD if errors else ExitCode.DONE

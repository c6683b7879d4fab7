"""Evaluate a fine-tuned checkpoint on a split, by branch and fused.

Per instance and per class, each clip once.

    cclslr evaluate runs/finetune/last.pt --shards shards/wlasl300 --split test
    torchrun --nproc-per-node 8 -m cclslr evaluate runs/finetune/last.pt

Writes <split>.json (the table) and <split>_predictions.csv (a row a clip) beside the checkpoint.

As a dictionary that is asked with clips, from features that are frozen or fine-tuned, by ASL Citizen's protocol:

    cclslr evaluate runs/pretrain/last.pt --retrieval --dictionary train --split test
    cclslr evaluate features.parquet --retrieval --shots 1 5

Writes <split>_retrieval.json.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
from rich.table import Table

import cclslr
from cclslr import checkpoint
from cclslr.cli import command_parser
from cclslr.config import FinetuneConfig, load_config
from cclslr.console import console, run_command
from cclslr.distributed import process_group
from cclslr.errors import UserError
from cclslr.files import write_json
from cclslr.inference.embed import embed_here
from cclslr.inference.features import FeatureSet, read_features
from cclslr.inference.retrieval import evaluate_logits, evaluate_retrieval
from cclslr.models.classifier import from_checkpoint
from cclslr.shards.reader import ShardSet
from cclslr.training.evaluation import evaluate, score_table, write_report


def main(argv: list[str] | None = None) -> None:
    parser = command_parser("cclslr.evaluate", __doc__)
    parser.add_argument(
        "checkpoint", type=Path,
        help="written by cclslr.finetune; with --retrieval also by cclslr.train, or a feature file of cclslr embed",
    )  # fmt: skip
    parser.add_argument("--shards", nargs="+", help="packed data sets (default: the ones it was fine-tuned on)")
    parser.add_argument("--split", default="test", choices=("train", "val", "test"))
    parser.add_argument("--out", type=Path, help="folder of the report (default: beside the checkpoint)")
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="override a key of the stored config")
    retrieval = parser.add_argument_group("retrieval")
    retrieval.add_argument("--retrieval", action="store_true", help="rank the signs of a dictionary for each clip")
    retrieval.add_argument(
        "--dictionary", default="train", choices=("train", "val", "test"), help="split of its examples (default train)"
    )
    retrieval.add_argument(
        "--shots", type=int, nargs="+", default=[1, 5], metavar="N", help="examples a sign (default 1 5; also all)"
    )
    retrieval.add_argument("--draws", type=int, default=5, metavar="N", help="choices of these examples (default 5)")
    retrieval.add_argument("--seed", type=int, default=0, metavar="N", help="of these choices (default 0)")
    args = parser.parse_intermixed_args(argv)
    if args.retrieval:
        retrieve(args)
    else:
        classify(args)


def classify(args: argparse.Namespace) -> None:
    """Score a classifier."""
    state = checkpoint.load(args.checkpoint)
    classifier = from_checkpoint(state, str(args.checkpoint))
    cfg = load_config(FinetuneConfig, None, args.overrides, stored=state["config"])
    if args.shards:
        cfg.data.shards = args.shards
    with process_group(cfg.run.device) as process:
        scored = evaluate(classifier.to(process.device), state["classes"], cfg, args.split, process)
        if process.main:
            folder = args.out or args.checkpoint.parent
            write_report(folder, scored)
            console.print(
                score_table(scored.scores, f"{args.checkpoint} on {args.split}, {len(scored.clip_ids)} clips")
            )
            names = ".json", "_predictions.csv", "_confusion.png"
            console.print(f"written: {', '.join(f'{folder}/{args.split}{name}' for name in names)}", soft_wrap=True)


def retrieve(args: argparse.Namespace) -> None:
    """Score features as a dictionary."""
    if args.dictionary == args.split:
        raise UserError(f"--dictionary and --split are both {args.split}: each query would find itself")
    if min(*args.shots, args.draws) < 1:
        raise UserError("--shots and --draws must be at least 1")
    if args.seed < 0:
        raise UserError("--seed must be at least 0")
    sides = (args.dictionary, args.split)
    if args.checkpoint.suffix == ".parquet":
        whole = read_features(args.checkpoint)
        parts = [whole.chosen(np.array(whole.splits) == side) for side in sides]
        if not all(map(len, parts)):
            raise UserError(f"{args.checkpoint}: no clip of split {sides[0] if not len(parts[0]) else sides[1]!r}")
        _report(args, parts[0], parts[1], int(whole.labels.max()) + 1)
        return
    model = cclslr.load(args.checkpoint, overrides=args.overrides)
    paths = args.shards or model.config.data.shards
    with process_group(model.config.run.device) as process:
        sets = [ShardSet(paths, side) for side in sides]
        parts = [embed_here(model, one, process, {"classes": model.classes}) for one in sets]
        if process.main:
            _report(args, parts[0], parts[1], len(sets[0].classes))


def _report(args: argparse.Namespace, dictionary: FeatureSet, queries: FeatureSet, classes: int) -> None:
    told = evaluate_retrieval(dictionary, queries, classes, args.shots, args.draws, args.seed)
    told["logits"] = evaluate_logits(queries, queries.about.get("classes", []))
    folder = args.out or args.checkpoint.parent
    path = folder / f"{args.split}_retrieval.json"
    write_json(path, {"dictionary": args.dictionary, "split": args.split, **told})
    title = f"{args.checkpoint}: {told['queries']} clips of {args.split} ask {told['signs']} signs of {args.dictionary}"
    table = Table("features", "examples", "R@1", "R@5", "R@10", "MRR", "DCG", title=title)
    for name, of in told["scores"].items():
        for shot, scores in of.items():
            table.add_row(name, shot, *_cells({metric: mean for metric, (mean, _) in scores.items()}))
    for name, values in told["logits"].items():
        table.add_row(name, "classifier", *_cells(values))
    console.print(table)
    if told["left_out"]:
        console.print(f"{told['left_out']} queries are left out: their signs have no example", style="yellow")
    if told["signers_shared"]:
        shared = f"{told['signers_shared']} signers are on both sides: this is no test of unseen signers"
        console.print(shared, style="yellow")
    console.print(f"written: {path}", soft_wrap=True)


def _cells(scores: dict[str, float]) -> list[str]:
    return [f"{value:.{2 if metric.startswith('recall') else 4}f}" for metric, value in scores.items()]


if __name__ == "__main__":
    run_command(main)

"""Evaluate a fine-tuned checkpoint on a split, by branch and fused.

Per instance and per class, each clip once.

    cclslr evaluate runs/finetune/last.pt --shards shards/wlasl300 --split test
    torchrun --nproc-per-node 8 -m cclslr evaluate runs/finetune/last.pt

Writes <split>.json (the table) and <split>_predictions.csv (a row a clip) beside the checkpoint.
"""

from __future__ import annotations

from pathlib import Path

from cclslr import checkpoint
from cclslr.cli import command_parser
from cclslr.config import FinetuneConfig, load_config
from cclslr.console import console, run_command
from cclslr.distributed import process_group
from cclslr.models.classifier import from_checkpoint
from cclslr.training.evaluation import evaluate, score_table, write_report


def main(argv: list[str] | None = None) -> None:
    parser = command_parser("cclslr.evaluate", __doc__)
    parser.add_argument("checkpoint", type=Path, help="written by cclslr.finetune")
    parser.add_argument("--shards", nargs="+", help="packed data sets (default: the ones it was fine-tuned on)")
    parser.add_argument("--split", default="test", choices=("train", "val", "test"))
    parser.add_argument("--out", type=Path, help="folder of the report (default: beside the checkpoint)")
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="override a key of the stored config")
    args = parser.parse_intermixed_args(argv)
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


if __name__ == "__main__":
    run_command(main)

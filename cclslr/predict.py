"""Name the sign in one video with a fine-tuned checkpoint.

The five likeliest, per branch and fused.

    cclslr predict runs/finetune_wlasl300/last.pt clip.mp4 --pose clip.npz
    cclslr predict runs/finetune_wlasl300/last.pt clip.mp4 --estimator mediapipe

The clip goes the way of every other clip: packed as the training data was, read, decoded, viewed whole.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from rich.table import Table

import cclslr
from cclslr.cli import command_parser
from cclslr.console import console, run_command
from cclslr.distributed import process_group
from cclslr.poses.base import DEFAULT, backends


def main(argv: list[str] | None = None) -> None:
    parser = command_parser("cclslr.predict", __doc__)
    parser.add_argument("checkpoint", type=Path, help="written by cclslr.finetune")
    parser.add_argument("video", type=Path, help="any file that FFmpeg reads")
    add_pose_arguments(parser)
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="override a key of the stored config")
    args = parser.parse_intermixed_args(argv)
    model = cclslr.load(args.checkpoint, overrides=args.overrides)
    with process_group(model.config.run.device):
        said = model.predict(args.video, args.pose, args.estimator)
    table = Table("rank", *said.logits, title=str(args.video))
    top = [said.top(5, branch) for branch in said.logits]
    for rank, cells in enumerate(zip(*top), 1):
        table.add_row(str(rank), *(f"{gloss} ({100 * share:.1f} %)" for gloss, share in cells))
    console.print(table)


def add_pose_arguments(parser: argparse.ArgumentParser) -> None:
    """`--pose` and `--estimator`, for commands that take a video."""
    parser.add_argument(
        "--pose", type=Path,
        help="keypoints (T, 133, 3), .npz or .npy (default: the file of the video's name beside it, or estimated)",
    )  # fmt: skip
    parser.add_argument(
        "--estimator", choices=backends(), default=DEFAULT,
        help=f"use the one that the training data was made with (default {DEFAULT})",
    )  # fmt: skip


if __name__ == "__main__":
    run_command(main)

"""Name the sign in one video with a fine-tuned checkpoint.

The five likeliest, per branch and fused.

    cclslr predict runs/finetune_wlasl300/last.pt clip.mp4 --pose clip.npz
    cclslr predict runs/finetune_wlasl300/last.pt clip.mp4 --estimator mediapipe

The clip goes the way of every other clip: packed as the training data was, read, decoded, viewed whole.
"""

from __future__ import annotations

from pathlib import Path

from rich.table import Table

from cclslr.cli import command_parser
from cclslr.console import console
from cclslr.poses.base import DEFAULT, backends
from cclslr.predict import predict

GROUP, PLACE = "use", 2


def main(argv: list[str] | None = None) -> None:
    parser = command_parser(__name__, __doc__)
    parser.add_argument("checkpoint", type=Path, help="written by cclslr.finetune")
    parser.add_argument("video", type=Path, help="any file that FFmpeg reads")
    parser.add_argument("--pose", type=Path, help="keypoints (T, 133, 3), .npz or .npy (default: they are estimated)")
    parser.add_argument(
        "--estimator", choices=backends(), default=DEFAULT,
        help=f"use the one that the training data was made with (default {DEFAULT})",
    )  # fmt: skip
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="override a key of the stored config")
    args = parser.parse_intermixed_args(argv)
    logits, classes = predict(args.checkpoint, args.video, args.pose, args.estimator, args.overrides)
    table = Table("rank", *logits, title=str(args.video))
    top = {name: x.softmax(0).topk(min(5, len(classes))) for name, x in logits.items()}
    for rank in range(min(5, len(classes))):
        cells = [f"{classes[t.indices[rank]]} ({100 * t.values[rank]:.1f} %)" for t in top.values()]
        table.add_row(str(rank + 1), *cells)
    console.print(table)

"""A folder that runs elsewhere: ONNX, TorchScript, safetensors.

It holds a graph of each branch and of both together (batch of any size), its
labels, one small file that turns frames and keypoints into inputs, a test clip,
and README.md, a model card that the Hub's loaders read. Each graph is compared
with the model on clips of the data set before the folder is there.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from rich.table import Table

from cclslr.cli import command_parser
from cclslr.console import console
from cclslr.errors import UserError

GROUP, PLACE = "use", 5

EXAMPLES = """examples:
  cclslr export runs/finetune/last.pt --out exported
  cclslr export runs/finetune/last.pt --format onnx safetensors --branch pose
  cclslr export runs/pretrain/last.pt --format torchscript --verify 50
  cclslr export runs/finetune/last.pt --branch pose --quantise int8 int4

Needs the extra: pip install -c constraints.txt 'cclslr[export]'"""


def parse(argv: list[str] | None = None) -> argparse.Namespace:
    parser = command_parser(__name__, __doc__, EXAMPLES)
    parser.add_argument("checkpoint", type=Path, help="written by cclslr train or finetune, or an exported folder")
    parser.add_argument(
        "--format", nargs="+", choices=("onnx", "torchscript", "safetensors"), default=["onnx"], help="default onnx"
    )
    parser.add_argument("--branch", nargs="+", choices=("rgb", "pose", "fused"), default=[], help="default: all")
    parser.add_argument("--out", type=Path, metavar="DIR", help="a new folder (default: export, beside the checkpoint)")
    parser.add_argument("--verify", type=int, default=200, metavar="N", help="clips to compare on (default 200)")
    parser.add_argument("--no-verify", action="store_const", const=0, dest="verify", help="compare nothing")
    parser.add_argument(
        "--quantise", nargs="*", choices=("int8", "int4"), default=["int8"], metavar="BITS",
        help="also the pose branch as ONNX in fewer bits: int8, int4 (default int8; nothing: neither)",
    )  # fmt: skip
    parser.add_argument("--no-clip", action="store_true", help="put no clip of the data set into the folder")
    parser.add_argument("--licence", default="other", help="of the card, as the Hub calls it (default other)")
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="override a key of the stored config")
    return parser.parse_intermixed_args(argv)


def main(argv: list[str] | None = None) -> None:
    args = parse(argv)
    if args.verify < 0:
        raise UserError("--verify must be at least 0")
    from cclslr.export.folder import export  # torch, which --help does without
    from cclslr.export.request import Request

    beside = args.checkpoint if args.checkpoint.is_dir() else args.checkpoint.parent
    done = export(
        Request(
            checkpoint=args.checkpoint,
            out=args.out or beside / "export",
            formats=args.format,
            branches=args.branch,
            verify=args.verify,
            quantise=args.quantise,
            clip=not args.no_clip,
            licence=args.licence,
            overrides=args.overrides,
        )
    )
    if done.parity:
        clips = next(iter(done.parity.values())).clips
        title = f"against the model on {clips} clips ({done.measured_on}); one clip on one core"
        table = Table("", "MB", "ms", "largest\ndifference", "same\nfirst", "same\nfive", title=title)
        for name, found in done.parity.items():
            shares = [f"{100 * min(x.values()):.1f} %" if x else "" for x in (found.same_top1, found.same_top5)]
            size, worst = f"{found.bytes / 1e6:.1f}", f"{max(found.difference.values()):.2g}"
            table.add_row(name, size, f"{found.ms:.1f}", worst, *shares)
        console.print(table)
    console.print(f"written: {done.out}: {', '.join(done.files)}", soft_wrap=True)

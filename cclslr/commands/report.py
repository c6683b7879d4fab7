"""One page of a run: curves, confusion, films, Grad-CAM.

Of a folder of cclslr train or cclslr finetune; t-SNE, environment and config are there too. The page needs no other
file and no network. What the run lacks is left out, and said.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from cclslr.cli import command_parser
from cclslr.console import console
from cclslr.errors import UserError
from cclslr.files import atomic_write

GROUP, PLACE = "training", 5

EXAMPLES = """examples:
  cclslr report runs/demo/pretrained
  cclslr report runs/pretrain --shards shards/wlasl300 --split val --out page.html
  cclslr report runs/pretrain --no-shards                     # from the folder alone

Grad-CAM needs captum: pip install 'cclslr[report]'."""


def parse(argv: list[str] | None = None) -> argparse.Namespace:
    parser = command_parser(__name__, __doc__, EXAMPLES)
    parser.add_argument("run", type=Path, help="folder of a run")
    parser.add_argument("--out", type=Path, help="the page (default: report.html in the run folder)")
    parser.add_argument("--shards", nargs="+", help="packed data sets (default: those of the run)")
    parser.add_argument("--no-shards", action="store_true", help="leave out what needs clips")
    parser.add_argument("--split", default="test", choices=("train", "val", "test"), help="of the clips (default test)")
    parser.add_argument("--clips", type=int, default=6, help="films of each kind (default 6)")
    parser.add_argument("--points", type=int, default=400, help="clips of t-SNE at most (default 400)")
    return parser.parse_args(argv)


def main(argv: list[str] | None = None) -> None:
    args = parse(argv)
    if args.clips < 1 or args.points < 5:
        raise UserError("--clips must be at least 1, --points at least 5")
    # Imported here: --help needs no scikit-learn.
    from cclslr.report.page import Run, run_page

    run = Run(args.run, args.split, args.shards, args.clips, args.points, not args.no_shards)
    text = run_page(run, lambda heading: console.print(f"{heading} …", style="dim"))
    out = args.out or args.run / "report.html"
    with atomic_write(out, "w") as file:
        file.write(text)
    for line in run.missing:
        console.print(f"left out: {line}", style="yellow", soft_wrap=True)
    console.print(f"{out}: {len(text) / 1e6:.1f} MB", soft_wrap=True)

"""Draw the training views of a few clips, with keypoints and masks.

Do keypoints and masks lie where they should, after crop and flip?
"""

from __future__ import annotations

from pathlib import Path

from cclslr.cli import command_parser
from cclslr.config import PretrainConfig, load_config
from cclslr.console import console
from cclslr.data.plan import Plan
from cclslr.inspect.contact import save_contact_sheet
from cclslr.shards.reader import ShardSet

GROUP, PLACE = "data", 7

EXAMPLES = """examples:
  cclslr sheet shards/demo --out views.png --config configs/pretrain_small.yaml
  cclslr sheet shards/wlasl300 --out views.png --split test --clips 8 views.area=[0.2,1.0]"""


def main(argv: list[str] | None = None) -> None:
    parser = command_parser(__name__, __doc__, EXAMPLES)
    parser.add_argument("shards", help="packed data set with video")
    parser.add_argument("--out", type=Path, required=True, metavar="PNG")
    parser.add_argument("--config", metavar="FILE", help="of pre-training: how views are drawn")
    parser.add_argument("--split", choices=("train", "val", "test"), help="default: all")
    parser.add_argument("--clips", type=int, default=3, help="default 3")
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="override one key of the config")
    args = parser.parse_intermixed_args(argv)
    cfg = load_config(PretrainConfig, args.config, args.overrides)
    shards = ShardSet([args.shards], args.split)
    clip_ids = Plan(len(shards), min(args.clips, len(shards)), cfg.run.seed).batch(0, 0).tolist()
    save_contact_sheet(args.out, shards, clip_ids, cfg.views, cfg.run.seed)
    console.print(f"written: {args.out}")

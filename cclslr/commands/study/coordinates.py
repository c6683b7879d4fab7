"""Coordinates as features: what a dictionary has to beat.

    cclslr study coordinates shards/mine --out coordinates.parquet
    cclslr study coordinates shards/mine --features input --frames 64 --out coordinates.parquet
    cclslr evaluate coordinates.parquet --retrieval

No network is asked. The file is one of `cclslr embed`, whose g_pose are the coordinates of a few frames of a clip, as
one vector of length 1.
"""

from __future__ import annotations

from pathlib import Path

from cclslr.cli import command_parser
from cclslr.console import console
from cclslr.inference.features import write_features
from cclslr.study.baselines import COORDINATES, coordinates


def main(argv: list[str] | None = None) -> None:
    parser = command_parser(__name__, __doc__)
    parser.add_argument("shards", nargs="+", help="packed data sets")
    parser.add_argument(
        "--features", choices=COORDINATES, default=COORDINATES[0],
        help="shoulders: body and hands about the shoulders; input: what the pose encoder gets (default shoulders)",
    )  # fmt: skip
    parser.add_argument("--frames", type=int, default=12, metavar="N", help="frames of a clip (default 12)")
    parser.add_argument("--out", type=Path, required=True, metavar="FILE", help="features.parquet")
    args = parser.parse_args(argv)
    features = coordinates(args.shards, args.features, args.frames)
    write_features(args.out, features)
    console.print(f"{len(features):,} clips, {features['g_pose'].shape[1]:,} numbers each\nwritten: {args.out}")

"""Look a sign up: the clips of a dictionary nearest to a video.

The dictionary is a feature file of `cclslr embed`, or a packed data set that is
embedded for the occasion (with --checkpoint). The nearest example of each gloss
is shown, or with --each-clip every clip. Search is exact; scores are cosines.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from rich.table import Table

from cclslr.cli import command_parser
from cclslr.console import console
from cclslr.errors import UserError
from cclslr.inference.dictionary import Frames, default_feature, file_frames, open_index, searchable
from cclslr.inference.features import FeatureSet
from cclslr.inference.retrieval import Hit, search
from cclslr.inspect.contact import save_png
from cclslr.inspect.hits import Strip, draw_strips
from cclslr.predict import add_pose_arguments

GROUP, PLACE = "use", 4

EXAMPLES = """examples:
  cclslr embed runs/pretrain/last.pt shards/wlasl300 --out dict.parquet
  cclslr search clip.mp4 --index dict.parquet --out found.png
  cclslr search clip.mp4 --index shards/wlasl300 --checkpoint runs/pretrain/last.pt"""


def parse(argv: list[str] | None = None) -> argparse.Namespace:
    parser = command_parser(__name__, __doc__, EXAMPLES)
    parser.add_argument("video", type=Path, help="any file that FFmpeg reads")
    parser.add_argument("--index", type=Path, required=True, help="feature file, or packed data set")
    parser.add_argument("--checkpoint", type=Path, help="default: the one that made the feature file")
    parser.add_argument("--split", choices=("train", "val", "test"), help="of the index (default: all)")
    parser.add_argument("--feature", default=None, help="e.g. g_pose (default: g_fused, or g of the only branch)")
    parser.add_argument("--top", type=int, default=10, metavar="N", help="default 10")
    parser.add_argument("--each-clip", action="store_true", help="several clips of a gloss, not its nearest alone")
    parser.add_argument("--out", type=Path, metavar="PNG", help="a sheet of the clips that were found")
    add_pose_arguments(parser)
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="override a key of the stored config")
    return parser.parse_intermixed_args(argv)


def main(argv: list[str] | None = None) -> None:
    args = parse(argv)
    if args.top < 1:
        raise UserError("--top must be at least 1")
    model, index = open_index(args.index, args.checkpoint, args.split, args.overrides)
    name = args.feature or default_feature(model, index)
    kind, _, branch = name.partition("_")
    embedded = model.embed(args.video, args.pose, args.estimator)
    query_D = {"g": embedded.g, "f": embedded.f}.get(kind, {}).get(branch)
    if query_D is None:
        raise UserError(f"--feature {name}: no such features; there are {', '.join(searchable(index))}")
    hits = search(query_D, index, name, args.top, args.each_clip)
    table = Table("", "gloss", "score", "clip", "signer", title=f"{args.video} by {name}, {len(index):,} clips")
    for place, hit in enumerate(hits, 1):
        row = hit.row
        table.add_row(str(place), index.glosses[row], f"{hit.score:.3f}", index.keys[row], index.signers[row])
    console.print(table)
    if args.out is not None:
        save_png(args.out, draw_strips(strips(args.video, index, hits)))
        console.print(f"written: {args.out}", soft_wrap=True)


def strips(video: Path, index: FeatureSet, hits: list[Hit]) -> list[Strip]:
    """The rows of the sheet: the video, then what was found."""
    found, frames = [Strip(f"asked: {video.name}", file_frames(video))], Frames(index)
    for number, hit in enumerate(hits, 1):
        key = index.keys[hit.row]
        about = [f"{number}.", index.glosses[hit.row], f"{hit.score:.3f}", key, index.signers[hit.row]]
        found.append(Strip("  ".join(filter(None, about)), frames.of(key)))
    return found

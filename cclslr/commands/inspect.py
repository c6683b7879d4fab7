"""Look at packed clips: a page of frames, keypoints, masks, views.

One HTML page, a row a clip, from frames, keypoints and masks to the training views.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np

from cclslr.cli import command_parser
from cclslr.config import ViewConfig
from cclslr.console import console, progress_bar
from cclslr.errors import UserError
from cclslr.files import atomic_write
from cclslr.inspect.films import ClipFilms, films_of, load_matching_flow
from cclslr.inspect.page import page, summarise
from cclslr.masking.flow import load_flow
from cclslr.masking.options import DEFAULT_FLOW
from cclslr.shards.format import BadClip
from cclslr.shards.reader import ShardSet

GROUP, PLACE = "data", 6

EXAMPLES = """examples:
  cclslr inspect shards/synth --out page.html
  cclslr inspect shards/wlasl --out book.html --label book --clips 40
  cclslr inspect shards/wlasl --out odd.html --degenerate --flow flows/sl.safetensors

The page needs no other file and no network: about 0.3 MB a clip. It plays all films in step; add #still to its address
for a standing picture. The motion-preserving video is shown where --flow is the flow that made the masks."""


def parse(argv: list[str] | None = None) -> argparse.Namespace:
    parser = command_parser(__name__, __doc__, EXAMPLES)
    parser.add_argument("shards", help="folder of a packed data set")
    parser.add_argument("--out", type=Path, required=True, help="the page (.html)")
    parser.add_argument("--clips", type=int, default=24, help="how many, evenly spread over the set (default: 24)")
    parser.add_argument("--split", help="of this split only")
    parser.add_argument("--label", help="of this gloss only")
    parser.add_argument("--degenerate", action="store_true", help="only clips whose mask hides nothing for a reason")
    parser.add_argument("--frames", type=int, default=16, help="of every film (default: 16)")
    parser.add_argument("--flow", type=Path, default=DEFAULT_FLOW, help="the flow that made the masks")
    parser.add_argument("--alpha", type=float, default=0.5, help="probability that a view is masked (default: 0.5)")
    parser.add_argument("--seed", type=int, default=0, help="of the training views")
    parser.add_argument("--epoch", type=int, default=0, help="of the training views")
    return parser.parse_args(argv)


def main(argv: list[str] | None = None) -> None:
    args = parse(argv)
    if args.clips < 1 or args.frames < 2:
        raise UserError("--clips must be at least 1, --frames at least 2")
    shards = ShardSet([args.shards], args.split)
    clip_ids = choose(shards, args.clips, args.label, args.degenerate)
    flow = load_matching_flow(shards, load_flow(args.flow))
    if flow is None:
        console.print("--flow did not make these masks; the motion-preserving video is left out", style="yellow")
    views = ViewConfig(mask_alpha=args.alpha)
    clips: list[ClipFilms] = []
    with progress_bar() as bar:
        shown = bar.add_task("drawing", total=len(clip_ids))
        for clip_id in clip_ids:
            try:
                clips.append(films_of(shards, clip_id, flow, args.frames, views, args.seed, args.epoch))
            except BadClip as error:
                console.print(f"left out: {error}", style="yellow", soft_wrap=True)
            bar.advance(shown)
    text = page(str(args.shards), summarise(shards.info), clips, args.frames)
    with atomic_write(args.out, "w") as file:
        file.write(text)
    console.print(f"{args.out}: {len(clips)} clips, {len(text) / 1e6:.1f} MB")


def choose(shards: ShardSet, count: int, label: str | None, degenerate: bool) -> list[int]:
    """Clips evenly spread over those that match.

    Raises:
        UserError: none matches.
    """
    matching = np.arange(len(shards))
    if label is not None:
        named = [number for number, gloss in enumerate(shards.classes) if gloss == label]
        matching = matching[np.isin(shards.rows.labels_N, named)]
    if degenerate:
        marks = [shards.read(i, ("json",)).meta.get("mask", {}) for i in matching.tolist()]
        matching = matching[[bool(mark.get("degenerate")) for mark in marks]]
    if not len(matching):
        raise UserError("no clip matches --split, --label and --degenerate")
    return matching[np.linspace(0, len(matching) - 1, min(count, len(matching))).round().astype(int)].tolist()

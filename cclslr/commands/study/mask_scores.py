"""Compare ways of making masks by what they keep of signs.

Each way is scored as `cclslr masks --score` does, on masks made from the set's own frames and keypoints; the set stays
as it is.
"""

from __future__ import annotations

import argparse
import dataclasses
import time
from pathlib import Path

import numpy as np
import torch
from rich.table import Table

from cclslr.cli import command_parser
from cclslr.commands.masks import score_cells
from cclslr.console import console, progress_bar
from cclslr.environment import describe
from cclslr.errors import UserError
from cclslr.files import write_json
from cclslr.masking.flow import Flow, load_flow
from cclslr.masking.methods import MpmOptions, motion_alone, motion_mask
from cclslr.masking.options import DEFAULT_FLOW
from cclslr.masking.score import HANDS, ClipScore, moves, score_clip, summarise
from cclslr.shards.reader import ShardSet

EXAMPLES = """examples:
  cclslr study mask_scores shards/mine --clips 60 --out scores.json

"hands hidden": the mask is made without the hands' keypoints of every other eight frames, and scored with these alone.
It is what a method does where an estimator finds no hand. Other columns: cclslr masks --help."""

WAYS = {
    "default": MpmOptions(),
    "motion alone, the first default": motion_alone(),
    "motion alone, quantile": motion_alone(threshold="quantile"),
    "motion alone, quantile, a mask a frame": motion_alone(threshold="quantile", binarize="decoded_motion"),
    "Eq. 5 to the letter": motion_alone(keep="low", binarize="gray_otsu"),
    "temporal_std": MpmOptions(method="temporal_std"),
    "pose_discs": MpmOptions(method="pose_discs"),
    "flow+pose, absolute": MpmOptions(threshold="absolute"),
    "flow+pose, one motion mask a clip": MpmOptions(binarize="decoded_deviation"),
    "flow+pose, smaller discs": MpmOptions(radius=0.04),
}
HIDDEN = 8  # frames in a row


def parse(argv: list[str] | None) -> argparse.Namespace:
    parser = command_parser(__name__, __doc__, EXAMPLES)
    parser.add_argument("shards", help="folder of a packed data set with video and keypoints")
    parser.add_argument("--flow", type=Path, default=DEFAULT_FLOW, help="flow of the masks (default: the shipped one)")
    parser.add_argument("--clips", type=int, default=100, help="how many, evenly spread (default: 100)")
    parser.add_argument("--out", type=Path, required=True, help="the scores as JSON")
    return parser.parse_args(argv)


def main(argv: list[str] | None = None) -> None:
    args = parse(argv)
    shards, flow = ShardSet([args.shards]), load_flow(args.flow)
    torch.set_num_threads(1)
    began = time.perf_counter()
    chosen = np.unique(np.linspace(0, len(shards) - 1, min(args.clips, len(shards))).round().astype(int))
    scores: dict[str, list[ClipScore]] = {name: [] for name in WAYS}
    hidden: dict[str, list[ClipScore]] = {name: [] for name in WAYS}
    with progress_bar() as bar:
        shown = bar.add_task("scoring", total=len(chosen))
        for clip_id in chosen.tolist():
            clip = shards.read(clip_id, ("video", "pose", "json"))
            if clip.video is None or clip.pose_TKC is None:
                raise UserError(f"{args.shards}: clip {clip.row.key} lacks video or keypoints, which this study needs")
            frames_THWC = shards.codec(clip_id).decode(clip.video)
            moving = moves(frames_THWC)
            for name, options in WAYS.items():
                whole, without = score_way(frames_THWC, np.asarray(clip.pose_TKC, np.float32), options, flow)
                scores[name].append(dataclasses.replace(whole, moves=moving))
                hidden[name].append(without)
            bar.advance(shown)
    table = Table("way", "hands", "hands hidden", "face", "background", "kept", "degenerate")
    results = {}
    for name, of_clips in scores.items():
        result, blind = summarise(of_clips), summarise(hidden[name])
        hands, *others = score_cells(result)
        table.add_row(name, hands, score_cells(blind)[0], *others)
        results[name] = {
            "options": dataclasses.asdict(WAYS[name]),
            **dataclasses.asdict(result),
            "hands_hidden": blind.hands,
            "hands_hidden_worst": blind.hands_worst,
        }
    console.print(table, width=120, crop=False)
    keys = [shards.rows[i].key for i in chosen.tolist()]
    write_json(
        args.out,
        {
            "shards": shards.infos[0]["content_hash"],
            "flow": flow.card.sha256,
            "seconds": time.perf_counter() - began,
            "torch": torch.__version__,
            "environment": describe(),
            "scores": results,
            "clips": {
                name: [{"key": key, **dataclasses.asdict(score)} for key, score in zip(keys, of_clips)]
                for name, of_clips in scores.items()
            },
        },
    )


def score_way(
    frames_THWC: np.ndarray, keypoints_TKC: np.ndarray, options: MpmOptions, flow: Flow
) -> tuple[ClipScore, ClipScore]:
    """The score of a clip's masks; and of those made without some hands' keypoints, on these alone."""
    size = frames_THWC.shape[1], frames_THWC.shape[2]
    masks_THW, _ = motion_mask(frames_THWC, options, flow, keypoints_TKC)
    away_T = np.arange(len(frames_THWC)) // HIDDEN % 2 == 1
    seen_TKC, unseen_TKC = keypoints_TKC.copy(), keypoints_TKC.copy()
    seen_TKC[away_T, HANDS], unseen_TKC[~away_T, HANDS] = 0, 0
    blind_THW, _ = motion_mask(frames_THWC, options, flow, seen_TKC)
    return score_clip(masks_THW, keypoints_TKC, size), score_clip(blind_THW, unseen_TKC, size)

"""Give every clip of a packed data set its motion-preserving mask.

--method chooses another kind of mask. The data set is changed in place. --score changes nothing: it says how well the
masks that are there keep hands and face and hide the background, by the keypoints beside them.
"""

from __future__ import annotations

import argparse
import dataclasses
import os
from pathlib import Path
from typing import Any

from rich.table import Table

from cclslr.cli import command_parser
from cclslr.console import console
from cclslr.distributed import process_group
from cclslr.errors import UserError
from cclslr.files import write_json
from cclslr.masking.options import add_arguments, mask_settings
from cclslr.masking.rewrite import make_masks
from cclslr.masking.score import Scores, score_shard, summarise
from cclslr.shards.describe import plan_statistics
from cclslr.shards.executor import run_tasks
from cclslr.shards.info import load_info

GROUP, PLACE = "data", 4

EXAMPLES = """examples:
  cclslr masks shards/wlasl --flow flows/sl.safetensors
  cclslr masks shards/wlasl --flow flows/sl.safetensors --threshold quantile --p 0.9
  cclslr masks shards/wlasl --method temporal_std --workers 8
  cclslr masks shards/wlasl --flow flows/sl.safetensors --scheduler tcp://head:8786     # docs/cluster.md
  torchrun --nproc-per-node 8 -m cclslr masks shards/wlasl --flow flows/sl.safetensors      # eight GPUs
  cclslr masks shards/wlasl --score --out scores.json

Stopped or killed, the same command goes on where it was. Given again with other options, it replaces the masks. While
it runs the data set stays readable: a shard is exchanged when its successor is complete. dataset.json and the json of
every clip say which flow and options made the mask.

Scores are means over clips; in brackets that of the worst clip. hands, face: of the confident keypoints, those that are
kept. background: of the pixels outside the signer's box, those that are kept; a frame's box holds its confident
keypoints and a tenth of its longer side more on every side. degenerate: clips of which nothing is hidden though they
move, and clips of which all is hidden."""


def parse(argv: list[str] | None = None) -> argparse.Namespace:
    parser = command_parser(__name__, __doc__, EXAMPLES)
    parser.add_argument("shards", type=Path, help="folder of a packed data set")
    add_arguments(parser)
    parser.add_argument("--device", choices=("auto", "cpu", "cuda"), default="auto", help="of the flow (default auto)")
    parser.add_argument(
        "--workers", type=int, metavar="N",
        help="processes on the CPUs of this machine (default: one a core; on GPUs, one a rank of torchrun)",
    )  # fmt: skip
    parser.add_argument(
        "--scheduler", metavar="ADDRESS", help="dask.distributed scheduler whose workers' CPUs to use instead"
    )
    parser.add_argument("--score", action="store_true", help="score the masks that are there, make none")
    parser.add_argument("--out", type=Path, metavar="FILE", help="the scores as JSON, with those of every clip")
    return parser.parse_args(argv)


def main(argv: list[str] | None = None) -> None:
    args = parse(argv)
    if args.score:
        score(args.shards, args.workers or 1, args.out)
        return
    if args.out is not None:
        raise UserError("--out is for --score; masks are written into the data set")
    if args.scheduler is not None and (args.workers is not None or args.device == "cuda"):
        raise UserError("--scheduler takes the CPUs of its workers: leave out --workers, and --device cuda (torchrun)")
    with process_group("cpu" if args.scheduler is not None else args.device) as world:
        on_cpu = world.device.type == "cpu"
        cores = os.cpu_count() or 1
        settings = mask_settings(args, world.device)
        workers = args.workers if args.workers is not None else cores if on_cpu and world.world == 1 else 0
        if not on_cpu or world.world > 1:
            if workers or args.scheduler is not None:
                raise UserError("--workers and --scheduler are for CPUs; several GPUs take torchrun instead")
            settings = dataclasses.replace(settings, threads=max(1, cores // world.world))
        masks = make_masks(args.shards, settings, workers, world, args.scheduler)
        if world.main:
            console.print(table(masks))


def table(masks: dict[str, Any]) -> Table:
    """The closing table, from dataset.json's entry."""
    totals = masks["totals"]
    shown = Table(title="masks", show_header=False, title_justify="left")
    shown.add_row("clips", f"{totals['clips']:,}")
    if totals["without_video"]:
        shown.add_row("clips without video", f"{totals['without_video']:,}")
    shown.add_row("pixels kept", f"{100 * masks['share_kept']:.1f} %")
    if masks["share_latents_masked"] is not None:
        shown.add_row("latents masked", f"{100 * masks['share_latents_masked']:.1f} %")
    degenerate = sum(totals["degenerate"].values())
    shown.add_row("degenerate clips", f"{degenerate:,} ({100 * degenerate / max(1, totals['clips']):.1f} %)")
    for reason, count in sorted(totals["degenerate"].items()):
        shown.add_row(f"  {reason}", f"{count:,}")
    for note, count in sorted(totals.get("notes", {}).items()):
        shown.add_row(note, f"{count:,}")
    flow = masks["flow"]
    shown.add_row("flow", "none" if flow is None else f"{flow['preset']} {flow['size']}, {flow['sha256'][:12]}")
    return shown


def score(folder: Path, workers: int, out: Path | None) -> None:
    """Print the scores of a packed set's masks, and write them.

    Raises:
        UserError: no clip has a mask.
    """
    tasks = plan_statistics(folder)
    parts = run_tasks(
        score_shard, tasks, workers=workers if workers > 1 else 0, scheduler=None, description="scoring",
        sizes=[len(task.clip_ids) for task in tasks],
    )  # fmt: skip
    of_clips = {key: clip for part in parts for key, clip in part.items()}
    scores = summarise([clip for clip in of_clips.values() if clip is not None])
    if not scores.clips:
        raise UserError(f"{folder}: no clip has both video and a mask; make masks with: cclslr masks {folder}")
    shown = Table("clips", "hands", "face", "background", "kept", "degenerate", title="masks", title_justify="left")
    shown.add_row(f"{scores.clips:,}", *score_cells(scores))
    console.print(shown)
    if missing := len(of_clips) - scores.clips:
        console.print(f"{missing:,} clips without video, without a mask, or damaged are not counted", style="yellow")
    if out is not None:
        info = load_info(folder)
        clips = {key: clip and dataclasses.asdict(clip) for key, clip in sorted(of_clips.items())}
        written = {"content_hash": info["content_hash"], "masks": info["masks"], "scores": dataclasses.asdict(scores)}
        write_json(out, {**written, "clips": clips})


def score_cells(scores: Scores) -> list[str]:
    """A row of the table: hands, face, background, kept, degenerate."""

    def cell(mean: float | None, worst: float | None) -> str:
        return "" if mean is None or worst is None else f"{mean:.3f} ({worst:.2f})"

    bad = scores.nothing_hidden_though_moving + scores.all_hidden
    return [
        cell(scores.hands, scores.hands_worst),
        cell(scores.face, scores.face_worst),
        cell(scores.background, scores.background_worst),
        f"{scores.kept:.3f}",
        str(bad),
    ]

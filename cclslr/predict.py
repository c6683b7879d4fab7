"""Name the sign in one video with a fine-tuned checkpoint.

The five likeliest, per branch and fused.

    cclslr predict runs/finetune_wlasl300/last.pt clip.mp4 --pose clip.npz
    cclslr predict runs/finetune_wlasl300/last.pt clip.mp4 --estimator mediapipe --film clip.webp

The clip goes the way of every other clip: packed as the training data was, read, decoded, viewed whole.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
from rich.table import Table

import cclslr
from cclslr.cli import command_parser
from cclslr.console import console, run_command
from cclslr.distributed import process_group
from cclslr.errors import UserError
from cclslr.files import atomic_write
from cclslr.inference.videos import find_videos
from cclslr.inspect.keypoints import annotated, write_film
from cclslr.poses import estimate
from cclslr.poses.base import DEFAULT, backends
from cclslr.shards.decode import decode_file
from cclslr.shards.keypoint_file import load_keypoints

FILM_HEIGHT, FILM_FRAMES = 480, 300  # pixels; at most, evenly spread


def main(argv: list[str] | None = None) -> None:
    parser = command_parser("cclslr.predict", __doc__)
    parser.add_argument("checkpoint", type=Path, help="written by cclslr.finetune")
    parser.add_argument("video", type=Path, help="any file that FFmpeg reads")
    add_pose_arguments(parser)
    parser.add_argument(
        "--film", type=Path, metavar="WEBP", help="write the clip with its keypoints and likeliest signs"
    )
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="override a key of the stored config")
    args = parser.parse_intermixed_args(argv)
    if args.film is not None and args.film.suffix != ".webp":
        raise UserError(f"--film {args.film}: give a name that ends in .webp")
    model = cclslr.load(args.checkpoint, overrides=args.overrides)
    pose = args.pose
    if args.film is not None and args.video.is_file() and "pose" in model.modalities:
        pose = keypoints_of(args.video, args.pose, args.estimator)  # once, for the model and for the film
    with process_group(model.config.run.device):
        said = model.predict(args.video, pose, args.estimator)
    table = Table("rank", *said.logits, title=str(args.video))
    top = [said.top(5, branch) for branch in said.logits]
    for rank, cells in enumerate(zip(*top), 1):
        table.add_row(str(rank), *(f"{gloss} ({100 * share:.1f} %)" for gloss, share in cells))
    console.print(table)
    if args.film is not None:
        branch = "fused" if "fused" in said.logits else next(iter(said.logits))
        write_annotated(args.film, args.video, pose, [f"{gloss} {100 * p:.0f} %" for gloss, p in said.top(3, branch)])
        console.print(f"written: {args.film}", soft_wrap=True)


def keypoints_of(video: Path, pose: Path | None, estimator: str) -> np.ndarray:
    """The keypoints that a prediction takes: those given, those of the video's name beside it, or estimated ones.

    Raises:
        UserError: the file or the video cannot be read; the estimator is not installed.
    """
    (found,) = find_videos([video])
    path = pose or found.pose
    return estimate(video, estimator) if path is None else load_keypoints(path)[0]


def write_annotated(out: Path, video: Path, keypoints_TKC: np.ndarray | None, lines: list[str]) -> None:
    """Write the clip as a WebP film, with its keypoints and lines of text."""
    clip = decode_file(video)
    assert clip.frames_THWC is not None
    images, milliseconds = annotated(clip.frames_THWC, keypoints_TKC, clip.fps, FILM_HEIGHT, FILM_FRAMES, lines)
    with atomic_write(out) as file:
        write_film(file, images, milliseconds)


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

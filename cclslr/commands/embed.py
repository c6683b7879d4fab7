"""Features of clips: a row a clip, from any checkpoint.

g is the encoder's feature, f the projection head's (pre-trained checkpoints have
both, fine-tuned ones g and logits), each of length 1 by branch: g_rgb, g_pose.
"fused" is both branches side by side, again of length 1, so that the cosine of
two clips is the mean of their cosines by branch; logits_fused is the sum.

CLIPS are packed data sets, or videos and folders of videos, each with the
keypoint file of its name beside it (missing keypoints are estimated).

The work is kept in parts, in FILE.parts: the same command goes on where it was
stopped, at any number of ranks.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import cclslr
from cclslr.cli import command_parser
from cclslr.console import console
from cclslr.distributed import process_group
from cclslr.errors import ExitCode, UserError
from cclslr.files import read_json, write_json
from cclslr.inference.embed import Job, describe, embed_shards, remove_parts
from cclslr.inference.features import FeatureSet, read_features, write_arrays, write_features
from cclslr.inference.sources import open_clips, split_arguments
from cclslr.poses.base import DEFAULT, backends

GROUP, PLACE = "use", 3

EXAMPLES = """examples:
  cclslr embed runs/pretrain/last.pt shards/wlasl300 --out features.parquet
  cclslr embed runs/finetune/last.pt videos/ --out dictionary.parquet
  torchrun --nproc-per-node 8 -m cclslr embed runs/pretrain/last.pt --out g.npy

With --out g.npy: g.g_rgb.npy, g.g_pose.npy, … and g.csv, whose rows are theirs."""


def parse(argv: list[str] | None = None) -> argparse.Namespace:
    parser = command_parser(__name__, __doc__, EXAMPLES)
    parser.add_argument("checkpoint", type=Path, help="written by cclslr train or cclslr finetune")
    parser.add_argument(
        "clips", nargs="*", metavar="CLIPS", help="default: the data sets that it was trained on; also key=value"
    )
    parser.add_argument("--out", type=Path, required=True, metavar="FILE", help="features.parquet or features.npy")
    parser.add_argument("--split", choices=("train", "val", "test"), help="of packed data sets (default: all)")
    parser.add_argument("--part", type=int, default=256, metavar="N", help="clips that are kept together (default 256)")
    parser.add_argument(
        "--estimator", choices=backends(), default=DEFAULT, help="of the keypoints that bare videos lack"
    )
    return parser.parse_intermixed_args(argv)


def main(argv: list[str] | None = None) -> int:
    args = parse(argv)
    if args.out.suffix not in (".parquet", ".npy"):
        raise UserError(f"--out {args.out}: give a name that ends in .parquet or .npy")
    if args.part < 1:
        raise UserError("--part must be at least 1")
    clips, overrides = split_arguments(args.clips)
    model = cclslr.load(args.checkpoint, overrides=overrides)
    folder = args.out.with_name(f"{args.out.name}.parts")
    with process_group(model.config.run.device) as process:
        shards, where = open_clips(model, clips, args.split, folder, process, args.estimator)
        job = Job(model, shards, folder, describe(model, shards, where), args.part)
        if process.from_main(lambda: is_there(args.out, job.about)):
            if process.main:
                remove_parts(job)
            console.print(f"{args.out} is there already, of this checkpoint and these clips")
            return ExitCode.DONE
        features = embed_shards(job, process)
        if features is None:
            return ExitCode.DONE
        written = write(args.out, features)
        remove_parts(job)
        sizes = ", ".join(f"{name} {x.shape[1]}" for name, x in features.values.items())
        console.print(f"{len(features):,} clips: {sizes}\nwritten: {', '.join(map(str, written))}", soft_wrap=True)
        if not told_lost(features.about):
            return ExitCode.DONE
        # torchrun would call several ranks failed that end with another code than 0
        return ExitCode.SOME_BAD if process.world == 1 else ExitCode.DONE


def told_lost(about: dict[str, Any]) -> int:
    """How many clips have no row; rejected videos are named here, damaged clips were when they were read."""
    rejected = about.get("rejected", {})
    for reason in rejected.values():
        console.print(f"rejected: {reason}", style="yellow", soft_wrap=True)
    lost = len(about["left_out"]) + len(rejected)
    if lost:
        console.print(f"{lost:,} clips cannot be used and have no row", style="yellow")
    return lost


def write(out: Path, features: FeatureSet) -> list[Path]:
    """Write the file or files; returns them."""
    if out.suffix == ".parquet":
        write_features(out, features)
        return [out]
    written = write_arrays(out, features)
    write_json(out.with_suffix(".json"), features.about)  # last: it says that the others are whole
    return [*written, out.with_suffix(".json")]


def is_there(out: Path, about: dict[str, Any]) -> bool:
    """Whether the features were written by an earlier run.

    Raises:
        UserError: there are others of that name.
    """
    path = out if out.suffix == ".parquet" else out.with_suffix(".json")
    if not path.exists():
        return False
    found = read_features(path).about if path == out else read_json(path)
    if {name: found.get(name) for name in about} != about:
        raise UserError(f"{path} holds features of another checkpoint, other clips or settings; choose another --out")
    return True

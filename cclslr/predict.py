"""Name the sign in one video with a fine-tuned checkpoint.

The five likeliest, per branch and fused.

    cclslr predict runs/finetune_wlasl300/last.pt clip.mp4 --pose clip.npz
    cclslr predict runs/finetune_wlasl300/last.pt clip.mp4 --estimator mediapipe

The clip goes the way of every other clip: packed as the training data was, read, decoded, viewed whole.
"""

from __future__ import annotations

import tempfile
from pathlib import Path

import numpy as np
from rich.table import Table

from cclslr.cli import command_parser
from cclslr.config import FinetuneConfig, load_config
from cclslr.console import console, run_command
from cclslr.datasets.base import VideoFile
from cclslr.distributed import process_group
from cclslr.errors import UserError
from cclslr.models.ccl import ByModality
from cclslr.models.classifier import from_checkpoint
from cclslr.models.fusion import fuse
from cclslr.poses.base import DEFAULT, backends
from cclslr.shards.format import ManifestRow
from cclslr.shards.pack import NothingPacked, PackOptions, pack
from cclslr.shards.reader import ShardSet
from cclslr.training import checkpoint
from cclslr.training.inference import over_clips
from cclslr.training.optimise import Amp


def predict(
    checkpoint_path: Path, video: Path, pose: Path | None, estimator: str, overrides: list[str]
) -> tuple[ByModality, list[str]]:
    """Logits (classes,) by branch, and the names of the classes.

    Raises:
        UserError: the video or the keypoints cannot be used; says why.
    """
    state = checkpoint.load(checkpoint_path)
    classifier = from_checkpoint(state, str(checkpoint_path))
    cfg = load_config(FinetuneConfig, None, overrides, stored=state["config"])
    if cfg.data.backend == "ffcv":  # whose .beton this clip is not in; numba makes its views there, too
        cfg.data.backend = "numba"
    with tempfile.TemporaryDirectory() as folder, process_group(cfg.run.device) as alone:
        if pose is None and ("pose" in cfg.model.modalities or state["packing"]["crop"] == "signer"):
            from cclslr.poses import estimate  # its estimators are extras

            pose = Path(folder) / "pose.npy"
            np.save(pose, estimate(video, estimator))
        row = ManifestRow("clip", VideoFile(str(video), str(pose) if pose else None), None, None, "test", None)
        options = PackOptions(**state["packing"], allow_unlabelled=True)
        try:
            pack([row], Path(folder) / "shards", options, classes=state["classes"])
        except NothingPacked as error:
            raise UserError(_with_path(error.rejected[0].reason, video, pose)) from error
        shards = ShardSet([str(Path(folder) / "shards")])
        logits, _, _ = over_clips(
            lambda views: fuse(classifier.to(alone.device)(views), classifier.temperatures),
            shards, cfg.data, cfg.views, cfg.model.modalities, 1, Amp(cfg.run.amp, alone.device), alone,
        )  # fmt: skip
    return {name: x[0] for name, x in logits.items()}, state["classes"]


def _with_path(reason: str, video: Path, pose: Path | None) -> str:
    """A reason that begins with a file's name, with the file's whole path in its place; any other is the video's."""
    for path in (video, pose):
        if path is not None and reason.startswith(f"{path.name}: "):
            return f"{path}{reason.removeprefix(path.name)}"
    return f"{video}: {reason}"


def main(argv: list[str] | None = None) -> None:
    parser = command_parser("cclslr.predict", __doc__)
    parser.add_argument("checkpoint", type=Path, help="written by cclslr.finetune")
    parser.add_argument("video", type=Path, help="any file that FFmpeg reads")
    parser.add_argument("--pose", type=Path, help="keypoints (T, 133, 3), .npz or .npy (default: they are estimated)")
    parser.add_argument(
        "--estimator", choices=backends(), default=DEFAULT,
        help=f"use the one that the training data was made with (default {DEFAULT})",
    )  # fmt: skip
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="override a key of the stored config")
    args = parser.parse_intermixed_args(argv)
    logits, classes = predict(args.checkpoint, args.video, args.pose, args.estimator, args.overrides)
    table = Table("rank", *logits, title=str(args.video))
    top = {name: x.softmax(0).topk(min(5, len(classes))) for name, x in logits.items()}
    for rank in range(min(5, len(classes))):
        cells = [f"{classes[t.indices[rank]]} ({100 * t.values[rank]:.1f} %)" for t in top.values()]
        table.add_row(str(rank + 1), *cells)
    console.print(table)


if __name__ == "__main__":
    run_command(main)

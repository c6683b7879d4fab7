"""Name the sign in one video with a fine-tuned checkpoint: the five likeliest, per branch and fused.

    python -m cclslr.predict runs/finetune_wlasl300/last.pt clip.mp4 --pose clip.npz
    python -m cclslr.predict runs/finetune_wlasl300/last.pt clip.mp4 --estimator mediapipe

The clip goes the way of every other clip: packed as the training data was, read, decoded, viewed whole.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

import numpy as np
from rich.table import Table

from cclslr.config import FinetuneConfig, load_config
from cclslr.console import console, run_tool
from cclslr.datasets.base import VideoFile
from cclslr.models.ccl import ByModality
from cclslr.models.classifier import from_checkpoint, fuse
from cclslr.shards.format import ManifestRow
from cclslr.shards.pack import PackOptions, pack
from cclslr.shards.reader import ShardSet
from cclslr.training import checkpoint
from cclslr.training.distributed import ranks
from cclslr.training.inference import over_clips
from cclslr.training.optimise import Amp


def predict(
    checkpoint_path: Path, video: Path, pose: Path | None, estimator: str, overrides: list[str]
) -> tuple[ByModality, list[str]]:
    """Logits (classes,) by branch, and the names of the classes.

    Raises:
        ValueError: the video or the keypoints cannot be used; says why.
    """
    state = checkpoint.load(checkpoint_path)
    classifier = from_checkpoint(state, str(checkpoint_path))
    cfg = load_config(FinetuneConfig, None, overrides, stored=state["config"])
    with tempfile.TemporaryDirectory() as folder, ranks(cfg.run.device) as alone:
        if pose is None and ("pose" in cfg.model.modalities or state["packing"]["crop"] == "signer"):
            from cclslr.poses import estimate  # its estimators are extras

            pose = Path(folder) / "pose.npy"
            np.save(pose, estimate(video, estimator))
        row = ManifestRow("clip", VideoFile(str(video), str(pose) if pose else None), None, None, "test", None)
        options = PackOptions(**state["packing"], allow_unlabelled=True)
        report = pack([row], Path(folder) / "shards", options, classes=state["classes"])
        if report.rejected:
            raise ValueError(f"{video}: {report.rejected[0].reason}")
        shards = ShardSet([str(Path(folder) / "shards")])
        logits, _, _ = over_clips(
            lambda views: fuse(classifier.to(alone.device)(views)),
            shards, cfg.data, cfg.views, cfg.model.modalities, 1, Amp(cfg.run.amp, alone.device), alone,
        )  # fmt: skip
    return {name: x[0] for name, x in logits.items()}, state["classes"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkpoint", type=Path, help="written by cclslr.finetune")
    parser.add_argument("video", type=Path, help="any file that FFmpeg reads")
    parser.add_argument("--pose", type=Path, help="keypoints (T, 133, 3), .npz or .npy (default: they are estimated)")
    parser.add_argument(
        "--estimator", choices=("rtmpose", "mediapipe"), default="rtmpose",
        help="use the one that the training data was made with (default rtmpose)",
    )  # fmt: skip
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="override a key of the stored config")
    args = parser.parse_intermixed_args()
    logits, classes = predict(args.checkpoint, args.video, args.pose, args.estimator, args.overrides)
    table = Table("rank", *logits, title=str(args.video))
    top = {name: x.softmax(0).topk(min(5, len(classes))) for name, x in logits.items()}
    for rank in range(min(5, len(classes))):
        cells = [f"{classes[t.indices[rank]]} ({100 * t.values[rank]:.1f} %)" for t in top.values()]
        table.add_row(str(rank + 1), *cells)
    console.print(table)


if __name__ == "__main__":
    run_tool(main)

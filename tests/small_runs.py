"""Small real runs for tests: a packed SynthSign data set and the trainer as its own process."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import torch

from cclslr.config import FinetuneConfig, PretrainConfig, load_config
from cclslr.datasets.synthetic import SynthOptions, manifest
from cclslr.distributed import Process
from cclslr.finetune import finetune
from cclslr.shards.pack import PackOptions, pack
from cclslr.train import train

ALONE = Process(0, 1, torch.device("cpu"))
ROOT = Path(__file__).parents[1]

TINY = [
    "model.rgb=r3d10_narrow", "model.gcn_width=16", "model.transformer_blocks=1", "model.transformer_heads=2",
    "model.transformer_width=32", "views.rgb_frames=4", "views.pose_frames=8", "views.size=32", "views.mask_alpha=0.0",
    "optim.batch=8", "optim.micro_batch=4", "run.log_every=1", "data.workers=1",
]  # fmt: skip
TINY_PRETRAIN = [*TINY, "objective.bank_size=16", "run.hash_stream=true", "run.checkpoint_steps=1", "run.knn_every=0"]


def tiny_shards(out: Path, per_class: tuple[int, int, int] = (8, 0, 4), **options: Any) -> Path:
    """Pack 4 classes of tiny rendered clips."""
    synth = SynthOptions(classes=4, clips_per_class=per_class, signers=(3, 1, 2), size=48, frames=(12, 20))
    pack(manifest(synth), out, PackOptions(**({"codec": "jpeg", "size": 48, "crop": "none"} | options)))
    return out


def finetune_arguments(shards: Path, run_dir: Path, *more: str) -> list[str]:
    """A tiny fine-tuning from scratch that keeps everything after every step."""
    kept = ["run.hash_stream=true", "run.checkpoint_steps=1"]
    return [*TINY, *kept, f"data.shards=[{shards}]", f"run.dir={run_dir}", *more]


def train_here(run_dir: Path, shards: Path, *more: str) -> None:
    """Pre-train in this process."""
    arguments = [*TINY_PRETRAIN, f"data.shards=[{shards}]", f"run.dir={run_dir}", *more]
    train(load_config(PretrainConfig, None, arguments), ALONE)


def finetune_here(run_dir: Path, shards: Path, *more: str) -> None:
    """Fine-tune in this process."""
    finetune(load_config(FinetuneConfig, None, finetune_arguments(shards, run_dir, *more)), ALONE)


def same(ours: Any, theirs: Any) -> bool:
    """Whether nested containers of tensors are equal, bit for bit."""
    if isinstance(ours, torch.Tensor):
        return torch.equal(ours, theirs)
    if isinstance(ours, dict):
        return ours.keys() == theirs.keys() and all(same(value, theirs[name]) for name, value in ours.items())
    if isinstance(ours, list):
        return len(ours) == len(theirs) and all(map(same, ours, theirs))
    return ours == theirs


def start(module: str, *arguments: str, ranks: int = 1) -> subprocess.Popen[str]:
    """Start a program of this project, under torchrun where several ranks are asked for."""
    launcher = ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={ranks}"] if ranks > 1 else []
    command = [sys.executable, *launcher, "-m", module, *arguments]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(
        command, cwd=ROOT, env=environment, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    )


def finish(process: subprocess.Popen[str]) -> str:
    """Wait for a program; its output, or a failed test that shows it."""
    output, _ = process.communicate(timeout=600)
    assert process.returncode == 0, output
    return output


def records(run_dir: Path) -> list[dict[str, Any]]:
    """metrics.jsonl, whole lines only: the program may be writing."""
    path = run_dir / "metrics.jsonl"
    lines = path.read_text().splitlines(keepends=True) if path.exists() else []
    return [json.loads(line) for line in lines if line.endswith("\n")]

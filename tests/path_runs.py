"""What the tests of paths share: data sets whole and damaged, programs under an accident, small disks."""

from __future__ import annotations

import contextlib
import functools
import gc
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import filelock
import numpy as np
import psutil
import pytest
from path_damage import damage
from path_matrix import BACKENDS, Cell
from small_runs import ALONE, ROOT, TINY, TINY_PRETRAIN, finish, records

from cclslr.config import PretrainConfig, load_config
from cclslr.data.beton import write_beton
from cclslr.data.loader import Loader
from cclslr.data.plan import Plan
from cclslr.datasets.synthetic import SynthOptions, manifest
from cclslr.shards.pack import PackOptions, pack
from cclslr.shards.reader import ShardSet

BATCH, STEPS = 8, 8  # 32 clips, two epochs
BEGUN = 3  # steps of a run that was stopped: not the end of an epoch
COMMON = ["run.device=cpu", "data.device=cpu", "data.max_bad_share=0.5", "optim.epochs=2", "run.checkpoint_steps=1"]
COMMANDS = {"train": "train", "finetune": "finetune", "probe": "train"}
STEP = {"train": "cclslr.train.pretrain_step", "finetune": "cclslr.finetune.finetune_step"}
LOSSES = ("loss", "cl_", "spm_", "ce_", "rgb_to", "pose_to")


class Workshop:
    """Things that are made once for all tests of a run, also by several workers of pytest-xdist."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir(exist_ok=True)

    def make(self, name: str, build: Callable[[Path], None]) -> Path:
        """The folder `name`, which `build` fills if it is not there."""
        folder = self.folder / name
        with filelock.FileLock(self.folder / f"{name}.lock"):
            if not folder.exists():
                half = self.folder / f"{name}.half"
                shutil.rmtree(half, ignore_errors=True)
                build(half)
                half.rename(folder)
        return folder

    def shards(self, codec: str) -> Path:
        """Four classes: 32 training clips and 8 test clips of 64x64, with a .beton where FFCV is installed."""

        def build(folder: Path) -> None:
            synth = SynthOptions(classes=4, clips_per_class=(8, 0, 2), signers=(3, 1, 2), size=64, frames=(8, 12))
            options = PackOptions(codec=codec, size=64, crop="none", clips_per_shard=20)
            pack(manifest(synth), folder, options, workers=0)
            with contextlib.suppress(ValueError):  # FFCV is not installed
                write_beton(folder)

        return self.make(f"shards-{codec}", build)

    def damaged(self, codec: str, split: str, flipped: bool = True) -> Path:
        """The same with `victims` of a split damaged: one of them garbled and, unless told otherwise, one flipped."""

        def build(folder: Path) -> None:
            shutil.copytree(self.shards(codec), folder)
            garbled, other = victims(folder, split)
            damage(folder, garbled, other if flipped else None)

        return self.make(f"damaged-{codec}-{split}-{flipped}", build)

    def run(self, cell: Cell) -> Path:
        """An undisturbed run of the cell's program, backend and codec, on one rank."""
        name = f"run-{cell.program}-{cell.backend}-{cell.codec}".replace(", ", "+")
        return self.make(name, lambda folder: finish(start(cell, self.shards(cell.codec), folder)))

    def begun(self, cell: Cell) -> Path:
        """The same, stopped after `BEGUN` steps."""
        more = f"run.max_steps={BEGUN}"
        name = f"begun-{cell.program}-{cell.backend}-{cell.codec}".replace(", ", "+")
        return self.make(name, lambda folder: finish(start(cell, self.shards(cell.codec), folder, more)))


def arguments(cell: Cell, shards: Path, run_dir: Path, *more: str) -> list[str]:
    """The overrides of a training program."""
    own = {"train": TINY_PRETRAIN, "probe": TINY_PRETRAIN, "finetune": [*TINY, "run.hash_stream=true"]}[cell.program]
    probe = ["run.knn_every=1", "run.knn_neighbours=3"] if cell.program == "probe" else []
    return [*own, *COMMON, *BACKENDS[cell.backend], *probe, f"data.shards=[{shards}]", f"run.dir={run_dir}", *more]


def start(
    cell: Cell, shards: Path, run_dir: Path, *more: str, ranks: int = 1, accident: Accident | None = None
) -> subprocess.Popen[str]:
    """Start the cell's training."""
    return launch(COMMANDS[cell.program], arguments(cell, shards, run_dir, *more), ranks, accident)


@dataclass(frozen=True)
class Accident:
    """What happens, see tests/accidents.py."""

    do: str
    at: str
    folder: Path
    call: int = 0
    ranks: tuple[int, ...] = (0, 1)

    def environment(self) -> dict[str, str]:
        told = {"do": self.do, "at": self.at, "call": self.call, "ranks": self.ranks, "folder": str(self.folder)}
        return {"ACCIDENT": json.dumps(told)}


def launch(
    command: str, arguments: list[str], ranks: int = 1, accident: Accident | None = None, **variables: str
) -> subprocess.Popen[str]:
    """Start `cclslr command arguments` as processes of their own."""
    launcher = ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={ranks}"] if ranks > 1 else []
    program = ["-m", "cclslr"] if accident is None else [str(ROOT / "tests/accidents.py")]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT), "COLUMNS": "500", **variables}
    return subprocess.Popen(
        [sys.executable, *launcher, *program, command, *arguments],
        cwd=ROOT,
        env=environment | (accident.environment() if accident else {}),
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        # Tests that a shell started behind its back ignore Ctrl-C, and so would all that they start
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )


def ended(process: subprocess.Popen[str]) -> str:
    """The output of a program that must not end well."""
    output, _ = process.communicate(timeout=600)
    assert process.returncode != 0, output
    return output


def wait_for_hold(process: subprocess.Popen[str], folder: Path, ranks: int) -> None:
    """Wait until all ranks have come to the accident that holds them."""
    while not all((folder / f"held-{rank}").exists() for rank in range(ranks)):
        assert process.poll() is None, process.communicate()[0]
        time.sleep(0.01)


def kill_all(process: subprocess.Popen[str]) -> None:
    """SIGKILL to the program with all its ranks."""
    everyone = [process, *psutil.Process(process.pid).children(recursive=True)]
    for one in everyone:
        one.send_signal(signal.SIGKILL)
    process.communicate()


def streams(run_dir: Path) -> dict[int, list[int]]:
    """The checksum of each clip's views, in global order, by step."""
    return {r["step"]: r["stream"] for r in records(run_dir)}


def losses(run_dir: Path) -> dict[int, dict[str, float]]:
    """All loss terms, by step."""
    return {r["step"]: {k: v for k, v in r.items() if k.startswith(LOSSES)} for r in records(run_dir)}


def victims(shards: Path, split: str) -> tuple[str, str]:
    """The keys of two clips of a split: in training, of the first batch, the first one for the second of two ranks."""
    part = ShardSet([str(shards)], split)
    clip_ids = np.arange(BATCH)
    if split == "train":
        cfg = load_config(PretrainConfig, None, TINY_PRETRAIN)
        clip_ids = Plan.for_training(part, cfg.data, BATCH, cfg.run.seed).rank_batch(0, 0, 0, 1).clip_ids_B
    return part.rows[clip_ids[6]].key, part.rows[clip_ids[1]].key


@functools.lru_cache(maxsize=64)
def expected_stream(shards: Path, backend: str, steps: int) -> tuple[list[list[int]], list[list[int]]]:
    """What the loader gives in this process, on one rank: per step the clips, and the checksums of their views.

    The stream is the same for both programs: their views differ in nothing here.
    """
    told = [*TINY_PRETRAIN, *COMMON, *BACKENDS[backend], f"data.shards=[{shards}]"]
    cfg = load_config(PretrainConfig, None, told)
    rows = ShardSet(cfg.data.shards, split="train")
    plan = Plan.for_training(rows, cfg.data, BATCH, cfg.run.seed)
    ids, hashes = [], []
    with Loader(cfg.data, cfg.views, rows, plan, ALONE, ["rgb", "pose"], cfg.run.seed).start(0) as loader:
        for _ in range(steps):
            batch = next(loader)
            ids.append(batch.clip_ids_B.tolist())
            hashes.append(loader.batch_hashes(batch))
    return ids, hashes


@contextlib.contextmanager
def small_disk(folder: Path) -> Iterator[Callable[[str], None]]:
    """A disk of its own under `folder`; what it yields remounts it with other options, e.g. "size=1m" or "ro"."""
    folder.mkdir(parents=True)
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64m", "tmpfs", str(folder)], capture_output=True)
    if mounted.returncode:
        pytest.skip(f"this machine lets nobody mount a small disk: {mounted.stderr.decode().strip()}")
    try:
        yield lambda options: subprocess.run(["mount", "-o", f"remount,{options}", str(folder)], check=True) and None
    finally:
        gc.collect()  # data sets that this process has read keep their index mapped until then
        subprocess.run(["umount", str(folder)], check=True)


def used(folder: Path) -> int:
    """Bytes that lie on the disk of `folder`."""
    about = os.statvfs(folder)
    return (about.f_blocks - about.f_bfree) * about.f_frsize


def refused(process: subprocess.Popen[str], ranks: int, *words: str) -> None:
    """Wait for a program that must end with one line that holds the words, and exit code 2; each rank may say it."""
    output = ended(process)
    said = [line for line in output.splitlines() if "error: " in line and all(word in line for word in words)]
    assert 1 <= len(said) <= ranks, output
    if ranks == 1:  # torchrun has an exit code and a traceback of its own
        assert process.returncode == 2, output
        assert "Traceback" not in output

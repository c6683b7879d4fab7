"""Kill trainings again and again: is it the run that nobody killed?

    cclslr study kills                               100 kills of pre-training, 50 of fine-tuning
    cclslr study kills --pretrain 2 --finetune 2     a short look

Each program runs in two chains of lives. One chain has one rank: its streams, losses, weights and scores must be those
of a run that nobody killed, bit for bit. The other goes from two ranks to one and back with each life: its stream must
be the same bit for bit, and its losses within rounding. A life is killed, with all its ranks, at a random moment: while
it starts, within a step, a checkpoint or an evaluation. Half of the kills asked for are made on one rank in the first
chain; as many are made on two ranks in the second, beside those on its one rank.
"""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import torch
from rich.table import Table

from cclslr import checkpoint
from cclslr.cli import command_parser
from cclslr.console import console, progress_bar
from cclslr.datasets.synthetic import SynthOptions, manifest
from cclslr.environment import describe
from cclslr.errors import UserError
from cclslr.files import write_json
from cclslr.shards.pack import PackOptions, pack

STEPS_A_LIFE = 4  # of the whole run; a life makes some two of them
PER_EPOCH = 4  # 32 clips
TINY = [
    "run.device=cpu", "run.log_every=1", "run.hash_stream=true", "run.checkpoint_steps=2", "model.rgb=r3d10_narrow",
    "model.gcn_width=16", "model.transformer_blocks=1", "model.transformer_heads=2", "model.transformer_width=32",
    "views.rgb_frames=4", "views.pose_frames=8", "views.size=32", "views.mask_alpha=0", "optim.batch=8",
    "optim.micro_batch=4", "data.workers=1",
]  # fmt: skip
PROGRAMS = {
    "train": ["objective.bank_size=16", "run.knn_every=2"],
    "finetune": ["report=best_val"],
}
WEIGHTS = {"train": ("query", "key", "banks", "optimizer"), "finetune": ("classifier", "optimizer")}
SCORES = ("test.json", "test_predictions.csv")
LOSSES = ("loss", "cl_", "spm_", "ce_", "rgb_to", "pose_to", "knn_", "val_")
ROUNDING = 0.02  # of losses and relative, over a whole chain


@dataclass(frozen=True)
class Chain:
    """Lives of one run, each killed but the last."""

    program: str
    worlds: tuple[int, ...]  # ranks of the lives, in turn
    kills: int

    @property
    def name(self) -> str:
        return f"{self.program}, ranks {', '.join(map(str, self.worlds))}"


def main(argv: list[str] | None = None) -> int:
    parser = command_parser(__name__, __doc__)
    parser.add_argument("--pretrain", type=int, default=100, metavar="N", help="kills of pre-training (default 100)")
    parser.add_argument("--finetune", type=int, default=50, metavar="N", help="kills of fine-tuning (default 50)")
    parser.add_argument("--seed", type=int, default=0, help="of the moments (default 0)")
    parser.add_argument("--out", type=Path, help="folder of train.json and finetune.json, e.g. docs/results/kills")
    args = parser.parse_args(argv)
    kills = {"train": args.pretrain, "finetune": args.finetune}
    table = Table("chain", "kills", "on two ranks", "stream", "losses", "weights", "scores")
    good = True
    with tempfile.TemporaryDirectory() as work:
        shards = Path(work) / "shards"
        synth = SynthOptions(classes=4, clips_per_class=(8, 1, 2), signers=(3, 1, 2), size=48, frames=(12, 20))
        pack(manifest(synth), shards, PackOptions(codec="jpeg", size=48, crop="none"))
        for program, count in kills.items():
            chains = [Chain(program, (1,), -(-count // 2)), Chain(program, (2, 1), 2 * (count // 2))]
            results = [run_chain(chain, shards, Path(work) / program, args.seed) for chain in chains if chain.kills]
            for chain, result in zip(chains, results):
                good &= result["good"]
                told = [result[name] for name in ("stream", "losses", "weights", "scores")]
                table.add_row(chain.name, str(len(result["kills"])), str(result["kills_on_two_ranks"]), *told)
            if args.out:
                about = {"command": " ".join(["cclslr study kills", *(argv or [])]), "environment": describe()}
                write_json(args.out / f"{program}.json", {**about, "seed": args.seed, "chains": results})
    console.print(table)
    return int(not good)


def run_chain(chain: Chain, shards: Path, work: Path, seed: int) -> dict[str, Any]:
    """Kill a run again and again, let its last life end, and compare it with one that nobody killed."""
    choose = random.Random(f"{seed} {chain.name}")
    run, undisturbed = work / f"killed{len(chain.worlds)}", work / f"undisturbed{len(chain.worlds)}"
    epochs = max(2, chain.kills * STEPS_A_LIFE // PER_EPOCH)
    finish(start(chain.program, shards, undisturbed, epochs, 1))
    kills: list[dict[str, Any]] = []
    with progress_bar("kills") as bar:
        for life in bar.track(range(chain.kills), description=chain.name):
            world = chain.worlds[life % len(chain.worlds)]
            process = start(chain.program, shards, run, epochs, world)
            kills.append({"ranks": world, **kill_at_random(process, run, choose)})
    finish(start(chain.program, shards, run, epochs, chain.worlds[chain.kills % len(chain.worlds)]))
    exact = set(chain.worlds) == {1}
    result = {"chain": chain.name, "steps": epochs * PER_EPOCH, **compare(chain.program, run, undisturbed, exact)}
    return {**result, "kills_on_two_ranks": sum(kill["ranks"] == 2 for kill in kills), "kills": kills}


def kill_at_random(process: subprocess.Popen[str], run: Path, choose: random.Random) -> dict[str, Any]:
    """SIGKILL to the program and its ranks: while it starts, or a moment after one of its first steps."""
    began, before = time.perf_counter(), len(list(records(run)))
    steps = choose.randrange(5)
    while steps and process.poll() is None and len(list(records(run))) < before + steps:
        time.sleep(0.002)
    time.sleep(choose.uniform(0, 0.2 if steps else 5))
    if process.poll() is not None:
        raise UserError(f"a life ended by itself, with exit code {process.returncode}:\n{process.communicate()[0]}")
    for one in (process, *psutil.Process(process.pid).children(recursive=True)):
        one.kill()
    process.communicate()
    return {
        "after_step": max((r["step"] for r in records(run)), default=0),
        "seconds": round(time.perf_counter() - began, 2),
        "in_a_checkpoint": any(run.glob(".*.pt.*.tmp")),
    }


def compare(program: str, run: Path, undisturbed: Path, exact: bool) -> dict[str, Any]:
    """What is the same in both runs; "good" if all is that has to be."""
    ours, theirs = ({r["step"]: r for r in records(folder)} for folder in (run, undisturbed))
    streams = [{step: r.get("stream") for step, r in told.items()} for told in (ours, theirs)]
    losses = [
        {(step, name): value for step, r in told.items() for name, value in r.items() if is_result(name)}
        for told in (ours, theirs)
    ]
    apart = [
        abs(value - losses[1].get(key, float("inf"))) / max(1.0, abs(value))
        for key, value in losses[0].items()
        if key[1] != "val_top1" and not key[1].startswith("knn_")
    ]
    states = [checkpoint.load(folder / "last.pt") for folder in (run, undisturbed)]
    weights = all(same(states[0][part], states[1][part]) for part in WEIGHTS[program])
    files = [
        [(folder / name).read_text() for name in SCORES if (folder / name).exists()] for folder in (run, undisturbed)
    ]
    same_stream, same_losses, same_scores = streams[0] == streams[1], losses[0] == losses[1], files[0] == files[1]
    close = len(losses[0]) == len(losses[1]) and max(apart) <= ROUNDING
    within = f"within {max(apart):.1e}" if close else "DIFFERENT"
    return {
        "stream": "same" if same_stream else "DIFFERENT",
        "losses": "same" if same_losses else "DIFFERENT" if exact else within,
        "weights": "same" if weights else "DIFFERENT" if exact else "not asked",
        "scores": "none" if not files[1] else "same" if same_scores else "DIFFERENT" if exact else "not asked",
        "good": same_stream and ((same_losses and weights and same_scores) if exact else close),
    }


def is_result(name: str) -> bool:
    """Whether a number of the journal is computed, not measured: how long scoring took is no score."""
    return name.startswith(LOSSES) and not name.endswith("_seconds")


def same(ours: Any, theirs: Any) -> bool:
    """Whether nested containers of tensors are equal, bit for bit."""
    if isinstance(ours, torch.Tensor):
        return torch.equal(ours, theirs)
    if isinstance(ours, dict):
        return ours.keys() == theirs.keys() and all(same(value, theirs[name]) for name, value in ours.items())
    return ours == theirs


def start(program: str, shards: Path, run: Path, epochs: int, ranks: int) -> subprocess.Popen[str]:
    """A life of the run."""
    launcher = ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={ranks}"] if ranks > 1 else []
    where = [f"data.shards=[{shards}]", f"run.dir={run}", f"optim.epochs={epochs}"]
    command = [sys.executable, *launcher, "-m", "cclslr", program, *TINY, *PROGRAMS[program], *where]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(command, env=environment, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)


def finish(process: subprocess.Popen[str]) -> None:
    """Wait for a life that ends well."""
    output, _ = process.communicate()
    if process.returncode:
        raise UserError(f"a run ended with exit code {process.returncode}:\n{output}")


def records(run: Path) -> Iterator[dict[str, Any]]:
    """The whole lines of metrics.jsonl: the program may be writing."""
    path = run / "metrics.jsonl"
    for line in path.read_text().splitlines(keepends=True) if path.exists() else []:
        if line.endswith("\n"):
            yield json.loads(line)

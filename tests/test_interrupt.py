"""Programs that are asked to stop, and that are killed: nothing is lost, on one rank and on two."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import time
from pathlib import Path

import psutil
import pytest
from small_runs import TINY_PRETRAIN, finetune_arguments, finish, records, same, start, tiny_shards

from cclslr import checkpoint
from cclslr.errors import ExitCode

KILLS = int(os.environ.get("CCLSLR_KILLS", "3"))
STEPS = 6 * 4  # 32 clips, batch 8, 6 epochs
WHOLE = {"cclslr.train": ("query", "key", "banks", "optimizer"), "cclslr.finetune": ("classifier", "optimizer")}


@pytest.fixture(scope="module")
def shards(tmp_path_factory) -> Path:
    return tiny_shards(tmp_path_factory.mktemp("shards") / "tiny")


def arguments(module: str, shards: Path, run_dir: Path) -> list[str]:
    if module == "cclslr.finetune":
        return finetune_arguments(shards, run_dir, "optim.epochs=6")
    kept = ["run.checkpoint_steps=0", "optim.epochs=6", f"data.shards=[{shards}]", f"run.dir={run_dir}"]
    return [*TINY_PRETRAIN, *kept]


@pytest.fixture(scope="module")
def undisturbed(shards, tmp_path_factory) -> dict[str, Path]:
    folders = {module: tmp_path_factory.mktemp("undisturbed") for module in WHOLE}
    for module, folder in folders.items():
        finish(start(module, *arguments(module, shards, folder)))
    return folders


def comparable(run_dir: Path) -> dict[int, dict]:
    """Per step: the stream and the losses."""
    told = ("stream", "loss", "cl_", "spm_", "ce_", "rgb_to", "pose_to")
    return {r["step"]: {k: v for k, v in r.items() if k.startswith(told)} for r in records(run_dir)}


def wait_for(process: subprocess.Popen[str], run_dir: Path, step: int) -> None:
    while process.poll() is None and len(records(run_dir)) < step:
        time.sleep(0.01)
    assert process.poll() is None, process.communicate()[0]


def check_whole(module: str, run_dir: Path, undisturbed: Path) -> None:
    """Streams, losses and all that was trained, bit for bit."""
    assert comparable(run_dir) == comparable(undisturbed)
    ours, theirs = (checkpoint.load(run / "last.pt") for run in (run_dir, undisturbed))
    for part in WHOLE[module]:
        assert same(ours[part], theirs[part]), part


@pytest.mark.parametrize(
    ("module", "number"),
    [
        ("cclslr.train", signal.SIGTERM),
        ("cclslr.train", signal.SIGUSR1),
        ("cclslr.train", signal.SIGINT),
        ("cclslr.finetune", signal.SIGTERM),
    ],
)
def test_a_signal_ends_after_a_step_and_nothing_is_lost(shards, undisturbed, tmp_path, module, number):
    process = start(module, *arguments(module, shards, tmp_path))
    wait_for(process, tmp_path, 6)  # not the last of an epoch: no other checkpoint would hold it
    process.send_signal(number)
    output, _ = process.communicate(timeout=300)
    assert process.returncode == ExitCode.STOPPED, output
    done = checkpoint.load(tmp_path / "last.pt")["step"]
    assert done == records(tmp_path)[-1]["step"] < STEPS
    assert f"{number.name}: stopped after step {done} of {STEPS}" in output
    assert "Traceback" not in output
    assert not (tmp_path / "test.json").exists()
    finish(start(module, *arguments(module, shards, tmp_path)))
    check_whole(module, tmp_path, undisturbed[module])


@pytest.mark.parametrize("module", list(WHOLE))
def test_ranks_stop_after_the_same_step(shards, undisturbed, tmp_path, module):
    """torchrun sends its SIGTERM on to the ranks, one after the other."""
    process = start(module, *arguments(module, shards, tmp_path), ranks=2)
    wait_for(process, tmp_path, 6)
    process.send_signal(signal.SIGTERM)
    output, _ = process.communicate(timeout=300)
    assert process.returncode != 0
    done = checkpoint.load(tmp_path / "last.pt")["step"]
    assert done == records(tmp_path)[-1]["step"] < STEPS
    assert output.count(f"SIGTERM: stopped after step {done} of {STEPS}") == 1
    finish(start(module, *arguments(module, shards, tmp_path)))
    streams = [
        {step: told["stream"] for step, told in comparable(run).items()} for run in (tmp_path, undisturbed[module])
    ]
    assert streams[0] == streams[1]


def test_a_signal_to_one_rank_stops_all(shards, tmp_path):
    process = start("cclslr.train", *arguments("cclslr.train", shards, tmp_path), ranks=2)
    wait_for(process, tmp_path, 3)
    ranks = [child for child in psutil.Process(process.pid).children() if "cclslr.train" in child.cmdline()]
    ranks[-1].send_signal(signal.SIGUSR1)
    output, _ = process.communicate(timeout=300)
    done = checkpoint.load(tmp_path / "last.pt")["step"]
    assert f"SIGUSR1: stopped after step {done} of {STEPS}" in output
    assert f"exitcode  : {ExitCode.STOPPED}" in output


def test_killed_finetuning_goes_on_bit_for_bit(shards, undisturbed, tmp_path):
    module, choose = "cclslr.finetune", random.Random(0)
    for step in sorted(choose.sample(range(1, STEPS), KILLS)):
        process = start(module, *arguments(module, shards, tmp_path))
        wait_for(process, tmp_path, step)
        time.sleep(choose.uniform(0, 0.05))  # anywhere within the next step, its checkpoint included
        process.kill()
        process.communicate()
    finish(start(module, *arguments(module, shards, tmp_path)))
    check_whole(module, tmp_path, undisturbed[module])
    assert (tmp_path / "test_predictions.csv").read_text() == (undisturbed[module] / "test_predictions.csv").read_text()


@pytest.mark.parametrize("module", list(WHOLE))
def test_killed_on_one_or_two_ranks_and_continued_on_another_number(shards, undisturbed, tmp_path, module):
    """The stream is the same in global order; the losses within rounding."""
    choose = random.Random(1)
    more = ["run.checkpoint_steps=1"]
    for number, step in enumerate(sorted(choose.sample(range(1, STEPS), KILLS))):
        process = start(module, *arguments(module, shards, tmp_path), *more, ranks=1 + number % 2)
        wait_for(process, tmp_path, step)
        time.sleep(choose.uniform(0, 0.05))
        for child in psutil.Process(process.pid).children(recursive=True):
            child.kill()
        process.kill()
        process.communicate()
    finish(start(module, *arguments(module, shards, tmp_path), *more, ranks=1 + KILLS % 2))
    ours, theirs = comparable(tmp_path), comparable(undisturbed[module])
    assert ours.keys() == theirs.keys()
    for step, told in theirs.items():
        assert ours[step].pop("stream") == told.pop("stream")
        assert ours[step] == pytest.approx(told, rel=2e-2, abs=2e-2), step

"""Checkpoints that are written beside training: what they hold, slow and full disks, kills, signals."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from small_runs import ROOT, TINY_PRETRAIN, records, same, tiny_shards, train_here

from cclslr import checkpoint
from cclslr import train as pretraining
from cclslr.errors import ExitCode, UserError
from cclslr.training.writer import Writer, Written, on_host

STEPS = 8  # two epochs of 32 clips, batch 8
write = checkpoint.save


@pytest.fixture(scope="module")
def shards(tmp_path_factory) -> Path:
    return tiny_shards(tmp_path_factory.mktemp("shards") / "tiny")


def run(shards: Path, run_dir: Path, *more: str) -> None:
    train_here(run_dir, shards, "optim.epochs=2", "run.checkpoint_every=1", *more)


@pytest.fixture(scope="module")
def undisturbed(shards, tmp_path_factory) -> Path:
    run_dir = tmp_path_factory.mktemp("undisturbed")
    run(shards, run_dir)
    return run_dir


def alike(ours: Path, theirs: Path, name: str) -> bool:
    one, two = checkpoint.load(ours / name), checkpoint.load(theirs / name)
    return all(same(one[part], two[part]) for part in ("query", "key", "banks", "optimizer", "step"))


def test_the_copy_is_the_state_of_that_moment() -> None:
    layer = torch.nn.Conv2d(3, 4, 3).to(memory_format=torch.channels_last)
    state = {"layer": layer.state_dict(), "groups": [{"lr": 0.1, "at": torch.arange(3)}], "step": 5, "none": None}
    held = on_host(state)
    assert same(held, state)
    assert isinstance(held["layer"], OrderedDict)
    assert held["layer"]._metadata == state["layer"]._metadata
    assert held["layer"]["weight"].stride() == layer.weight.stride()
    with torch.no_grad():
        layer.weight.zero_()
        state["groups"][0]["at"].zero_()
    state["groups"][0]["lr"] = 0.2
    assert held["layer"]["weight"].any()
    assert (held["groups"][0]["lr"], held["groups"][0]["at"].tolist()) == (0.1, [0, 1, 2])


class Disk:
    """Stands in for `checkpoint.save`: each writing waits until it is let go."""

    def __init__(self) -> None:
        self.go = threading.Semaphore(0)
        self.under_way = self.most = 0

    def save(self, path: Path, state: dict) -> None:
        self.under_way += 1
        self.most = max(self.most, self.under_way)
        self.go.acquire()
        write(path, state)
        self.under_way -= 1


def test_training_goes_on_while_the_disk_is_slow_and_one_checkpoint_is_under_way(tmp_path, monkeypatch) -> None:
    disk, told = Disk(), []
    monkeypatch.setattr(checkpoint, "save", disk.save)
    x = torch.zeros(3)
    with Writer(told.append) as writer:
        writer.begin(1, [tmp_path / "last.pt", tmp_path / "best.pt"], {"x": x})
        x += 1  # the next step
        writer.look()
        assert told == []
        threading.Timer(0.1, lambda: disk.go.release(2)).start()
        writer.begin(2, [tmp_path / "last.pt"], {"x": x})  # waits for both files of the one before
        assert [(written.step, written.name) for written in told] == [(1, "last.pt"), (1, "best.pt")]
        assert checkpoint.load(tmp_path / "best.pt")["x"].tolist() == [0, 0, 0]
        x += 1
        disk.go.release()
    assert isinstance(told[2], Written)
    assert (told[2].step, disk.most) == (2, 1)
    assert told[2].waited >= 0.05  # it was held up by the first
    assert checkpoint.load(tmp_path / "last.pt")["x"].tolist() == [1, 1, 1]


def slowly(seconds: float) -> Callable[[Path, dict], None]:
    def save(path: Path, state: dict) -> None:
        time.sleep(seconds)  # the steps that follow are made meanwhile
        write(path, state)

    return save


def test_a_run_on_a_slow_disk_keeps_the_same_checkpoints(shards, undisturbed, tmp_path, monkeypatch) -> None:
    def save(path: Path, state: dict) -> None:
        deadline = time.monotonic() + 60
        while state["step"] == 4 and "step 5/8  epoch" not in (tmp_path / "log.txt").read_text():
            assert time.monotonic() < deadline, "step 5 waits for the checkpoint of step 4"
            time.sleep(0.01)
        write(path, state)

    monkeypatch.setattr(checkpoint, "save", save)
    run(shards, tmp_path, "run.checkpoint_steps=0")
    for name in ("epoch_0001.pt", "epoch_0002.pt", "last.pt"):
        assert alike(tmp_path, undisturbed, name), name
    log = (tmp_path / "log.txt").read_text()
    assert "step 4/8  checkpoint epoch_0001.pt written in " in log
    assert log.index("step 5/8  epoch") < log.index("step 4/8  checkpoint last.pt")


def test_a_disk_that_is_full_ends_the_run_at_the_next_step(shards, tmp_path, monkeypatch) -> None:
    def save(path: Path, state: dict) -> None:
        if state["step"] == 3:
            raise UserError(f"checkpoint {path}: cannot be written (No space left on device)")
        write(path, state)

    monkeypatch.setattr(checkpoint, "save", save)
    with pytest.raises(UserError, match=r"last\.pt: cannot be written \(No space left on device\)"):
        run(shards, tmp_path)
    assert checkpoint.load(tmp_path / "last.pt")["step"] == 2
    assert records(tmp_path)[-1]["step"] <= 4


def test_a_failure_of_the_last_checkpoint_is_no_success(shards, tmp_path, monkeypatch) -> None:
    def save(path: Path, state: dict) -> None:
        raise UserError(f"checkpoint {path}: cannot be written")

    monkeypatch.setattr(checkpoint, "save", save)
    with pytest.raises(UserError, match="cannot be written"):
        run(shards, tmp_path, "run.checkpoint_steps=0", "run.max_steps=1")


def test_a_run_that_fails_says_why_and_what_became_of_its_checkpoint(tmp_path, monkeypatch, capsys) -> None:
    def save(path: Path, state: dict) -> None:
        raise UserError("no room")

    monkeypatch.setattr(checkpoint, "save", save)

    def fails(error: Exception) -> None:
        with Writer(print) as writer:
            writer.begin(1, [tmp_path / "last.pt"], {})
            raise error

    with pytest.raises(UserError, match="no room"):
        fails(OSError(28, "No space left on device"))  # of the journal, for the same reason
    assert capsys.readouterr().out == ""
    with pytest.raises(KeyError, match="the step"):
        fails(KeyError("the step"))
    assert "no room" in capsys.readouterr().out


def test_a_signal_waits_for_the_checkpoint(shards, undisturbed, tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(checkpoint, "save", slowly(0.3))
    step = pretraining.pretrain_step

    def stopped(learner, batch, number, *rest):
        if number == 2:
            os.kill(os.getpid(), signal.SIGTERM)
        return step(learner, batch, number, *rest)

    monkeypatch.setattr(pretraining, "pretrain_step", stopped)
    with pytest.raises(SystemExit) as end:
        run(shards, tmp_path)
    assert end.value.code == ExitCode.STOPPED
    assert checkpoint.load(tmp_path / "last.pt")["step"] == 3
    monkeypatch.undo()
    run(shards, tmp_path)
    assert alike(tmp_path, undisturbed, "last.pt")


HALF = """
import sys, time
from cclslr import checkpoint

write = checkpoint._Writer.write
save = checkpoint.save

def slow(path, state):
    if state["step"] == 5:
        def half(self, data):
            write(self, data[: len(data) // 2])
            self.file.flush()
            print("half", flush=True)
            time.sleep(600)
        checkpoint._Writer.write = half
    save(path, state)

checkpoint.save = slow
from cclslr import train
train.main(sys.argv[1:])
"""


def test_kill_9_while_a_checkpoint_is_written_leaves_the_one_before(shards, undisturbed, tmp_path) -> None:
    arguments = [*TINY_PRETRAIN, f"data.shards=[{shards}]", f"run.dir={tmp_path}", "optim.epochs=2"]
    process = subprocess.Popen(
        [sys.executable, "-c", HALF, *arguments, "run.checkpoint_every=1"], cwd=ROOT, text=True, stdout=subprocess.PIPE
    )
    assert process.stdout is not None
    lines = []
    for line in process.stdout:
        lines.append(line)
        if line == "half\n":
            break
    process.kill()
    process.communicate()
    assert lines[-1] == "half\n", lines
    assert checkpoint.load(tmp_path / "last.pt")["step"] == 4
    assert len(list(tmp_path.glob(".last.pt.*.tmp"))) == 1
    run(shards, tmp_path)
    assert alike(tmp_path, undisturbed, "last.pt")
    assert [r["loss"] for r in records(tmp_path)] == [r["loss"] for r in records(undisturbed)]
    assert not list(tmp_path.glob(".*.tmp"))

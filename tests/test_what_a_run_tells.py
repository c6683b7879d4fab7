"""A real run in a pipe, in a terminal, and what it leaves in its folder."""

from __future__ import annotations

import fcntl
import json
import os
import pty
import struct
import subprocess
import sys
import termios
from pathlib import Path

import pytest
from PIL import Image
from small_runs import ROOT, TINY_PRETRAIN, finish, records, start, tiny_shards
from test_train import TERMS

from cclslr.config import PretrainConfig, load_config

STEPS, EPOCHS = 8, 2


@pytest.fixture(scope="module")
def arguments(tmp_path_factory) -> list[str]:
    shards = tiny_shards(tmp_path_factory.mktemp("shards") / "tiny")
    return [
        *TINY_PRETRAIN, f"data.shards=[{shards}]", f"optim.epochs={EPOCHS}", "run.log_every=2", "run.knn_every=1",
        "run.checkpoint_steps=0", "views.flip=0.25",
    ]  # fmt: skip


@pytest.fixture(scope="module")
def piped(arguments, tmp_path_factory) -> tuple[Path, str]:
    run_dir = tmp_path_factory.mktemp("piped")
    return run_dir, finish(start("cclslr.train", *arguments, f"run.dir={run_dir}"))


def test_a_pipe_gets_every_line_once(piped):
    _, output = piped
    lines = [line for line in output.splitlines() if line.startswith("step ")]
    assert "\x1b" not in output
    assert len(set(lines)) == len(lines)
    told = [line for line in lines if "  epoch " in line]
    assert [line.split("  ")[0] for line in told] == [f"step {step}/{STEPS}" for step in (2, 4, 6, 8)]
    for line in told:
        for word in (
            "  loss ",
            *(f"  {term} " for term in TERMS[1:]),
            "lr 0.01",
            "clips/s",
            "waiting",
            "skipped 0",
            "memory",
        ):
            assert word in line
        assert ("left " in line) == (f"{STEPS}/{STEPS}" not in line)
    assert len([line for line in lines if "  k-NN  " in line and " in " in line]) == EPOCHS
    assert len([line for line in lines if "checkpoint last.pt written in" in line]) == EPOCHS


def test_the_folder_says_what_ran_where_and_how(piped, arguments):
    run_dir, output = piped
    expected = load_config(PretrainConfig, None, [*arguments, f"run.dir={run_dir}"])
    assert load_config(PretrainConfig, run_dir / "config.yaml", []) == expected
    assert json.loads((run_dir / "environment.json").read_text())["cores"] >= 1
    assert set((run_dir / "log.txt").read_text().splitlines()) <= set(output.splitlines())
    for name in ("first_batch.png", "results.png"):
        assert Image.open(run_dir / name).size[0] > 1000
    scored = [record for record in records(run_dir) if "knn_fused" in record]
    assert [record["step"] for record in scored] == [4, 8]
    assert all(record["knn_seconds"] > 0 for record in scored)


@pytest.mark.parametrize("columns", [80, 160])
def test_a_terminal_shows_all_of_it_uncut(piped, arguments, tmp_path, columns):
    controller, terminal = pty.openpty()
    fcntl.ioctl(terminal, termios.TIOCSWINSZ, struct.pack("HHHH", 40, columns, 0, 0))
    command = [sys.executable, "-m", "cclslr.train", *arguments, f"run.dir={tmp_path}"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "TERM": "xterm-256color"}
    process = subprocess.Popen(command, cwd=ROOT, env=environment, stdout=terminal, stderr=terminal)
    os.close(terminal)
    output = b""
    while True:
        try:
            output += os.read(controller, 65536)
        except OSError:  # the other end is closed
            break
    assert process.wait() == 0, output.decode()
    text = output.decode()
    assert "…" not in text
    assert "step 2/8" not in text
    for word in (*TERMS, "k-NN at epoch 2.00", "clips/s", "waiting", "skipped 0", "memory", "8/8"):
        assert word in text, word
    ours, theirs = records(tmp_path), records(piped[0])  # what is shown changes nothing
    assert [(r["stream"], r.get("loss")) for r in ours] == [(r["stream"], r.get("loss")) for r in theirs]

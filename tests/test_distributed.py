"""Ranks that really are processes: the exchange of rows against indexing the whole."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch

from cclslr.distributed import Process

WORKER = """
import torch
from cclslr.distributed import process_group

with process_group("cpu") as mine:
    for trial in range(20):
        size = 1 + trial % 4
        generator = torch.Generator().manual_seed(trial)
        x_G = torch.randint(0, 255, (size * mine.world, 2, 3), generator=generator, dtype=torch.uint8)
        source_G = torch.randperm(len(x_G), generator=generator)
        shuffled = mine.exchange(mine.part(x_G), source_G)
        assert torch.equal(shuffled, mine.part(x_G[source_G])), (trial, mine.rank)
        assert torch.equal(mine.gather(shuffled), x_G[source_G])
        assert torch.equal(mine.gather(shuffled)[source_G.argsort()], x_G)
    assert mine.gather_objects(mine.rank) == list(range(mine.world))
"""


def torchrun(ranks: int, *command: str, timeout: float = 300) -> str:
    """Run `command` under torchrun with that many ranks on this machine; its output, or a failed test that shows it."""
    program = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={ranks}", *command]
    done = subprocess.run(program, capture_output=True, text=True, timeout=timeout, cwd=Path(__file__).parents[1])
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.mark.parametrize("world", [2, 3])
def test_exchange_shuffles_rows_over_processes(tmp_path, world):
    script = tmp_path / "worker.py"
    script.write_text(WORKER)
    torchrun(world, str(script))


def test_one_rank_is_alone():
    alone = Process(0, 1, torch.device("cpu"))
    x_G = torch.arange(12).reshape(6, 2)
    source_G = torch.randperm(6)
    assert torch.equal(alone.exchange(x_G, source_G), x_G[source_G])
    assert torch.equal(alone.part(x_G), x_G)
    assert alone.gather(x_G) is x_G

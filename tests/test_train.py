"""The pre-trainer as a program: killed and continued, on one rank and on two."""

from __future__ import annotations

import os
import random
import signal
import time
from pathlib import Path

import pytest
import torch
from small_runs import TINY_PRETRAIN, finish, records, start, tiny_shards

from cclslr import checkpoint

KILLS = int(os.environ.get("CCLSLR_KILLS", "3"))
STEPS = 4 * 4  # 32 clips, batch 8, 4 epochs
TERMS = ("loss", "cl_rgb", "cl_pose", "spm_rgb", "spm_pose", "rgb_to_pose", "pose_to_rgb")


@pytest.fixture(scope="module")
def shards(tmp_path_factory) -> Path:
    return tiny_shards(tmp_path_factory.mktemp("shards") / "tiny")


def arguments(shards: Path, run_dir: Path, *more: str) -> list[str]:
    return [*TINY_PRETRAIN, "optim.epochs=4", f"data.shards=[{shards}]", f"run.dir={run_dir}", *more]


@pytest.fixture(scope="module")
def undisturbed(shards, tmp_path_factory) -> Path:
    run_dir = tmp_path_factory.mktemp("undisturbed")
    finish(start("cclslr.train", *arguments(shards, run_dir)))
    return run_dir


def comparable(run_dir: Path) -> dict[int, tuple]:
    """Per step: the stream of clip and view bytes in global order, and every loss term."""
    return {r["step"]: (r["stream"], *(r[term] for term in TERMS)) for r in records(run_dir)}


def test_every_step_is_reported_and_the_loss_is_the_sum_of_its_terms(undisturbed):
    reported = records(undisturbed)
    assert [r["step"] for r in reported] == list(range(1, STEPS + 1))
    for r in reported:
        assert r["loss"] == pytest.approx(sum(r[term] for term in TERMS[1:]))
    assert len({tuple(r["stream"]) for r in reported}) == STEPS


def test_killed_run_goes_on_bit_for_bit(shards, undisturbed, tmp_path):
    choose = random.Random(0)
    kill_after = sorted(choose.sample(range(1, STEPS), KILLS))
    for step in kill_after:
        process = start("cclslr.train", *arguments(shards, tmp_path))
        while process.poll() is None and len(records(tmp_path)) < step:
            time.sleep(0.002)
        time.sleep(choose.uniform(0, 0.05))  # anywhere within the next step, its checkpoint included
        assert process.poll() is None, process.communicate()[0]
        os.kill(process.pid, signal.SIGKILL)
        process.communicate()
    finish(start("cclslr.train", *arguments(shards, tmp_path)))
    assert comparable(tmp_path) == comparable(undisturbed)
    ours, theirs = (checkpoint.load(run / "last.pt") for run in (tmp_path, undisturbed))
    for part in ("query", "key", "banks"):
        for name, value in theirs[part].items():
            same = (
                torch.equal(ours[part][name], value) if isinstance(value, torch.Tensor) else ours[part][name] == value
            )
            assert same, (part, name)


def test_two_ranks_continue_what_one_began(shards, undisturbed, tmp_path):
    finish(start("cclslr.train", *arguments(shards, tmp_path, "run.max_steps=5")))
    finish(start("cclslr.train", *arguments(shards, tmp_path, "run.max_steps=9"), ranks=2))
    expected, continued = comparable(undisturbed), comparable(tmp_path)
    assert list(continued) == list(range(1, 10))
    for step, (stream, *losses) in continued.items():
        assert stream == expected[step][0]
        # BatchNorm groups, dropout and the order of keys do not depend on the ranks: the rest is rounding
        assert losses == pytest.approx(expected[step][1:], rel=2e-3, abs=2e-3)


def test_banks_are_identical_on_both_ranks_and_agree_with_one(shards, undisturbed, tmp_path):
    """Rank 1 writes its banks from inside a run that is otherwise the same."""
    worker = tmp_path / "worker.py"
    worker.write_text(
        "import sys, torch\n"
        "from pathlib import Path\n"
        "from cclslr import train\n"
        "from cclslr.models.ccl import MemoryBanks\n"
        "enqueue = MemoryBanks.enqueue\n"
        "def spy(banks, *args):\n"
        "    enqueue(banks, *args)\n"
        "    torch.save(banks.state_dict(), Path(sys.argv[0]).parent / f'banks{torch.distributed.get_rank()}.pt')\n"
        "MemoryBanks.enqueue = spy\n"
        "train.main()\n"
    )
    from test_distributed import torchrun

    torchrun(2, str(worker), *arguments(shards, tmp_path / "run", "run.max_steps=3"))
    first, second = (torch.load(tmp_path / f"banks{rank}.pt") for rank in (0, 1))
    for name, value in first.items():
        same = torch.equal(second[name], value) if isinstance(value, torch.Tensor) else second[name] == value
        assert same, name
    assert first["clip_ids"][:16].tolist().count(-1) == 0
    for ours, alone in zip(records(tmp_path / "run"), records(undisturbed)):
        assert [ours[t] for t in TERMS] == pytest.approx([alone[t] for t in TERMS], rel=1e-3, abs=1e-3)


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("optim.batch=6", "multiple of 4"),
        ("objective.bank_size=4", "smaller than optim.batch"),
        ("views.mask_alpha=0.2", "cclslr masks"),
        ("data.shards=[nowhere]", "nowhere"),
        ("run.device=cuda", "no GPU"),
    ],
)
def test_mistakes_end_with_one_line(shards, tmp_path, override, message):
    if override.endswith("cuda") and torch.cuda.is_available():
        pytest.skip("there is a GPU")
    process = start("cclslr.train", *arguments(shards, tmp_path, override))
    output, _ = process.communicate(timeout=600)
    assert process.returncode == 2
    assert message in " ".join(output.split())
    assert "Traceback" not in output

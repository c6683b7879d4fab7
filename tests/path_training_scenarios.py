"""What can happen to a training, and what must come of it: a scenario for each accident of the matrix."""

from __future__ import annotations

import shutil
import signal
from pathlib import Path

import pytest
from path_matrix import Cell
from path_runs import (
    BEGUN,
    STEP,
    STEPS,
    Accident,
    Workshop,
    ended,
    expected_stream,
    kill_all,
    launch,
    losses,
    refused,
    small_disk,
    start,
    streams,
    used,
    victims,
    wait_for_hold,
)
from small_runs import finish, records, same

from cclslr import checkpoint
from cclslr.errors import ExitCode
from cclslr.shards.reader import ShardSet

TRAINED = {"train": ("query", "key", "banks", "optimizer"), "finetune": ("classifier", "optimizer")}


def check_equal(cell: Cell, run: Path, other: Path) -> None:
    """Streams, losses and all that was trained, bit for bit."""
    assert streams(run) == streams(other)
    assert losses(run) == losses(other)
    ours, theirs = (checkpoint.load(folder / "last.pt") for folder in (run, other))
    assert ours["step"] == theirs["step"]
    for part in TRAINED[cell.program]:
        assert same(ours[part], theirs[part]), part


def check_continued(cell: Cell, run: Path, undisturbed: Path) -> None:
    """The run is the undisturbed one: bit for bit on one rank; on two, its losses within rounding."""
    if cell.ranks == 1:
        return check_equal(cell, run, undisturbed)
    assert streams(run) == streams(undisturbed)
    check_close(run, undisturbed)


def check_close(run: Path, undisturbed: Path) -> None:
    ours, theirs = losses(run), losses(undisturbed)
    assert ours.keys() == theirs.keys()
    for step, told in theirs.items():
        assert ours[step] == pytest.approx(told, rel=2e-2, abs=2e-2), step


def undisturbed(cell: Cell, workshop: Workshop, tmp_path: Path) -> None:
    shards = workshop.shards(cell.codec)
    alone = workshop.run(cell)
    run = alone
    if cell.ranks > 1:
        run = tmp_path / "run"
        finish(start(cell, shards, run, ranks=cell.ranks))
        check_close(run, alone)
    _, hashes = expected_stream(shards, cell.backend, STEPS)
    assert list(streams(run).values()) == hashes
    assert len({tuple(step) for step in hashes}) == STEPS
    if cell.program == "finetune":
        finish(launch("evaluate", [f"{run}/last.pt", "--out", str(tmp_path / "scores")]))
        for name in ("test.json", "test_predictions.csv"):
            assert (tmp_path / "scores" / name).read_text() == (run / name).read_text()


def damaged_clips(cell: Cell, workshop: Workshop, tmp_path: Path) -> None:
    shards, run = workshop.damaged(cell.codec, "train"), tmp_path / "run"
    # Two batches ahead are of the same epoch: no clip comes again
    output = finish(start(cell, shards, run, "run.max_steps=2", "data.prefetch=2", ranks=cell.ranks))
    planned, whole = expected_stream(workshop.shards(cell.codec), cell.backend, 2)
    ids, hashes = expected_stream(shards, cell.backend, 2)
    keys = victims(shards, "train")
    bad = {i for i, row in enumerate(ShardSet([str(shards)], "train").rows) if row.key in keys}
    replaced = 0
    seen = list(streams(run).values())
    assert seen == hashes
    for step in range(2):
        for ours, clip_id, theirs, place in zip(seen[step], ids[step], whole[step], planned[step], strict=True):
            assert clip_id not in bad
            replaced += place in bad
            assert (ours == theirs) == (place not in bad)
    assert replaced == 2
    assert records(run)[-1]["quarantined"] == 2
    said = [line for line in output.splitlines() if "quarantined clip" in line]
    assert len(said) == 2, output
    for key in keys:
        assert sum(key in line for line in said) == 1, output


def killed(cell: Cell, workshop: Workshop, tmp_path: Path) -> None:
    shards, run = workshop.shards(cell.codec), tmp_path / "run"
    process = start(cell, shards, run, ranks=cell.ranks, accident=Accident("hold", STEP[cell.program], tmp_path, 4))
    wait_for_hold(process, tmp_path, cell.ranks)
    kill_all(process)
    assert checkpoint.load(run / "last.pt")["step"] in (3, 4)  # the one of step 4 was perhaps being written
    finish(start(cell, shards, run))
    check_continued(cell, run, workshop.run(cell))


def asked(cell: Cell, workshop: Workshop, tmp_path: Path) -> None:
    shards, run = workshop.shards(cell.codec), tmp_path / "run"
    number = signal.SIGTERM if cell.accident == "SIGTERM" else signal.SIGINT
    held = Accident("hold", STEP[cell.program], tmp_path, 4)  # no checkpoint but the signal's would hold its step
    process = start(cell, shards, run, "run.checkpoint_steps=0", ranks=cell.ranks, accident=held)
    wait_for_hold(process, tmp_path, cell.ranks)
    process.send_signal(number)  # torchrun hands it on to the ranks
    output = ended(process)
    done = checkpoint.load(run / "last.pt")["step"]
    assert done == records(run)[-1]["step"] == (5 if cell.ranks == 1 else 6)
    assert output.count(f"{number.name}: stopped after step {done} of {STEPS}") == 1, output
    if cell.ranks == 1:
        assert process.returncode == ExitCode.STOPPED
        assert "Traceback" not in output
    finish(start(cell, shards, run))
    check_continued(cell, run, workshop.run(cell))


def not_finite(cell: Cell, workshop: Workshop, tmp_path: Path) -> None:
    call, steps = (0, 3) if cell.accident == "not finite at first" else (4, STEPS)
    last = cell.ranks - 1  # one rank's gradient is enough
    for do, ranks in (("not finite", (last,)), ("leave out", (0, 1))):
        happens = Accident(do, STEP[cell.program], tmp_path, call, ranks)
        more = f"run.max_steps={steps}"
        shards = workshop.shards(cell.codec)
        finish(start(cell, shards, tmp_path / do, more, ranks=cell.ranks, accident=happens))
    check_equal(cell, tmp_path / "not finite", tmp_path / "leave out")
    assert [r["skipped_steps"] for r in records(tmp_path / "not finite")] == [0] * call + [1] * (steps - call)


def full_disk(cell: Cell, workshop: Workshop, tmp_path: Path) -> None:
    _refused(cell, workshop, tmp_path, "No space left on device")


def read_only(cell: Cell, workshop: Workshop, tmp_path: Path) -> None:
    _refused(cell, workshop, tmp_path, "Read-only file system")


def _refused(cell: Cell, workshop: Workshop, tmp_path: Path, reason: str) -> None:
    shards = workshop.shards(cell.codec)
    with small_disk(tmp_path / "disk") as remount:
        run = Path(shutil.copytree(workshop.begun(cell), tmp_path / "disk/run"))
        before = (run / "last.pt").read_bytes()
        # Room for half a checkpoint: the journal fits
        remount("ro" if cell.accident == "read-only folder" else f"size={used(run) + len(before) // 2}")
        refused(start(cell, shards, run, ranks=cell.ranks), cell.ranks, str(run), reason)
        assert (run / "last.pt").read_bytes() == before
        assert not list(run.glob("*.tmp"))
        assert not list(run.glob(".*.tmp"))
        remount("rw,size=64m")
        finish(start(cell, shards, run))
        check_continued(cell, run, workshop.run(cell))


def a_rank_dies(cell: Cell, workshop: Workshop, tmp_path: Path) -> None:
    shards, run = workshop.shards(cell.codec), tmp_path / "run"
    killed = Accident("die", STEP[cell.program], tmp_path, BEGUN, (1,))
    output = ended(start(cell, shards, run, ranks=cell.ranks, accident=killed))
    assert "Signal 9 (SIGKILL)" in output
    assert "rank      : 1" in output
    assert checkpoint.load(run / "last.pt")["step"] == BEGUN
    fails = Accident("fail", STEP[cell.program], tmp_path, 1, (1,))  # the first step done again, then the next
    output = ended(start(cell, shards, run, ranks=cell.ranks, accident=fails))
    assert "RuntimeError: rank 1 is lost" in output
    assert checkpoint.load(run / "last.pt")["step"] == BEGUN + 1
    _, hashes = expected_stream(shards, cell.backend, STEPS)
    assert list(streams(run).values()) == hashes[: BEGUN + 1]


TRAINING = {
    "none": undisturbed,
    "damaged clips": damaged_clips,
    "kill -9": killed,
    "SIGTERM": asked,
    "Ctrl-C": asked,
    "not finite at first": not_finite,
    "not finite later": not_finite,
    "full disk": full_disk,
    "read-only folder": read_only,
    "a rank dies": a_rank_dies,
}

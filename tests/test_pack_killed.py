"""Killed tools and killed workers, in real processes: nothing is lost and nothing is different."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import time
from pathlib import Path

import pytest
from clusters import cluster, join
from packing import pack_command

from cclslr.files import read_json
from cclslr.shards.executor import WorkerDied, run_tasks
from cclslr.shards.place import place_of

ROOT = Path(__file__).parents[1]


def command(out: Path, *more: str) -> list[str]:
    return pack_command(out, *more, classes=6, clips_per_shard=5)


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> dict:
    out = tmp_path_factory.mktemp("undisturbed") / "set"
    done = subprocess.run(command(out), capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "60 clips packed in 12 shards, none rejected" in done.stdout
    return read_json(out / "dataset.json")


def wait_for_shards(out: Path, count: int, process: subprocess.Popen) -> int:
    """Wait until so many shards are there, or the process has ended; returns how many there are."""
    while (found := len(list(out.glob("shard-*.tar")))) < count and process.poll() is None:
        time.sleep(0.005)
    return found


def test_tool_killed_again_and_again_gives_the_same_data_set(tmp_path: Path, undisturbed: dict) -> None:
    out = tmp_path / "set"
    kills = 0
    for count in (1, 4, 8):
        process = subprocess.Popen(command(out, "--workers", "2"), stdout=subprocess.DEVNULL, start_new_session=True)
        wait_for_shards(out, count, process)
        if process.poll() is None:
            process.kill()  # the tool alone: its workers must end by themselves
            kills += 1
        process.wait()
        deadline = time.monotonic() + 60
        while _group_lives(process.pid) and time.monotonic() < deadline:
            time.sleep(0.05)
        assert not _group_lives(process.pid), "workers outlived the tool"
    assert kills >= 2
    assert not (out / "dataset.json").exists()
    done = subprocess.run(command(out, "--workers", "2"), capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "shards were already there" in done.stdout
    assert read_json(out / "dataset.json") == undisturbed
    assert not list(out.glob(".*"))


def _group_lives(group: int) -> bool:
    try:
        os.killpg(group, 0)
    except ProcessLookupError:
        return False
    return True


def test_killed_workers_are_replaced(tmp_path: Path, undisturbed: dict) -> None:
    out = tmp_path / "set"
    process = subprocess.Popen(
        command(out, "--workers", "2"), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    for count in (1, 6):
        wait_for_shards(out, count, process)
        workers = [pid for pid, line in _children(process.pid) if "spawn_main" in line]
        if workers:
            with contextlib.suppress(ProcessLookupError):
                os.kill(workers[0], signal.SIGKILL)
    output, _ = process.communicate()
    assert process.returncode == 0, output
    assert "a worker died" in output
    assert read_json(out / "dataset.json") == undisturbed


def _children(parent: int) -> list[tuple[int, str]]:
    found = []
    for path in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError, IndexError):
            if int((path / "stat").read_text().rpartition(")")[2].split()[1]) == parent:
                found.append((int(path.name), (path / "cmdline").read_text()))
    return found


def test_two_tools_do_not_pack_into_one_folder(tmp_path: Path) -> None:
    with place_of(tmp_path).hold():
        second = subprocess.run(command(tmp_path), capture_output=True, text=True)
    assert second.returncode == 2
    assert "being packed by another process" in second.stderr
    assert not list(tmp_path.glob("shard-*"))


def die(task: tuple[Path, int]) -> int:
    """The worker that gets number 3 dies, as often as the file's length says."""
    path, number = task
    if number == 3 and path.stat().st_size > 0:
        os.truncate(path, path.stat().st_size - 1)
        os.kill(os.getpid(), signal.SIGKILL)
    return number


@pytest.mark.parametrize("deaths", [1, 2])
def test_tasks_of_a_dead_worker_are_done_again(tmp_path: Path, deaths: int) -> None:
    path = tmp_path / "deaths"
    path.write_bytes(b"x" * deaths)
    assert sorted(run_tasks(die, [(path, n) for n in range(8)], workers=2)) == list(range(8))
    assert path.stat().st_size == 0


def test_a_task_that_always_kills_its_worker_ends_in_an_error(tmp_path: Path) -> None:
    path = tmp_path / "deaths"
    path.write_bytes(b"x" * 100)
    results = []

    def collect() -> None:
        for result in run_tasks(die, [(path, n) for n in range(8)], workers=2):
            results.append(result)

    with pytest.raises(WorkerDied, match="number"):
        collect()
    assert 3 not in results
    assert len(results) >= 4  # the others went on


def fail(number: int) -> int:
    if number == 3:
        raise RuntimeError("a fault of the program")
    return number


@pytest.mark.parametrize("workers", [0, 2])
def test_faults_of_the_program_are_not_hidden(workers: int) -> None:
    with pytest.raises(RuntimeError, match="a fault of the program"):
        list(run_tasks(fail, list(range(8)), workers=workers))


def test_cluster_gives_the_same_data_set_though_a_worker_dies(tmp_path: Path, undisturbed: dict) -> None:
    out = tmp_path / "set"
    with cluster(2) as (address, workers):
        process = subprocess.Popen(
            command(out, "--scheduler", address), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        )
        wait_for_shards(out, 3, process)
        workers[0].kill()
        output, _ = process.communicate(timeout=300)
    assert process.returncode == 0, output
    assert read_json(out / "dataset.json") == undisturbed


def test_cluster_whose_workers_all_leave_while_others_come_gives_the_same_data_set(
    tmp_path: Path, undisturbed: dict
) -> None:
    out = tmp_path / "set"
    with cluster(1) as (address, workers):
        process = subprocess.Popen(
            command(out, "--scheduler", address), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        )
        for count in (2, 5, 8):  # each time the only one dies, and the next has the rest to do
            assert wait_for_shards(out, count, process) < 12
            workers[-1].kill()
            workers[-1].wait()
            workers.append(join(address))
        workers.append(join(address))
        output, _ = process.communicate()
    assert process.returncode == 0, output
    assert read_json(out / "dataset.json") == undisturbed
    assert not list(out.glob(".*"))


def test_workers_of_a_cluster_work_in_the_tools_folder() -> None:
    with cluster(1) as (address, _):
        assert list(run_tasks(os.path.abspath, ["x"], scheduler=address)) == [os.path.join(os.getcwd(), "x")]


def test_a_scheduler_that_does_not_answer_is_a_users_error(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("distributed")
    monkeypatch.setattr("cclslr.shards.executor.CONNECT_SECONDS", 1)
    with pytest.raises(ValueError, match="no dask scheduler answers"):
        list(run_tasks(fail, [1], scheduler="tcp://127.0.0.1:1"))

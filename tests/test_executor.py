"""Tasks that wait for others, in whatever pool they run."""

from __future__ import annotations

import os
import subprocess
import threading
import time
from pathlib import Path

import pytest
from clusters import cluster, join
from hypothesis import given, settings
from hypothesis import strategies as st

from cclslr.shards.executor import run_graph, run_tasks


def note(task: tuple[str, int]) -> tuple[float, float]:
    """When the task began and ended; the first run of task 0 kills its worker if a file says so."""
    folder, number = task
    began = time.monotonic()
    killer = Path(folder) / "kill"
    if number == 0 and killer.exists():
        killer.unlink()
        os._exit(1)
    time.sleep(0.05)
    return began, time.monotonic()


@given(st.data())
@settings(max_examples=50, deadline=None)
def test_every_task_once_and_after_what_it_waits_for(data: st.DataObject) -> None:
    count = data.draw(st.integers(1, 12))
    order = data.draw(st.permutations(range(count)))  # any order without a circle
    after: list[set[int]] = [set() for _ in range(count)]
    for place, number in enumerate(order[1:], 1):
        after[number] = set(data.draw(st.lists(st.sampled_from(order[:place]), max_size=3)))
    done: list[int] = []
    for number, result in run_graph(int, list(range(count)), after=after, workers=0):
        assert result == number
        assert after[number] <= set(done)
        done.append(number)
    assert sorted(done) == list(range(count))


AFTER: list[set[int]] = [set(), set(), {0}, {0, 1}, {2, 3}]


def check_times(times: dict[int, tuple[float, float]]) -> None:
    assert sorted(times) == list(range(len(AFTER)))
    for number, before in enumerate(AFTER):
        assert all(times[each][1] <= times[number][0] for each in before)


@pytest.mark.parametrize("workers", [0, 2])
def test_order_holds_in_processes(tmp_path: Path, workers: int) -> None:
    tasks = [(str(tmp_path), number) for number in range(len(AFTER))]
    check_times(dict(run_graph(note, tasks, after=AFTER, workers=workers)))


def test_order_holds_when_a_worker_dies(tmp_path: Path) -> None:
    (tmp_path / "kill").touch()
    tasks = [(str(tmp_path), number) for number in range(len(AFTER))]
    check_times(dict(run_graph(note, tasks, after=AFTER, workers=2)))
    assert not (tmp_path / "kill").exists()


def test_order_holds_on_a_cluster() -> None:
    """The workers don't know this file, so the tasks are commands."""
    tasks = [["sh", "-c", "date +%s.%N; sleep 0.05; date +%s.%N"]] * len(AFTER)
    with cluster(2) as (address, _):
        results = dict(run_graph(subprocess.check_output, tasks, after=AFTER, scheduler=address))
    check_times({number: tuple(map(float, output.split())) for number, output in results.items()})


def test_what_a_task_raises_on_a_cluster_is_raised_here() -> None:
    tasks = [["false"], *[["true"]] * 3]
    with cluster(1) as (address, _), pytest.raises(subprocess.CalledProcessError):
        list(run_graph(subprocess.check_output, tasks, scheduler=address))


def test_who_joins_a_cluster_late_gets_work() -> None:
    with cluster(1) as (address, workers):
        results = run_tasks(subprocess.check_output, [["sh", "-c", "echo $PPID"]] * 40, scheduler=address)
        done = [next(results) for _ in range(5)]
        workers.append(join(address))
        wait_for_workers(address, 2)
        done += results
    pids = [int(pid) for pid in done]
    assert len(pids) == 40
    assert set(pids[:5]) == {workers[0].pid}
    assert set(pids) == {worker.pid for worker in workers}


MEET = "touch {folder}/$0; for i in $(seq 600); do [ $(ls {folder} | wc -l) -ge 4 ] && exit 0; sleep 0.1; done; exit 1"


def test_who_joins_gets_work_though_no_task_ends(tmp_path: Path) -> None:
    """Each task waits until four are under way; one worker alone is given no more than two."""
    tasks = [["sh", "-c", MEET.format(folder=tmp_path), str(number)] for number in range(4)]
    with cluster(1) as (address, workers):
        workers += [join(address) for _ in range(3)]
        assert list(run_tasks(subprocess.check_output, tasks, scheduler=address)) == [b""] * 4


def test_all_workers_leave_and_another_one_comes(capsys: pytest.CaptureFixture[str]) -> None:
    with cluster(2) as (address, workers):
        results = run_tasks(subprocess.check_output, [["sh", "-c", "echo $PPID"]] * 12, scheduler=address)
        done = [next(results)]
        for worker in workers:
            worker.kill()
            worker.wait()
        wait_for_workers(address, 0)
        threading.Timer(4.0, lambda: workers.append(join(address))).start()
        done += results
    assert len(done) == 12
    assert int(done[-1]) == workers[2].pid
    assert capsys.readouterr().out.count("waiting for one") == 1


def wait_for_workers(address: str, count: int) -> None:
    """Until so many are in the cluster."""
    from distributed import Client

    with Client(address) as client:
        while len(client.nthreads()) != count:
            time.sleep(0.05)

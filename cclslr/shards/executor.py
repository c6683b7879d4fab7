"""Heavy work in many processes, on one machine or on a cluster: one code path over concurrent.futures.

A worker that dies loses nothing: its tasks are done again.
"""

from __future__ import annotations

import contextlib
import functools
import multiprocessing
import multiprocessing.connection
import os
import threading
from collections import deque
from collections.abc import Callable, Collection, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, BrokenExecutor, Executor, Future, ProcessPoolExecutor, wait
from typing import Any, TypeVar

from cclslr.console import console, progress_aside, progress_bar
from cclslr.errors import UserError

Task = TypeVar("Task")
Result = TypeVar("Result")

MAX_ATTEMPTS = 3  # a task that was under way each time so many workers died is given up
CONNECT_SECONDS = 30
LOOK_SECONDS = 2.0  # how often it is asked who has joined a cluster, or left it
_AHEAD = 2  # tasks handed out for each worker: one under way, one waiting


class WorkerDied(UserError):
    """Workers died again and again over the same tasks."""


class _Inline(Executor):
    """Runs a task where it is submitted: for debugging, and for tests that count in milliseconds."""

    def submit(self, function: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        future: Future[Any] = Future()
        try:
            future.set_result(function(*args, **kwargs))
        except Exception as error:
            future.set_exception(error)
        return future


def run_tasks(
    function: Callable[[Task], Result],
    tasks: Sequence[Task],
    *,
    workers: int = 1,
    scheduler: str | None = None,
    description: str = "",
    sizes: Sequence[int] | None = None,
    unit: str = "clips",
    aside: bool = False,
) -> Iterator[Result]:
    """Run `function` on every task and yield the results as they come, with a progress bar.

    Args:
        function: a module's own function; it and the tasks are pickled. It must be repeatable: when a worker dies, the
            tasks that it had are run again. Relative paths mean the same everywhere: it is run in this folder.
        workers: processes on this machine; 0 runs in this process.
        scheduler: address of a dask.distributed scheduler (tcp://host:8786) to use instead.
        sizes: how far each task moves the progress bar, in `unit`s; default 1.
        aside: the screen is another's: progress is told only where it takes long.

    Raises:
        WorkerDied: workers died `MAX_ATTEMPTS` times over the same task.
        UserError: the scheduler cannot be reached.
        Exception: whatever `function` raises; the tasks not begun are dropped.
    """
    sizes = [1] * len(tasks) if sizes is None else sizes
    with progress_aside(unit) if aside else progress_bar(unit) as bar:
        shown = bar.add_task(description, total=sum(sizes))
        for number, result in run_graph(function, tasks, workers=workers, scheduler=scheduler):
            bar.advance(shown, sizes[number])
            yield result


def run_graph(
    function: Callable[[Task], Result],
    tasks: Sequence[Task],
    *,
    after: Sequence[Collection[int]] | None = None,
    workers: int = 1,
    scheduler: str | None = None,
) -> Iterator[tuple[int, Result]]:
    """As `run_tasks`, without a progress bar, for tasks of which some wait for others.

    Args:
        after: for each task the numbers of those that must be finished before it begins, without a circle; default
            none.

    Yields:
        The number of a task and its result, as they come.
    """
    if scheduler is not None:
        function = functools.partial(_run_in, os.getcwd(), function)
    waiting = deque(range(len(tasks)))
    attempts = [0] * len(tasks)
    finished: set[int] = set()

    def next_ready() -> int | None:
        if after is None:
            return waiting[0] if waiting else None
        return next((number for number in waiting if finished.issuperset(after[number])), None)

    while waiting:
        with _open(workers, scheduler) as (executor, capacity):
            under_way: dict[Future[Result], int] = {}
            broken = False
            while (waiting or under_way) and not broken:
                while len(under_way) < _AHEAD * capacity() and (ready := next_ready()) is not None:
                    try:
                        future = executor.submit(function, tasks[ready])
                    except BrokenExecutor:
                        broken = True
                        break
                    under_way[future] = ready
                    waiting.remove(ready)
                assert under_way or broken, "tasks wait for each other in a circle"
                look = None if scheduler is None else LOOK_SECONDS
                done = wait(under_way, look, return_when=FIRST_COMPLETED).done if under_way else set()
                for future in done:
                    number = under_way.pop(future)
                    try:
                        result = future.result()
                    except Exception as error:
                        if not _worker_died(error):
                            for other in under_way:
                                other.cancel()
                            raise
                        broken = broken or isinstance(error, BrokenExecutor)
                        _again(number, attempts, waiting, tasks, error)
                    else:
                        finished.add(number)
                        yield number, result
            if broken:
                # Whose task it was that died is not known: all that were handed out go to the end of the queue.
                for number in sorted(under_way.values()):
                    _again(number, attempts, waiting, tasks, None)
                console.print("a worker died; its tasks are done again", style="yellow")


def _run_in(folder: str, function: Callable[[Task], Result], task: Task) -> Result:
    """In a worker of a cluster, which was started wherever its node's shell happened to be."""
    os.chdir(folder)
    return function(task)


def _again(
    number: int, attempts: list[int], waiting: deque[int], tasks: Sequence[Any], error: Exception | None
) -> None:
    attempts[number] += 1
    if attempts[number] >= MAX_ATTEMPTS:
        name = getattr(tasks[number], "name", f"number {number}")
        raise WorkerDied(
            f"workers died {MAX_ATTEMPTS} times while task {name} was under way (out of memory? see dmesg, and try"
            " fewer --workers); the rest is kept, and running the command again continues"
        ) from error
    waiting.append(number)


def _worker_died(error: Exception) -> bool:
    # By name, because distributed is an optional package.
    return isinstance(error, BrokenExecutor) or type(error).__name__ in ("KilledWorker", "CommClosedError")


@contextlib.contextmanager
def _open(workers: int, scheduler: str | None) -> Iterator[tuple[Executor, Callable[[], int]]]:
    """An executor, and a function that says how many tasks it runs at once; a cluster grows and shrinks."""
    if scheduler is not None:
        from distributed import Client

        try:
            client = Client(scheduler, timeout=CONNECT_SECONDS)
        except OSError as error:
            raise UserError(f"no dask scheduler answers at {scheduler}: {error}") from error
        with client:
            yield client.get_executor(pure=False), _Cluster(client, scheduler).capacity
    elif workers == 0:
        yield _Inline(), lambda: 1
    else:
        context = multiprocessing.get_context("spawn")
        with ProcessPoolExecutor(workers, mp_context=context, initializer=_die_with_parent) as pool:
            yield pool, lambda: workers


class _Cluster:
    """The workers of a dask scheduler, who come and go."""

    def __init__(self, client: Any, address: str) -> None:
        self._client, self._address = client, address
        self._deserted = False

    def capacity(self) -> int:
        """How many tasks run at once; where nobody is left, one waits for the next who comes."""
        threads = sum(self._client.nthreads().values())
        if not threads and not self._deserted:
            console.print(f"no worker is at {self._address}; waiting for one", style="yellow")
        self._deserted = not threads
        return max(1, threads)


def _die_with_parent() -> None:
    """In a worker: end when the parent is killed, instead of waiting for ever for its next task."""
    parent = multiprocessing.parent_process()
    assert parent is not None

    def watch() -> None:
        multiprocessing.connection.wait([parent.sentinel])
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()

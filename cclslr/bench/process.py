"""A loader under the clock in a process of its own: its memory, its CPU time, its threads and its crash are its own."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import textwrap
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import psutil

from cclslr.errors import UserError

_SAMPLE_SECONDS = 0.1  # between two looks at the memory


class LoaderFailed(Exception):
    """A loader that is not installed, cannot read these clips, or died; says why in one line."""


@dataclass(frozen=True)
class Measurement:
    """One timed stretch of a stream of batches."""

    clips: int
    seconds: float
    cpu_seconds: float  # of the process and its children
    peak_rss: int  # bytes of the process and its children; what they share counts for each

    @property
    def rate(self) -> float:
        """Clips a second."""
        return self.clips / self.seconds

    @property
    def cpu_share(self) -> float:
        """Of the cores that the process may use."""
        return self.cpu_seconds / self.seconds / len(os.sched_getaffinity(0))


class LoaderProcess:
    """A fresh process that holds an endless stream of batches open; a context manager that kills it in the end.

    Between measurements it is suspended, with its children.

    Args:
        open_stream: called there with `arguments`; gives the clips of each batch. It and they are pickled.
        warmup: batches to drop before each measurement: at least what the stream makes ahead.
    """

    def __init__(self, open_stream: Callable[..., Iterator[int]], *arguments: Any, warmup: int) -> None:
        context = multiprocessing.get_context("spawn")  # a fork would copy threads' locks without the threads
        self._connection, there = context.Pipe()
        self._process = context.Process(target=_serve, args=(there, open_stream, arguments, warmup))
        self._process.start()
        there.close()

    def measure(self, clips: int) -> Measurement:
        """Time `clips` clips, or the few more that complete a batch.

        Raises:
            LoaderFailed: with the reason.
        """
        _each(self._process.pid, lambda process: process.resume())
        self._connection.send(clips)
        peak_rss = self._rss()
        while not self._connection.poll(_SAMPLE_SECONDS):
            peak_rss = max(peak_rss, self._rss())
        try:
            answer = self._connection.recv()
        except EOFError:
            self._process.join()
            raise LoaderFailed(f"its process ended with exit code {self._process.exitcode}") from None
        # Else it would fill its queues during the next loader's turn, at that one's cost.
        _each(self._process.pid, lambda process: process.suspend())
        if isinstance(answer, str):
            raise LoaderFailed(answer)
        timed, seconds, cpu_seconds = answer
        return Measurement(timed, seconds, cpu_seconds, peak_rss)

    def _rss(self) -> int:
        return sum(_each(self._process.pid, lambda process: process.memory_info().rss))

    def __enter__(self) -> LoaderProcess:
        return self

    def __exit__(self, *exception: object) -> None:
        # Nothing there is worth an orderly end, which some loaders never reach.
        _each(self._process.pid, lambda process: process.kill())
        self._process.join()
        self._connection.close()


def _serve(
    connection: Connection, open_stream: Callable[..., Iterator[int]], arguments: tuple[Any, ...], warmup: int
) -> None:
    """In the process: answer each number of clips with (clips, seconds, CPU seconds), or with what went wrong."""
    multiprocessing.set_start_method("fork", force=True)  # for loaders' own workers: what a program has by default
    try:
        stream = open_stream(*arguments)
        while True:
            wanted, taken = connection.recv(), 0
            for _ in range(warmup):
                next(stream)
            cpu, began = _cpu_seconds(), time.perf_counter()
            while taken < wanted:
                taken += next(stream)
            seconds = time.perf_counter() - began
            connection.send((taken, seconds, _cpu_seconds() - cpu))
    except EOFError:  # the other end is gone
        pass
    except Exception as error:
        connection.send(textwrap.shorten((str(error).splitlines() or [type(error).__name__])[0], 200))


def _cpu_seconds() -> float:
    """Of this process, its children, and those of them that have ended."""
    return sum(sum(times[:4]) for times in _each(os.getpid(), lambda process: process.cpu_times()))


def _each(pid: int | None, ask: Callable[[psutil.Process], Any]) -> list[Any]:
    """What `ask` returns for process `pid` and all its descendants that are alive."""
    answers = []
    with contextlib.suppress(psutil.NoSuchProcess):
        process = psutil.Process(pid)
        for one in [*process.children(recursive=True), process]:
            with contextlib.suppress(psutil.NoSuchProcess):
                answers.append(ask(one))
    return answers


def drop_from_cache(path: Path) -> None:
    """Drop a file's pages from the page cache, so that the next read of it comes from the disk.

    Raises:
        UserError: the file system keeps them.
    """
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fdatasync(descriptor)  # pages that are not on the disk yet cannot go
        os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
        if _is_cached(descriptor):
            raise UserError(f"{path}: its file system keeps it in memory; a cold cache cannot be measured there")
    finally:
        os.close(descriptor)


def _is_cached(descriptor: int) -> bool:
    """Whether the first page of a file is in memory."""
    try:
        os.preadv(descriptor, [bytearray(1)], 0, os.RWF_NOWAIT)
    except BlockingIOError:
        return False
    return True

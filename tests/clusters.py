"""A real dask cluster of this machine's processes, for the tests of what runs on clusters."""

from __future__ import annotations

import contextlib
import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[1]


QUIET: dict[str, Any] = {
    "stdout": subprocess.DEVNULL,
    "stderr": subprocess.DEVNULL,
    "env": {**os.environ, "PYTHONPATH": str(ROOT), "DASK_DISTRIBUTED__SCHEDULER__ALLOWED_FAILURES": "3"},
    "cwd": "/tmp",
}


@contextlib.contextmanager
def cluster(workers: int) -> Iterator[tuple[str, list[subprocess.Popen]]]:
    """A scheduler's address and its workers: a process each, started elsewhere, which nobody replaces when they die.

    What a test appends to the list (`join`) is ended with them.
    """
    pytest.importorskip("distributed")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        address = f"tcp://127.0.0.1:{probe.getsockname()[1]}"
    start = [sys.executable, "-m", "distributed.cli.dask_scheduler", "--host", address, "--no-dashboard"]
    scheduler = subprocess.Popen(start, **QUIET)
    processes = [join(address) for _ in range(workers)]
    try:
        yield address, processes
    finally:
        for process in (*processes, scheduler):
            process.kill()
            process.wait()


def join(address: str) -> subprocess.Popen:
    """A worker that is on its way to a cluster."""
    start = [sys.executable, "-m", "distributed.cli.dask_worker", address, "--nthreads", "1", "--no-nanny"]
    return subprocess.Popen([*start, "--no-dashboard", "--death-timeout", "60"], **QUIET)

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


@contextlib.contextmanager
def cluster(workers: int) -> Iterator[tuple[str, list[subprocess.Popen]]]:
    """A scheduler's address and its workers: a process each, started elsewhere, which nobody replaces when they die."""
    pytest.importorskip("distributed")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        address = f"tcp://127.0.0.1:{probe.getsockname()[1]}"
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "DASK_DISTRIBUTED__SCHEDULER__ALLOWED_FAILURES": "3"}
    quiet: dict[str, Any] = {
        "stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL, "env": environment, "cwd": "/tmp",
    }  # fmt: skip
    start = [sys.executable, "-m"]
    worker = [*start, "distributed.cli.dask_worker", address, "--nthreads", "1", "--no-nanny", "--no-dashboard"]
    scheduler = subprocess.Popen(
        [*start, "distributed.cli.dask_scheduler", "--host", address, "--no-dashboard"], **quiet
    )
    processes = [subprocess.Popen([*worker, "--death-timeout", "60"], **quiet) for _ in range(workers)]
    try:
        yield address, processes
    finally:
        for process in (*processes, scheduler):
            process.kill()
            process.wait()

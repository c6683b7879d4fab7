"""A process that holds a loader: what is timed, whose CPU and memory count, and how it ends."""

from __future__ import annotations

import itertools
import os
import signal
import time

import numpy as np
import pytest

from cclslr.bench.process import LoaderFailed, LoaderProcess, _is_cached, drop_from_cache


def counting():
    yield from itertools.count()


def sleeping_at_first():
    time.sleep(0.3)
    while True:
        yield 2


def busy():
    while True:
        began = time.process_time()
        while time.process_time() - began < 0.05:
            pass
        yield 1


def with_a_child():
    """Its child holds 100 MB."""
    if os.fork() == 0:
        held = np.ones(100_000_000, np.uint8)
        time.sleep(60)
        print(held[0])
    while True:
        time.sleep(0.05)
        yield 1


def failing():
    yield 1
    raise RuntimeError("no such codec\nand a long story")


def dying():
    yield 1
    os.kill(os.getpid(), signal.SIGSEGV)


def test_what_was_made_ahead_is_not_timed():
    with LoaderProcess(counting, warmup=3) as process:
        assert process.measure(5).clips == 3 + 4  # 0, 1, 2 are dropped
        assert process.measure(1).clips == 8  # 5, 6, 7 are dropped
    with LoaderProcess(sleeping_at_first, warmup=1) as process:
        assert process.measure(4).seconds < 0.3


def test_cpu_and_memory_of_children_count():
    with LoaderProcess(busy, warmup=1) as process:
        alone = process.measure(8)
    assert 0.35 < alone.cpu_seconds < 0.8
    assert alone.cpu_share == pytest.approx(alone.cpu_seconds / alone.seconds / len(os.sched_getaffinity(0)))
    with LoaderProcess(with_a_child, warmup=1) as process:
        assert process.measure(20).peak_rss > alone.peak_rss + 100e6


@pytest.mark.parametrize(("stream", "message"), [(failing, "^no such codec$"), (dying, "exit code -11")])
def test_a_loader_that_fails_says_why(stream, message):
    with LoaderProcess(stream, warmup=1) as process, pytest.raises(LoaderFailed, match=message):
        process.measure(1)


def test_a_file_leaves_the_page_cache(tmp_path):
    path = tmp_path / "clip"
    path.write_bytes(bytes(1 << 20))
    try:
        drop_from_cache(path)  # it looks for itself; another look could find what the first one made the kernel read
    except ValueError as error:
        pytest.skip(str(error))
    with open(path, "rb") as file:
        file.read()
        assert _is_cached(file.fileno())

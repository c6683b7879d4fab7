"""Memory is handed out again when nothing looks at it, and not before."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest
import torch

from cclslr.buffers import Buffers, Kept


def new() -> np.ndarray:
    return np.empty(6, np.uint8)


def address(array: np.ndarray) -> int:
    return int(array.__array_interface__["data"][0])


@pytest.mark.parametrize(
    ("look", "part"),
    [
        (torch.from_numpy, lambda tensor: tensor[3:]),
        (torch.from_numpy, lambda tensor: tensor.numpy()[3:]),
        (memoryview, lambda memory: memory[3:].toreadonly()),
        (memoryview, lambda memory: np.frombuffer(memory[2:], np.float16).reshape(2, 1)),
    ],
)
def test_in_use_as_long_as_a_part_of_it(look: Callable[[Any], Any], part: Callable[[Any], Any]) -> None:
    buffers = Buffers(new)
    array = buffers.take()
    first, whole = address(array), look(array)
    del array
    assert address(buffers.take()) != first
    rest = part(whole)
    del whole
    assert address(buffers.take()) != first, "a part of it is still in use"
    del rest
    assert address(buffers.take()) == first


def test_threads_get_arrays_of_their_own() -> None:
    buffers = Buffers(new)

    def use(number: int) -> int:
        kept: deque[np.ndarray] = deque(maxlen=3)
        for turn in range(300):
            kept.append(buffers.take())
            kept[-1][:] = mark = (number * 31 + turn) % 256
            assert (kept[0] == (mark - len(kept) + 1) % 256).all(), "somebody else wrote there"
        return number

    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(use, range(8))) == list(range(8))
    assert len(buffers) <= 8 * 4


def test_the_one_that_was_unused_longest_goes_first() -> None:
    kept: Kept[str] = Kept(most=2)
    for key in "ab":
        kept.keep(key, f"thing {key}")
    assert kept.take("a") == "thing a"
    assert kept.take("a") is None, "whoever took it has it alone"
    kept.keep("a", "thing a")
    kept.keep("c", "thing c")
    assert [kept.take(key) for key in "abc"] == ["thing a", None, "thing c"]


def test_each_thread_has_its_own() -> None:
    kept: Kept[int] = Kept(most=2)
    kept.keep("a", 1)
    with ThreadPoolExecutor(1) as pool:
        assert pool.submit(kept.take, "a").result() is None
    assert kept.take("a") == 1

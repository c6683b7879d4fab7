"""A program of this project to which something happens: `python accidents.py COMMAND ARGUMENTS`, also under torchrun.

$ACCIDENT is JSON: {"do": one of `DOINGS`, "at": "module.function" that is called, "call": at which call of it, from 0,
"ranks": on which ranks, "folder": where it tells that it has come to it}.
"""

from __future__ import annotations

import importlib
import json
import os
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from cclslr.__main__ import main
from cclslr.console import run_command
from cclslr.training.optimise import Amp

RANK = int(os.environ.get("RANK", "0"))
Call = Callable[[], Any]


def hold(call: Call, folder: Path) -> Any:
    """Wait for a signal before the call: with a handler it goes on, without one it is the end."""
    told = os.open(folder / f"signals-{RANK}", os.O_WRONLY | os.O_CREAT | os.O_NONBLOCK)
    signal.set_wakeup_fd(told)
    (folder / f"held-{RANK}").touch()
    while os.fstat(told).st_size == 0:
        time.sleep(0.01)
    return call()


def die(call: Call, folder: Path) -> Any:
    """SIGKILL, within the call."""
    os.kill(os.getpid(), signal.SIGKILL)


def fail(call: Call, folder: Path) -> Any:
    """A fault of the program."""
    raise RuntimeError(f"rank {RANK} is lost")


def not_finite(call: Call, folder: Path) -> Any:
    """Every gradient of the step is NaN."""
    backward = Amp.backward
    Amp.backward = lambda amp, loss: backward(amp, loss * float("nan"))  # type: ignore[method-assign]
    try:
        return call()
    finally:
        Amp.backward = backward  # type: ignore[method-assign]


def leave_out(call: Call, folder: Path) -> Any:
    """The step without its step of the optimiser, as if that had found out by itself that it must not be made."""

    def nothing(amp: Amp, optimizer: torch.optim.Optimizer) -> torch.Tensor:
        optimizer.zero_grad(set_to_none=not amp.keep_gradients)
        return torch.ones(())

    step = Amp.step
    Amp.step = nothing  # type: ignore[method-assign]
    try:
        return call()
    finally:
        Amp.step = step  # type: ignore[method-assign]


DOINGS = {"hold": hold, "die": die, "fail": fail, "not finite": not_finite, "leave out": leave_out}


def arrange(do: str, at: str, call: int, ranks: list[int], folder: str) -> None:
    """Put the accident into the way of the program."""
    place, name = at.rsplit(".", 1)
    module = importlib.import_module(place)
    real = getattr(module, name)
    count = -1

    def instead(*args: Any, **options: Any) -> Any:
        nonlocal count
        count += 1
        if count != call or RANK not in ranks:
            return real(*args, **options)
        return DOINGS[do](lambda: real(*args, **options), Path(folder))

    setattr(module, name, instead)


if __name__ == "__main__":
    arrange(**json.loads(os.environ["ACCIDENT"]))
    run_command(lambda: main(sys.argv[1:]))

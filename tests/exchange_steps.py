"""A program for tests: `pack --add` killed at every step of putting the new set in the place of the old one.

    python exchange_steps.py FOLDER OLD NEW {add,pack}

FOLDER is empty, OLD and NEW are numbers of clips; add or pack completes what was killed. Prints the steps that there
were. Everything is done in children that are forked from a process without threads.
"""

from __future__ import annotations

import os
import shutil
import signal
import sys
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import webdataset  # noqa: F401  # takes seconds, which no child is to take
from packing import contents

from cclslr.shards import done
from cclslr.shards.add import add
from cclslr.shards.difference import compare
from cclslr.shards.done import READY_NAME
from cclslr.shards.format import ManifestRow, RawClip
from cclslr.shards.pack import PackOptions, pack

OPTIONS = PackOptions("jpeg", 32, "none", clips_per_shard=2)


@dataclass(frozen=True)
class Made:
    number: int

    def load(self) -> RawClip:
        return RawClip(None, np.full((4, 133, 3), 0.5 + self.number, np.float32) / np.float32([1, 1, 99]), 25.0)


def rows(count: int) -> list[ManifestRow]:
    return [ManifestRow(f"c{n}", Made(n), 0, "a", "train", None) for n in range(count)]


def in_child(work: Callable[[], object]) -> int:
    """Runs `work` in a child; 0, its exit code, or minus the signal that killed it."""
    pid = os.fork()
    if pid == 0:
        try:
            work()
        except BaseException:
            traceback.print_exc()
            os._exit(1)
        os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def add_to(out: Path, count: int) -> None:
    add(compare(out, rows(count), OPTIONS, ["a"], drop_gone=True), OPTIONS, workers=0)


def killed(out: Path, count: int, step: int) -> None:
    """As `add_to`, killed before the call number `step` by which the exchange changes a file."""
    calls = 0

    def counted(call: Callable[..., Any]) -> Callable[..., Any]:
        def before(*args: Any, **options: Any) -> Any:
            nonlocal calls
            calls += (out / READY_NAME).exists()
            if calls == step:
                os.kill(os.getpid(), signal.SIGKILL)
            return call(*args, **options)

        return before

    for name in ("replace", "unlink", "rmdir"):
        setattr(os, name, counted(getattr(os, name)))
    Path.unlink = counted(Path.unlink)  # type: ignore[method-assign]
    done.shutil.rmtree = counted(shutil.rmtree)  # type: ignore[attr-defined]
    add_to(out, count)


def main(folder: Path, old: int, new: int, by: str) -> int:
    for count in (old, new):
        assert (
            in_child(lambda count=count: pack(rows(count), folder / str(count), OPTIONS, classes=["a"], workers=0)) == 0
        )
    for step in range(1, 100):
        out = Path(shutil.copytree(folder / str(old), folder / f"step {step}"))
        code = in_child(lambda out=out, step=step: killed(out, new, step))
        if code == 0:
            return step - 1
        assert code == -signal.SIGKILL, code
        again = {"add": add_to, "pack": lambda out, new: pack(rows(new), out, OPTIONS, classes=["a"], workers=0)}[by]
        assert in_child(lambda again=again, out=out: again(out, new)) == 0
        assert contents(out) == contents(folder / str(new)), f"step {step}"
    raise AssertionError("it never ends")


if __name__ == "__main__":
    print("steps", main(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]), sys.argv[4]))

"""Doing one stage, in a worker of the executor: alone in its folder, alone on its GPU, as a process of its own."""

from __future__ import annotations

import contextlib
import fcntl
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from cclslr import __version__
from cclslr.errors import UserError
from cclslr.files import read_json, write_json
from cclslr.study.stage import RESULT, Work, kinds

LOG = "log.txt"


@dataclass(frozen=True)
class Outcome:
    """How a stage ended."""

    seconds: float
    error: str | None  # one line; None: it is done
    ran: bool  # False: another study had done it meanwhile


def run_stage(work: Work) -> Outcome:
    """Run the stage unless it is done; what was begun goes on where it stopped.

    A stage whose inputs failed fails too. Nothing is raised for what a stage does: the others go on.
    """
    began = time.perf_counter()
    if missing := [name for name, folder in work.needs.items() if not (folder / RESULT).exists()]:
        return Outcome(0.0, f"its input {', '.join(missing)} is missing", False)
    work.folder.mkdir(parents=True, exist_ok=True)
    with _alone(work.folder) as lock:
        if (work.folder / RESULT).exists():
            return Outcome(read_json(work.folder / RESULT)["seconds"], None, False)
        kind = kinds()[work.stage.kind]
        try:
            with one_gpu() as gpu:
                for words in kind.commands(work):
                    code = _call(words, work, lock, gpu)
                    if code not in kind.fine:
                        return Outcome(time.perf_counter() - began, _why(work.folder / LOG, code), True)
            scores = kind.scores(work.folder, work.stage.config)
        except (UserError, OSError) as error:
            return Outcome(time.perf_counter() - began, str(error), True)
        seconds = time.perf_counter() - began
        result: dict[str, Any] = {
            "name": work.stage.name, "kind": kind.name, "address": work.stage.address, "config": work.stage.config,
            "inputs": work.stage.inputs, "scores": scores, "seconds": round(seconds, 1), "cclslr": __version__,
        }  # fmt: skip
        write_json(work.folder / RESULT, result)
        return Outcome(seconds, None, True)


@contextlib.contextmanager
def _alone(folder: Path) -> Iterator[IO[str]]:
    """Wait until nobody else works in the folder. The lock is its processes' too, so one that outlives us keeps it."""
    with open(folder / ".stage.lock", "w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield file


@contextlib.contextmanager
def one_gpu() -> Iterator[dict[str, str]]:
    """A GPU for one stage, where this node has several: the environment variable that shows no other."""
    import torch

    count = torch.cuda.device_count()
    if count < 2:
        yield {}
        return
    shown = os.environ.get("CUDA_VISIBLE_DEVICES")
    names = shown.split(",") if shown else [str(number) for number in range(count)]
    with contextlib.ExitStack() as stack:
        files = [stack.enter_context(open(_gpu_lock(name), "w")) for name in names]
        for file, name in zip(files, names):
            with contextlib.suppress(BlockingIOError):
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                yield {"CUDA_VISIBLE_DEVICES": name}
                return
        mine = os.getpid() % count  # more stages at a time than GPUs: wait for one
        fcntl.flock(files[mine], fcntl.LOCK_EX)
        yield {"CUDA_VISIBLE_DEVICES": names[mine]}


def _gpu_lock(name: str) -> Path:
    return Path(tempfile.gettempdir()) / f"cclslr-gpu-{name.replace('/', '_')}-{os.getuid()}.lock"


def _call(words: list[str], work: Work, lock: IO[str], gpu: dict[str, str]) -> int:
    """Run one command of `cclslr`; its exit code."""
    threads = {"OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS", str(work.threads))}
    environment = {**os.environ, **threads, **gpu, "PYTHONUNBUFFERED": "1"}
    with open(work.folder / LOG, "a", encoding="utf-8") as log:
        print(f"$ cclslr {' '.join(words)}", file=log, flush=True)
        process = subprocess.Popen(
            [sys.executable, "-m", "cclslr.study.child", *words],
            stdin=subprocess.PIPE, stdout=log, stderr=subprocess.STDOUT, env=environment, pass_fds=[lock.fileno()],
        )  # fmt: skip
        with process:
            return process.wait()


def _why(log: Path, code: int) -> str:
    """The last line of a log, and where the rest is."""
    lines = [line.strip() for line in log.read_text(encoding="utf-8", errors="replace").splitlines() if line.strip()]
    return f"exit code {code}: {lines[-1]} ({log})"

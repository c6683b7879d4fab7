"""What a run tells: metrics.jsonl and TensorBoard for machines, a live line in the console for people."""

from __future__ import annotations

import json
import math
import time
from pathlib import Path
from typing import Any

from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from torch.utils.tensorboard import SummaryWriter

from cclslr.console import console
from cclslr.files import atomic_write


class Journal:
    """Metrics of a run by step; does nothing on ranks other than 0. Use as a context manager."""

    def __init__(self, run_dir: str | Path, *, active: bool, first_step: int, last_step: int, title: str) -> None:
        self.active = active
        self.path = Path(run_dir) / "metrics.jsonl"
        columns = (TextColumn(title), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
        self.progress = Progress(*columns, TextColumn("{task.description}"), console=console, disable=not active)
        self.task = self.progress.add_task("", total=last_step, completed=first_step)
        self.started = time.perf_counter()
        if active:
            self._drop_from(first_step)

    def _drop_from(self, step: int) -> None:
        """Forget what a killed run wrote after the checkpoint that is now resumed."""
        lines = self.path.read_text(encoding="utf-8").splitlines() if self.path.exists() and step > 0 else []
        kept = [line for line in lines if line.endswith("}") and json.loads(line)["step"] <= step]
        with atomic_write(self.path, "w") as file:
            file.writelines(line + "\n" for line in kept)

    def __enter__(self) -> Journal:
        if self.active:
            self.file = open(self.path, "a", encoding="utf-8")
            self.board = SummaryWriter(str(self.path.parent / "tensorboard"))
        self.progress.start()
        return self

    def __exit__(self, *exception: Any) -> None:
        self.progress.stop()
        if self.active:
            self.file.close()
            self.board.close()

    def write(self, step: int, values: dict[str, Any]) -> None:
        """Append one record; numbers also go to TensorBoard."""
        if not self.active:
            return
        record = {"step": step, "seconds": round(time.perf_counter() - self.started, 3)} | values
        self.file.write(json.dumps(record, allow_nan=True) + "\n")
        self.file.flush()
        for name, value in values.items():
            if isinstance(value, int | float) and math.isfinite(value):
                self.board.add_scalar(name, value, step)

    def show(self, step: int, text: str) -> None:
        """Move the live line."""
        self.progress.update(self.task, completed=step, description=text)

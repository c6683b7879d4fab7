"""The one console: rich on rank 0, silence on the others; progress of long work, as a bar or as lines of a file.

Text is printed as it is: paths, labels and other programs' messages hold square brackets, so markup is off everywhere
and colours are given as styles.
"""

from __future__ import annotations

import os
import sys
import time
import traceback
from collections.abc import Callable
from typing import Any

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    Task,
    TaskID,
    TextColumn,
    TimeRemainingColumn,
)
from rich.text import Text

from cclslr.errors import ExitCode, UserError

console = Console(quiet=os.environ.get("RANK", "0") != "0", highlight=False, markup=False)

LINE_SECONDS, LINE_SHARE, SILENCE_SECONDS = 10.0, 0.01, 600.0


def is_live() -> bool:
    """Whether stdout is a terminal where lines can be drawn again; else it is a file, a pipe or a log."""
    return console.is_terminal and not console.is_dumb_terminal


def duration(seconds: float) -> str:
    """Seconds as people read them: 4.2 s, 0:12:31, 3 d 04:10."""
    if seconds < 59.95:
        return f"{seconds:.1f} s"
    days, rest = divmod(round(seconds), 86400)
    hours, minutes = divmod(rest // 60, 60)
    return f"{days} d {hours:02}:{minutes:02}" if days else f"{hours}:{minutes:02}:{rest % 60:02}"


def roughly(seconds: float) -> str:
    """A time that is a forecast: 40 s, 12 min, 3.5 h, 2.1 d."""
    if seconds < 100:
        return f"{max(1, seconds):.0f} s"
    if seconds < 5700:
        return f"{seconds / 60:.2g} min"
    return f"{seconds / 3600:.2g} h" if seconds < 48 * 3600 else f"{seconds / 86400:.1f} d"


class RateColumn(ProgressColumn):
    """Finished items a second."""

    def __init__(self, unit: str) -> None:
        super().__init__()
        self.unit = unit

    def render(self, task: Task) -> Text:
        return Text(_rate(task, self.unit), style="progress.data.speed")


def _rate(task: Task, unit: str) -> str:
    """Of the whole work when it is done: the newest items alone say nothing of it."""
    speed = task.completed / task.elapsed if task.finished and task.elapsed else task.speed
    return "" if speed is None else f"{speed:.1f} {unit}/s"


def _count(task: Task, unit: str) -> str:
    return f"{task.completed:,.0f}" + ("" if task.total is None else f"/{task.total:,.0f}") + f" {unit}"


class ProgressLines(Progress):
    """Progress for a file: a line when work begins, every ten seconds, and when it is done.

    Long work says less often where it stands: after each hundredth, or every ten minutes where those take longer.
    With `short_is_silent`, work that takes less than ten seconds says nothing at all.
    """

    def __init__(self, unit: str, short_is_silent: bool = False) -> None:
        # Keeps the count and draws nothing; with auto_refresh `track` would count in a thread that ends at once
        super().__init__(console=console, disable=True, auto_refresh=False)
        self.unit, self.short_is_silent = unit, short_is_silent
        self._told: dict[TaskID, tuple[float, float]] = {}  # when the last line was due, and what was done by then
        self._ended: set[TaskID] = set()

    def add_task(self, description: str, *args: Any, **fields: Any) -> TaskID:
        number = super().add_task(description, *args, **fields)
        task = self._task(number)
        self._told[number] = time.perf_counter(), task.completed
        if not self.short_is_silent:
            console.print(f"{description}  {_count(task, self.unit)}".strip(), soft_wrap=True)
        return number

    def advance(self, task_id: TaskID, advance: float = 1) -> None:
        super().advance(task_id, advance)
        self._tell(task_id)

    def update(self, task_id: TaskID, **changes: Any) -> None:
        super().update(task_id, **changes)
        self._tell(task_id)

    def _task(self, number: TaskID) -> Task:
        return next(task for task in self.tasks if task.id == number)

    def _tell(self, number: TaskID) -> None:
        task, now = self._task(number), time.perf_counter()
        when, completed = self._told[number]
        silent, share = now - when, (task.completed - completed) / task.total if task.total else 1.0
        due = silent >= LINE_SECONDS and (share >= LINE_SHARE or silent >= SILENCE_SECONDS)
        if number in self._ended or not (due or task.finished):
            return
        self._told[number] = now, task.completed
        words = [task.description, _count(task, self.unit), _rate(task, self.unit)]
        if task.finished:
            self._ended.add(number)
            if self.short_is_silent and (task.elapsed or 0.0) < LINE_SECONDS:
                return
            words.append(f"done in {duration(task.elapsed or 0.0)}")
        elif task.time_remaining is not None:
            words.append(f"left {duration(task.time_remaining)}")
        console.print("  ".join(word for word in words if word), soft_wrap=True)


def progress_bar(unit: str = "clips") -> Progress:
    """Progress of long work: count, rate in `unit`, time left. Use as a context manager.

    In a terminal a bar; where stdout is a file or a pipe, lines now and then.
    """
    if not is_live():
        return ProgressLines(unit)
    return Progress(
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        MofNCompleteColumn(),
        RateColumn(unit),
        TimeRemainingColumn(elapsed_when_finished=True),
        console=console,
    )


def progress_aside(unit: str = "clips") -> Progress:
    """Progress of work within a program that has the screen for itself: lines of a file where it takes long enough to
    be asked about, nothing in a terminal."""
    if is_live():
        return Progress(console=console, disable=True)
    return ProgressLines(unit, short_is_silent=True)


def run_command(main: Callable[[], int | None]) -> None:
    """Run a command's `main` and end the process with its exit code.

    A `UserError` or `OSError` (a full disk, a folder that may not be written) becomes one line on stderr, a bug of ours
    its traceback. The codes: `cclslr.errors.ExitCode`.
    """
    try:
        code = main()
    except (Exception, KeyboardInterrupt) as error:
        code = report_error(error)
    sys.exit(code or ExitCode.DONE)


def report_error(error: BaseException) -> int:
    """Tell what ended a command: one line or, for a bug of ours, the traceback. Returns the exit code."""
    if isinstance(error, KeyboardInterrupt):
        return ExitCode.CTRL_C
    if isinstance(error, UserError | OSError):
        line = Text.assemble(("error: ", "bold red"), str(error))
        Console(stderr=True, highlight=False).print(line, soft_wrap=True)
        return ExitCode.REFUSED
    traceback.print_exception(error)
    return ExitCode.BUG

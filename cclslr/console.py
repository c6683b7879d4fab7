"""The one console: rich on rank 0, silence on the others; progress bars with rate and time left."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, ProgressColumn, Task, TextColumn, TimeRemainingColumn
from rich.text import Text

console = Console(quiet=os.environ.get("RANK", "0") != "0", highlight=False)


class RateColumn(ProgressColumn):
    """Finished items a second."""

    def __init__(self, unit: str) -> None:
        super().__init__()
        self.unit = unit

    def render(self, task: Task) -> Text:
        speed = task.finished_speed or task.speed
        return Text("-" if speed is None else f"{speed:.1f} {self.unit}/s", style="progress.data.speed")


def progress_bar(unit: str = "clips") -> Progress:
    """A progress bar for long work: count, rate in `unit`, time left. Use as a context manager."""
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        RateColumn(unit),
        TimeRemainingColumn(),
        console=console,
    )


def run_tool(main: Callable[[], int | None]) -> None:
    """Run a command's `main`; errors meant for users become one line on stderr and exit code 2."""
    try:
        code = main()
    except (ValueError, FileNotFoundError, FileExistsError, NotADirectoryError) as error:
        Console(stderr=True, highlight=False).print(f"[bold red]error:[/] {escape(str(error))}", soft_wrap=True)
        code = 2
    except KeyboardInterrupt:
        code = 130
    sys.exit(code or 0)

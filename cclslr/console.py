"""The one console: rich on rank 0, silence on the others; progress bars with rate and time left.

Text is printed as it is: paths, labels and other programs' messages hold square brackets, so markup is off everywhere
and colours are given as styles.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, ProgressColumn, Task, TextColumn, TimeRemainingColumn
from rich.text import Text

from cclslr.errors import UserError

console = Console(quiet=os.environ.get("RANK", "0") != "0", highlight=False, markup=False)


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
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        MofNCompleteColumn(),
        RateColumn(unit),
        TimeRemainingColumn(),
        console=console,
    )


def run_command(main: Callable[[], int | None]) -> None:
    """Run a command's `main` and end the process with its exit code.

    A `UserError` or `OSError` (a full disk, a folder that may not be written) becomes one line on stderr and code 2,
    Ctrl-C code 130. Code 1 is the commands' own: they ran, and some clips were rejected or some faults found.
    """
    try:
        code = main()
    except (UserError, OSError) as error:
        line = Text.assemble(("error: ", "bold red"), str(error))
        Console(stderr=True, highlight=False).print(line, soft_wrap=True)
        code = 2
    except KeyboardInterrupt:
        code = 130
    sys.exit(code or 0)

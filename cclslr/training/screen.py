"""What a person sees of a run: a board in a terminal that redraws itself, and plain lines for a file.

Both are made of the same cells, and those of one record (`cclslr.training.record`).
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Any

from rich.console import Console, Group
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from cclslr.console import duration
from cclslr.training.record import SCORES, numbers

GAP = "  "


def loss_cells(values: Mapping[str, Any]) -> list[Text]:
    """The total loss and its terms."""
    return [
        Text(f"{name} {value:#.4g}", "bold red" if not math.isfinite(value) else "bold" if name == "loss" else "")
        for name, value in numbers(values, "loss").items()
    ]


def speed_cells(values: Mapping[str, Any]) -> list[Text]:
    """Learning rate, clips a second, waiting by cause, what was skipped or quarantined, memory."""
    cells = []
    if "lr" in values:
        cells.append(Text(f"lr {values['lr']:.3g}"))
    if values.get("clips_per_second"):  # 0 before there is an interval to speak of
        cells.append(Text(f"{values['clips_per_second']:.1f} clips/s"))
    if "waiting" in values:
        causes = {name.removeprefix("wait_"): value for name, value in values.items() if name.startswith("wait_")}
        told = ", ".join(f"{cause} {100 * share:.0f}" for cause, share in causes.items() if share >= 0.005)
        style = "yellow" if values["waiting"] > 0.05 else ""
        cells.append(Text(f"waiting {100 * values['waiting']:.0f} %" + (f" ({told})" if told else ""), style))
    if "skipped_steps" in values:
        skipped = int(values["skipped_steps"])
        cells.append(Text(f"skipped {skipped}", "bold red" if skipped else ""))
    if values.get("quarantined"):
        cells.append(Text(f"quarantined {values['quarantined']}", "yellow"))
    if "memory_gb" in values:
        cells.append(Text(f"memory {values['memory_gb']:.1f} GB"))
    return cells


def score_cells(group: str, values: Mapping[str, Any]) -> list[Text]:
    """Scores in percent, and how long they took."""
    found = {name.removeprefix(f"{group}_"): value for name, value in numbers(values, group).items()}
    seconds = found.pop("seconds", None)
    cells = [Text(f"{name} {value:.1f} %") for name, value in found.items()]
    return cells if seconds is None or not cells else [*cells, Text(f"in {duration(seconds)}")]


def wrap(cells: Iterable[Text], width: int) -> list[Text]:
    """Cells side by side in as many lines as they need; no cell is cut while it fits the width alone."""
    lines: list[Text] = []
    for cell in cells:
        if lines and lines[-1].cell_len + len(GAP) + cell.cell_len <= width:
            lines[-1].append(GAP).append_text(cell)
        else:
            lines.append(Text().append_text(cell))  # not the cell itself: its style would be that of the whole line
    return lines


def plain_lines(step: int, last_step: int, values: Mapping[str, Any]) -> list[str]:
    """What a log file says of a record: one line of the step, and one for each kind of score; [] if nothing is told."""
    lines = []
    if "loss" in values:
        cells = [Text(f"step {step}/{last_step}")]
        if "epoch" in values:
            cells.append(Text(f"epoch {values['epoch']:.2f}"))
        cells += loss_cells(values) + speed_cells(values)
        if "seconds_left" in values:
            cells.append(Text(f"left {duration(values['seconds_left'])}"))
        lines.append(GAP.join(cell.plain for cell in cells))
    for group, title in SCORES.items():
        if cells := score_cells(group, values):
            lines.append(GAP.join([f"step {step}/{last_step}", title, *(cell.plain for cell in cells)]))
    return lines


class Board:
    """The live board of a terminal. Use as a context manager."""

    def __init__(self, console: Console, title: str, first_step: int, last_step: int) -> None:
        self.console, self.title, self.step, self.last_step = console, title, first_step, last_step
        self.latest: dict[str, Any] = {}
        self.scored: dict[str, tuple[float, dict[str, Any]]] = {}  # kind of score → epoch and the newest values
        self.checkpoint: Text | None = None
        self.live = Live(console=console, auto_refresh=False, get_renderable=self.render)

    def __enter__(self) -> Board:
        self.live.start(refresh=True)
        return self

    def __exit__(self, *exception: Any) -> None:
        self.live.stop()

    def show(self, step: int, values: Mapping[str, Any]) -> None:
        """Show a record; what it does not mention stays."""
        self.step = step
        if "loss" in values:
            self.latest = dict(values)
        for group in SCORES:
            if numbers(values, group):
                self.scored[group] = (values.get("epoch", self.latest.get("epoch", 0.0)), dict(values))
        self.live.refresh()

    def saved(self, step: int, name: str, seconds: float) -> None:
        """Show the newest checkpoint."""
        self.checkpoint = Text(f"{name} at step {step}, written in {duration(seconds)}", "dim")
        self.live.refresh()

    def render(self) -> Group:
        """The board at the console's present width."""
        head = Table.grid(padding=(0, 2), expand=True)
        for ratio in (None, 1, None, None, None):
            head.add_column(ratio=ratio, no_wrap=True)
        epoch, left = self.latest.get("epoch"), self.latest.get("seconds_left")
        head.add_row(
            Text(self.title, "bold"),
            ProgressBar(total=max(self.last_step, 1), completed=self.step),
            Text(f"{self.step:,}/{self.last_step:,}"),
            Text("" if epoch is None else f"epoch {epoch:.2f}"),
            Text("" if left is None else f"left {duration(left)}"),
        )
        width = self.console.width
        if not self.latest:
            return Group(head, Text("waiting for the first figures", "dim"))
        lines = wrap(loss_cells(self.latest), width) + wrap(speed_cells(self.latest), width)
        for group, (epoch, values) in self.scored.items():
            lines += wrap([Text(f"{SCORES[group]} at epoch {epoch:.2f}"), *score_cells(group, values)], width)
        return Group(head, *lines, *([] if self.checkpoint is None else wrap([self.checkpoint], width)))

"""What a run tells, from one record a step: metrics.jsonl and TensorBoard, a screen and log.txt for people."""

from __future__ import annotations

import json
import time
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
from torch.utils.tensorboard import SummaryWriter

from cclslr.console import console, duration, is_live
from cclslr.files import atomic_write
from cclslr.inspect.contact import save_png
from cclslr.training.folder import config_yaml, describe_run
from cclslr.training.record import group_of, numbers, read_metrics
from cclslr.training.screen import Board, plain_lines
from cclslr.training.writer import Written

DRAW_SECONDS = 300.0  # results.png takes half a second, so not with every checkpoint


class Journal:
    """Metrics of a run by step; does nothing on ranks other than 0. Use as a context manager.

    A terminal shows a board that redraws itself (`cclslr.training.screen.Board`). Where stdout is a file or a pipe, the
    lines of log.txt appear there too.
    """

    def __init__(self, run_dir: str | Path, *, active: bool, first_step: int, last_step: int, title: str) -> None:
        self.run_dir, self.active = Path(run_dir), active
        self.path = self.run_dir / "metrics.jsonl"
        self.first_step, self.last_step, self.title = first_step, last_step, title
        self.skipped, self.skipping = 0, False
        self.advised = False
        self.advice: str | None = None
        self.started = self.drawn = time.perf_counter()
        self.cpu_started = time.process_time()
        if active:
            self._drop_from(first_step)

    def _drop_from(self, step: int) -> None:
        """Forget what a killed run wrote after the checkpoint that is now resumed, and its broken last line.

        The clocks go on from what is kept: what a kill undid counts for nothing.
        """
        kept = [record for record in read_metrics(self.path) if record["step"] <= step] if step > 0 else []
        with atomic_write(self.path, "w") as file:
            file.writelines(json.dumps(record) + "\n" for record in kept)
        if kept:
            self.started -= kept[-1].get("seconds", 0.0)
            self.cpu_started -= kept[-1].get("cpu_seconds", 0.0)

    def __enter__(self) -> Journal:
        with ExitStack() as stack:
            if self.active:
                self.file = stack.enter_context(open(self.path, "a", encoding="utf-8"))
                self.log = stack.enter_context(open(self.run_dir / "log.txt", "a", encoding="utf-8"))
                self.tensorboard = SummaryWriter(str(self.run_dir / "tensorboard"), purge_step=self.first_step + 1)
                stack.callback(self.tensorboard.close)
                self.board = Board(console, self.title, self.first_step, self.last_step) if is_live() else None
                if self.board is not None:
                    stack.enter_context(self.board)
            self.open_things = stack.pop_all()
        return self

    def __exit__(self, *exception: Any) -> None:
        if self.advice is not None:
            self.note(f"at the end of the run: {self.advice}")
        self.open_things.close()
        if self.active:
            self._draw()

    def write(self, step: int, values: dict[str, Any]) -> None:
        """Append one record to metrics.jsonl, send its numbers to TensorBoard, and show it to people.

        A record begins with `step`, and with the time that the run has taken so far, over all its starts: `seconds` by
        the clock, `cpu_seconds` of the processor by all threads of this process.

        `values` by name: the total "loss" and its terms, what `cclslr.training.record.GROUPS` lists, scores in percent
        (knn_…, val_… and how long they took, knn_seconds, val_seconds), and anything else, for metrics.jsonl alone.
        """
        if not self.active:
            return
        taken = {"seconds": time.perf_counter() - self.started, "cpu_seconds": time.process_time() - self.cpu_started}
        record = {"step": step} | {name: round(value, 3) for name, value in taken.items()} | values
        self.file.write(json.dumps(record) + "\n")
        self.file.flush()
        for name, value in numbers(values).items():
            self.tensorboard.add_scalar(f"{group_of(name)}/{name}", value, step)
        for line in plain_lines(step, self.last_step, values):
            self._line(line)
        if "skipped_steps" in values:
            self._tell_skipping(step, int(values["skipped_steps"]))
        if self.board is not None:
            self.board.show(step, values)

    def _tell_skipping(self, step: int, skipped: int) -> None:
        """Say in a line of its own when steps begin to be skipped."""
        more = skipped - self.skipped
        if more and not self.skipping:
            self.note(
                f"step {step}: {more} step(s) since the last line were skipped, their gradients were not finite (NaN or"
                f" infinite); {skipped} so far"
            )
        self.skipped, self.skipping = skipped, more > 0

    def saved(self, written: Written) -> None:
        """Tell that a checkpoint was written, how long that took, and how much of it training waited."""
        if not self.active:
            return
        self.tensorboard.add_scalar("speed/checkpoint_seconds", written.seconds, written.step)
        self.tensorboard.add_scalar("speed/checkpoint_waited", written.waited, written.step)
        told = f"{written.name} written in {duration(written.seconds)}, training waited {duration(written.waited)}"
        self._line(f"step {written.step}/{self.last_step}  checkpoint {told}")
        if self.board is not None:
            self.board.saved(written.step, written.name, written.seconds)
        if time.perf_counter() - self.drawn > DRAW_SECONDS:
            self._draw()

    def _draw(self) -> None:
        from cclslr.training.curves import save_results  # matplotlib takes a second to import; other ranks do without

        save_results(self.run_dir)
        self.drawn = time.perf_counter()

    def note(self, text: str) -> None:
        """A line that stays on screen, in a terminal too."""
        if self.active:
            self._line(text)
            if self.board is not None:
                console.print(text, style="yellow")

    def _line(self, text: str) -> None:
        self.log.write(text + "\n")
        self.log.flush()
        if self.board is None:
            console.print(text, soft_wrap=True)

    def advise(self, advice: str | None) -> None:
        """What the loader needs (`cclslr.training.advice`): the first word is told at once, the newest at the end."""
        if advice is not None and not self.advised:
            self.note(advice)
            self.advised = True
        self.advice = advice

    def describe(self, cfg: Any) -> None:
        """The config of the run and the machine: config.yaml, environment.json, and a text of TensorBoard."""
        if self.active:
            describe_run(self.run_dir, cfg)
            self.tensorboard.add_text("config", "\n".join(f"    {line}" for line in config_yaml(cfg).splitlines()))

    def first_batch(self, sheet_HWC: np.ndarray) -> None:
        """The sheet of the first batch since the start, uint8 (H, W, 3), for TensorBoard and as first_batch.png."""
        if self.active:
            self.tensorboard.add_image("first_batch", sheet_HWC, self.first_step, dataformats="HWC")
            save_png(self.run_dir / "first_batch.png", sheet_HWC)

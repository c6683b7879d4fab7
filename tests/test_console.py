"""Long work is seen in a terminal and in a file alike."""

from __future__ import annotations

import io
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from cclslr import console as module
from cclslr.console import ProgressLines, duration, progress_aside, progress_bar


class Clock:
    """Stands in for the `time` of a module."""

    def __init__(self) -> None:
        self.now = 1000.0

    def perf_counter(self) -> float:
        return self.now

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def file(monkeypatch) -> io.StringIO:
    file = io.StringIO()
    monkeypatch.setattr(module, "console", Console(file=file, markup=False, highlight=False))
    return file


@pytest.fixture
def clock(monkeypatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(module, "time", clock)
    return clock


def work(clock: Clock, items: int, seconds_each: float, tracked: bool = False) -> None:
    with progress_bar("clips") as bar:
        bar.get_time = clock.monotonic
        if tracked:
            for _ in bar.track(range(items), description="packing [x]"):
                clock.now += seconds_each
            return
        task = bar.add_task("packing [x]", total=items)
        for _ in range(items):
            clock.now += seconds_each
            bar.advance(task)


@pytest.mark.parametrize("tracked", [False, True])
def test_a_file_gets_lines_and_no_control_codes(file, clock, tracked):
    work(clock, 60, 1.0, tracked)
    lines = file.getvalue().splitlines()
    assert lines[0] == "packing [x]  0/60 clips"
    assert lines[-1] == "packing [x]  60/60 clips  1.0 clips/s  done in 0:01:00"
    assert [int(re.search(r"(\d+)/60", line).group(1)) for line in lines[1:-1]] == [10, 20, 30, 40, 50]
    assert all("left " in line for line in lines[1:-1])
    assert "\x1b" not in file.getvalue()


@pytest.mark.parametrize(("hours", "fewest", "most"), [(1, 90, 110), (10, 55, 110), (100, 400, 602)])
def test_long_work_does_not_fill_its_log(file, clock, hours, fewest, most):
    work(clock, 2000, 3600 * hours / 2000)
    assert fewest <= len(file.getvalue().splitlines()) <= most


def test_work_that_ends_at_once_says_so_once(file, clock):
    work(clock, 3, 0.1)
    assert len(file.getvalue().splitlines()) == 2
    with progress_bar("clips") as bar:
        bar.update(bar.add_task("again", total=5), completed=5, description="over")
    assert file.getvalue().splitlines()[3].startswith("over  5/5 clips")


@pytest.mark.parametrize("seconds_each", [0.05, 2.0])
def test_work_beside_a_training_is_told_of_when_it_is_long(file, clock, monkeypatch, seconds_each):
    with progress_aside() as progress:
        progress.get_time = clock.monotonic
        task = progress.add_task("evaluating", total=100)
        for done in range(0, 101, 4):
            progress.update(task, completed=done)
            clock.now += 4 * seconds_each
    lines = file.getvalue().splitlines()
    if seconds_each < 1:
        assert lines == []
    else:
        assert [int(re.search(r"(\d+)/100 clips", line).group(1)) for line in lines] == [*range(8, 100, 8), 100]
        assert "left " in lines[0]
        assert lines[-1].endswith("done in 0:03:20")
    terminal = io.StringIO()
    monkeypatch.setattr(module, "console", Console(file=terminal, force_terminal=True))
    with progress_aside() as progress:
        progress.update(progress.add_task("evaluating", total=1), completed=1)
    assert terminal.getvalue() == ""


def test_a_terminal_gets_a_bar(monkeypatch):
    terminal = io.StringIO()
    monkeypatch.setattr(module, "console", Console(file=terminal, force_terminal=True, width=80))
    with progress_bar() as bar:
        assert not isinstance(bar, ProgressLines)
        bar.advance(bar.add_task("packing", total=1))
    assert "1/1" in terminal.getvalue()
    monkeypatch.setattr(module, "console", Console(file=terminal, force_terminal=True, _environ={"TERM": "dumb"}))
    assert isinstance(progress_bar(), ProgressLines)


@given(st.floats(0, 1e8))
def test_durations_read_back_to_what_they_were(seconds):
    text = duration(seconds)
    if match := re.fullmatch(r"([\d.]+) s", text):
        assert float(match.group(1)) == pytest.approx(seconds, abs=0.051)
        assert float(match.group(1)) < 60
    elif match := re.fullmatch(r"(\d+):(\d\d):(\d\d)", text):
        hours, minutes, rest = map(int, match.groups())
        assert (hours * 60 + minutes) * 60 + rest == pytest.approx(seconds, abs=0.51)
        assert hours < 24
    else:
        days, hours, minutes = map(int, re.fullmatch(r"(\d+) d (\d\d):(\d\d)", text).groups())
        assert ((days * 24 + hours) * 60 + minutes) * 60 == pytest.approx(seconds, abs=61)

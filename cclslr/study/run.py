"""Running a study: its stages over the executor, told as they end, with the time left."""

from __future__ import annotations

import os
import time
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path
from statistics import mean

from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

from cclslr.console import console, duration, is_live
from cclslr.files import read_json
from cclslr.shards.executor import run_graph
from cclslr.study.graph import Graph
from cclslr.study.stage import RESULT, Work
from cclslr.study.work import Outcome, run_stage


@dataclass(frozen=True)
class Place:
    """Where a study's stages lie and who does them."""

    store: Path  # folders of stages, shared by all studies
    workers: int = 1  # stages at a time on this machine
    scheduler: str | None = None  # of a dask cluster, instead

    @property
    def threads(self) -> int:
        """Of the processor, for each stage."""
        return 1 if self.scheduler is not None else max(1, len(os.sched_getaffinity(0)) // max(1, self.workers))


def run(graph: Graph, place: Place, log: Path) -> dict[str, str]:
    """Run what is not there yet; the errors of stages that failed, by address.

    Stages run as soon as their inputs are there, those that a cell with an early place needs first. Each that ends is a
    line in the console and in `log`.
    """
    todo = [address for address, stage in graph.stages.items() if not stage.is_done(place.store)]
    clock = Clock(graph, place)
    errors: dict[str, str] = {}
    log.parent.mkdir(parents=True, exist_ok=True)
    columns = (TextColumn("{task.description}", markup=False), BarColumn(), MofNCompleteColumn())
    with open(log, "a", encoding="utf-8") as file, Progress(*columns, console=console, disable=not is_live()) as bar:

        def tell(text: str) -> None:
            console.print(text, soft_wrap=True)
            print(time.strftime("%Y-%m-%d %H:%M:%S"), text, file=file, flush=True)

        tell(f"{len(graph.stages)} stages, {len(graph.stages) - len(todo)} are there; {clock.left(todo)}")
        shown = bar.add_task("stages", total=len(graph.stages), completed=len(graph.stages) - len(todo))
        left = list(todo)
        number = {address: i for i, address in enumerate(todo)}
        after = [[number[each] for each in graph.after(address) if each in number] for address in todo]
        work = [prepare(graph, address, place) for address in todo]
        for i, outcome in run_graph(run_stage, work, after=after, workers=place.workers, scheduler=place.scheduler):
            left.remove(todo[i])
            clock.note(todo[i], outcome)
            if outcome.error is not None:
                errors[todo[i]] = outcome.error
            done = len(graph.stages) - len(left)
            how = duration(outcome.seconds) if outcome.error is None else f"FAILED, {outcome.error}"
            tell(f"[{done}/{len(graph.stages)}] {graph.title(todo[i])}: {how}; {clock.left(left)}")
            bar.update(shown, completed=done, description=clock.left(left))
    return errors


def prepare(graph: Graph, address: str, place: Place) -> Work:
    """The task of one stage."""
    stage = graph.stages[address]
    inputs = {
        word: [graph.stages[each].output(place.store) for each in addresses] for word, addresses in stage.inputs.items()
    }
    needs = {graph.stages[each].name: graph.stages[each].folder(place.store) for each in graph.after(address)}
    return Work(graph.title(address), stage, stage.folder(place.store), inputs, needs, place.threads)


class Clock:
    """How long it will take: a stage takes as long as the mean of those of its name that are done."""

    def __init__(self, graph: Graph, place: Place) -> None:
        self.graph, self.workers = graph, max(1, place.workers)
        self.seconds: dict[str, list[float]] = defaultdict(list)
        for stage in graph.stages.values():
            if stage.is_done(place.store):
                self.seconds[stage.name].append(read_json(stage.folder(place.store) / RESULT)["seconds"])

    def note(self, address: str, outcome: Outcome) -> None:
        if outcome.error is None:
            self.seconds[self.graph.stages[address].name].append(outcome.seconds)

    def left(self, todo: list[str]) -> str:
        """The time that `todo` takes, as far as it is known."""
        names = [self.graph.stages[address].name for address in todo]
        known = sum(mean(self.seconds[name]) for name in names if self.seconds[name]) / self.workers
        unknown = sorted({name for name in names if not self.seconds[name]})
        words = [f"left {duration(known)}"] if known or not unknown else []
        return " and ".join([*words, *(f"{names.count(name)} x {name}" for name in unknown)])

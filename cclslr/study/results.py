"""From the scores of stages to results: every cell and seed, means, and differences paired by seed."""

from __future__ import annotations

import csv
import math
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

from cclslr.files import atomic_write, read_json
from cclslr.study.graph import Graph
from cclslr.study.spec import Study
from cclslr.study.stage import RESULT


@dataclass(frozen=True)
class Result:
    """One number: a metric of one branch, of one stage of one cell, at one seed."""

    cell: str
    place: dict[str, str]  # the cell's value on each axis
    seed: int
    stage: str
    branch: str
    metric: str
    value: float

    def get(self, name: str) -> str | None:
        """The value on an axis, or of cell, stage, branch or metric."""
        return self.place.get(name) or (str(getattr(self, name)) if name in self.__dataclass_fields__ else None)


@dataclass(frozen=True)
class Mean:
    """Mean and standard deviation (n - 1) over seeds."""

    mean: float
    deviation: float | None  # None: one seed
    n: int

    @property
    def standard_error(self) -> float | None:
        return None if self.deviation is None else self.deviation / math.sqrt(self.n)

    def __str__(self) -> str:
        spread = "" if self.deviation is None else f" ± {self.deviation:.1f}"
        return f"{self.mean:.1f}{spread} ({self.n})"


@dataclass(frozen=True)
class Difference:
    """How far a cell is above the one that it is compared with, over the seeds that both have."""

    cell: str
    against: str
    stage: str
    branch: str
    metric: str
    difference: float
    standard_error: float | None  # of the mean of the differences, seed by seed; None: one seed
    n: int

    def __str__(self) -> str:
        spread = "" if self.standard_error is None else f" ± {self.standard_error:.1f}"
        return f"{self.difference:+.1f}{spread} ({self.n})"


def collect(study: Study, graph: Graph, store: Path) -> list[Result]:
    """The scores of every stage that is done, in the order of cells and seeds."""
    results = []
    for cell, seed, address in graph.reports:
        stage = graph.stages[address]
        if not stage.is_done(store):
            continue
        for branch, metrics in read_json(stage.folder(store) / RESULT)["scores"].items():
            for metric, value in metrics.items():
                results.append(Result(cell.name, cell.place, seed, stage.name, branch, metric, value))
    return results


def mean_of(values: Sequence[float]) -> Mean:
    """Mean, standard deviation and count of at least one value."""
    return Mean(fmean(values), stdev(values) if len(values) > 1 else None, len(values))


def summarise(results: Iterable[Result]) -> list[dict[str, Any]]:
    """A row for each cell, stage, branch and metric."""
    groups: dict[tuple[str, str, str, str], list[Result]] = defaultdict(list)
    for each in results:
        groups[each.cell, each.stage, each.branch, each.metric].append(each)
    return [
        {**group[0].place, "stage": stage, "branch": branch, "metric": metric}
        | asdict(mean_of([each.value for each in group]))
        for (_, stage, branch, metric), group in groups.items()
    ]


def differences(study: Study, results: Iterable[Result]) -> list[Difference]:
    """Every cell against its partner, by branch and metric; seeds that only one of them has are left out.

    Both had the same data, the same draw of labels and the same initial weights at a seed: their difference varies less
    than either.
    """
    by_seed: dict[tuple[str, str, str, str], dict[int, float]] = defaultdict(dict)
    stages: dict[tuple[str, str, str], list[str]] = defaultdict(list)
    for each in results:
        by_seed[each.cell, each.stage, each.branch, each.metric][each.seed] = each.value
        if each.stage not in (of_cell := stages[each.cell, each.branch, each.metric]):
            of_cell.append(each.stage)
    found = []
    for cell in study.cells:
        partner = study.partner(cell)
        if partner is None:
            continue
        for (name, stage, branch, metric), mine in by_seed.items():
            others = stages.get((partner.name, branch, metric), [])
            if name != cell.name or not others:
                continue
            # A baseline has another stage than a network: it is compared with the first that has the metric.
            theirs = by_seed[partner.name, stage if stage in others else others[0], branch, metric]
            if both := sorted(mine.keys() & theirs.keys()):
                d = mean_of([mine[seed] - theirs[seed] for seed in both])
                found.append(Difference(name, partner.name, stage, branch, metric, d.mean, d.standard_error, d.n))
    return found


def write_csv(path: Path, rows: Sequence[dict[str, Any]]) -> None:
    """Rows as a CSV file; its columns are all keys that occur."""
    columns = list(dict.fromkeys(key for row in rows for key in row))
    with atomic_write(path, "w") as file:
        writer = csv.DictWriter(file, columns, lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)


def wide(results: Iterable[Result]) -> list[dict[str, Any]]:
    """A row for each cell, seed, stage and branch; a column for each metric."""
    rows: dict[tuple[str, int, str, str], dict[str, Any]] = {}
    for each in results:
        key = (each.cell, each.seed, each.stage, each.branch)
        head = {**each.place, "seed": each.seed, "stage": each.stage, "branch": each.branch}
        rows.setdefault(key, head)[each.metric] = each.value
    return list(rows.values())

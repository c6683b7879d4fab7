"""Time to accuracy: which cells reach the target, what each costs, both beside the cell that they are compared with.

Accuracies differ, costs are ratios; both are taken seed by seed.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

from matplotlib.figure import Figure

from cclslr.study.results import Difference, Mean, Result, mean_of
from cclslr.study.spec import Study, TargetSpec
from cclslr.study.tables import EMPTY, Table


@dataclass(frozen=True)
class Reached:
    """How far one cell comes in one branch."""

    cell: str
    branch: str
    aim: float
    accuracy: Mean
    seeds_reached: int  # seeds that come to the aim by themselves
    difference: Difference | None  # from the cell that it is compared with

    @property
    def reached(self) -> bool:
        """Whether the mean over seeds does."""
        return self.accuracy.mean >= self.aim

    @property
    def compared(self) -> str:
        """Equal within one standard error of the paired difference, or better, or worse; empty where none is."""
        if self.difference is None or self.difference.standard_error is None:
            return ""
        if abs(self.difference.difference) <= self.difference.standard_error:
            return "equal"
        return "better" if self.difference.difference > 0 else "worse"


@dataclass(frozen=True)
class CostOf:
    """One cost of one cell."""

    cell: str
    metric: str
    value: Mean
    against: str | None
    ratio: Mean | None  # to the other cell's, over the seeds that both have


def reached(study: Study, results: Sequence[Result], found: Sequence[Difference]) -> list[Reached]:
    """Every cell and branch that the target names, in the order of the file."""
    target, by = _target(study), _by_seed(results)
    differences = {(each.cell, each.branch): each for each in found if each.metric == target.metric}
    told = []
    for cell in study.cells:
        for branch, aim in target.at_least.items():
            if of_seed := by.get((cell.name, branch, target.metric)):
                values = list(of_seed.values())
                hits = sum(value >= aim for value in values)
                told.append(
                    Reached(cell.name, branch, aim, mean_of(values), hits, differences.get((cell.name, branch)))
                )
    return told


def costs(study: Study, results: Sequence[Result]) -> list[CostOf]:
    """Every cost of every cell that reports it, in the order of the file."""
    by: dict[tuple[str, str], dict[int, float]] = defaultdict(dict)
    for each in results:
        by[each.cell, each.metric][each.seed] = each.value
    told = []
    for cell in study.cells:
        partner = study.partner(cell)
        for metric in _target(study).costs:
            mine = by.get((cell.name, metric))
            if not mine:
                continue
            theirs = by.get((partner.name, metric), {}) if partner is not None else {}
            ratios = [mine[seed] / theirs[seed] for seed in sorted(mine.keys() & theirs.keys())]
            against = partner.name if partner is not None and ratios else None
            told.append(
                CostOf(cell.name, metric, mean_of(list(mine.values())), against, mean_of(ratios) if ratios else None)
            )
    return told


def cost_table(study: Study, told: Sequence[CostOf]) -> Table:
    """A row a cell; for each cost its mean and its ratio to the other cell's."""
    by = {(each.cell, each.metric): each for each in told}
    metrics = [metric for metric in _target(study).costs if any(each.metric == metric for each in told)]
    head = ["cell", *(text for metric in metrics for text in (metric, "ratio"))]
    rows = []
    for cell in dict.fromkeys(each.cell for each in told):
        row = [cell]
        for metric in metrics:
            each = by.get((cell, metric))
            row += [EMPTY, EMPTY] if each is None else [str(each.value), _ratio(each.ratio)]
        rows.append(row)
    against = ", ".join(dict.fromkeys(each.against for each in told if each.against is not None))
    note = "Mean ± standard deviation (seeds)." + (f" Ratios are to {against}, seed by seed." if against else "")
    return Table("What a pre-training costs", head, rows, note)


def reached_table(study: Study, told: Sequence[Reached]) -> Table:
    """A row for each cell and branch: accuracy, the target, and what it is beside the other cell."""
    rows = []
    for each in told:
        mark = f"{'yes' if each.reached else 'no'}, {each.seeds_reached} of {each.accuracy.n} seeds"
        difference = EMPTY if each.difference is None else str(each.difference)
        rows.append(
            [each.cell, each.branch, str(each.accuracy), f"{each.aim:g}", mark, difference, each.compared or EMPTY]
        )
    against = ", ".join(dict.fromkeys(each.difference.against for each in told if each.difference is not None))
    head = ["cell", "branch", f"{_target(study).metric} (%)", "target", "reached", "difference ± standard error", "is"]
    note = "Reached: the mean over seeds, and how many seeds do. "
    if against:
        note += (
            f"Differences are from {against}, seed by seed; equal means that their mean is within one standard error "
            "of 0."
        )
    return Table("Accuracy that it reaches", head, rows, note.strip())


def draw_target(study: Study, told: Sequence[Reached], prices: Sequence[CostOf]) -> Figure | None:
    """Accuracy over the first of the costs, a panel a branch, with the target as a line; None without costs."""
    metric = _target(study).costs[0]
    price = {each.cell: each.value for each in prices if each.metric == metric}
    if not price:
        return None
    branches = list(dict.fromkeys(each.branch for each in told))
    figure = Figure(figsize=(3.4 * len(branches) + 1, 4.4), layout="constrained")
    panels = figure.subplots(1, len(branches), squeeze=False)[0]
    cells = list(dict.fromkeys(each.cell for each in told))
    for axes, branch in zip(panels, branches, strict=True):
        for each in told:
            if each.branch == branch:
                cost = price.get(each.cell, Mean(0.0, None, 0))  # a cell without pre-training
                axes.errorbar(
                    cost.mean, each.accuracy.mean, each.accuracy.deviation or 0.0, cost.deviation or 0.0,
                    marker="o", capsize=3, linestyle="none", color=f"C{cells.index(each.cell)}",
                    label=each.cell if axes is panels[0] else None,
                )  # fmt: skip
                axes.axhline(each.aim, color="grey", linestyle="--", linewidth=1)
        axes.set_title(branch, parse_math=False)
        axes.set_xlabel(f"{metric} of pre-training", parse_math=False)
        axes.set_xlim(left=-0.05 * max(value.mean for value in price.values()))
        axes.grid(alpha=0.3)
    panels[0].set_ylabel(f"{_target(study).metric} (%)", parse_math=False)
    figure.legend(loc="outside lower center", ncols=3)
    return figure


def _target(study: Study) -> TargetSpec:
    assert study.target is not None
    return study.target


def _by_seed(results: Sequence[Result]) -> dict[tuple[str, str, str], dict[int, float]]:
    by: dict[tuple[str, str, str], dict[int, float]] = defaultdict(dict)
    for each in results:
        by[each.cell, each.branch, each.metric][each.seed] = each.value
    return by


def _ratio(ratio: Mean | None) -> str:
    if ratio is None:
        return EMPTY
    return f"{ratio.mean:.3f}" + ("" if ratio.deviation is None else f" ± {ratio.deviation:.3f}")

"""Plots of a study: means with standard deviations, as bars or as lines over an axis of numbers."""

from __future__ import annotations

import io
from collections.abc import Iterable
from typing import Literal

import matplotlib
from matplotlib.figure import Figure  # without pyplot: no window system, and no state that others share

from cclslr.errors import UserError
from cclslr.study.results import Mean, Result, mean_of
from cclslr.study.spec import PlotSpec


def draw(spec: PlotSpec, results: Iterable[Result]) -> Figure:
    """Draw one plot; where a cell has nothing there is a gap.

    Raises:
        UserError: lines over an axis whose values are no numbers, a kind of plot that is none.
    """
    groups: dict[str, dict[str, list[float]]] = {}
    for each in results:
        x, series = each.get(spec.x), each.get(spec.series)
        if x is None or series is None or not all(each.get(axis) in values for axis, values in spec.where.items()):
            continue
        groups.setdefault(series, {}).setdefault(x, []).append(each.value)
    means = {series: {x: mean_of(values) for x, values in group.items()} for series, group in groups.items()}
    figure = Figure(figsize=(8, 5), layout="constrained")
    axes = figure.subplots()
    places = list(dict.fromkeys(x for group in means.values() for x in group))
    for number, (series, group) in enumerate(means.items()):
        name = spec.names.get(series, series)
        if spec.kind == "lines":
            points = sorted((_number(x, spec), mean) for x, mean in group.items())
            numbers, values = [x for x, _ in points], [mean for _, mean in points]
            axes.errorbar(numbers, [m.mean for m in values], _spread(values), marker="o", capsize=3, label=name)
        elif spec.kind == "bars":
            width = 0.8 / len(means)
            shifted = [places.index(x) + (number - (len(means) - 1) / 2) * width for x in group]
            values = list(group.values())
            axes.bar(shifted, [m.mean for m in values], width, yerr=_spread(values), capsize=3, label=name)
        else:
            raise UserError(f"plot {spec.title!r}: kind is {spec.kind!r}; choose bars or lines")
    if spec.kind == "bars":
        axes.set_xticks(range(len(places)), [spec.names.get(x, x) for x in places], parse_math=False)
        if sum(map(len, places)) > 60:
            for label in axes.get_xticklabels():  # each ends below its bars
                label.set(rotation=30, ha="right", rotation_mode="anchor")
    else:
        axes.set_xlabel(spec.names.get(spec.x, spec.x), parse_math=False)
    axes.set_ylabel(spec.label, parse_math=False)
    axes.set_title(spec.title, parse_math=False)
    axes.grid(axis="y", alpha=0.3)
    if len(means) > 1:
        figure.legend(loc="outside lower center", ncols=2)  # beside the bars, never on them
    return figure


def render(figure: Figure, kind: Literal["png", "svg"]) -> bytes:
    """The file of a figure; the same figure gives the same bytes."""
    file = io.BytesIO()
    with matplotlib.rc_context({"svg.hashsalt": "cclslr", "svg.fonttype": "none"}):
        figure.savefig(file, format=kind, dpi=150, metadata={"Date": None} if kind == "svg" else None)
    return file.getvalue()


def _spread(values: list[Mean]) -> list[float]:
    return [mean.deviation or 0.0 for mean in values]


def _number(text: str, spec: PlotSpec) -> float:
    try:
        return float(text)
    except ValueError:
        raise UserError(f"plot {spec.title!r}: lines need numbers on the axis {spec.x}, not {text!r}") from None

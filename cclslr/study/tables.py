"""Tables as a study file describes them, in Markdown and HTML: one body of text, two ways to write it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from html import escape

from cclslr.errors import UserError
from cclslr.study.results import Difference, Result, mean_of
from cclslr.study.spec import TableSpec

EMPTY = "–"


@dataclass(frozen=True)
class Table:
    """Text in rows and columns."""

    title: str
    head: list[str]
    rows: list[list[str]]
    note: str = ""

    def markdown(self) -> str:
        """As GitHub shows it."""
        lines = [f"**{_cell(self.title)}**", "", _row(self.head), _row(["---"] * len(self.head)), *map(_row, self.rows)]
        return "\n".join([*lines, *(["", self.note] if self.note else [])]) + "\n"

    def html(self) -> str:
        head = "".join(f"<th>{escape(text)}</th>" for text in self.head)
        rows = "".join(f"<tr>{''.join(f'<td>{escape(text)}</td>' for text in row)}</tr>" for row in self.rows)
        note = f"<p>{escape(self.note)}</p>" if self.note else ""
        table = f"<table><thead><tr>{head}</tr></thead><tbody>{rows}</tbody></table>"
        return f"<h3>{escape(self.title)}</h3><div class=wide>{table}</div>{note}"


def pivot(spec: TableSpec, results: Iterable[Result]) -> Table:
    """Mean ± standard deviation (n) of the results, by what the table has in rows and columns.

    Raises:
        UserError: several results of one seed fall together; names what they differ in.
    """
    kept = [each for each in results if _wanted(spec.where, each)]
    groups: dict[tuple[tuple[str, ...], tuple[str, ...]], dict[int, Result]] = {}
    for each in kept:
        place = tuple(_values(spec.rows, each)), tuple(_values(spec.columns, each))
        other = groups.setdefault(place, {}).setdefault(each.seed, each)
        if other is not each:
            names = [n for n in ("cell", "stage", "branch", "metric") if other.get(n) != each.get(n)]
            raise UserError(
                f"table {spec.title!r}: results that differ in {', '.join(names)} fall together; add `where`"
            )
    rows = _ordered(spec, spec.rows, [row for row, _ in groups])
    columns = _ordered(spec, spec.columns, [column for _, column in groups])
    head = [", ".join(spec.rows), *(_name(spec, column) for column in columns)]
    body = []
    for row in rows:
        texts = [groups.get((row, column)) for column in columns]
        body.append([_name(spec, row), *(str(mean_of([r.value for r in g.values()])) if g else EMPTY for g in texts)])
    for row_name, figures in spec.paper.items():
        body.append([f"paper: {row_name}", *(_figure(figures.get(", ".join(column))) for column in columns)])
    return Table(spec.title, head, body, spec.note)


def difference_table(spec: TableSpec, results: Sequence[Result], found: Iterable[Difference]) -> Table | None:
    """The same results as differences from the cells they are compared with; None where there are none."""
    by_cell = {(each.cell, each.stage, each.branch, each.metric): each for each in found}
    shown: dict[tuple[tuple[str, ...], tuple[str, ...]], Difference] = {}
    for each in results:
        difference = by_cell.get((each.cell, each.stage, each.branch, each.metric))
        if difference is not None and _wanted(spec.where, each):
            shown[tuple(_values(spec.rows, each)), tuple(_values(spec.columns, each))] = difference
    if not shown:
        return None
    rows = _ordered(spec, spec.rows, [row for row, _ in shown])
    columns = _ordered(spec, spec.columns, [column for _, column in shown])
    body = [
        [_name(spec, row), *(str(shown[row, column]) if (row, column) in shown else EMPTY for column in columns)]
        for row in rows
    ]
    against = ", ".join(dict.fromkeys(each.against for each in shown.values()))
    head = [", ".join(spec.rows), *(_name(spec, column) for column in columns)]
    note = "Mean of the differences, seed by seed, ± its standard error (seeds)."
    return Table(f"{spec.title}: differences from {against}", head, body, note)


def _wanted(where: dict[str, tuple[str, ...]], result: Result) -> bool:
    return all(result.get(axis) in values for axis, values in where.items())


def _values(axes: Iterable[str], result: Result) -> Iterable[str]:
    """The result's values on some axes; an axis that its cell is not on counts as empty."""
    return (result.get(axis) or "" for axis in axes)


def _ordered(spec: TableSpec, axes: tuple[str, ...], found: Iterable[tuple[str, ...]]) -> list[tuple[str, ...]]:
    """As they first occur, but in the order of `where` on the axes that it lists."""

    def rank(values: tuple[str, ...]) -> tuple[int, ...]:
        return tuple(spec.where[axis].index(v) if axis in spec.where else 0 for axis, v in zip(axes, values))

    return sorted(dict.fromkeys(found), key=rank)


def _name(spec: TableSpec, values: tuple[str, ...]) -> str:
    return ", ".join(spec.names.get(value, value) for value in values if value)


def _figure(value: float | None) -> str:
    return EMPTY if value is None else f"{value:g}"


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ")


def _row(texts: Iterable[str]) -> str:
    return f"| {' | '.join(map(_cell, texts))} |"

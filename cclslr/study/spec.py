"""Study files: which stages, which cells, which seeds, which tables and plots (docs/studies.md).

A cell is a name and overrides; `axes` and `grids` make many at once. An override's first word is the stage, the rest
its key: `pretrain.objective.spm: false`. The stages of a data set stand in a file of their own, which `data` names, so
that another data set is one override.
"""

from __future__ import annotations

import difflib
import itertools
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException
from yaml import YAMLError

from cclslr.errors import UserError

SHIPPED = Path(__file__).parents[1] / "studies"  # the files of studies/, which come along when cclslr is installed
BY_CELL = ("cell", "seed", "stage", "branch", "metric")  # what a result has beside the axes of its cell


@dataclass(frozen=True)
class Cell:
    """One point of the grid."""

    name: str
    place: dict[str, str]  # its value on each axis; `cell` is always one
    report: tuple[str, ...]  # the stages whose scores are results
    overrides: dict[str, Any]  # stage.key → value


@dataclass(frozen=True)
class TableSpec:
    """A table: what stands in rows and columns (axes, cell, stage, branch or metric), and which results."""

    title: str
    rows: tuple[str, ...]
    columns: tuple[str, ...]
    where: dict[str, tuple[str, ...]] = field(default_factory=dict)  # only these values, in this order
    names: dict[str, str] = field(default_factory=dict)  # what values are called in heads
    paper: dict[str, dict[str, float]] = field(default_factory=dict)  # row → column → the paper's figure
    note: str = ""


@dataclass(frozen=True)
class PlotSpec:
    """A plot of means with standard deviations: bars, or lines over an axis of numbers."""

    title: str
    x: str
    series: str
    kind: str = "bars"
    where: dict[str, tuple[str, ...]] = field(default_factory=dict)
    names: dict[str, str] = field(default_factory=dict)
    label: str = "top-1 (%)"


@dataclass(frozen=True)
class TargetSpec:
    """What accuracy is aimed at, and what reaching it is counted in: said before anything has run."""

    at_least: dict[str, float]  # branch → what the mean over seeds must reach
    metric: str = "per_instance_top1"
    costs: tuple[str, ...] = ("TFLOP", "processor seconds", "seconds")  # metrics that a stage of the cell reports


@dataclass(frozen=True)
class Study:
    """A study file with its overrides."""

    name: str
    title: str
    about: str
    seeds: tuple[int, ...]
    against: str | dict[str, str] | None  # whom cells are compared with: one cell, or theirs but for these axes
    stages: dict[str, dict[str, Any]]  # name → settings
    cells: tuple[Cell, ...]
    tables: tuple[TableSpec, ...]
    plots: tuple[PlotSpec, ...]
    target: TargetSpec | None
    overrides: tuple[str, ...]
    text: str  # the files as they were read

    def partner(self, cell: Cell) -> Cell | None:
        """The cell that this one is compared with."""
        if self.against is None:
            return None
        if isinstance(self.against, str):
            wanted: dict[str, str] = {"cell": self.against}
            found = [other for other in self.cells if other.name == self.against]
        else:
            wanted = {axis: v for axis, v in cell.place.items() if axis != "cell"} | self.against
            found = [o for o in self.cells if {k: v for k, v in o.place.items() if k != "cell"} == wanted]
        return next((other for other in found if other is not cell), None)


def find(name: str) -> Path:
    """The study file that `name` means: a path, or the name of a shipped one.

    Raises:
        UserError: no such file; names the nearest shipped one.
    """
    path = Path(name)
    if path.suffix in (".yaml", ".yml"):
        if path.exists():
            return path
        raise UserError(f"{path}: no such study file")
    shipped = {each.stem: each for each in sorted(SHIPPED.glob("*.yaml"))}
    if name in shipped:
        return shipped[name]
    raise UserError(f"no study {name!r}{_near(name, shipped)}; shipped are {', '.join(shipped)}")


def load(path: Path, overrides: Iterable[str] = (), seeds: Iterable[int] | None = None) -> Study:
    """Read a study file and the file of its data set.

    Raises:
        UserError: names the file, the key and what it may be.
    """
    overrides = tuple(overrides)
    content = _read(path)
    _only(content, path, "title", "about", "data", "seeds", "report", "against", "stages", "axes", "grids", "cells",
          "tables", "plots", "target")  # fmt: skip
    values = dict(_override(text) for text in overrides)
    data_name = values.pop("data", content.get("data"))
    texts = [path.read_text(encoding="utf-8")]
    stages: dict[str, dict[str, Any]] = {}
    axes: dict[str, Any] = {}
    if data_name is not None:
        data_path = _data_file(path, str(data_name))
        data = _read(data_path)
        _only(data, data_path, "about", "stages", "axes")
        texts.append(data_path.read_text(encoding="utf-8"))
        stages = {name: _flat(body) for name, body in data.get("stages", {}).items()}
        axes = dict(data.get("axes", {}))
    for name, body in content.get("stages", {}).items():
        stages[name] = stages.get(name, {}) | _flat(body)
    axes |= content.get("axes", {})
    for key, value in values.items():
        _apply(stages, key, value, f"--override {key}")
    default = _names(content.get("report", "finetune"))
    cells = [*_listed(content.get("cells", {}), default), *_grids(content.get("grids", []), axes, default, path)]
    if not cells:
        raise UserError(f"{path}: no cells; give `cells`, or `axes` and `grids`")
    names = [cell.name for cell in cells]
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise UserError(f"{path}: cells {', '.join(twice)} occur twice")
    for cell in cells:
        for key in cell.overrides:
            _stage_of(stages, key, f"{path}: cell {cell.name!r}")
        for name in cell.report:
            if name not in stages:
                raise UserError(f"{path}: cell {cell.name!r} reports {name!r}, which is no stage{_near(name, stages)}")
    against = content.get("against")
    if isinstance(against, str) and against not in names:
        raise UserError(f"{path}: against: {against!r} is no cell{_near(against, names)}")
    return Study(
        name=path.stem,
        title=str(content.get("title", path.stem)),
        about=str(content.get("about", "")).strip(),
        seeds=tuple(int(seed) for seed in (seeds or content.get("seeds", [0]))),
        against=against,
        stages=stages,
        cells=tuple(cells),
        tables=tuple(_spec(TableSpec, each, path) for each in content.get("tables", [])),
        plots=tuple(_spec(PlotSpec, each, path) for each in content.get("plots", [])),
        target=_target(content["target"], path) if "target" in content else None,
        overrides=overrides,
        text="\n".join(texts),
    )


def settings(study: Study, cell: Cell, seed: int) -> dict[str, dict[str, Any]]:
    """The settings of every stage in a cell, `${seed}` filled in."""
    stages = {name: dict(body) for name, body in study.stages.items()}
    for key, value in cell.overrides.items():
        _apply(stages, key, value, f"cell {cell.name!r}")
    filled = OmegaConf.to_container(OmegaConf.create({"seed": seed, "stages": stages}), resolve=True)
    assert isinstance(filled, dict)
    return filled["stages"]


def _read(path: Path) -> dict[str, Any]:
    try:
        content = OmegaConf.to_container(OmegaConf.load(path), resolve=False)
    except OSError as error:
        raise UserError(f"{path}: {error.strerror}") from error
    except (YAMLError, OmegaConfBaseException) as error:
        raise UserError(f"{path}: not valid YAML ({str(error).splitlines()[-1].strip()})") from error
    if not isinstance(content, dict):
        raise UserError(f"{path}: expected keys and values at the top level")
    return {str(key): value for key, value in content.items()}


def _data_file(study: Path, name: str) -> Path:
    """A path, or a name in the folder data/ beside the study file or among the shipped ones."""
    places = [Path(name), study.parent / "data" / f"{name}.yaml", SHIPPED / "data" / f"{name}.yaml"]
    found = next((place for place in places if place.suffix == ".yaml" and place.exists()), None)
    if found is None:
        known = {each.stem for folder in (study.parent, SHIPPED) for each in (folder / "data").glob("*.yaml")}
        raise UserError(f"data={name}: no file {places[1]}{_near(name, known)}; there are {', '.join(sorted(known))}")
    return found


def _override(text: str) -> tuple[str, Any]:
    key, equals, value = text.partition("=")
    if not equals:
        raise UserError(f"{text!r} is no override; write stage.key=value or data=name")
    return key, OmegaConf.to_container(OmegaConf.from_dotlist([f"value={value}"]))["value"]  # type: ignore[index,call-overload]


def _flat(body: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested keys as dotted ones."""
    flat: dict[str, Any] = {}
    for key, value in body.items():
        flat |= _flat(value, f"{prefix}{key}.") if isinstance(value, dict) else {f"{prefix}{key}": value}
    return flat


def _stage_of(stages: dict[str, dict[str, Any]], key: str, where: str) -> tuple[str, str]:
    stage, _, rest = key.partition(".")
    if stage not in stages or not rest:
        raise UserError(f"{where}: {key!r} begins with no stage and a dot{_near(stage, stages)}")
    return stage, rest


def _apply(stages: dict[str, dict[str, Any]], key: str, value: Any, where: str) -> None:
    stage, rest = _stage_of(stages, key, where)
    stages[stage][rest] = value


def _listed(cells: dict[str, Any], default: tuple[str, ...]) -> list[Cell]:
    listed = []
    for name, body in cells.items():
        flat = dict(body or {})
        report = _names(flat.pop("report", default))
        listed.append(Cell(str(name), {"cell": str(name)}, report, _flat(flat)))
    return listed


def _grids(grids: list[list[str]], axes: dict[str, Any], default: tuple[str, ...], path: Path) -> list[Cell]:
    """The cells of every combination on the axes of each grid."""
    cells = []
    for names in grids:
        points = []
        for name in names:
            if name not in axes:
                raise UserError(f"{path}: grids: {name!r} is no axis{_near(name, axes)}")
            points.append([(name, *point) for point in _points(axes[name])])
        for combination in itertools.product(*points):
            flat: dict[str, Any] = {}
            for _, _, body in combination:
                flat |= body
            report = _names(flat.pop("report", default))
            place = {axis: value for axis, value, _ in combination}
            # A bare number says nothing alone, so its axis stands beside it.
            words = [f"{axis} = {value}" if "values" in axes[axis] else value for axis, value in place.items()]
            name = ", ".join(words)
            cells.append(Cell(name, {"cell": name, **place}, report, _flat(flat)))
    return cells


def _points(axis: dict[str, Any]) -> list[tuple[str, dict[str, Any]]]:
    """An axis is names with overrides, or one key with its values."""
    if set(axis) == {"key", "values"}:
        return [(str(value), {axis["key"]: value}) for value in axis["values"]]
    return [(str(name), dict(body or {})) for name, body in axis.items()]


def _spec(kind: Any, body: dict[str, Any], path: Path) -> Any:
    _only(body, path, *kind.__dataclass_fields__)
    body = dict(body)
    for key in ("rows", "columns"):
        if key in body:
            body[key] = _names(body[key])
    body["where"] = {axis: _names(values) for axis, values in body.get("where", {}).items()}
    body["names"] = {str(name): str(shown) for name, shown in body.get("names", {}).items()}
    try:
        return kind(**body)
    except TypeError as error:
        raise UserError(f"{path}: {body.get('title', 'a table or plot')}: {error}") from error


def _target(body: Any, path: Path) -> TargetSpec:
    """
    Raises:
        UserError: an unknown key, or no branch with its number.
    """
    _only(body, path, *TargetSpec.__dataclass_fields__)
    if not body.get("at_least"):
        raise UserError(f"{path}: target has no at_least; give a number for each branch, e.g. {{fused: 80}}")
    return TargetSpec(**body | {"costs": _names(body.get("costs", TargetSpec.costs))})


def _names(value: Any) -> tuple[str, ...]:
    """One or several names."""
    return tuple(map(str, value)) if isinstance(value, list | tuple) else (str(value),)


def _only(content: dict[str, Any], path: Path, *known: str) -> None:
    for key in content:
        if key not in known:
            raise UserError(f"{path}: unknown key {key!r}{_near(str(key), known)}; known are {', '.join(known)}")


def _near(word: str, known: Iterable[str]) -> str:
    near = difflib.get_close_matches(word, list(known), n=1)
    return f"; did you mean {near[0]!r}?" if near else ""

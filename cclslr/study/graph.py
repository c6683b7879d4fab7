"""From a study to its stages: which there are, each once, which waits for which, and which cells use it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from cclslr.errors import UserError
from cclslr.study.spec import Cell, Study, settings
from cclslr.study.stage import Stage, kinds


@dataclass
class Graph:
    """Stages in an order in which inputs come first."""

    stages: dict[str, Stage] = field(default_factory=dict)  # by address
    users: dict[str, list[tuple[str, int]]] = field(default_factory=dict)  # address → cells and seeds that it serves
    reports: list[tuple[Cell, int, str]] = field(default_factory=list)  # cell, seed, address of a stage with results

    def after(self, address: str) -> set[str]:
        """The addresses of a stage's inputs."""
        return {each for addresses in self.stages[address].inputs.values() for each in addresses}

    def users_of(self, address: str) -> str:
        """The first cell and seed that a stage serves, and how many others."""
        cell, seed = self.users[address][0]
        others = len(self.users[address]) - 1
        return f"{cell}, seed {seed}{f', and {others} more' if others else ''}"

    def title(self, address: str) -> str:
        """What a stage is, for people."""
        return f"{self.stages[address].name}: {self.users_of(address)}"


def build(study: Study) -> Graph:
    """Resolve every stage that the study's results need.

    Raises:
        UserError: names the cell and stage whose settings are wrong.
    """
    graph = Graph()
    for cell in study.cells:
        for seed in study.seeds:
            bodies = settings(study, cell, seed)
            made: dict[str, str] = {}
            for name in cell.report:
                graph.reports.append((cell, seed, _add(graph, bodies, name, cell, seed, made, ())))
    return graph


def _add(
    graph: Graph,
    bodies: dict[str, dict[str, Any]],
    name: str,
    cell: Cell,
    seed: int,
    made: dict[str, str],
    above: tuple[str, ...],
) -> str:
    """The address of a cell's stage, after it and its inputs were added."""
    where = f"cell {cell.name!r}, stage {name!r}"
    if name in made:
        return made[name]
    if name in above:
        raise UserError(f"{where}: {' → '.join((*above, name))} is a circle")
    if name not in bodies:
        raise UserError(f"{where}: no such stage; there are {', '.join(bodies)}")
    body = dict(bodies[name])
    table = kinds()
    kind = table.get(body.pop("kind", name))
    if kind is None:
        raise UserError(f"{where}: kind is {bodies[name].get('kind', name)!r}; choose one of {', '.join(table)}")
    inputs: dict[str, tuple[str, ...]] = {}
    for word in kind.inputs:
        named = body.pop(word, None)
        names = [] if named is None else named if isinstance(named, list) else [named]
        inputs[word] = tuple(_add(graph, bodies, each, cell, seed, made, (*above, name)) for each in names)
    try:
        stage = Stage(name, kind.name, kind.resolve(body, seed), inputs)
    except UserError as error:
        raise UserError(f"{where}: {error}") from error
    address = made[name] = stage.address
    graph.stages.setdefault(address, stage)
    graph.users.setdefault(address, []).append((cell.name, seed))
    return address

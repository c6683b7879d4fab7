"""The commands of `cclslr`: a file each, found by looking into this folder; a sub-folder is a family of commands.

A command is a module with a docstring, whose first line says what it does, with `GROUP` and `PLACE` (where it stands
in the list) and with `main(argv)`, which returns the exit code. It is read as text for the list and imported only to
run, so the list costs none of what commands import.
"""

from __future__ import annotations

import ast
import importlib
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

GROUPS = {  # in the order of the job
    "data": "Data: from videos to shards",
    "training": "Training",
    "use": "Use: what a trained model does",
    "measuring": "Measuring",
}


@dataclass(frozen=True)
class Command:
    """One command, or a family of them."""

    words: tuple[str, ...]  # as it is called, e.g. ("bench", "loader")
    path: Path
    summary: str  # one line
    group: str
    place: int
    is_command: bool  # has a main; families may, all others do

    @property
    def is_family(self) -> bool:
        return self.path.is_dir()

    def load(self) -> ModuleType:
        """Import the module of a command."""
        return importlib.import_module(".".join((__name__, *self.words)))


def list_commands(*family: str) -> list[Command]:
    """The commands of a family (by default those of `cclslr` itself), in the order in which they are shown."""
    folder = Path(__file__).parent.joinpath(*family)
    found = []
    for path in folder.iterdir():
        source = path / "__init__.py" if path.is_dir() else path
        if path.name.startswith("_") or source.suffix != ".py" or not source.exists():
            continue
        tree = ast.parse(source.read_text(encoding="utf-8"))
        summary = (ast.get_docstring(tree) or "").split("\n", 1)[0].rstrip(".")
        group, place = _where(tree)
        runs = any(isinstance(node, ast.FunctionDef) and node.name == "main" for node in tree.body)
        found.append(Command((*family, path.stem), path, summary, group, place, runs))
    order = list(GROUPS)
    return sorted(found, key=lambda command: (order.index(command.group), command.place, command.words))


def _where(tree: ast.Module) -> tuple[str, int]:
    """`GROUP` and `PLACE` of a module; a member of a family may do without."""
    for statement in tree.body:
        if isinstance(statement, ast.Assign) and ast.unparse(statement.targets[0]) == "(GROUP, PLACE)":
            group, place = ast.literal_eval(statement.value)
            return group, place
    return "measuring", 0

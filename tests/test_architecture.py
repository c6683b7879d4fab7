"""Imports run downwards, room by room, as docs/architecture.md says; and no file is part of a circle."""

from __future__ import annotations

import ast
import re
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "cclslr"
BASE = ("errors", "registry", "buffers", "files", "console", "keypoints", "keys")


@cache
def rooms() -> dict[str, set[str]]:
    """The table of the page: what each room may import. What it calls "all of the above" is."""
    text = (ROOT / "docs" / "architecture.md").read_text()
    assert f"Base rooms are {', '.join(f'`{room}`' for room in BASE[:-1])} and `{BASE[-1]}`." in text
    allowed: dict[str, set[str]] = {}
    for line in re.findall(r"^\| (`.*) \|$", text, re.MULTILINE):
        names, _, _, imports = (cell.strip() for cell in line.split("|"))
        may = set(re.findall(r"`(\w+)`", imports))
        may |= set(BASE) if "base rooms" in imports else set()
        may |= set(allowed) if imports in ("all of the above", "everything") else set()
        allowed |= dict.fromkeys(re.findall(r"`(\w+)`", names), may)
    return allowed


@cache
def imports() -> dict[str, set[str]]:
    """Each module of the package, and the modules of the package that it imports, at the top or within functions."""
    modules = {
        ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): path
        for path in PACKAGE.rglob("*.py")
    }
    found: dict[str, set[str]] = {}
    for module, path in modules.items():
        names = set()
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Import):
                names |= {alias.name for alias in node.names}
            elif isinstance(node, ast.ImportFrom):
                names |= {f"{node.module}.{alias.name}" for alias in node.names} | {node.module or ""}
        found[module] = {name for name in names if name in modules and name != module}
        # `from package import module` is an import of the module, not of what the package's face hands on
        found[module] -= {name for name in found[module] if any(n.startswith(f"{name}.") for n in found[module])}
    return found


def room(module: str) -> str:
    return module.split(".")[1] if "." in module else ""


def test_the_page_names_every_room():
    programs = {path.stem for path in PACKAGE.iterdir() if path.suffix == ".py" or (path / "__init__.py").exists()}
    folders = {path.name for path in PACKAGE.iterdir() if path.is_dir() and any(path.glob("*.py"))}
    assert (programs | folders) - {"__init__", "__main__"} == set(rooms())


@pytest.mark.parametrize("name", sorted(rooms()))
def test_a_room_imports_what_the_page_allows(name):
    wrong = {
        f"{module} imports {other}"
        for module, others in imports().items()
        for other in others
        if room(module) == name and room(other) not in {name, ""} | rooms()[name]
    }
    assert not wrong


def test_no_circle():
    left = {module: set(others) for module, others in imports().items()}
    while free := {module for module, others in left.items() if not others & left.keys()}:
        left = {module: others for module, others in left.items() if module not in free}
    assert not left, f"in a circle, or above one: {sorted(left)}"

"""Tables that derive themselves: each module of a package that defines one of a kind is an entry, and nothing else is.

Adding a codec, an importer, an estimator, a backend or a mask method is adding one file to its package. Such a module
is imported whenever its table is asked for, so it imports what is heavy inside its functions.
"""

from __future__ import annotations

import importlib
import importlib.util
import pkgutil
from typing import Protocol, TypeVar


class Named(Protocol):
    """An entry of a table."""

    @property
    def name(self) -> str: ...


Entry = TypeVar("Entry", bound=Named)


def find(package: str, kind: type[Entry]) -> dict[str, Entry]:
    """The entries of type `kind` that the modules of `package` define, by name, in the order of their names."""
    folder = importlib.import_module(package).__path__
    modules = [importlib.import_module(f"{package}.{module.name}") for module in pkgutil.iter_modules(folder)]
    entries = [value for module in modules for value in vars(module).values() if isinstance(value, kind)]
    return {entry.name: entry for entry in sorted(entries, key=lambda entry: entry.name)}


def names(package: str) -> tuple[str, ...]:
    """The names of a table's entries without importing any: each is called as its file is; `base` is no entry."""
    folder = importlib.util.find_spec(package)
    assert folder is not None
    files = pkgutil.iter_modules(folder.submodule_search_locations)
    return tuple(sorted(file.name for file in files if file.name != "base"))

"""Importers as the tests call them."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from cclslr.datasets.base import Import, importers


def load(name: str, *arguments: Any, **options: Any) -> Import:
    """What an importer finds; every row of its list is booked once. `options` are those of `cclslr pack` itself."""
    importer, parser = importers()[name], argparse.ArgumentParser()
    importer.add_arguments(parser)
    args = parser.parse_args([str(argument) for argument in arguments])
    found = importer.load(argparse.Namespace(**vars(args), **options))
    report = found.report
    assert report.rows == report.found + len(report.missing) + len(report.duplicates) + len(report.rejected)
    return found


def make(root: Path, *names: str) -> Path:
    """Empty files of those names under `root`."""
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).touch()
    return root

"""Fixtures shared by all tests: where real data lies, when it lies anywhere."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

SHARED = Path(__file__).parents[1].parent / "shared"


def _folder(variable: str, default: Path) -> Path:
    folder = Path(os.environ.get(variable, default))
    if not folder.is_dir():
        pytest.skip(f"{folder} is not there; set {variable} to run this test")
    return folder


@pytest.fixture(scope="session")
def real() -> Path:
    """Folder of real clips and keypoints."""
    return _folder("CCLSLR_REAL", SHARED / "real")


@pytest.fixture(scope="session")
def annotations() -> Path:
    """Folder of the official annotation lists."""
    return _folder("CCLSLR_ANNOTATIONS", SHARED / "annotations")

"""Fills the path matrix: each cell of `path_matrix` that no other test holds, with real processes and real damage."""

from __future__ import annotations

import os
import re
from pathlib import Path

import path_matrix
import pytest
from path_embed_scenarios import EMBEDDING
from path_mask_scenarios import MASKS
from path_matrix import ACCIDENTS, PAGE, PROMISES, TRAINERS, Cell, Empty, Tested, cells, decide
from path_runs import Workshop
from path_training_scenarios import TRAINING
from path_use_scenarios import EVALUATION, PREDICTION, PROBE

SCENARIOS = {
    "train": TRAINING, "finetune": TRAINING, "evaluate": EVALUATION, "predict": PREDICTION, "probe": PROBE,
    "masks": MASKS, "embed": EMBEDDING,
}  # fmt: skip
HERE = Path(__file__).parent


@pytest.fixture(scope="session")
def workshop(tmp_path_factory: pytest.TempPathFactory) -> Workshop:
    base = tmp_path_factory.getbasetemp()
    return Workshop((base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "paths")


def filled() -> list:
    """The cells that are tested here."""
    found = []
    for cell in cells():
        decision = decide(cell)
        if isinstance(decision, Tested) and decision.by == "test_paths.py::test_path":
            found.append(pytest.param(cell, id=str(cell), marks=[] if decision.ci else [pytest.mark.slow]))
    return found


@pytest.mark.parametrize("cell", filled())
def test_path(cell: Cell, workshop: Workshop, tmp_path: Path) -> None:
    if cell.backend == "ffcv":
        pytest.importorskip("ffcv", reason="FFCV is not installed")
    if cell.backend.startswith("dali"):
        pytest.importorskip("nvidia.dali", reason="DALI is not installed")
    SCENARIOS[cell.program][cell.accident](cell, workshop, tmp_path)


def test_every_promise_and_every_accident_is_tested_in_ci() -> None:
    ci = [(cell, decision) for cell in cells() if isinstance(decision := decide(cell), Tested) and decision.ci]
    assert {decision.promise for _, decision in ci} == set(PROMISES)
    for program in TRAINERS:
        assert {cell.accident for cell, _ in ci if cell.program == program} == set(ACCIDENTS)
    damaged = {(cell.backend, cell.codec) for cell, _ in ci if cell.accident == "damaged clips"}
    for cell in cells():
        if cell.program == "train" and not isinstance(decide(cell), Empty):
            assert (cell.backend, cell.codec) in damaged


def test_tests_that_hold_a_cell_are_there() -> None:
    """Those that the table names, in decisions too."""
    named = {decision.by for cell in cells() if isinstance(decision := decide(cell), Tested)}
    reasons = {decision.reason for cell in cells() if isinstance(decision := decide(cell), Empty)}
    named |= {name for reason in reasons for name in re.findall(r"test_\w+\.py::test_\w+", reason)}
    for name in named:
        file, function = name.split("::")
        assert f"def {function}(" in (HERE / file).read_text(), name


def test_the_page_is_the_table() -> None:
    assert PAGE.read_text(encoding="utf-8") == path_matrix.page(), "run: python tests/path_matrix.py"

"""LSA64: everything is in the name; the usual split, and others."""

from __future__ import annotations

from pathlib import Path

import pytest
from importing import load, make

from cclslr.errors import UserError


@pytest.fixture(scope="module")
def videos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    names = (f"{s:03}_{p:03}_{r:03}.mp4" for s in range(1, 65) for p in range(1, 11) for r in range(1, 6))
    return make(tmp_path_factory.mktemp("lsa64"), *names)


def test_the_published_counts(videos: Path) -> None:
    found = load("lsa64", "--videos", videos)
    report = found.report
    assert report.splits == {"train": 2_560, "val": 320, "test": 320}
    assert (report.rows, report.found, report.classes, len(set(found.classes))) == (3_200, 3_200, 64, 64)
    assert report.conventions["signers"] == "train 8 / val 1 / test 1; disjoint"
    assert "LSA64: train 2,560 / val 320 / test 320, as published" in report.notes
    labels = {row.key: (row.label, row.gloss) for row in found.rows}
    assert labels["001_001_001"] == (0, "Opaque")
    assert labels["064_010_005"] == (63, "Find")


def test_another_split(videos: Path) -> None:
    report = load("lsa64", "--videos", videos, "--test-persons", "1", "2", "--val-persons").report
    assert report.splits == {"train": 2_560, "val": 0, "test": 640}
    with pytest.raises(UserError, match="choose one"):
        load("lsa64", "--videos", videos, "--test-persons", "9")


def test_what_is_called_otherwise_is_named(tmp_path: Path) -> None:
    make(tmp_path, "raw/001_001_001.mp4", "cut/001_001_001.mp4", "065_001_001.mp4", "001_1_1.mp4", "notes.txt")
    report = load("lsa64", "--videos", tmp_path).report
    assert (report.rows, report.found, len(report.duplicates), len(report.rejected)) == (4, 1, 1, 2)
    with pytest.raises(UserError, match="nothing is called SSS_PPP_RRR"):
        load("lsa64", "--poses", make(tmp_path / "empty", "a.npz"))

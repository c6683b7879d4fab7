"""cclslr bench views: what is alike, what is not, and what cannot be compared."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from small_runs import tiny_shards

from cclslr.commands.bench import views as compare_views

SMALL = ["views.size=32", "views.rgb_frames=4", "optim.batch=4", "data.workers=1"]


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(tiny_shards(tmp_path_factory.mktemp("compare") / "set"))


def compare(shards: str, out: Path, *arguments: str) -> list[dict[str, float]]:
    compare_views.main([shards, *SMALL, "--batches", "2", "--json", str(out), *arguments])
    return json.loads(out.read_text())["rows"]


def test_a_backend_makes_what_it_makes(shards: str, tmp_path: Path) -> None:
    for row in compare(shards, tmp_path / "out.json"):
        assert (row["mean"], row["share_far"], row["largest"]) == (0, 0, 0)


def test_backends_differ_by_rounding_alone(shards: str, tmp_path: Path) -> None:
    for row in compare(shards, tmp_path / "out.json", "--one", "data.backend=numba", "--other", "data.backend=dali"):
        assert 0 < row["mean"] < 1.5
        assert row["share_far"] < 0.05


def test_other_views_are_far_apart(shards: str, tmp_path: Path) -> None:
    plain, _ = compare(shards, tmp_path / "out.json", "--other", "views.area=[0.1,0.2]")
    assert plain["mean"] > 5
    assert plain["largest"] > 100


def test_other_clips_cannot_be_compared(shards: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="the same batch"):
        compare(shards, tmp_path / "out.json", "--other", "run.seed=1")

"""The line through a process's memory, and the tool around it."""

import json
import subprocess
import sys

import numpy as np
import pytest
from small_runs import ROOT, tiny_shards

from cclslr.bench.growth import growth


def samples(slope: float, noise: float = 1.0) -> tuple[np.ndarray, np.ndarray]:
    """A thousand MB that fill up in the first third, then gain `slope` MB a batch."""
    batches = np.arange(10, 2001, 10)
    rss = 1000 - 300 * np.exp(-batches / 100) + slope * batches
    return batches, rss + np.random.default_rng(0).normal(0, noise, len(batches))


def test_a_leak_is_found_and_measured():
    fit = growth(*samples(slope=0.02))
    assert fit.grows
    assert fit.mb_per_1000 == pytest.approx(20, abs=0.5)
    assert fit.gained_mb == pytest.approx(20, abs=0.5)
    assert fit.noise_mb == pytest.approx(1, abs=0.2)


@pytest.mark.parametrize("slope", [0.0, -0.02])
def test_filling_caches_is_no_leak(slope):
    assert not growth(*samples(slope)).grows


def test_too_few_samples_are_refused():
    with pytest.raises(ValueError, match="at least 8"):
        growth(np.arange(7), np.ones(7))


def test_the_tool_writes_what_it_saw(tmp_path):
    shards = tiny_shards(tmp_path / "tiny", per_class=(2, 0, 0))
    command = [
        sys.executable, "tools/bench_memory.py", str(shards), "--batches", "16", "--samples", "8",
        "--json", str(tmp_path / "out.json"), "views.rgb_frames=4", "views.size=32",
    ]  # fmt: skip
    result = subprocess.run(command, cwd=ROOT, text=True, capture_output=True)
    row = json.loads((tmp_path / "out.json").read_text())["rows"][0]
    assert result.returncode == int(row["grows"]), result.stdout + result.stderr
    assert [n for n, _ in row["rss_mb"]] == list(range(2, 17, 2))
    assert row["codec"] == "jpeg"
    assert row["peak_mb"] == pytest.approx(max(mb for _, mb in row["rss_mb"]), abs=0.1)

"""The slope of memory against known lines, and the tool on a loader."""

from __future__ import annotations

import json

import numpy as np
import pytest
from small_runs import tiny_shards

from cclslr.bench.memory import growth, within_swing
from cclslr.commands.bench import memory as bench_memory

STEPS = np.arange(100) * 25


@pytest.fixture
def noise():
    return np.random.default_rng(0).normal(0, 2, len(STEPS))


def test_a_line_has_its_slope_and_no_error():
    result = growth(STEPS, 300 + 0.02 * STEPS)
    assert result.slope == pytest.approx(0.02)
    assert result.standard_error == pytest.approx(0, abs=1e-9)
    assert not result.is_noise


def test_growth_is_told_from_noise(noise):
    assert growth(STEPS, 300 + noise).is_noise
    grown = growth(STEPS, 300 + 0.01 * STEPS + noise)
    assert not grown.is_noise
    assert abs(grown.slope - 0.01) < 3 * grown.standard_error


def test_shrinking_and_standing_still_are_no_growth(noise):
    assert growth(STEPS, 300 - 0.01 * STEPS + noise).is_noise
    assert growth(STEPS, np.full(100, 300.0)).is_noise


def white(rng):
    return rng.normal(0, 2, len(STEPS))


def walk(rng):
    return np.cumsum(rng.normal(0, 0.3, len(STEPS)))


def rare_steps(rng):
    return np.cumsum(rng.normal(0, 1, len(STEPS)) * (rng.random(len(STEPS)) < 0.05))


@pytest.mark.parametrize(("process", "error"), [(white, 0.15), (walk, 0.15), (rare_steps, 0.2)])
def test_the_standard_error_is_the_spread_of_the_slope(process, error):
    rng = np.random.default_rng(1)
    results = [growth(STEPS, process(rng)) for _ in range(400)]
    spread = np.std([result.slope for result in results])
    assert np.mean([result.standard_error for result in results]) == pytest.approx(spread, rel=error)
    assert np.mean([not result.is_noise for result in results]) < 0.02


@pytest.mark.parametrize("rises", [1, 3, 5])
def test_a_few_rises_are_no_slope_and_many_are(rises):
    rng = np.random.default_rng(rises)
    memory = np.zeros(len(STEPS))
    memory[rng.choice(np.arange(1, len(STEPS)), rises, replace=False)] = 0.1
    result = growth(STEPS, 500 + memory.cumsum())
    assert result.slope / result.standard_error == pytest.approx(np.sqrt(rises), rel=0.25)
    assert result.is_noise
    memory[rng.choice(np.flatnonzero(memory == 0)[1:], 20, replace=False)] = 0.1
    assert not growth(STEPS, 500 + memory.cumsum()).is_noise


@pytest.mark.parametrize("bytes_a_batch", [40, 150, 2000])
def test_a_leak_is_found_although_memory_grows_by_pages(bytes_a_batch):
    """150 bytes was what PyAV's demuxer lost at every clip."""
    pages = np.ceil((STEPS * bytes_a_batch + 1234) / 4096)
    assert not growth(STEPS, 500 + pages * 4.096e-3).is_noise


def test_a_large_step_is_no_slope_but_more_than_what_is_in_flight(noise):
    heap = 150 + noise
    step = np.where(STEPS < 1200, 500.0, 500.0 + np.ptp(noise) + 0.1)
    assert growth(STEPS, step).is_noise
    assert not within_swing(step, heap)
    assert within_swing(500 + noise, heap)
    assert not within_swing([500.0, 500.1], [0.0, 0.0]), "nothing is known of the heap"


def test_too_few_samples():
    with pytest.raises(ValueError, match="at least 20"):
        growth([1, 2], [1, 2])


@pytest.mark.slow
def test_the_tool(tmp_path):
    shards, out = tiny_shards(tmp_path / "shards"), tmp_path / "memory.json"
    small = ["views.size=32", "views.rgb_frames=2", "data.workers=1"]
    bench_memory.main([str(shards), "--batches", "200", "--json", str(out), *small])
    result = json.loads(out.read_text())
    assert (result["codec"], len(result["samples"]["rss_mb"])) == ("jpeg", 200)
    assert result["verdict"] in ("grows", "no growth")
    assert result["rss_mb_end"] > 50
    with pytest.raises(ValueError, match="at least 200"):
        bench_memory.main([str(shards), "--batches", "10"])

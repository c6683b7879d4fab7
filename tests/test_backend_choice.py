"""`data.backend=auto` on a GPU: what is measured, what is chosen, and that a run keeps it."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from small_runs import TINY_PRETRAIN, records, tiny_shards

from cclslr import checkpoint, train
from cclslr.codecs import codec_named
from cclslr.commands.bench import placement as bench_placement
from cclslr.config import DataConfig, PretrainConfig, load_config
from cclslr.data.batch import Batch
from cclslr.distributed import Process
from cclslr.training import backend_choice
from cclslr.training.backend_choice import Measured, Placement, fastest, measure, placements

ALONE = Process(0, 1, torch.device("cpu"))
NUMBA, NVDEC, LIBAV = (
    Placement("numba", "auto", "cpu"),
    Placement("dali", "dali", "gpu"),
    Placement("dali", "libav", "gpu"),
)
DALI_CPU = Placement("dali", "dali", "cpu")


@pytest.mark.parametrize(
    ("codec", "size", "overrides", "gpu", "dali", "expected"),
    [
        ("h264", 224, {}, True, True, [NUMBA, NVDEC, LIBAV]),
        ("jpeg", 224, {}, True, True, [NUMBA, NVDEC]),
        ("h264", 224, {}, True, False, [NUMBA]),
        ("h264", 225, {}, True, True, [NVDEC, LIBAV]),
        ("h264", 224, {"device": "gpu"}, True, True, [NVDEC, LIBAV]),
        ("h264", 224, {"device": "cpu"}, True, True, [NUMBA]),
        ("h264", 224, {"decode": "libav"}, True, True, [LIBAV]),
        ("vp9", 224, {}, False, True, [NUMBA, DALI_CPU]),
        ("h264", 224, {}, False, True, [NUMBA]),
    ],
)
def test_the_placements_that_exist(
    codec: str, size: int, overrides: dict[str, str], gpu: bool, dali: bool, expected: list[Placement]
) -> None:
    assert placements(codec_named(codec), DataConfig(**overrides), [size], gpu, dali) == expected


def test_the_fastest_training_wins() -> None:
    rows = [Measured(NUMBA, 40, 0.2, 10), Measured(NVDEC, 60, 0.1, 10), Measured(LIBAV, 0, 0, 0, "no decoder")]
    assert fastest(rows) == NVDEC
    assert fastest([rows[0], replace(rows[1], clips_per_second=40)]) == NUMBA
    assert fastest([rows[2]]) is None


class Clock:
    """Seconds that pass only where a loader or a step takes them."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


class Stub:
    """A loader whose batches take their time; the step takes 0.1 s."""

    def __init__(self, clock: Clock, seconds: dict[Placement, float]) -> None:
        self.clock, self.seconds, self.taken = clock, seconds, dict.fromkeys(seconds, 0)

    def open(self, data: DataConfig) -> Stub:
        self.placement = Placement(data.backend, data.decode, data.device)
        if self.placement not in self.seconds:
            raise RuntimeError("no such decoder\nin so many words")
        return self

    def __enter__(self) -> Stub:
        return self

    def __exit__(self, *exception: object) -> None:
        pass

    def __iter__(self) -> Iterator[Batch]:
        return self

    def __next__(self) -> Batch:
        self.clock.now += self.seconds[self.placement]
        self.taken[self.placement] += 1
        return Batch(None, None, torch.arange(8), torch.zeros(8))

    def step(self, batch: Batch, number: int) -> None:
        self.clock.now += 0.1


def test_rates_are_those_of_training() -> None:
    clock = Clock()
    stub = Stub(clock, {NUMBA: 0.1, LIBAV: 0.3})
    rows = measure([NUMBA, NVDEC, LIBAV], DataConfig(prefetch=4), stub.open, stub.step, ALONE, 20, clock)
    assert [row.clips_per_second for row in rows] == [pytest.approx(40), 0, pytest.approx(20)]
    assert [row.waiting for row in rows] == [pytest.approx(0.5), 0, pytest.approx(0.75)]
    assert [row.batches for row in rows] == [10, 0, 10]
    assert rows[1].error == "no such decoder"
    assert stub.taken == {NUMBA: 14, LIBAV: 14}  # four were made ahead


@pytest.mark.parametrize("seconds", [0.01, 0.5, 2.0, 30.0])
def test_the_time_is_kept_but_for_a_batch_that_is_late(seconds: float) -> None:
    clock = Clock()
    stub = Stub(clock, {NUMBA: seconds, LIBAV: seconds})
    rows = measure([NUMBA, LIBAV], DataConfig(), stub.open, stub.step, ALONE, 20, clock)
    assert clock.now <= 20 + 4 * (seconds + 0.1)  # at least one to warm up and one to time, of each
    assert all(row.batches >= 1 and row.clips_per_second == pytest.approx(8 / (seconds + 0.1)) for row in rows)


def test_the_slowest_rank_counts_and_one_that_fails_excludes() -> None:
    class Two(Process):
        def gather_objects(self, value: Any) -> list[Any]:
            other = replace(value, clips_per_second=value.clips_per_second / 2, batches=3)
            return [value, replace(other, error="broken", clips_per_second=0.0) if value.placement == LIBAV else other]

    clock = Clock()
    stub = Stub(clock, {NUMBA: 0.1, LIBAV: 0.01})
    rows = measure([NUMBA, LIBAV], DataConfig(), stub.open, stub.step, Two(0, 2, torch.device("cpu")), 20, clock)
    assert rows[0].clips_per_second == pytest.approx(40)  # 2 x 20
    assert rows[0].batches == 3
    assert fastest(rows) == NUMBA


def config(tmp_path: Path, shards: Path, *overrides: str) -> PretrainConfig:
    few = ["model.modalities=[rgb]", "run.max_steps=2", f"run.dir={tmp_path / 'run'}", f"data.shards=[{shards}]"]
    return load_config(PretrainConfig, None, [*TINY_PRETRAIN, "run.device=cpu", *few, *overrides])


def streams(folder: Path) -> list[list[int]]:
    return [record["stream"] for record in records(folder) if "stream" in record]


def pretend_gpu(monkeypatch: pytest.MonkeyPatch) -> list[list[Measured]]:
    """A machine that measures, with the two ways that a CPU has; returns what was measured."""
    done: list[list[Measured]] = []
    real = backend_choice.measure

    def spied(*arguments: Any) -> list[Measured]:
        done.append(real(*arguments))
        return done[-1]

    monkeypatch.setattr(backend_choice, "on_gpu", lambda process: True)
    monkeypatch.setattr(backend_choice, "placements", lambda *arguments, **options: [NUMBA, DALI_CPU])
    monkeypatch.setattr(backend_choice, "measure", spied)
    return done


@pytest.mark.slow
def test_a_run_measures_once_keeps_what_it_chose_and_trains_as_if_it_had_been_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    shards = tiny_shards(tmp_path / "shards", codec="jpeg")
    done = pretend_gpu(monkeypatch)
    monkeypatch.setattr(backend_choice, "fastest", lambda rows: DALI_CPU)  # the one that a CPU would not take
    train.train(config(tmp_path, shards), ALONE)
    assert [row.placement for row in done[0]] == [NUMBA, DALI_CPU]
    assert all(row.clips_per_second > 0 and not row.error for row in done[0]), done
    assert "Ways to make views" in capsys.readouterr().out
    written = json.loads((tmp_path / "run" / "backend.json").read_text())
    assert written["chosen"] == asdict(DALI_CPU)
    assert len(written["measured"]) == 2
    assert checkpoint.load(tmp_path / "run" / "last.pt")["placement"] == asdict(DALI_CPU)

    # Resumed: nothing is measured, whatever would win now and whatever became of the file
    (tmp_path / "run" / "backend.json").unlink()
    train.train(config(tmp_path, shards, "run.max_steps=4"), ALONE)
    assert len(done) == 1
    assert checkpoint.load(tmp_path / "run" / "last.pt")["placement"] == asdict(DALI_CPU)

    # Told at once, without measuring: the same clips, views and losses
    told = ["data.backend=dali", "data.decode=dali", "data.device=cpu", "run.max_steps=4"]
    other = config(tmp_path / "told", shards, *told)
    train.train(other, ALONE)
    assert len(done) == 1
    assert streams(tmp_path / "run") == streams(tmp_path / "told" / "run")
    losses = [[record["loss"] for record in records(path / "run")] for path in (tmp_path, tmp_path / "told")]
    assert losses[0] == losses[1]


def test_a_run_that_was_killed_before_its_first_checkpoint_takes_what_its_folder_says(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shards = tiny_shards(tmp_path / "shards", codec="jpeg")
    done = pretend_gpu(monkeypatch)
    (tmp_path / "run").mkdir()
    file = {"codec": "jpeg", "chosen": asdict(NUMBA), "measured": []}
    (tmp_path / "run" / "backend.json").write_text(json.dumps(file))
    cfg = config(tmp_path, shards, "run.max_steps=1")
    train.train(cfg, ALONE)
    assert not done
    assert checkpoint.load(tmp_path / "run" / "last.pt")["placement"] == asdict(NUMBA)


@pytest.mark.parametrize("overrides", [[], ["data.backend=numba"], ["model.modalities=[pose]"]], ids=" ".join)
def test_nothing_is_measured_on_a_cpu_or_where_it_is_told(
    overrides: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shards = tiny_shards(tmp_path / "shards", codec="jpeg")
    if overrides:
        done = pretend_gpu(monkeypatch)
    else:
        done = []
        monkeypatch.setattr(backend_choice, "measure", lambda *arguments: pytest.fail("measured on a CPU"))
    train.train(config(tmp_path, shards, "run.max_steps=1", *overrides), ALONE)
    assert not done
    assert not (tmp_path / "run" / "backend.json").exists()
    assert checkpoint.load(tmp_path / "run" / "last.pt")["placement"] is None


def test_the_table_by_hand(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shards, out = tiny_shards(tmp_path / "shards", codec="jpeg"), tmp_path / "placement.json"
    few = ["model.modalities=[rgb]", "run.device=cpu", "--seconds", "4", "--json", str(out)]
    bench_placement.main([str(shards), *TINY_PRETRAIN, *few])
    shown = capsys.readouterr().out
    assert "Ways to make views" in shown
    assert "use: data.backend=" in shown
    measured = json.loads(out.read_text())["measured"]
    assert [row["placement"] for row in measured] == [asdict(NUMBA), asdict(DALI_CPU)]
    assert all(row["clips_per_second"] > 0 for row in measured)
    with pytest.raises(ValueError, match="leave no way"):
        bench_placement.main([str(shards), *TINY_PRETRAIN, "run.device=cpu", "data.device=gpu"])

"""What a run tells: the same record as a board, as lines, as metrics.jsonl and in TensorBoard."""

from __future__ import annotations

import io
import json
import math
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from rich.console import Console
from rich.text import Text
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from cclslr.config import FinetuneConfig, PretrainConfig, load_config
from cclslr.training import journal as module
from cclslr.training import rate as rate_module
from cclslr.training.advice import WORTH_A_WORD, LoaderSetup, loader_advice
from cclslr.training.curves import save_results
from cclslr.training.folder import config_yaml
from cclslr.training.journal import Journal
from cclslr.training.rate import Rate, memory_gb
from cclslr.training.record import read_metrics
from cclslr.training.screen import Board, loss_cells, plain_lines, wrap
from cclslr.training.writer import Written

TERMS = ("cl_rgb", "cl_pose", "spm_rgb", "spm_pose", "rgb_to_pose", "pose_to_rgb")
RECORD = {
    "loss": 23.456,
    **{term: 3.9 + number / 10 for number, term in enumerate(TERMS)},
    "clips_per_second": 412.34,
    "waiting": 0.231,
    "wait_fetch": 0.0301,
    "wait_decode": 0.2,
    "wait_copy": 0.0009,
    "seconds_left": 3 * 3600 + 125.0,
    "epoch": 12.34,
    "lr": 0.01,
    "skipped_steps": 17,
    "quarantined": 3,
    "memory_gb": 21.53,
}
KNN = {"knn_rgb": 31.25, "knn_pose": 54.0, "knn_fused": 57.12, "knn_seconds": 75.2}
TOLD = (
    *("epoch 12.34", "loss 23.46", *(f"{term} {3.9 + n / 10:.3f}" for n, term in enumerate(TERMS)), "lr 0.01"),
    *("412.3 clips/s", "waiting 23 % (fetch 3, decode 20)", "skipped 17", "quarantined 3", "memory 21.5 GB"),
    "left 3:02:05",
)


@pytest.fixture
def screen(monkeypatch):
    """Makes the console a file or a terminal of some width; returns what was written to it."""

    def become(width: int | None) -> io.StringIO:
        file = io.StringIO()
        terminal = {} if width is None else {"force_terminal": True, "width": width, "_environ": {"TERM": "xterm"}}
        console = Console(file=file, markup=False, highlight=False, **terminal)
        monkeypatch.setattr(module, "console", console)
        monkeypatch.setattr(Journal, "_draw", lambda _: None)  # takes a second; test_results_show_what_there_is
        monkeypatch.setattr(module, "is_live", lambda: width is not None)
        return file

    return become


def journal(run_dir: Path, first: int = 0, last: int = 100, active: bool = True) -> Journal:
    return Journal(run_dir, active=active, first_step=first, last_step=last, title="pre-training")


@pytest.mark.parametrize("width", [80, 100, 160])
def test_the_board_cuts_nothing(width):
    file = io.StringIO()
    board = Board(Console(file=file, width=width, markup=False), "pre-training", 0, 123456)
    board.live.start = board.live.refresh = lambda *_: None
    board.show(98765, RECORD | KNN)
    board.saved(98000, "epoch_0012.pt", 2.34)
    board.console.print(board.render())
    text = file.getvalue()
    assert "…" not in text
    assert all(len(line) <= width for line in text.splitlines())
    for word in (*TOLD, "98,765/123,456", "rgb 31.2 %", "pose 54.0 %", "fused 57.1 %", "epoch_0012.pt", "2.3 s"):
        assert word in text, word
    assert len(text.splitlines()) <= (5 if width == 160 else 7)


def test_what_is_not_finite_stands_out_and_nothing_else_does():
    line = wrap(loss_cells({"loss": 2.0, "cl_rgb": math.nan, "cl_pose": 1.0}), 80)[0]
    styles = {line.plain[span.start : span.end]: str(span.style) for span in line.spans}
    assert styles == {"loss 2.000": "bold", "cl_rgb nan": "bold red"}
    assert not line.style


def test_scores_stay_on_the_board_until_there_are_newer_ones():
    file = io.StringIO()
    board = Board(Console(file=file, width=80, markup=False), "pre-training", 0, 100)
    board.show(10, RECORD | KNN)
    board.show(20, RECORD | {"loss": 1.0, "epoch": 13.0})
    board.console.print(board.render())
    assert "k-NN at epoch 12.34" in file.getvalue()
    assert "loss 1.000" in file.getvalue()


cells = st.lists(st.text("abcx", min_size=1, max_size=20), max_size=12)


@given(cells, st.integers(20, 90))
def test_wrapping_loses_nothing_and_takes_no_line_too_many(words, width):
    lines = [line.plain for line in wrap([Text(word) for word in words], width)]
    assert all(len(line) <= width for line in lines)
    assert "  ".join(lines) == "  ".join(words)
    for line, after in pairwise(lines):
        assert len(line) + 2 + len(after.split("  ")[0]) > width


def test_a_log_has_one_line_a_record_and_one_for_each_kind_of_score(screen, tmp_path):
    file = screen(None)
    with journal(tmp_path) as told:
        told.write(10, RECORD)
        told.write(11, {"stream": [1, 2, 3]})
        told.write(20, RECORD | KNN)
        told.write(30, {"val_top1": 41.6, "val_seconds": 3.04})
        told.saved(Written(30, "last.pt", 1.26, 0.04))
        told.note("waiting 23 % for decode: raise data.workers")
    lines = file.getvalue().splitlines()
    assert lines == (tmp_path / "log.txt").read_text().splitlines()
    assert len(lines) == 7
    for line in (lines[0], lines[2]):
        assert all(word in line for word in TOLD)
    assert lines[0].startswith("step 10/100  epoch 12.34  loss 23.46")
    assert lines[1].startswith("step 10: 17 step(s)")
    assert lines[3] == "step 20/100  k-NN  rgb 31.2 %  pose 54.0 %  fused 57.1 %  in 0:01:15"
    assert lines[4] == "step 30/100  validation  top1 41.6 %  in 3.0 s"
    assert lines[5] == "step 30/100  checkpoint last.pt written in 1.3 s, training waited 0.0 s"
    assert "\x1b" not in file.getvalue()


def test_a_terminal_has_the_board_and_the_folder_has_the_log(screen, tmp_path):
    file = screen(80)
    with journal(tmp_path) as told:
        told.write(10, RECORD)
        told.note("a word that stays")
        told.write(20, RECORD | KNN)
    text = file.getvalue()
    assert text.count("a word that stays") == 1
    assert "step 10/100" not in text
    assert len((tmp_path / "log.txt").read_text().splitlines()) == 5


def test_other_ranks_are_silent_and_write_nothing(screen, tmp_path):
    file = screen(None)
    with journal(tmp_path / "run", active=False) as told:
        told.describe(PretrainConfig())
        told.write(10, RECORD | KNN)
        told.saved(Written(10, "last.pt", 1.0, 0.1))
        told.advise("more workers")
        told.first_batch(np.zeros((4, 4, 3), np.uint8))
    assert not file.getvalue()
    assert not (tmp_path / "run").exists()


def test_skipped_steps_are_told_when_they_begin_and_when_they_begin_again(screen, tmp_path):
    screen(None)
    with journal(tmp_path) as told:
        for step, skipped in enumerate((0, 4, 9, 9, 9, 10), 1):
            told.write(10 * step, RECORD | {"skipped_steps": skipped, "loss": math.nan})
    lines = (tmp_path / "log.txt").read_text().splitlines()
    said = [line for line in lines if "not finite" in line]
    assert [line.split(":")[0] for line in said] == ["step 20", "step 60"]
    assert "4 step(s)" in said[0]
    assert sum("loss nan" in line for line in lines) == 6


def test_values_that_are_not_finite_reach_tensorboard(screen, tmp_path, capfd):
    screen(None)
    with journal(tmp_path) as told:
        told.describe(PretrainConfig())
        told.first_batch(np.full((8, 8, 3), 7, np.uint8))
        told.write(1, {"loss": math.nan, "epoch": 1.0, "cl_rgb": math.inf})
        told.write(2, {"loss": 1.5, "epoch": 2.0, "cl_rgb": 1.5, "skipped_steps": 0.0})
    board = EventAccumulator(str(tmp_path / "tensorboard"))
    board.Reload()
    losses = [event.value for event in board.Scalars("loss/loss")]
    assert math.isnan(losses[0])
    assert losses[1] == 1.5
    assert math.isinf(board.Scalars("loss/cl_rgb")[0].value)
    assert "optimiser/skipped_steps" in board.Tags()["scalars"]
    assert board.Tags()["images"] == ["first_batch"]
    assert any("config" in tag for tag in board.Tags()["tensors"])


@pytest.mark.parametrize(
    "broken",
    ['{"step": 3, "stream": {"a": 1}', '"}', '{"loss": 1.0}', '{"step": "3"}', "[3]", "\udcff}", "{" * 5000 + "}"],
)
def test_a_broken_line_does_not_keep_a_run_from_going_on(screen, tmp_path, broken):
    screen(None)
    with journal(tmp_path) as told:
        for step in (1, 2, 3, 4):
            told.write(step, {"loss": step / 2, "epoch": 1.0})
    with open(tmp_path / "metrics.jsonl", "ab") as file:
        file.write(broken.encode(errors="surrogateescape"))
    with journal(tmp_path, first=2) as told:
        told.write(3, {"loss": 0.0, "epoch": 1.0})
    lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert [(line["step"], line["loss"]) for line in lines] == [(1, 0.5), (2, 1.0), (3, 0.0)]


def test_the_loader_is_named_once_and_at_the_end(screen, tmp_path):
    file = screen(None)
    with journal(tmp_path) as told:
        for advice in (None, "first", "second", "third"):
            told.advise(advice)
    assert file.getvalue().splitlines() == ["first", "at the end of the run: third"]
    file = screen(None)
    with journal(tmp_path) as told:
        told.advise("first")
        told.advise(None)  # over the whole run it did not matter
    assert file.getvalue().splitlines() == ["first"]


setups = st.builds(
    LoaderSetup,
    workers=st.integers(1, 64),
    cores=st.integers(1, 256),
    ranks=st.integers(1, 8),
    backend=st.sampled_from(["numba", "dali", "ffcv"]),
    device=st.sampled_from(["cpu", "gpu"]),
    trains_on=st.sampled_from(["cpu", "cuda"]),
    codec=st.sampled_from([None, "jpeg", "h264", "hevc", "vp9"]),
    remote=st.booleans(),
)
waits = st.fixed_dictionaries({name: st.floats(0, 0.33) for name in ("fetch", "decode", "copy")})


@given(waits, setups)
def test_advice_names_the_largest_cause_and_something_to_do(waits, setup):
    advice = loader_advice(waits, setup)
    if sum(waits.values()) < WORTH_A_WORD:
        assert advice is None
        return
    cause = max(waits, key=lambda name: waits[name])
    head, remedy = advice.split(": ", 1)
    assert head == f"waiting {100 * waits[cause]:.0f} % for {cause}"
    assert remedy
    assert "\n" not in advice
    if "raise data.workers to " in remedy:
        workers = int(remedy.split("raise data.workers to ")[1].split()[0])
        assert setup.workers < workers <= max(setup.cores // setup.ranks, 1)
    if setup.codec in ("h264", None):
        assert "pack" not in remedy


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({}, ["raise data.workers to 4 (now 2)", "data.device=gpu"]),
        ({"codec": "hevc"}, ["raise data.workers", "pack h264"]),
        ({"cores": 2, "trains_on": "cpu"}, ["every core is in use"]),
        ({"backend": "dali"}, ["data.backend=numba"]),
        ({"device": "gpu", "backend": "dali"}, ["data.device=cpu"]),
    ],
)
def test_advice_for_decoding(changes, words):
    setup = {"workers": 2, "cores": 16, "ranks": 2, "backend": "numba", "device": "cpu", "trains_on": "cuda"}
    advice = loader_advice(
        {"fetch": 0.01, "decode": 0.23, "copy": 0.0},
        LoaderSetup(**({**setup, "codec": "jpeg", "remote": False} | changes)),
    )
    assert advice.startswith("waiting 23 % for decode: ")
    assert all(word in advice for word in words), advice


def test_advice_for_reading():
    setup = LoaderSetup(2, 4, 1, "numba", "cpu", "cpu", "jpeg", remote=True)
    advice = loader_advice({"fetch": 0.4, "decode": 0.1, "copy": 0.0}, setup)
    assert "raise data.workers to 4" in advice
    assert "second epoch" in advice
    assert "pack h264" in advice


class Source:
    waited: dict[str, float] = {"fetch": 0.0, "decode": 0.0}  # noqa: RUF012


def test_rate_reckons_the_time_left_and_the_waiting_of_the_whole_run(monkeypatch):
    class Clock:
        now = 50.0

        def perf_counter(self):
            return self.now

    clock, source = Clock(), Source()
    source.waited = dict(Source.waited)
    monkeypatch.setattr(rate_module, "time", clock)
    rate = Rate(source, lambda step: 8 * step, last_step=100)
    clock.now += 30  # compilation
    rate.restart(1)
    clock.now += 18
    source.waited["decode"] += 9
    line = rate.since_last(10)
    assert line["clips_per_second"] == pytest.approx(4)
    assert line["waiting"] == line["wait_decode"] == pytest.approx(0.5)
    assert line["seconds_left"] == pytest.approx(90 * 2)
    assert not rate.is_warm
    clock.now += 100  # an evaluation: no training time, but time that the rest of the run will need too
    rate.restart(10)
    clock.now += 20
    line = rate.since_last(20)
    assert line["waiting"] == 0
    assert line["seconds_left"] == pytest.approx(80 * 138 / 19)
    assert rate.is_warm
    assert rate.overall() == pytest.approx({"fetch": 0, "decode": 9 / 38})
    assert "seconds_left" not in rate.since_last(100)


def test_memory_is_that_of_this_process():
    before = memory_gb(torch.device("cpu"))
    ballast = torch.ones(100_000_000)
    assert memory_gb(torch.device("cpu")) - before > 0.35
    assert ballast[0] == 1


@pytest.mark.parametrize("kind", [PretrainConfig, FinetuneConfig])
@settings(deadline=None)
@given(lr=st.floats(1e-12, 1e3), name=st.text("aä:#'\"{}[] \\-", max_size=12), weights=st.none() | st.just([0.1, 3.0]))
def test_config_yaml_reads_back_into_the_same_config(kind, lr, name, weights, tmp_path_factory):
    path = tmp_path_factory.getbasetemp() / "config.yaml"
    cfg = kind()
    cfg.optim.lr, cfg.data.shards, cfg.data.weights, cfg.run.max_steps = lr, [name, "b"], weights, 7
    path.write_text(config_yaml(cfg), encoding="utf-8")
    assert load_config(kind, path, []) == cfg


def test_results_show_what_there_is(tmp_path):
    save_results(tmp_path)  # nothing yet
    records = [{"step": 10 * n} | RECORD | {"epoch": n / 2} | (KNN if n % 3 == 0 else {}) for n in range(1, 9)]
    records[4] |= {"loss": math.nan, "cl_rgb": math.inf}
    records.insert(2, {"step": 25, "stream": [1]})
    (tmp_path / "metrics.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
    assert len(read_metrics(tmp_path / "metrics.jsonl")) == 9
    save_results(tmp_path)
    assert Image.open(tmp_path / "results.png").size == (1300, 800)


def test_a_line_without_a_loss_says_nothing():
    assert plain_lines(1, 2, {"stream": [1], "quarantined": 0}) == []

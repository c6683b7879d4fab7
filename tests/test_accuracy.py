"""Time to accuracy: what a pre-training costs, which arms reach the target, and what they are beside each other."""

from __future__ import annotations

import json
import math
import time
from dataclasses import replace
from pathlib import Path

import pytest
from small_runs import TINY_PRETRAIN, tiny_shards, train_here

from cclslr.bench.capacity import Corpus, Hardware, Work
from cclslr.bench.phases import Decoding, phase_costs
from cclslr.commands.bench import accuracy
from cclslr.config import PretrainConfig, load_config
from cclslr.errors import UserError
from cclslr.models.flops import flops_per_clip
from cclslr.schedule import Timeline, batch_by_epoch, phases
from cclslr.study.graph import build
from cclslr.study.results import Result, differences
from cclslr.study.spec import Cell, Study, TargetSpec, find, load
from cclslr.study.stage import kinds
from cclslr.study.target import cost_table, costs, draw_target, reached, reached_table
from cclslr.training.cost import cost_of, flops_of
from cclslr.training.journal import Journal
from cclslr.training.record import read_metrics

PHASES = "schedule=[{from_epoch: 0, size: 16, rgb_frames: 2, pose_frames: 4, batch: 16}, {from_epoch: 1}]"


@pytest.fixture(scope="module")
def run_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A pre-training of 32 clips in two phases: 2 steps of 16 small clips, then 4 of 8 full ones."""
    folder = tmp_path_factory.mktemp("accuracy")
    train_here(folder / "run", tiny_shards(folder / "shards"), "optim.epochs=2", "optim.milestones=[]", PHASES)
    return folder / "run"


def test_a_run_costs_what_its_steps_took_by_phase(run_dir: Path) -> None:
    small, full = phases(load_config(PretrainConfig, str(run_dir / "config.yaml"), []))
    a_small, a_full = (sum(flops_per_clip(phase.cfg).values()) for phase in (small, full))
    assert a_small < a_full / 3
    cost = cost_of(run_dir)
    assert (cost.clips, cost.flops) == (2 * 16 + 4 * 8, 32 * a_small + 32 * a_full)
    last = read_metrics(run_dir / "metrics.jsonl")[-1]
    assert last["step"] == 6
    assert (cost.seconds, cost.cpu_seconds) == (last["seconds"], last["cpu_seconds"])
    assert min(cost.seconds, cost.cpu_seconds) > 0


def test_a_run_that_stopped_costs_the_steps_that_it_made(run_dir: Path, tmp_path: Path) -> None:
    (tmp_path / "config.yaml").write_text((run_dir / "config.yaml").read_text())
    lines = (run_dir / "metrics.jsonl").read_text().splitlines(keepends=True)
    kept = [line for line in lines if json.loads(line)["step"] <= 3]
    (tmp_path / "metrics.jsonl").write_text("".join(kept))
    whole, part = cost_of(run_dir), cost_of(tmp_path)
    assert part.clips == 2 * 16 + 8
    assert whole.flops - part.flops == pytest.approx(3 / 4 * (whole.flops - _first_phase(run_dir)))
    (tmp_path / "metrics.jsonl").write_text("")
    with pytest.raises(UserError, match="no step with its cpu_seconds"):
        cost_of(tmp_path)


def _first_phase(run_dir: Path) -> int:
    cfg = load_config(PretrainConfig, str(run_dir / "config.yaml"), [])
    return flops_of(cfg, Timeline(32, batch_by_epoch(cfg)), 2)


def test_the_plan_counts_the_same_operations() -> None:
    cfg = load_config(PretrainConfig, None, [*TINY_PRETRAIN, "optim.epochs=3", "optim.milestones=[]", PHASES])
    timeline = Timeline(100, batch_by_epoch(cfg))
    work = Work(50, 8, 1, 10, math.inf, 1e6, 4e6, 2e6, 0)
    planned = phase_costs(cfg, work, Hardware(1, 1, 8, 10, 1, 0, 1, 1, 1), Corpus(100, False), Decoding("cpu", False))
    assert flops_of(cfg, timeline, timeline.first_step(3)) == sum(cost.total_flops for cost in planned)


def test_a_study_tabulates_what_a_pre_training_cost(run_dir: Path) -> None:
    cost = cost_of(run_dir)
    told = kinds()["pretrain"].scores(run_dir, {})["cost"]
    assert told == {
        "TFLOP": cost.flops / 1e12, "seconds": cost.seconds, "processor seconds": cost.cpu_seconds,
    }  # fmt: skip


def test_the_clocks_of_a_run_go_on_over_a_kill_without_what_it_undid(tmp_path: Path) -> None:
    before = [
        {"step": 1, "seconds": 40.0, "cpu_seconds": 20.0},
        {"step": 2, "seconds": 1000.0, "cpu_seconds": 500.0},
        {"step": 3, "seconds": 1e6, "cpu_seconds": 1e6},  # after the checkpoint: made again
    ]
    (tmp_path / "metrics.jsonl").write_text("".join(json.dumps(record) + "\n" for record in before))
    with Journal(tmp_path, active=True, first_step=2, last_step=3, title="") as journal:
        time.sleep(0.2)
        journal.write(3, {"loss": 1.0})
    last = read_metrics(tmp_path / "metrics.jsonl")[-1]
    assert last["step"] == 3
    assert 1000.2 <= last["seconds"] < 1e5
    assert 500 <= last["cpu_seconds"] < 1e5
    assert last["cpu_seconds"] - 500 < last["seconds"] - 1000  # sleeping takes no processor


def _study(**cells: dict[str, list[float]]) -> tuple[Study, list[Result]]:
    """A study compared with the first of its cells, and its results: metric → a value for each seed."""
    names = tuple(Cell(name, {"cell": name}, (), {}) for name in cells)
    target = TargetSpec({"fused": 80.0}, "top1", ("TFLOP",))
    study = Study("s", "s", "", (0, 1), next(iter(cells)), {}, names, (), (), target, (), "")
    results = [
        Result(
            name, {"cell": name}, seed, "finetune" if metric == "top1" else "pretrain",
            "fused" if metric == "top1" else "cost", metric, value,
        )
        for name, metrics in cells.items()
        for metric, values in metrics.items()
        for seed, value in enumerate(values)
    ]  # fmt: skip
    return study, results


def test_equal_is_within_one_standard_error_of_the_paired_difference() -> None:
    study, results = _study(
        whole={"top1": [70, 90], "TFLOP": [10, 20]},
        # 1 ± 1, 2 ± 1 and -1.5 ± 0.5, though the values themselves spread by 14
        equal={"top1": [70, 92], "TFLOP": [5, 5]},
        better={"top1": [71, 93]},
        worse={"top1": [68, 89]},
    )
    told = {each.cell: each for each in reached(study, results, differences(study, results))}
    assert {name: each.compared for name, each in told.items()} == {
        "whole": "", "equal": "equal", "better": "better", "worse": "worse",
    }  # fmt: skip
    assert {name: (each.reached, each.seeds_reached) for name, each in told.items()} == {
        "whole": (True, 1), "equal": (True, 1), "better": (True, 1), "worse": (False, 1),
    }  # fmt: skip
    table = reached_table(study, list(told.values()))
    assert table.rows[3] == [
        "worse", "fused", "78.5 ± 14.8 (2)", "80", "no, 1 of 2 seeds", "-1.5 ± 0.5 (2)", "worse",
    ]  # fmt: skip


def test_ratios_are_means_of_ratios_seed_by_seed() -> None:
    study, results = _study(whole={"TFLOP": [10, 20]}, less={"TFLOP": [5, 5]}, free={"top1": [1, 2]})
    told = costs(study, results)
    assert [(each.cell, each.ratio and each.ratio.mean) for each in told] == [("whole", None), ("less", 0.375)]
    assert cost_table(study, told).rows == [
        ["whole", "15.0 ± 7.1 (2)", "–"],
        ["less", "5.0 ± 0.0 (2)", "0.375 ± 0.177"],
    ]
    assert "to whole" in cost_table(study, told).note


def test_a_seed_that_only_one_has_counts_in_no_comparison() -> None:
    study, results = _study(whole={"top1": [80, 80], "TFLOP": [10, 20]}, less={"top1": [81], "TFLOP": [5]})
    told = {each.cell: each for each in reached(study, results, differences(study, results))}
    assert told["less"].compared == ""  # one seed has no standard error
    assert [each.ratio.n for each in costs(study, results) if each.ratio is not None] == [1]


def test_the_plot_stands_every_arm_at_its_cost() -> None:
    study, results = _study(whole={"top1": [80, 90], "TFLOP": [10, 20]}, free={"top1": [60, 62]})
    told = reached(study, results, differences(study, results))
    figure = draw_target(study, told, costs(study, results))
    assert figure is not None
    (axes,) = figure.axes
    points = {bar.get_label(): tuple(bar.lines[0].get_xydata()[0]) for bar in axes.containers}
    assert points == {"whole": (15, 85), "free": (0, 61)}
    assert draw_target(study, told, []) is None


def test_the_shipped_arms_cost_what_the_page_says() -> None:
    """Short views and progressive: at most 0.4 of the operations, no more clips; fewer epochs: no less than these."""
    study = load(find("accuracy"), seeds=[0])
    graph = build(study)
    flops: dict[str, int] = {}
    clips: dict[str, float] = {}
    for address, users in graph.users.items():
        stage = graph.stages[address]
        if stage.kind == "pretrain":
            cfg = load_config(PretrainConfig, None, [], stored=stage.config)
            timeline = Timeline(1800, batch_by_epoch(cfg))
            steps = timeline.first_step(cfg.optim.epochs)
            flops[users[0][0]] = flops_of(cfg, timeline, steps)
            clips[users[0][0]] = timeline.total(steps, replace(batch_by_epoch(cfg), values=((0, 1),)))
    assert set(flops) == {"constant", "short views", "progressive", "fewer epochs"}
    assert flops["short views"] <= 0.37 * flops["constant"]
    assert flops["short views"] <= flops["progressive"] <= 0.4 * flops["constant"]
    assert flops["progressive"] <= flops["fewer epochs"] <= 0.45 * flops["constant"]
    assert max(clips["short views"], clips["progressive"]) <= clips["constant"] == 12 * 1800


def test_what_is_wrong_with_a_target_is_said(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="study demo has no target"):
        accuracy.main(["demo", "--dry-run"])
    text = find("accuracy").read_text()
    path = tmp_path / "mine.yaml"
    path.write_text(text.replace("at_least: {rgb", "atleast: {rgb"))
    with pytest.raises(UserError, match=r"unknown key 'atleast'; did you mean 'at_least'"):
        load(path)
    path.write_text(text.replace("  at_least: {rgb: 50, fused: 80, calibrated: 80}", "  metric: top1"))
    with pytest.raises(UserError, match="target has no at_least"):
        load(path)

"""The forecast of a run in phases: counted operations, what scales how, and every number marked."""

from __future__ import annotations

import json
import math
from dataclasses import replace

import pytest

from cclslr.bench.capacity import Corpus, Hardware, Work, forecast
from cclslr.bench.phases import ASSUMED, Decoding, PhaseCost, phase_costs, work_of
from cclslr.commands import plan as plan_run
from cclslr.config import PretrainConfig, load_config
from cclslr.console import console
from cclslr.errors import UserError
from cclslr.models.flops import flops_per_clip

WORK = Work(
    compute=50, batch=8, micro_batches=1, core_ms=10, gpu_loader=math.inf, clip_bytes=1e6, bus_bytes=4e6,
    view_bytes=2e6, gradient_bytes=0,
)  # fmt: skip
NODE = Hardware(
    gpus=8, gpus_per_node=8, cores=100, memory_gb=10, disk_gb_s=100, disk_gb=0, bus_gb_s=100, link_gb_s=1e9,
    network_gb_s=100,
)  # fmt: skip
CORPUS = Corpus(1000, remote=False)
SMALL = [
    "model.rgb=r3d10_narrow", "model.gcn_width=16", "model.transformer_blocks=1", "model.transformer_heads=2",
    "model.transformer_width=32", "optim.epochs=10", "optim.milestones=[]",
]  # fmt: skip
PHASES = (
    "schedule=[{from_epoch: 0, size: 112, rgb_frames: 16, pose_frames: 32, batch: 256, micro_batch: 16}, "
    "{from_epoch: 6, batch: 128}, {from_epoch: 9}]"
)


@pytest.fixture(scope="module")
def costs() -> list[PhaseCost]:
    return phase_costs(load_config(PretrainConfig, None, [*SMALL, PHASES]), WORK, NODE, CORPUS, Decoding("cpu", False))


def test_operations_are_those_of_the_clips_of_each_phase(costs):
    assert [cost.steps for cost in costs] == [6 * 3, 3 * 7, 1 * 15]
    assert [cost.clips for cost in costs] == [768, 896, 960]
    for cost in costs:
        each = sum(flops_per_clip(cost.phase.cfg).values())
        assert cost.total_flops == each * cost.steps * cost.phase.cfg.optim.batch
    assert costs[1].flops == costs[2].flops
    assert costs[1].flops["rgb"] / costs[0].flops["rgb"] == pytest.approx(8, rel=0.03)


def test_a_phase_with_the_papers_views_is_the_forecast_without_phases(costs):
    assert costs[2].work == WORK
    assert costs[2].forecast == forecast(WORK, NODE, replace(CORPUS, clips=960))
    assert costs[2].seconds == pytest.approx(960 / 400)


def test_small_views_want_more_of_the_loader_and_less_of_the_gpus(costs):
    ratio = costs[2].flops_of_a_clip / costs[0].flops_of_a_clip
    assert costs[0].wanted == pytest.approx(400 * ratio)
    assert costs[2].cores(nodes=1) == pytest.approx(4)  # 400 clips/s of 10 ms
    assert costs[0].cores(nodes=1) == pytest.approx(400 * ratio * (0.4 + 5.4 / 2 + 4.2 / 8) / 1e3)
    few = phase_costs(costs[0].phase.cfg, WORK, replace(NODE, cores=6), CORPUS, Decoding("cpu", False))
    assert few[0].forecast.bottleneck.name == "cpu"


@pytest.mark.parametrize(
    ("decoding", "core_ms", "bus", "clip_bytes"),
    [
        (Decoding("gpu", False), 10, 4e6, 1e6),
        (Decoding("libav", False), 10 * (0.07 + 0.93 / 2), 2e6, 1e6),
        (Decoding("libav", True), 10, 2e6, 1e6),
        (Decoding("cpu", False), 10 * (0.04 + 0.54 / 2 + 0.42 / 8), 0.5e6, 1e6),
        (Decoding("cpu", True), 10 * (0.04 + 0.54 + 0.42 / 8), 0.5e6, 1e6),
        (Decoding("cpu", True, (64, 128, 192)), 10 * (0.04 + 0.54 / 4 + 0.42 / 8), 0.5e6, 0.5**1.4 * 1e6),
        (Decoding("libav", False, (192,)), 10 * (0.07 + 0.93 / 2 * 9 / 16), 2e6 * 9 / 16, 0.75**1.4 * 1e6),
        (Decoding("gpu", False, (128,)), 10, 0.5**1.4 * 4e6, 0.5**1.4 * 1e6),
        (Decoding("cpu", True, (64,)), 10 * (0.04 + 0.54 + 0.42 / 8), 0.5e6, 1e6),
    ],
)
def test_what_scales_with_frames_and_what_with_pixels(decoding, core_ms, bus, clip_bytes):
    cfg = load_config(
        PretrainConfig, None, ["views.size=112", "views.rgb_frames=16", "optim.batch=256", "optim.micro_batch=16"]
    )
    work = work_of(cfg, WORK, 8, 0.125, decoding)
    assert (work.core_ms, work.bus_bytes) == (pytest.approx(core_ms), pytest.approx(bus))
    assert work.clip_bytes == pytest.approx(clip_bytes)
    assert (work.compute, work.view_bytes, work.batch, work.micro_batches) == (400, 0.25e6, 32, 2)


def test_the_command_shows_phases_and_marks_what_is_assumed(tmp_path):
    config = tmp_path / "run.yaml"
    config.write_text("\n".join(["data: {shards: [shards/x]}", PHASES.replace("schedule=", "schedule: ", 1)]))
    with console.capture() as said:
        plan_run.main(["--config", str(config), *SMALL, "--clips", "1000", "--json", str(tmp_path / "plan.json")])
    text = said.get()
    assert all(assumption in text.replace("\n", " ") for assumption in ASSUMED)
    for words in ("16 x 112²", "the GPUs take, clips/s", "cores of a node for that", "without the schedule"):
        assert words in text
    plan = json.loads((tmp_path / "plan.json").read_text())
    assert [phase["steps"] for phase in plan["phases"]] == [18, 21, 15]
    assert plan["assumed_of_phases"] == list(ASSUMED)
    assert all(item["source"].startswith("assumed") for item in plan["inputs"].values())
    with pytest.raises(UserError, match=r"optim\.batch=36 does not split"):
        plan_run.main(["--config", str(config), "schedule=[{}, {from_epoch: 3, batch: 36}]"])


def test_a_smaller_size_makes_phases_of_small_views_cheaper_and_leaves_the_others(tmp_path):
    args = ["--config", str(tmp_path / "run.yaml"), "--placement", "cpu", "--clips", "1000"]
    (tmp_path / "run.yaml").write_text("\n".join(["data: {shards: [x]}", PHASES.replace("schedule=", "schedule: ", 1)]))
    for name, more in (("one", []), ("two", ["--smaller", "128"])):
        plan_run.main([*args, *more, "--json", str(tmp_path / name)])
    one, two = (json.loads((tmp_path / name).read_text())["phases"] for name in ("one", "two"))
    wanted = "cores_of_a_node_wanted"
    assert two[0][wanted] < 0.6 * one[0][wanted]
    assert [phase[wanted] for phase in two[1:]] == [phase[wanted] for phase in one[1:]]

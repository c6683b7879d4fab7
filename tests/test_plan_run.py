"""The forecast against cases worked out by hand, and against its own limits."""

from __future__ import annotations

import dataclasses
import json
import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cclslr.bench.capacity import Corpus, Forecast, Hardware, Work, advice, forecast
from cclslr.commands import plan as plan_run

# A GPU takes 50 clips/s; nothing else is in its way.
WORK = Work(
    compute=50,
    batch=10,
    micro_batches=1,
    core_ms=1,
    gpu_loader=math.inf,
    clip_bytes=1e6,
    bus_bytes=1e6,
    view_bytes=0,
    gradient_bytes=0,
)
NODE = Hardware(
    gpus=8,
    gpus_per_node=8,
    cores=100,
    memory_gb=10,
    disk_gb_s=100,
    disk_gb=0,
    bus_gb_s=100,
    link_gb_s=100,
    network_gb_s=100,
)
BIG = Corpus(clips=1_000_000, remote=False)  # 1 TB at 1 MB a clip


def expect(
    rate: float, name: str, *, work: Work = WORK, node: Hardware = NODE, corpus: Corpus = BIG, words: str
) -> Forecast:
    result = forecast(work, node, corpus)
    assert result.bottleneck.name == name
    assert result.clips_per_second == pytest.approx(rate)
    assert result.epoch_seconds == pytest.approx(corpus.clips / rate)
    assert words in advice(result, work, node)
    return result


def test_gpus_that_never_wait():
    result = expect(400, "compute", words="nothing waits")
    assert result.global_batch == 80
    assert result.efficiency == 1
    assert result.headroom == pytest.approx(250)  # 100 cores x 1000 clips/s over 400


def test_too_few_cores():
    work = dataclasses.replace(WORK, core_ms=500)  # 2 clips/s a core, 100 cores
    expect(200, "cpu", work=work, words="have 200 cores a node")


def test_a_narrow_bus():
    expect(320, "bus", node=dataclasses.replace(NODE, bus_gb_s=0.04), words="send less over PCIe")


def test_a_slow_decoder():
    expect(160, "gpu_loader", work=dataclasses.replace(WORK, gpu_loader=20), words="data.decode=libav")


def test_a_slow_disk_and_a_page_cache_that_hides_it():
    slow = dataclasses.replace(NODE, disk_gb_s=0.1)  # 100 clips/s of 1 MB
    expect(100, "storage", node=slow, words="must deliver 0.4 GB/s")
    fits = Corpus(clips=8_000, remote=False)  # 8 GB, and the page cache has 0.8 x 10 GB
    result = expect(400, "compute", node=slow, corpus=fits, words="nothing waits")
    assert result.first_epoch_seconds == pytest.approx(80)
    almost = Corpus(clips=8_001, remote=False)
    expect(100, "storage", node=slow, corpus=almost, words="h264")


def test_object_storage_and_a_cache_on_each_node():
    remote = Corpus(clips=1_000_000, remote=True)
    slow = dataclasses.replace(NODE, gpus=16, network_gb_s=0.2)
    expect(400, "storage", node=slow, corpus=remote, words="1000 GB")  # 2 nodes x 0.2 GB/s
    limited = dataclasses.replace(slow, store_gb_s=0.3)
    expect(300, "storage", node=limited, corpus=remote, words="1000 GB")
    cached = dataclasses.replace(slow, disk_gb=1000)
    result = expect(800, "compute", node=cached, corpus=remote, words="nothing waits")
    assert result.first_epoch_seconds == pytest.approx(2500)


def test_gradients_that_outlast_the_backward_pass():
    # A step takes 0.2 s, its backward pass hides 0.09 s. A ring of 8 sends 1.75 x 8 GB at 100 GB/s: 0.14 s.
    work = dataclasses.replace(WORK, gradient_bytes=8e9)
    result = expect(8 * 10 / 0.25, "compute", work=work, words="20% of a step is communication")
    assert result.efficiency == pytest.approx(0.8)
    # Two micro-batches: gradients travel during the second one only, which hides 0.045 s.
    halves = dataclasses.replace(work, micro_batches=2)
    expect(8 * 10 / 0.295, "compute", work=halves, words="communication")
    # Four nodes on 50 GB/s: 1.5 x 8 GB take 0.24 s, longer than inside a node.
    four = dataclasses.replace(NODE, gpus=32, network_gb_s=50)
    expect(32 * 10 / 0.35, "compute", work=work, node=four, words="faster link")


def test_key_views_are_exchanged_before_anything_can_hide_them():
    work = dataclasses.replace(WORK, view_bytes=1e9)  # 10 of them, 7/8 to others, at 100 GB/s: 87.5 ms
    expect(80 / 0.2875, "compute", work=work, words="communication")
    # Two nodes: 8 GPUs share 100 GB/s to send half of 80 views: 0.4 s.
    expect(160 / 0.6, "compute", work=work, node=dataclasses.replace(NODE, gpus=16), words="communication")


def test_one_gpu_talks_to_nobody_and_has_its_share_of_the_cores():
    work = dataclasses.replace(WORK, gradient_bytes=1e12, view_bytes=1e12, core_ms=250)
    expect(50, "compute", work=work, node=dataclasses.replace(NODE, gpus=1), words="")
    work = dataclasses.replace(work, core_ms=500)  # 12.5 cores x 2 clips/s
    expect(25, "cpu", work=work, node=dataclasses.replace(NODE, gpus=1), words="")


def test_training_on_the_cores_that_load():
    node = dataclasses.replace(NODE, gpus=1, gpus_per_node=1, cores=2)
    work = dataclasses.replace(WORK, core_ms=40, same_cores=True)  # 50 clips/s alone, in turns 25
    expect(25, "compute", work=work, node=node, words="")


def test_gpus_must_fill_nodes():
    with pytest.raises(ValueError, match="12 GPUs do not fill nodes of 8"):
        forecast(WORK, dataclasses.replace(NODE, gpus=12), BIG)


@settings(max_examples=50, deadline=None)
@given(
    st.sampled_from(("cores", "disk_gb_s", "bus_gb_s", "link_gb_s", "network_gb_s", "memory_gb")),
    st.floats(1, 100),
    st.sampled_from((1, 8, 64)),
    st.booleans(),
)
def test_better_hardware_never_makes_a_run_slower(field, factor, gpus, remote):
    work = dataclasses.replace(WORK, core_ms=1700, gradient_bytes=5e10, view_bytes=1e8, bus_bytes=2e9, clip_bytes=3e8)
    node = dataclasses.replace(NODE, gpus=gpus)
    better = dataclasses.replace(node, **{field: getattr(node, field) * factor})
    corpus = Corpus(1000, remote)
    before, after = forecast(work, node, corpus), forecast(work, better, corpus)
    assert after.clips_per_second >= before.clips_per_second
    assert after.clips_per_second == min(stage.clips_per_second for stage in after.stages)


def written(tmp_path, *options: str) -> dict:
    out = tmp_path / "plan.json"
    plan_run.main([*options, "--json", str(out)])
    return json.loads(out.read_text())


def test_the_papers_run_on_eight_3090(tmp_path):
    plan = written(tmp_path)
    (row,) = plan["forecasts"]
    assert row["global_batch"] == 64
    assert row["clips_per_second"] == pytest.approx(390, rel=0.05)  # CCL-SLR §7
    assert row["epoch_seconds"] / 60 == pytest.approx(6.2, rel=0.05)
    assert all(item["source"].startswith("assumed") for item in plan["inputs"].values())


def test_the_table_goes_from_1_to_512(tmp_path):
    rows = written(tmp_path, "--table", "--node", "8xh100", "--remote", "--clips", "100000000")["forecasts"]
    assert [row["gpus"] for row in rows] == [1, 2, 4, 8, 16, 32, 64, 128, 256, 512]
    rates = [row["clips_per_second"] for row in rows]
    assert rates == sorted(rates)


TRAIN = {
    "environment": {"gpus": ["Card"], "cpu": "Processor"},
    "config": {"optim": {"micro_batch": 4}},
    "world": 2,
    "batch": 32,
    "modes": {"replay": {"clips_per_second": 60.0}},
    "parameters": 1000,
}
LOADER = {
    "environment": {"cores": 16},
    "rows": [
        {"loader": "cclslr dali", "device": "cpu", "codec": "jpeg", "clips_per_second": 100.0},
        {"loader": "cclslr numba", "device": "cpu", "codec": "jpeg", "clips_per_second": 160.0},
        {"loader": "cclslr dali", "device": "gpu", "codec": "jpeg", "clips_per_second": 900.0},
        {"loader": "peer", "device": "cpu", "codec": "jpeg", "clips_per_second": 999.0},
    ],
}


def test_measurements_take_the_place_of_assumptions(tmp_path):
    train, loader = tmp_path / "train.json", tmp_path / "loader.json"
    train.write_text(json.dumps(TRAIN))
    loader.write_text(json.dumps(LOADER))
    plan = written(tmp_path, "--train", str(train), "--loader", str(loader), "--placement", "cpu")
    inputs = plan["inputs"]
    assert inputs["compute"] == {"value": 30.0, "source": "measured: train.json, Card"}
    assert (inputs["batch"]["value"], inputs["micro_batch"]["value"]) == (16, 4)
    assert inputs["core_ms"] == {"value": 100.0, "source": "measured: loader.json, cclslr numba"}
    on_gpu = written(tmp_path, "--train", str(train), "--loader", str(loader))["inputs"]
    assert on_gpu["gpu_loader"] == {"value": 900.0, "source": "measured: loader.json, cclslr dali"}
    assert on_gpu["core_ms"]["source"].startswith("assumed")


def test_files_that_are_none_of_ours_are_named(tmp_path):
    path = tmp_path / "else.json"
    path.write_text("{}")
    with pytest.raises(ValueError, match=r"else\.json: not written by cclslr bench train"):
        plan_run.main(["--train", str(path)])
    with pytest.raises(ValueError, match=r"else\.json: not written by cclslr bench loader"):
        plan_run.main(["--loader", str(path)])
    path.write_text(json.dumps(LOADER))
    with pytest.raises(ValueError, match="no row of cclslr with device gpu, codec hevc"):
        plan_run.main(["--loader", str(path), "--codec", "hevc"])

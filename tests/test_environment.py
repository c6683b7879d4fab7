"""What a machine has, and what `cclslr doctor` makes of it."""

from __future__ import annotations

import json
import os
from types import SimpleNamespace
from typing import Any

import pytest

from cclslr.bench import placement as bench_placement
from cclslr.commands import doctor
from cclslr.environment import advice, describe, disk_rate
from cclslr.poses import backends
from cclslr.training.backend_choice import Measured, Placement

IDLE = {
    "cores": 8, "cores_allowed": None, "load": 0.5, "driver": None, "gpus": [], "cuda": None, "cudnn": None,
    "libjpeg_turbo": True, "ffmpeg_direct": True, "ffmpeg": "8.0", "open_files": 65536,
    "versions": {"torch": "2.13.0", "nvidia-dali-cuda130": "2.4.0"},
}  # fmt: skip
GPU = {"driver": "580.95", "gpus": ["NVIDIA H100"], "cuda": "13.0", "cudnn": 91500}


def test_a_description_is_json_and_holds_what_readers_of_results_ask_for():
    about = json.loads(json.dumps(describe()))
    assert about["cores"] == len(os.sched_getaffinity(0))
    assert {"cpu", "memory_gb", "gpus", "gpu_memory_gb", "driver", "cuda", "cudnn", "nvdec", "python"} <= about.keys()
    assert {"torch", "numpy", "numba", "av"} <= about["versions"].keys()
    assert about["memory_gb"] >= about["memory_free_gb"] > 0


@pytest.mark.parametrize(
    ("change", "what", "do"),
    [
        (GPU | {"gpus": []}, "sees no GPU", "pip install --force-reinstall torch"),
        (GPU | {"versions": {"torch": "2.13.0"}}, "DALI is not installed", "cclslr[cuda130]"),
        (GPU | {"cuda": "12.8", "versions": {"torch": "2.13.0"}}, "DALI is not installed", "cclslr[cuda120]"),
        ({"versions": {"nvidia-dali-cuda120": "2", "nvidia-dali-cuda130": "2"}}, "Two builds of DALI", "uninstall"),
        (GPU | {"cudnn": 91002, "versions": {"torch": "2.9.1", "nvidia-dali-cuda130": "2"}}, "cuDNN 9.10", ">=9.15"),
        ({"load": 7.0}, "load 7 on 8 cores", "OMP_WAIT_POLICY=passive OMP_NUM_THREADS=7"),
        ({"cores_allowed": 2.5}, "may use 2.5 of the 8", "OMP_NUM_THREADS=2"),
        ({"libjpeg_turbo": False}, "libjpeg-turbo is not installed", "libturbojpeg0"),
        ({"ffmpeg_direct": False, "ffmpeg": "9.0"}, "FFmpeg 9.0, which is not one", "-c constraints.txt av"),
        ({"open_files": 1024}, "may open 1024 files", "ulimit -n 65536"),
        ({"versions": {"opencv-python": "5.0", "opencv-contrib-python": "4.9"}}, "Several builds of cv2", "uninstall"),
    ],
)  # fmt: skip
def test_advice_names_the_fault_and_the_line_that_mends_it(change, what, do):
    (item,) = advice(IDLE | change)
    assert what in item.what
    assert do in item.do


@pytest.mark.parametrize("change", [{}, GPU, GPU | {"cudnn": 91002}, {"load": 3.9}])
def test_a_machine_without_faults_gets_no_advice(change):
    assert advice(IDLE | change) == []


def test_disk_rate_leaves_nothing_behind(tmp_path):
    rate = disk_rate(tmp_path, size=1 << 20, piece=64 << 10)
    assert rate.write_gb_s > 0
    assert rate.reads_per_second > 0
    assert list(tmp_path.iterdir()) == []


def _doctor(capsys: Any, monkeypatch: Any, about: dict[str, Any], *arguments: str) -> str:
    monkeypatch.setattr(doctor, "describe", lambda: about)
    assert doctor.main([*arguments]) == 0
    return capsys.readouterr().out


@pytest.mark.parametrize("change", [{}, GPU | {"gpu_memory_gb": [80.0]}])
def test_doctor_fits_80_columns_and_says_what_will_be_used(change, capsys, monkeypatch, tmp_path):
    about = describe() | IDLE | change
    about["versions"] = describe()["versions"] | IDLE["versions"]
    monkeypatch.setattr(doctor, "Precision", lambda amp, device: SimpleNamespace(name=device.type))
    output = _doctor(capsys, monkeypatch, about, "--disk", str(tmp_path))
    assert max(map(len, output.splitlines())) <= 80
    for key, value in (("data.backend", "dali" if change else "numba"), ("run.amp", "cuda" if change else "cpu")):
        assert f"{key} {value}" in " ".join(output.split())
    for name in backends():
        assert f"poses by {name}" in output


def test_doctor_prints_json(capsys, monkeypatch, tmp_path):
    output = _doctor(capsys, monkeypatch, describe() | {"load": 1e6}, "--json", "--disk", str(tmp_path / "nowhere"))
    about = json.loads(output)
    assert "error" in about["disk"]
    assert about["used"]["data.device"] in ("cpu", "gpu")
    assert "OMP_WAIT_POLICY" in json.dumps(about["advice"])


def test_doctor_shows_what_bench_placement_measures(capsys, monkeypatch, tmp_path):
    """The measurement itself: test_backend_choice, which drives the same function."""
    numba, dali = Placement("numba", "auto", "cpu"), Placement("dali", "dali", "cpu")
    rows = [Measured(numba, 30.0, 0.01, 10), Measured(dali, 40.0, 0.0, 10)]
    asked = []
    monkeypatch.setattr(bench_placement, "measure_placements", lambda cfg, seconds: asked.append(cfg) or rows)
    (tmp_path / "small.yaml").write_text("optim: {batch: 8}")
    options = ["--disk", str(tmp_path), "--shards", "shards/mine", "--config", str(tmp_path / "small.yaml")]
    about = json.loads(_doctor(capsys, monkeypatch, describe(), "--json", *options))
    assert [row["clips_per_second"] for row in about["placements"]] == [30.0, 40.0]
    assert (asked[0].data.shards, asked[0].optim.batch) == (["shards/mine"], 8)
    shown = _doctor(capsys, monkeypatch, describe(), *options)
    assert "Ways to make views" in shown
    assert "40.0" in shown

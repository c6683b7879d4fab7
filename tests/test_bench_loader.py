"""The comparison of loaders: what it writes, what it refuses, and that all do the same work."""

from __future__ import annotations

import importlib
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from small_runs import ROOT, tiny_shards

from cclslr.bench import peer_dali, peer_views
from cclslr.bench.jobs import Jobs, Setup
from cclslr.bench.pretrain import open_loader
from cclslr.config import PretrainConfig, load_config
from cclslr.distributed import Process

SMALL = ["views.rgb_frames=4", "views.size=32", "views.mask_alpha=0", "optim.batch=2", "data.workers=1"]


@pytest.fixture(scope="module")
def shards(tmp_path_factory) -> Path:
    return tiny_shards(tmp_path_factory.mktemp("loaders") / "h264", codec="h264")


@pytest.mark.slow
def test_rows_and_absent_loaders(shards, tmp_path):
    out = tmp_path / "out.json"
    names = ["cclslr-numba", "dataloader-pyav", "webdataset", "dataloader-pillow", "cclslr-ffcv"]
    command = [sys.executable, "-m", "cclslr", "bench", "loader", str(shards), "--loaders", ",".join(names), *SMALL]
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    answer = subprocess.run(
        [*command, "--clips", "100", "--repeats", "2", "--json", str(out)],  # fewer: less CPU time than a clock tick
        cwd=ROOT, env=environment, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert answer.returncode == 0, answer.stdout + answer.stderr
    result = json.loads(out.read_text())
    assert [row["loader"] for row in result["rows"]] == names[:3]
    for row in result["rows"]:
        assert {"loader", "device", "codec", "clips_per_second", "min", "max", "n", "rss_mb", "cpu_share"} <= set(row)
        assert (row["device"], row["codec"], row["n"], len(row["all"])) == ("cpu", "h264", 2, 2)
        assert 0 < row["min"] <= row["clips_per_second"] <= row["max"]
        assert row["rss_mb"] > 10
        assert row["cpu_share"] > 0
    assert result["absent"]["dataloader-pillow"] == "reads JPEG frames, not h264"
    assert "cclslr-ffcv" in result["absent"]
    assert "dataloader-pillow left out: reads JPEG" in answer.stdout


@pytest.fixture
def tool():
    """The command as a module."""
    return importlib.import_module("cclslr.commands.bench.loader")


def test_cold_clips_are_read_once(tool, shards):
    with pytest.raises(ValueError, match="--cache cold reads a clip at most once"):
        tool.main([str(shards), "--loaders", "cclslr-numba", "--cache", "cold", "--clips", "99", *SMALL])


def test_an_unknown_loader(tool):
    with pytest.raises(ValueError, match="unknown loader 'magic'; choose of cclslr-numba, cclslr-dali"):
        tool.main(["nowhere", "--loaders", "cclslr-numba,magic"])


@pytest.mark.parametrize("codec", ["h264", "jpeg"])
def test_peers_make_the_views_that_ours_makes(codec, tmp_path):
    folder = tiny_shards(tmp_path / codec, (4, 0, 0), codec=codec)
    cfg = load_config(PretrainConfig, None, [*SMALL, "data.backend=numba", f"data.shards=[{folder}]"])
    jobs = Jobs(Setup(str(folder), cfg, tmp_path))
    with open_loader(cfg, Process(0, 1, torch.device("cpu"))).start() as loader:
        ours = next(loader)
    for b in range(2):
        job = jobs[b]
        assert job.clip_id == ours.clip_ids_B[b]
        decode = peer_views.usual_decoder(job.codec)
        theirs = peer_views.torch_views(decode(jobs.read(job), job), job, cfg.views.size)
        difference = theirs.float() - ours.rgb_VBTHWC[:, b].float()
        assert difference.abs().mean() < 6  # their crops are whole pixels


def test_dali_without_a_graph_makes_the_views_that_ours_makes(tmp_path):
    folder = tiny_shards(tmp_path / "jpeg", (4, 0, 0), codec="jpeg")
    cfg = load_config(PretrainConfig, None, [*SMALL, "data.backend=numba", f"data.shards=[{folder}]"])
    jobs = Jobs(Setup(str(folder), cfg, tmp_path))
    with open_loader(cfg, Process(0, 1, torch.device("cpu"))).start() as loader:
        ours = next(loader)
    theirs = peer_dali.dali_views(jobs, [jobs[0], jobs[1]]).torch().unflatten(0, (2, 2, cfg.views.rgb_frames))
    difference = theirs.transpose(0, 1).float() - ours.rgb_VBTHWC.float()
    assert difference.abs().mean() < 6  # its crops are whole pixels

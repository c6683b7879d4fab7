"""Real signing, packed with every codec, checked, looked at and trained on."""

from __future__ import annotations

import shutil
import subprocess
import sys

import pytest
from PIL import Image
from small_runs import ROOT, TINY_PRETRAIN, finish, records, start

from cclslr.codecs import codecs


def tool(name: str, *arguments: str) -> str:
    done = subprocess.run([sys.executable, f"tools/{name}.py", *arguments], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


CODECS = [pytest.param(name, marks=[] if name in ("jpeg", "h264") else [pytest.mark.slow]) for name in codecs()]


@pytest.mark.parametrize("codec", CODECS)
def test_real_clips_go_all_the_way(real, tmp_path, codec):
    videos, shards = tmp_path / "videos", tmp_path / "shards"
    videos.mkdir()
    for path in [*(real / "clips").glob("*.mp4"), *(real / "clips").glob("*.npz")]:
        shutil.copy(path, videos)
    tool("make_shards", "folder", str(videos), "--out", str(shards), "--codec", codec, "--size", "128",
         "--allow-unlabelled")  # fmt: skip
    tool("check_shards", str(shards), "--decode")
    tool("contact_sheet", str(shards), "--out", str(tmp_path / "views.png"), "--clips", "2")
    assert Image.open(tmp_path / "views.png").size[0] > 500
    finish(start("cclslr.train", *TINY_PRETRAIN, "optim.batch=4", "optim.micro_batch=4", "optim.epochs=2",
                 f"data.shards=[{shards}]", f"run.dir={tmp_path}/run"))  # fmt: skip
    losses = [record["loss"] for record in records(tmp_path / "run")]
    assert len(losses) == 2
    assert all(loss == loss for loss in losses)

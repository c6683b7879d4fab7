"""cclslr bench stages times every stage on packed clips."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from small_runs import ROOT, tiny_shards


@pytest.mark.slow
def test_every_stage_is_timed(tmp_path: Path) -> None:
    shards, out = tiny_shards(tmp_path / "set", (2, 0, 0), codec="h264"), tmp_path / "out.json"
    arguments = [str(shards), "--clips", "2", "--repeats", "2", "--out", str(out)]
    done = subprocess.run(
        [sys.executable, "-m", "cclslr", "bench", "stages", *arguments], cwd=ROOT, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    result = json.loads(out.read_text())
    assert set(result["ms"]) == {"read", "decode", "kernel", "frames", "rgb", "draw", "pose", "bare"}
    assert all(len(times) == 2 and min(times) > 0 for times in result["ms"].values())
    assert (result["codec"], result["clips"]) == ("h264", 2)

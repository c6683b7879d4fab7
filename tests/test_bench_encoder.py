"""cclslr bench encoder measures what an encoder's settings cost."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import av
import numpy as np
from small_runs import ROOT


def run(path: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [
        sys.executable,
        "-m",
        "cclslr",
        "bench",
        "encoder",
        str(path),
        "--size",
        "64",
        "--repeats",
        "2",
        *arguments,
    ]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True)


def noisy_video(path: Path) -> Path:
    rng = np.random.default_rng(0)
    with av.open(str(path), "w") as container:
        stream = container.add_stream("mpeg4", rate=25)
        stream.width, stream.height, stream.bit_rate = 96, 96, 4_000_000
        for _ in range(12):
            image = av.VideoFrame.from_ndarray(rng.integers(0, 256, (96, 96, 3), np.uint8), format="rgb24")
            container.mux(stream.encode(image))
        container.mux(stream.encode())
    return path


def test_coarser_settings_are_smaller_and_worse(tmp_path: Path) -> None:
    out = tmp_path / "out.json"
    done = run(noisy_video(tmp_path / "clip.mp4"), "--setting", "crf=40 bf=0", "--json", str(out))
    assert done.returncode == 0, done.stderr
    packed, coarse = json.loads(out.read_text())["settings"]
    assert (packed["setting"], coarse["setting"]) == ("", "crf=40 bf=0")
    assert coarse["kb"] < packed["kb"]
    assert coarse["psnr_db"] < packed["psnr_db"]
    for row in (packed, coarse):
        assert len(row["all_ms"]) == len(row["wanted_ms"]) == 2
        assert min(row["all_ms"] + row["wanted_ms"]) > 0


def test_a_setting_that_is_none_is_named(tmp_path: Path) -> None:
    done = run(noisy_video(tmp_path / "clip.mp4"), "--setting", "slower")
    assert done.returncode == 2
    assert "--setting 'slower'" in done.stderr

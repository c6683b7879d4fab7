"""Fixtures shared by all tests: where real data lies, when it lies anywhere."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

# Before torch is loaded: pytest has a worker on each core, and threads of two workers that spin for one core
# make the suite several times as long.
os.environ.setdefault("OMP_NUM_THREADS", "1")

import av
import numpy as np
import pytest

SHARED = Path(__file__).parents[1].parent / "shared"


def _folder(variable: str, default: Path) -> Path:
    folder = Path(os.environ.get(variable, default))
    if not folder.is_dir():
        pytest.skip(f"{folder} is not there; set {variable} to run this test")
    return folder


@pytest.fixture(scope="session")
def real() -> Path:
    """Folder of real clips and keypoints."""
    return _folder("CCLSLR_REAL", SHARED / "real")


@pytest.fixture(scope="session")
def annotations() -> Path:
    """Folder of the official annotation lists."""
    return _folder("CCLSLR_ANNOTATIONS", SHARED / "annotations")


@pytest.fixture(scope="session")
def write_video() -> Callable[..., Path]:
    """A function that writes a small H.264 file: write_video(path, frames, fps=25, size=(64, 48))."""

    def write(path: Path, frames: int, fps: int = 25, size: tuple[int, int] = (64, 48)) -> Path:
        path.parent.mkdir(parents=True, exist_ok=True)
        with av.open(str(path), "w") as container:
            stream = container.add_stream("libx264", rate=fps, options={"preset": "ultrafast"})
            stream.width, stream.height, stream.pix_fmt = *size, "yuv420p"
            for number in range(frames):
                grey = np.full((size[1], size[0], 3), 40 + number % 160, dtype=np.uint8)
                container.mux(stream.encode(av.VideoFrame.from_ndarray(grey, format="rgb24")))
            container.mux(stream.encode())
        return path

    return write

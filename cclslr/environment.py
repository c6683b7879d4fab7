"""What this machine has: hardware, libraries, load. One description for run folders, benchmarks and `cclslr doctor`."""

from __future__ import annotations

import ctypes
import importlib.metadata
import os
import platform
import random
import resource
import shutil
import subprocess
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

PACKAGES = (
    "cclslr", "torch", "nvidia-dali-cuda130", "nvidia-dali-cuda120", "numpy", "numba", "av", "pillow", "pyarrow",
    "webdataset", "omegaconf", "tensorboard", "protobuf", "ffcv", "rtmlib", "onnxruntime", "onnxruntime-gpu",
    "mediapipe", "opencv-python", "opencv-python-headless", "opencv-contrib-python", "opencv-contrib-python-headless",
    "distributed", "s3fs", "gcsfs",
)  # fmt: skip
DALI = ("nvidia-dali-cuda130", "nvidia-dali-cuda120")


@dataclass(frozen=True)
class Advice:
    """Something that is worth changing on a machine."""

    what: str  # one sentence
    do: str  # the line that changes it


def describe() -> dict[str, Any]:
    """Hardware, versions and load, ready for JSON. Sizes in GB; what is not there is None."""
    memory = _memory()
    return {
        "system": platform.platform(),
        "cpu": _cpu_name(),
        "cores": len(os.sched_getaffinity(0)),
        "cores_allowed": _cpu_quota(),  # by a container, as a number of cores; None: all
        "load": round(os.getloadavg()[0], 2),  # threads that want to run, mean of the last minute, all programs
        "memory_gb": memory.get("MemTotal"),
        "memory_free_gb": memory.get("MemAvailable"),
        "page_cache_gb": memory.get("Cached"),
        "open_files": resource.getrlimit(resource.RLIMIT_NOFILE)[0],
        "gpus": [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())],
        "gpu_memory_gb": [
            round(torch.cuda.get_device_properties(i).total_memory / 1e9, 1) for i in range(torch.cuda.device_count())
        ],
        "driver": _driver(),
        "cuda": torch.version.cuda,
        "cudnn": torch.backends.cudnn.version() if torch.backends.cudnn.is_available() else None,
        "nvdec": _has_library("libnvcuvid.so.1"),
        "libjpeg_turbo": _has_library("libturbojpeg.so.0"),
        "ffmpeg": _ffmpeg(),  # PyAV's own
        "ffmpeg_direct": _ffmpeg_direct(),  # called without Python between frames
        "python": platform.python_version(),
        "versions": {name: version for name in PACKAGES if (version := _version(name))},
    }


def advice(about: dict[str, Any]) -> list[Advice]:
    """What is worth changing on the machine that `describe` describes, most important first."""
    versions, found = about["versions"], []
    cuda = (about["cuda"] or "13").partition(".")[0]
    dali = [name for name in DALI if name in versions]
    if about["driver"] and not about["gpus"]:
        found.append(
            Advice(
                f"There is an NVIDIA driver ({about['driver']}), but this torch ({versions.get('torch')}) sees no GPU.",
                "pip install --force-reinstall torch   # from an index with CUDA builds: pytorch.org/get-started",
            )
        )
    if about["gpus"] and not dali:
        found.append(
            Advice(
                "DALI is not installed: nothing is decoded or augmented on the GPU.",
                f"pip install 'cclslr[cuda{cuda}0]'",
            )
        )
    if len(dali) > 1:
        found.append(Advice("Two builds of DALI are installed; they overwrite each other.", f"pip uninstall {dali[1]}"))
    if versions.get("torch", "").startswith("2.9.") and about["cudnn"] is not None and about["cudnn"] < 91500:
        found.append(
            Advice(
                f"torch 2.9 with cuDNN {_cudnn_text(about['cudnn'])}: 3D convolutions in bf16 are slow before 9.15.",
                f"pip install 'nvidia-cudnn-cu{cuda}>=9.15'",
            )
        )
    if about["load"] > 0.5 * about["cores"]:
        found.append(
            Advice(
                f"Other programs are busy: load {about['load']:g} on {about['cores']} cores. Threads of torch spin "
                "where they wait for each other, so a trainer on the CPU gets far less than its share.",
                f"export OMP_WAIT_POLICY=passive OMP_NUM_THREADS={max(1, about['cores'] - 1)}",
            )
        )
    if about["cores_allowed"] is not None and about["cores_allowed"] < about["cores"]:
        found.append(
            Advice(
                f"The container may use {about['cores_allowed']:g} of the {about['cores']} cores that it sees.",
                f"export OMP_NUM_THREADS={max(1, int(about['cores_allowed']))}",
            )
        )
    if not about["libjpeg_turbo"]:
        found.append(
            Advice(
                "libjpeg-turbo is not installed: the CPU decodes JPEG shards at two thirds of the speed.",
                "apt-get install libturbojpeg0",
            )
        )
    if not about["ffmpeg_direct"]:
        found.append(
            Advice(
                f"PyAV brings FFmpeg {about['ffmpeg']}, which is not one that is called directly: the CPU decodes "
                "video frame by frame, small views at half the speed.",
                "pip install --only-binary av -c constraints.txt av",
            )
        )
    if about["open_files"] < 4096:
        found.append(Advice(f"A process may open {about['open_files']} files.", "ulimit -n 65536"))
    builds = [name for name in versions if name.startswith("opencv-")]
    if len({versions[name] for name in builds}) > 1:
        found.append(
            Advice(
                f"Several builds of cv2 are installed ({', '.join(builds)}); the last one overwrote the others.",
                f"pip uninstall {' '.join(builds)}; pip install {builds[-1]}=={versions[builds[-1]]}",
            )
        )
    return found


@dataclass(frozen=True)
class DiskRate:
    """How fast a folder's disk writes, and reads pieces of the size of a clip that are in no cache."""

    folder: str
    write_gb_s: float
    read_gb_s: float
    reads_per_second: float


def disk_rate(folder: str | Path, size: int = 64 << 20, piece: int = 256 << 10) -> DiskRate:
    """Write `size` bytes into `folder`, read them back in pieces and out of order, and remove them.

    Raises:
        OSError: the folder is not there, may not be written, or is full.
    """
    block = random.Random(0).randbytes(piece)
    count = size // piece
    with tempfile.TemporaryFile(dir=folder) as file:
        began = time.perf_counter()
        for _ in range(count):
            file.write(block)
        file.flush()
        os.fsync(file.fileno())
        written = time.perf_counter() - began
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_RANDOM)
        began = time.perf_counter()
        for number in random.Random(1).sample(range(count), count):
            os.pread(file.fileno(), piece, number * piece)
        read = time.perf_counter() - began
    total = count * piece / 1e9
    return DiskRate(str(folder), round(total / written, 3), round(total / read, 3), round(count / read, 1))


def _cudnn_text(version: int) -> str:
    return f"{version // 10000}.{version // 100 % 100}"


def _cpu_name() -> str:
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor()


def _cpu_quota() -> float | None:
    """Cores that a container (cgroup v2) is allowed at a time."""
    try:
        quota, period = Path("/sys/fs/cgroup/cpu.max").read_text().split()
        return None if quota == "max" else round(int(quota) / int(period), 2)
    except (OSError, ValueError):
        return None


def _memory() -> dict[str, float]:
    """/proc/meminfo in GB; the container's limit, where there is one, is the total."""
    info = Path("/proc/meminfo")
    lines = info.read_text().splitlines() if info.exists() else []
    values = {name: int(value.split()[0]) * 1024 / 1e9 for name, value in (line.split(":", 1) for line in lines)}
    try:
        limit = int(Path("/sys/fs/cgroup/memory.max").read_text()) / 1e9
        values["MemTotal"] = min(values["MemTotal"], limit)
    except (OSError, ValueError, KeyError):
        pass
    return {name: round(value, 1) for name, value in values.items()}


def _version(name: str) -> str | None:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


def _driver() -> str | None:
    if not shutil.which("nvidia-smi"):
        return None
    query = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
    answer = subprocess.run(query, capture_output=True, text=True, check=False)
    return answer.stdout.splitlines()[0] if answer.returncode == 0 and answer.stdout else None


def _ffmpeg_direct() -> bool:
    from cclslr.codecs.avcodec import avcodec  # imports av

    return avcodec() is not None


def _ffmpeg() -> str | None:
    import av  # a tenth of a second, and most commands need no video

    return getattr(av, "ffmpeg_version_info", None)


def _has_library(name: str) -> bool:
    try:
        ctypes.CDLL(name)
    except OSError:
        return False
    return True

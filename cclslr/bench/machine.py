"""What a measurement was taken on: hardware, versions, and the peak that utilisation is measured against."""

from __future__ import annotations

import ctypes
import importlib.metadata
import os
import platform
import resource
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import torch

PACKAGES = ("torch", "nvidia-dali-cuda130", "nvidia-dali-cuda120", "numpy", "numba", "av", "pillow", "ffcv")


def describe() -> dict[str, Any]:
    """Hardware and versions, ready for JSON."""
    return {
        "cpu": _cpu_name(),
        "cores": len(os.sched_getaffinity(0)),
        "memory_gb": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1e9, 1),
        "gpus": [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())],
        "gpu_memory_gb": [
            round(torch.cuda.get_device_properties(i).total_memory / 1e9, 1) for i in range(torch.cuda.device_count())
        ],
        "driver": _driver(),
        "cuda": torch.version.cuda,
        "cudnn": torch.backends.cudnn.version() if torch.backends.cudnn.is_available() else None,
        "nvdec": _has_library("libnvcuvid.so.1"),
        "python": platform.python_version(),
        "versions": {name: version for name in PACKAGES if (version := _version(name))},
    }


def _cpu_name() -> str:
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor()


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


def _has_library(name: str) -> bool:
    try:
        ctypes.CDLL(name)
    except OSError:
        return False
    return True


def matrix_peak(device: torch.device, dtype: torch.dtype, seconds: float = 1.0) -> float:
    """Floating-point operations a second of the fastest of several large square matrix products.

    In float32 on a GPU, TF32 is allowed exactly where cuDNN's convolutions may use it, so that both are alike.
    """
    side = 8192 if device.type == "cuda" else 2048
    a, b = (torch.randn(side, side, device=device, dtype=dtype) for _ in range(2))
    allowed = torch.backends.cuda.matmul.allow_tf32
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32
    best, end = float("inf"), time.perf_counter() + seconds
    try:
        for attempt in range(1000):
            synchronize(device)
            started = time.perf_counter()
            torch.mm(a, b)
            synchronize(device)
            if attempt:  # the first one chooses its algorithm
                best = min(best, time.perf_counter() - started)
                if time.perf_counter() > end:
                    break
    finally:
        torch.backends.cuda.matmul.allow_tf32 = allowed
    return 2 * side**3 / best


def synchronize(device: torch.device) -> None:
    """Wait until the device has done all that it was given."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def peak_memory(device: torch.device) -> dict[str, float]:
    """Peaks so far in GB: the process's resident memory, and what torch allocated and reserved on the GPU."""
    unit = 1 if sys.platform == "darwin" else 1024
    peaks = {"rss_gb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e9}
    if device.type == "cuda":
        peaks["gpu_allocated_gb"] = torch.cuda.max_memory_allocated(device) / 1e9
        peaks["gpu_reserved_gb"] = torch.cuda.max_memory_reserved(device) / 1e9
    return {name: round(value, 3) for name, value in peaks.items()}

"""What a device can do at best, which utilisation is measured against, and what a process has taken of it."""

from __future__ import annotations

import resource
import sys
import time

import torch


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

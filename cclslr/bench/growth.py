"""Does a process grow? A straight line through samples of its resident memory."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Growth:
    """A line through the last half of the samples."""

    mb_per_1000: float  # slope: MB gained in 1,000 batches
    gained_mb: float  # by that slope, over the last half
    noise_mb: float  # standard deviation of the samples about the line
    peak_mb: float  # of all samples

    @property
    def grows(self) -> bool:
        """More was gained than twice what the samples scatter by."""
        return self.gained_mb > 2 * self.noise_mb


def growth(batches_N: np.ndarray, rss_mb_N: np.ndarray) -> Growth:
    """Fit the last half of a run; the first half may fill caches and pools.

    Args:
        batches_N: batches done at each sample, increasing.
        rss_mb_N: resident memory then, MB.

    Raises:
        ValueError: fewer than 8 samples.
    """
    if len(batches_N) < 8:
        raise ValueError(f"{len(batches_N)} samples say nothing about growth; take at least 8")
    x, y = np.asarray(batches_N, np.float64), np.asarray(rss_mb_N, np.float64)
    half = x >= (x[0] + x[-1]) / 2
    slope, offset = np.polyfit(x[half], y[half], 1)
    noise = float(np.std(y[half] - (slope * x[half] + offset), ddof=2))
    return Growth(1000 * float(slope), float(slope * np.ptp(x[half])), noise, float(y.max()))

"""A picture of what an evaluation took for what."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure  # without pyplot: no window system, and no state that others share

from cclslr.files import atomic_write

NAMED_CLASSES, SHOWN_PAIRS, LONGEST_NAME = 40, 20, 24


def save_confusion(path: str | Path, counts_KK: np.ndarray, classes: Sequence[str]) -> None:
    """Draw a confusion matrix, and beside it the pairs that are most often confused, worst first.

    Args:
        counts_KK: clips, rows are labels, columns are predictions.
        classes: glosses; written along the matrix as long as they can be read there.
    """
    of_label_K1 = counts_KK.sum(1, keepdims=True)
    figure = Figure(figsize=(15, 8), layout="constrained")
    matrix, pairs = figure.subplots(1, 2, width_ratios=(3, 2))
    image = matrix.imshow(100 * counts_KK / np.maximum(of_label_K1, 1), cmap="viridis", vmin=0, vmax=100, aspect="auto")
    figure.colorbar(image, ax=matrix, label="% of the label's clips")
    matrix.set(xlabel="prediction", ylabel="label", title=f"{int(counts_KK.trace())} of {int(counts_KK.sum())} right")
    if len(classes) <= NAMED_CLASSES:
        names = [_short(name) for name in classes]
        matrix.set_xticks(range(len(names)), names, rotation=90, fontsize=7, parse_math=False)
        matrix.set_yticks(range(len(names)), names, fontsize=7, parse_math=False)
    worst = worst_pairs(counts_KK)[:SHOWN_PAIRS]
    rows = np.arange(len(worst))
    pairs.barh(rows, [counts_KK[label, taken] for label, taken in worst], color="tab:red")
    names = [f"{_short(classes[label])} taken for {_short(classes[taken])}" for label, taken in worst]
    pairs.set_yticks(rows, names, fontsize=8, parse_math=False)
    for row, (label, taken) in enumerate(worst):
        note = f" {counts_KK[label, taken]} of {of_label_K1[label, 0]}"
        pairs.text(counts_KK[label, taken], row, note, va="center", fontsize=8)
    pairs.invert_yaxis()
    pairs.margins(x=0.15)
    pairs.set(xlabel="clips", title="most often confused" if worst else "nothing was confused")
    with atomic_write(path) as file:
        figure.savefig(file, dpi=100, format="png")


def worst_pairs(counts_KK: np.ndarray) -> list[tuple[int, int]]:
    """Pairs (label, prediction) that differ and occurred: most clips first, then the larger share of the label."""
    labels, taken = np.nonzero(counts_KK - np.diag(np.diag(counts_KK)))
    share = counts_KK[labels, taken] / counts_KK.sum(1)[labels]
    order = np.lexsort((taken, labels, -share, -counts_KK[labels, taken]))
    return [(int(labels[i]), int(taken[i])) for i in order]


def _short(name: str) -> str:
    return name if len(name) <= LONGEST_NAME else name[: LONGEST_NAME - 1] + "…"

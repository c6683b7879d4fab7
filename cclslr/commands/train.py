"""Pre-train the RGB and the pose branch on unlabelled clips.

The algorithm is cclslr/train.py.
"""

from __future__ import annotations

GROUP, PLACE = "training", 3


def main(argv: list[str] | None = None) -> None:
    from cclslr.train import main as train

    train(argv)

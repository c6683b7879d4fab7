"""Fine-tune the pre-trained branches with labels, and evaluate.

The program is cclslr/finetune.py.
"""

from __future__ import annotations

GROUP, PLACE = "training", 4


def main(argv: list[str] | None = None) -> None:
    from cclslr.finetune import main as finetune

    finetune(argv)

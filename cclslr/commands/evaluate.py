"""Evaluate a fine-tuned checkpoint on a split, by branch and fused."""

from __future__ import annotations

GROUP, PLACE = "use", 1


def main(argv: list[str] | None = None) -> None:
    from cclslr.evaluate import main as evaluate

    evaluate(argv)

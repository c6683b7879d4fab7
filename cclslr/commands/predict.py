"""Name the sign in one video with a fine-tuned checkpoint."""

from __future__ import annotations

GROUP, PLACE = "use", 2


def main(argv: list[str] | None = None) -> None:
    from cclslr.predict import main as predict

    predict(argv)

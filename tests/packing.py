"""What tests of packing share: the command on a few rendered clips, and all that a folder holds."""

from __future__ import annotations

import sys
from pathlib import Path


def pack_command(out: str | Path, *more: str, classes: int, clips_per_shard: int) -> list[str]:
    """`cclslr pack` of a few tiny rendered clips, ten of each class, as JPEG."""
    clips = f"--classes {classes} --clips-per-class 6 2 2 --size 32 --frames 8 8"
    packing = f"--codec jpeg --clips-per-shard {clips_per_shard}"
    words = [*clips.split(), *packing.split(), "--out", str(out)]
    return [sys.executable, "-m", "cclslr", "pack", "synthetic", *words, *more]


def contents(folder: Path) -> dict[str, bytes]:
    """The files of a folder by name."""
    return {path.name: path.read_bytes() for path in folder.iterdir()}

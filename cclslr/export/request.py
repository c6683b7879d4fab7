"""What an export is asked for, and what it gives."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from cclslr.export.verify import Parity


@dataclass(frozen=True)
class Request:
    """What is to be written."""

    checkpoint: Path
    out: Path
    formats: Sequence[str] = ("onnx",)
    branches: Sequence[str] = ()  # empty: all that the model has
    verify: int = 200  # clips on which each graph is compared with the model; 0: none
    quantise: Sequence[str] = ("int8",)  # also the pose branch in these of `PRECISIONS`, where ONNX is written
    clip: bool = True  # put a clip of the data set into the folder
    licence: str = "other"  # of the card's front matter
    overrides: Sequence[str] = ()


@dataclass
class Exported:
    """What was written."""

    out: Path
    files: list[str]
    parity: dict[str, Parity] = field(default_factory=dict)  # by file
    measured_on: str = ""

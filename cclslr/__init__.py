"""CCL-SLR: cross-modal consistency learning for isolated sign language recognition."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from cclslr.inference.model import Model

__all__ = ["__version__", "load"]
__version__ = "0.1.0"


def load(path: str | Path, device: str = "auto", overrides: Sequence[str] = ()) -> Model:
    """The model of a checkpoint, for `embed` and `predict`: see `cclslr.inference.model.load`."""
    from cclslr.inference import model  # imported when it is asked for: commands start quickly

    return model.load(path, device, overrides)

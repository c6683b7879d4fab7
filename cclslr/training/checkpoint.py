"""Checkpoints: written whole or not at all, read without running any code in them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from cclslr.errors import UserError
from cclslr.files import atomic_write


def save(path: str | Path, state: dict[str, Any]) -> None:
    """Write tensors and plain containers to `path`, atomically."""
    with atomic_write(path) as file:
        torch.save(state, file)


def load(path: str | Path) -> dict[str, Any]:
    """Read a checkpoint onto the CPU with `weights_only`.

    Raises:
        UserError: no such file, or not a whole checkpoint.
    """
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError as error:
        raise UserError(f"checkpoint {path}: no such file") from error
    except Exception as error:
        raise UserError(f"checkpoint {path}: cannot be read ({type(error).__name__}: {error})") from error


def to_resume(run_dir: str | Path, resume: str) -> Path | None:
    """The checkpoint that `run.resume` means: auto is the run's own last.pt if there is one."""
    if resume == "none":
        return None
    if resume != "auto":
        return Path(resume)
    last = Path(run_dir) / "last.pt"
    return last if last.exists() else None

"""Checkpoints: written whole or not at all, checked when read, read without running any code in them."""

from __future__ import annotations

import io
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any, cast

import torch

from cclslr.distributed import Process
from cclslr.errors import UserError
from cclslr.files import atomic_write

LARGEST = 1e19  # the square of a larger float32 is infinite: variances and norms of it are, and the next loss is NaN
KINDS = {"query": "pre-training", "classifier": "fine-tuning"}  # by what only such a checkpoint holds


def save(path: str | Path, state: dict[str, Any]) -> None:
    """Write tensors and plain containers to `path`, atomically.

    Raises:
        UserError: it cannot be written; the file that was there before is untouched.
    """
    try:
        with atomic_write(path) as file:
            writer = _Writer(file)
            try:
                torch.save(state, cast("IO[bytes]", writer))
            except RuntimeError as error:  # torch hides why writing failed ("unexpected pos")
                raise writer.error or error from error
    except OSError as error:
        raise UserError(f"checkpoint {path}: cannot be written ({error.strerror or error})") from error


class _Writer(io.RawIOBase):
    """A file that remembers why it could not be written."""

    def __init__(self, file: IO[bytes]) -> None:
        super().__init__()
        self.file = file
        self.error: OSError | None = None

    def write(self, data: Any) -> int:
        try:
            return self.file.write(data)
        except OSError as error:
            self.error = error
            raise

    def flush(self) -> None:
        self.file.flush()


def load(path: str | Path) -> dict[str, Any]:
    """Read a checkpoint onto the CPU with `weights_only`.

    torch writes a CRC-32 of each tensor's bytes and never looks at it again; here each is compared.

    Raises:
        UserError: no such file, or not a whole checkpoint.
    """
    try:
        with zipfile.ZipFile(path) as file:
            damaged = file.testzip()
        if damaged is not None:
            raise UserError(f"checkpoint {path}: damaged (the checksum of {damaged} differs); use an older one")
        return torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError as error:
        raise UserError(f"checkpoint {path}: no such file") from error
    except IsADirectoryError as error:
        raise UserError(f"checkpoint {path}: a folder; give a checkpoint in it, such as {path}/last.pt") from error
    except UserError:
        raise
    except Exception as error:
        raise UserError(f"checkpoint {path}: cannot be read ({type(error).__name__}: {error})") from error


def load_on_all_ranks(path: str | Path, process: Process) -> dict[str, Any]:
    """Rank 0 reads the checkpoint and sends it to the others, whose disks may hold another or none."""
    return process.from_main(lambda: load(path))


def check_kind(state: dict[str, Any], wanted: str, path: str | Path, cure: str = "") -> None:
    """Refuse a checkpoint of another program than `wanted`, a key of `KINDS`; `cure` says what to do then."""
    if wanted not in state:
        found = next((f"one of {name}" for key, name in KINDS.items() if key in state), "something else")
        raise UserError(f"{path} is no checkpoint of {KINDS[wanted]} but {found}" + (f"; {cure}" if cure else ""))


def to_resume(run_dir: str | Path, resume: str) -> Path | None:
    """The checkpoint that `run.resume` means: auto is the run's own last.pt if there is one."""
    if resume == "none":
        return None
    if resume != "auto":
        return Path(resume)
    last = Path(run_dir) / "last.pt"
    return last if last.exists() else None


def not_finite(state: Any) -> str | None:
    """The name of a tensor in nested containers that holds NaN, infinity or a number beyond `LARGEST`, or None.

    Waits for the device.
    """
    tensors = [(name, x) for name, x in _tensors(state, "") if x.is_floating_point() and x.numel()]
    largest = [torch.linalg.vector_norm(x, torch.inf).float() for _, x in tensors]
    sizes = torch.stack([size.cpu() for size in largest]).tolist() if largest else []
    return next((name for (name, _), size in zip(tensors, sizes) if not size <= LARGEST), None)


def _tensors(tree: Any, prefix: str) -> Iterator[tuple[str, torch.Tensor]]:
    if isinstance(tree, torch.Tensor):
        yield prefix, tree
    elif isinstance(tree, dict):
        for name, value in tree.items():
            yield from _tensors(value, f"{prefix}.{name}" if prefix else str(name))


def remove_unfinished(run_dir: Path) -> None:
    """Delete what killed runs left of checkpoints that they were writing; call it alone in the folder."""
    for path in run_dir.glob(".*.pt.*.tmp"):
        path.unlink()

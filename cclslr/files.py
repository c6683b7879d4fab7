"""The one way files are written: aside, flushed to disk, then renamed; a reader never sees half a file."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

from cclslr.errors import UserError


@contextlib.contextmanager
def atomic_write(path: str | Path, mode: str = "wb") -> Iterator[IO[Any]]:
    """Open a temporary file beside `path`; on success it takes the name of `path`, on an error it is removed."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    aside = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        text = "b" not in mode
        with open(aside, mode, encoding="utf-8" if text else None, newline="" if text else None) as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(aside, path)
    finally:
        aside.unlink(missing_ok=True)


@contextlib.contextmanager
def hold_folder(folder: str | Path, busy: str) -> Iterator[None]:
    """Keep a folder for this process, until it leaves the context or dies.

    Raises:
        UserError: another process has it; says `busy`.
    """
    path = Path(folder) / ".lock"
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise UserError(busy) from error
        if not _is_there(file, path):
            raise UserError(busy)
        try:
            yield
        finally:
            path.unlink(missing_ok=True)


@contextlib.contextmanager
def hold_file(path: str | Path) -> Iterator[None]:
    """Wait for the lock file `path` and keep it: what the block does is done by one process of a node at a time.

    Raises:
        OSError: it cannot be made.
    """
    path = Path(path)
    while True:
        with open(path, "w") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            if not _is_there(file, path):
                continue
            try:
                yield
            finally:
                path.unlink(missing_ok=True)
            return


def _is_there(file: IO[Any], path: Path) -> bool:
    """False where the owner of a lock file removed it between its opening and its locking by this process."""
    try:
        return os.path.samestat(os.fstat(file.fileno()), os.stat(path))
    except FileNotFoundError:
        return False


def write_json(path: str | Path, value: Any) -> None:
    """Write `value` as indented JSON, atomically."""
    with atomic_write(path, "w") as file:
        json.dump(value, file, indent=2, ensure_ascii=False, sort_keys=False)
        file.write("\n")


def read_json(path: str | Path) -> Any:
    """Read a JSON file; a broken one is a `UserError` that names it."""
    return parse_json(Path(path).read_bytes(), str(path))


def parse_json(data: bytes, name: str) -> Any:
    """The value of a JSON file; a broken one is a `UserError` that begins with `name`."""
    try:
        return json.loads(data.decode("utf-8"))
    except (json.JSONDecodeError, UnicodeDecodeError, RecursionError) as error:
        raise UserError(f"{name}: not valid JSON ({error})") from error

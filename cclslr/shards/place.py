"""Where a data set is written: a folder, or a URL of object storage.

Files are written in a folder of this machine. Under a URL that is a folder for temporary files; what is complete goes
up whole, and is removed here. A killed packing leaves nothing there but whole files, and none of them is called done
before the others that it needs are there.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import os
import shutil
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import IO, Protocol

from cclslr.errors import UserError
from cclslr.files import hold_folder
from cclslr.shards.columns import Columns
from cclslr.shards.convert import folder_columns, open_columns
from cclslr.shards.index import INDEX_NAME, IndexBytes
from cclslr.shards.info import DatasetInfo, ShardInfo
from cclslr.shards.remote import files_at, patiently
from cclslr.shards.store import open_file


class Place(Protocol):
    """The files of a data set that is being written. Names are relative to it, with / between folder and file."""

    name: str  # the folder, or the URL

    def hold(self) -> AbstractContextManager[None]:
        """Keep it for this process.

        Raises:
            UserError: another process packs into it.
        """
        ...

    def writing(self, *names: str) -> AbstractContextManager[Path]:
        """A folder of this machine in which the block writes files of these names; they are there, in this order,
        once the block has ended without an error."""
        ...

    def read(self, name: str) -> bytes:
        """A file.

        Raises:
            FileNotFoundError: there is none.
        """
        ...

    def open(self, name: str) -> IO[bytes]:
        """A file, to be read part by part; raises as `read`."""
        ...

    def sizes(self) -> dict[str, int]:
        """Bytes of every file in it and in its folders."""
        ...

    def whole(self, shards: Iterable[ShardInfo]) -> set[str]:
        """The names of those tars that are as they were written, as far as can be told without fetching them."""
        ...

    def remove(self, names: Iterable[str]) -> None:
        """Remove files, and folders with all that is in them; what is not there is passed over."""
        ...

    def tidy(self) -> None:
        """Remove what killed processes left half-written."""
        ...

    def columns(self, info: DatasetInfo) -> Columns:
        """The index of the finished data set; raises as `open_columns`."""
        ...


def place_of(out: str | Path) -> Place:
    """The place that a user names by a path or a URL.

    Raises:
        UserError: no such protocol, or its package is not installed.
    """
    text = str(out)
    if text.startswith("file://"):
        text = text.removeprefix("file://")
    return UrlPlace(text) if "://" in text else FolderPlace(Path(text))


class FolderPlace:
    """A folder: files are written in it, aside, and renamed."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder.resolve()
        self.name = str(self.folder)

    @contextlib.contextmanager
    def hold(self) -> Iterator[None]:
        """See `Place`."""
        with hold_folder(self.folder, f"{self.folder} is being packed by another process"):
            yield

    @contextlib.contextmanager
    def writing(self, *names: str) -> Iterator[Path]:
        """See `Place`."""
        for name in names:
            (self.folder / name).parent.mkdir(parents=True, exist_ok=True)
        yield self.folder

    def read(self, name: str) -> bytes:
        """See `Place`."""
        return (self.folder / name).read_bytes()

    def open(self, name: str) -> IO[bytes]:
        """See `Place`; no pipe and no terminal."""
        return os.fdopen(open_file(self.folder / name), "rb")

    def sizes(self) -> dict[str, int]:
        """See `Place`."""
        found = {}
        for folder, _, names in os.walk(self.folder):
            for name in names:
                path = Path(folder, name)
                with contextlib.suppress(FileNotFoundError):
                    found[path.relative_to(self.folder).as_posix()] = path.stat().st_size
        return found

    def whole(self, shards: Iterable[ShardInfo]) -> set[str]:
        """By their checksums."""
        found = set()
        for shard in shards:
            path = self.folder / shard["name"]
            if path.is_file() and path.stat().st_size == shard["bytes"]:
                with open(path, "rb") as file:
                    if hashlib.file_digest(file, "sha256").hexdigest() == shard["sha256"]:
                        found.add(shard["name"])
        return found

    def remove(self, names: Iterable[str]) -> None:
        """See `Place`."""
        for name in names:
            path = self.folder / name
            if path.is_dir():
                shutil.rmtree(path, ignore_errors=True)
            else:
                path.unlink(missing_ok=True)

    def tidy(self) -> None:
        """See `Place`."""
        for path in self.folder.glob(".*.tmp"):
            path.unlink(missing_ok=True)

    def columns(self, info: DatasetInfo) -> Columns:
        """See `Place`."""
        return folder_columns(self.folder, info)


class UrlPlace:
    """A folder of object storage, through fsspec. Processes of other machines that write into it are not noticed."""

    def __init__(self, url: str) -> None:
        self.name = url.rstrip("/")
        self._files, self._root = files_at(self.name)
        own = hashlib.sha256(self.name.encode()).hexdigest()[:16]
        self._here = Path(tempfile.gettempdir(), f"cclslr-{os.getuid()}-{own}")

    @contextlib.contextmanager
    def hold(self) -> Iterator[None]:
        """See `Place`; at its end, the folder of this machine is removed."""
        with hold_folder(self._own_folder(), f"{self.name} is being packed by another process of this machine"):
            try:
                yield
            finally:
                shutil.rmtree(self._here, ignore_errors=True)

    @contextlib.contextmanager
    def writing(self, *names: str) -> Iterator[Path]:
        """See `Place`; a folder of this call's own: a worker of a killed run may live a moment longer."""
        with tempfile.TemporaryDirectory(dir=self._own_folder()) as folder:
            for name in names:
                Path(folder, name).parent.mkdir(parents=True, exist_ok=True)
            yield Path(folder)
            for name in names:
                self._put(Path(folder, name), name)

    def _own_folder(self) -> Path:
        self._here.mkdir(mode=0o700, exist_ok=True)
        if self._here.stat().st_uid != os.getuid() or self._here.is_symlink():
            raise UserError(f"{self._here} is another user's; set TMPDIR to a folder for temporary files of your own")
        return self._here

    def _put(self, path: Path, name: str) -> None:
        try:
            patiently(f"{self.name}/{name}", lambda: self._files.put_file(str(path), f"{self._root}/{name}"))
        except NotImplementedError as error:
            raise UserError(f"{self.name}: {self._files.protocol} cannot be written to; choose another URL") from error

    def read(self, name: str) -> bytes:
        """See `Place`."""
        data: bytes = patiently(f"{self.name}/{name}", lambda: self._files.cat_file(f"{self._root}/{name}"))
        return data

    def open(self, name: str) -> IO[bytes]:
        """See `Place`; all of it is fetched."""
        return io.BytesIO(self.read(name))

    def sizes(self) -> dict[str, int]:
        """See `Place`."""
        self._files.invalidate_cache()
        try:
            found = patiently(self.name, lambda: self._files.find(self._root, detail=True))
        except FileNotFoundError:
            return {}
        finally:
            self._files.invalidate_cache()  # else what workers write from now on is not found
        begin = self._root.rstrip("/") + "/"
        return {path.removeprefix(begin): entry["size"] for path, entry in found.items() if path.startswith(begin)}

    def whole(self, shards: Iterable[ShardInfo]) -> set[str]:
        """By their sizes: for checksums, every byte would have to come here."""
        there = self.sizes()
        return {shard["name"] for shard in shards if there.get(shard["name"]) == shard["bytes"]}

    def remove(self, names: Iterable[str]) -> None:
        """See `Place`."""
        there, names = self.sizes(), set(names)
        paths = [f"{self._root}/{name}" for name in there if name in names or name.split("/")[0] in names]
        if paths:
            patiently(self.name, lambda: self._files.rm(paths))
        self._files.invalidate_cache()

    def tidy(self) -> None:
        """See `Place`."""
        for path in self._here.glob("*"):
            if path.is_dir():
                shutil.rmtree(path, ignore_errors=True)

    def columns(self, info: DatasetInfo) -> Columns:
        """See `Place`."""
        index = IndexBytes(f"{self.name}/{INDEX_NAME}", lambda: self.read(INDEX_NAME))
        return open_columns(index, info, None, self._own_folder())

"""Writes one shard: a tar by webdataset's own writer, its stock .idx, and the rows of the index."""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import io
import tarfile
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any, cast

import pyarrow as pa

from cclslr.files import atomic_write
from cclslr.shards.format import Component, IndexRow
from cclslr.shards.index import SCHEMA, table_of

# Names in a tar of the plain (USTAR) format end here; longer ones would need extensions that stock readers skip.
MAX_NAME = 100


@dataclass
class PackedClip:
    """One clip, encoded: its row of the index with `components` still empty, and the bytes of each component."""

    row: IndexRow
    parts: dict[str, bytes]  # by extension: mjpg | mp4, pose.npy, mask.png, json


@dataclass
class ShardFile:
    """One complete shard."""

    name: str
    bytes: int
    sha256: str
    table: pa.Table = field(default_factory=SCHEMA.empty_table)  # its rows of the index


class ShardWriter:
    """Collects clips in a tar; use through `open_shard`."""

    def __init__(self, file: IO[bytes], name: str) -> None:
        from webdataset import TarWriter  # here, because it brings torch, and those who only read need neither

        # Times and owners are fixed: the same clips give the same bytes.
        self._tar = TarWriter(file, user="cclslr", group="cclslr", mtime=0.0, encoder=False)
        self._name = name
        self._clips: list[tuple[IndexRow, dict[str, int]]] = []

    def add(self, clip: PackedClip) -> None:
        """Append a clip; its components lie together, in the order of their names."""
        self._tar.write({"__key__": clip.row.key, **clip.parts})
        self._clips.append((clip.row, {name: zlib.crc32(data) for name, data in clip.parts.items()}))

    def close(self) -> None:
        """Write the end of the tar."""
        self._tar.close()

    def rows(self, tar: IO[bytes]) -> list[IndexRow]:
        """The index rows, with the offsets at which `tarfile` finds the components."""
        found: dict[str, dict[str, Component]] = {}
        checksums = {row.key: crcs for row, crcs in self._clips}
        with tarfile.open(fileobj=tar, mode="r:") as members:
            for member in members:
                key, _, extension = member.name.partition(".")
                component = Component(member.offset_data, member.size, checksums[key][extension])
                found.setdefault(key, {})[extension] = component
        return [dataclasses.replace(row, shard=self._name, components=found[row.key]) for row, _ in self._clips]


@contextlib.contextmanager
def open_shard(folder: str | Path, name: str) -> Iterator[tuple[ShardWriter, ShardFile]]:
    """Write the shard `folder/name` (a .tar) and its .idx; both appear only when the block ends without an error.

    Yields the writer, and a `ShardFile` that is filled in when the block ends.
    """
    path = Path(folder) / name
    report = ShardFile(name, 0, "")
    with atomic_write(path, "w+b") as file:
        with contextlib.closing(ShardWriter(file, name)) as writer:
            yield writer, report
        report.bytes = file.tell()
        file.seek(0)
        report.sha256 = hashlib.file_digest(cast(Any, file), "sha256").hexdigest()
        file.seek(0)
        rows = writer.rows(file)
    report.table = table_of(rows)
    with atomic_write(path.with_suffix(".idx"), "w") as file:
        file.write(stock_index(rows))


def idx_name(tar: str) -> str:
    """What the stock index of a shard is called."""
    return f"{tar.removesuffix('.tar')}.idx"


def stock_index(rows: list[IndexRow]) -> str:
    """The text of DALI's index (version 1.2, as its wds2idx writes it): extension, offset, size, name of each file."""
    text = io.StringIO()
    text.write(f"v1.2 {len(rows)}\n")
    for row in rows:
        entries = [f"{name} {part.offset} {part.size} {row.key}.{name}" for name, part in row.components.items()]
        text.write(" ".join(entries) + "\n")
    return text.getvalue()

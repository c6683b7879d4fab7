"""index.columns: the rows of index.parquet as arrays in one file that all processes of a node map into memory.

It says nothing that index.parquet does not say, and is made from it (`cclslr.shards.convert`): by packing, or by the
first who opens a data set that has none. A row becomes an object when it is asked for, so a set of ten million clips
is open at once, and what its ranks have read of it is in memory once a node.

    b"CCLSCOL1"  uint64: bytes of the header  uint32: its CRC-32  the header, JSON
    arrays one after the other, each at a multiple of 4096 bytes; the last one holds a CRC-32 for each block of 16 KiB
    of the others

A block is compared with its checksum when something of it is first read.
"""

from __future__ import annotations

import json
import mmap
import os
import struct
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from cclslr.errors import UserError
from cclslr.shards.format import KEY_PATTERN, SPLITS, Component, IndexRow, part_of
from cclslr.shards.info import INFO_NAME, DatasetInfo

COLUMNS_NAME = "index.columns"
MAGIC, PREFIX = b"CCLSCOL1", struct.Struct("<8sQI")
ALIGN, BLOCK = 4096, 1 << 14  # bytes
PART_BITS = {"video": 1, "pose": 2, "mask": 4, "json": 8}  # of `parts`

RECORD = np.dtype(
    [
        # Where the text, components and frames of a row end; they begin where those of the row before it end.
        ("key_end", "<i8"),
        ("signer_end", "<i8"),
        ("component_end", "<i8"),
        ("frame_end", "<i8"),
        ("fps", "<f8"),
        ("shard", "<i4"),
        ("label", "<i4"),
        ("num_frames", "<i4"),
        ("width", "<i4"),
        ("height", "<i4"),
        ("split", "u1"),  # place in SPLITS
    ]
)
COMPONENT = np.dtype([("offset", "<i8"), ("size", "<i8"), ("crc32", "<u4"), ("name", "u1")])
COLUMNS: dict[str, np.dtype] = {
    "record": RECORD,  # a row each
    "text": np.dtype("u1"),  # key and signer of each row, UTF-8
    "component": COMPONENT,
    "frame": np.dtype("<u4"),  # bytes of each JPEG; before the first, where it begins (0)
    "label": np.dtype("<i4"),  # a row each, once more: plans read nothing else
    "parts": np.dtype("u1"),  # PART_BITS of a row
    **{split: np.dtype("<u4") for split in SPLITS},  # the rows of each split, ascending
    "reach": np.dtype("<i8"),  # of each shard: where its last component ends
    "check": np.dtype("<u4"),
}
_AT_ONCE = 1 << 16  # rows of which texts are made
NO_FRAME = np.iinfo(np.uint32).max  # instead of a size that no frame has: the clip is refused when it is read


class DamagedColumns(UserError):
    """index.columns is not as it was written."""


class Column:
    """One array of the file."""

    def __init__(self, name: str, values: np.ndarray, checks: np.ndarray, path: Path) -> None:
        self._name, self._values, self._checks, self._path = name, values, checks, path
        self._bytes = values.view(np.uint8)
        self._unread = np.ones(len(checks), bool)

    def __len__(self) -> int:
        return len(self._values)

    def part(self, begin: int, end: int) -> np.ndarray:
        """Elements `begin` to `end`, in place and read-only.

        Raises:
            DamagedColumns: a checksum differs, or there are no such elements.
        """
        if not 0 <= begin <= end <= len(self._values):
            raise damaged(self._path, f"{self._name}: {begin} to {end} of {len(self._values)}")
        if begin < end:
            size = self._values.itemsize
            first, last = begin * size // BLOCK, (end * size - 1) // BLOCK
            if self._unread[first : last + 1].any():
                for number in first + np.flatnonzero(self._unread[first : last + 1]):
                    block = self._bytes[number * BLOCK : (number + 1) * BLOCK].data
                    if zlib.crc32(block) != self._checks[number]:
                        raise damaged(self._path, f"the checksum of {self._name} differs")
                    self._unread[number] = False
        return self._values[begin:end]

    def forget(self) -> None:
        """Compare every block with its checksum again when it is read next."""
        self._unread[:] = True

    def all(self) -> np.ndarray:
        """The whole column, in place and read-only."""
        return self.part(0, len(self))


class Columns:
    """The rows of one data set, in the order of its index. Safe to use from several threads; pickled as its path.

    Attributes:
        about: the header: "rows", "index_sha256", "index_bytes", "component_names", "shards" (names), "block_bytes"
            (99 of 100 clips lie within so many), "max_label", "bare" (a row without a component, or -1).

    Raises:
        OSError: it is not there.
        DamagedColumns: cut, or no such file.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.own_folder: Any = None  # keeps a temporary folder that the file is in
        with open(path, "rb") as file:
            size = os.fstat(file.fileno()).st_size
            magic, length, crc = PREFIX.unpack(file.read(PREFIX.size).ljust(PREFIX.size, b"\0"))
            header = file.read(length) if magic == MAGIC and length <= size else b""
            if not header or zlib.crc32(header) != crc:
                raise damaged(path, "the header is not whole")
            self.about: dict[str, Any] = json.loads(header)
            if size != self.about["bytes"]:
                raise damaged(path, f"{size} bytes, expected {self.about['bytes']}")
            mapped = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        arrays = {
            name: np.frombuffer(mapped, dtype, count, offset)
            for (name, dtype), (offset, count) in zip(COLUMNS.items(), self.about["arrays"], strict=True)
        }
        checks = arrays.pop("check")
        if zlib.crc32(checks.data) != self.about["check_crc32"]:
            raise damaged(path, "the checksums are not whole")
        self._columns: dict[str, Column] = {}
        for name, values in arrays.items():
            count = -(-values.nbytes // BLOCK)
            self._columns[name] = Column(name, values, checks[:count], path)
            checks = checks[count:]

    def __len__(self) -> int:
        return int(self.about["rows"])

    def __reduce__(self) -> tuple[type[Columns], tuple[Path]]:
        return Columns, (self.path,)

    def __getitem__(self, name: str) -> Column:
        """A column of `COLUMNS`."""
        return self._columns[name]

    def verify(self) -> None:
        """Compare all of the file with its checksums, what was read before included.

        Raises:
            DamagedColumns: a checksum differs.
        """
        for column in self._columns.values():
            column.forget()
            column.all()

    def field(self, name: str) -> np.ndarray:
        """A field of every record, in place: (rows,)."""
        return self["record"].all()[name]

    def row(self, number: int) -> IndexRow:
        """One row as an object.

        Raises:
            DamagedColumns: a checksum differs.
        """
        before = self["record"].part(number - 1, number).item() if number else (0, 0, 0, 0)
        record = self["record"].part(number, number + 1)[0]
        key_end, signer_end, component_end, frame_end, fps, shard, label, num_frames, width, height, split = (
            record.item()
        )
        text = self["text"].part(before[1], signer_end).tobytes()
        key = text[: key_end - before[1]].decode()
        if not KEY_PATTERN.fullmatch(key):
            raise damaged(self.path, f"{key!r} is no key")
        names = self.about["component_names"]
        components = {
            names[name]: Component(offset, size, crc32)
            for offset, size, crc32, name in self["component"].part(before[2], component_end).tolist()
        }
        frames = self["frame"].part(before[3], frame_end)
        return IndexRow(
            key=key,
            shard=self.about["shards"][shard],
            label=label,
            split=SPLITS[split],
            signer=text[key_end - before[1] :].decode(),
            num_frames=num_frames,
            width=width,
            height=height,
            fps=fps,
            components=components,
            frame_offsets=tuple(np.cumsum(frames, dtype=np.int64).tolist()),
        )

    def rows(self) -> Iterator[IndexRow]:
        """All rows, one after the other."""
        return map(self.row, range(len(self)))

    def texts(self, numbers: np.ndarray | None = None) -> Iterator[tuple[str, str]]:
        """Key and signer of all rows, or of those with `numbers`, one after the other."""
        text, records = self["text"].all().data, self["record"].all()
        for first in range(0, len(records) if numbers is None else len(numbers), _AT_ONCE):
            last = first + _AT_ONCE
            chosen = np.arange(first, min(last, len(records))) if numbers is None else numbers[first:last].astype(int)
            begins = np.where(chosen > 0, records["signer_end"][chosen - 1], 0).tolist()
            middles, ends = (records[name][chosen].tolist() for name in ("key_end", "signer_end"))
            for begin, middle, end in zip(begins, middles, ends, strict=True):
                yield str(text[begin:middle], "utf-8"), str(text[middle:end], "utf-8")

    def sizes(self) -> np.ndarray:
        """(rows,) int64: bytes of all components of each row."""
        total = np.concatenate([[0], np.cumsum(self["component"].all()["size"])])
        return np.diff(total[self.field("component_end")], prepend=0)

    def bytes_by_component(self) -> dict[str, int]:
        """Bytes of all components of each name."""
        parts, names = self["component"].all(), self.about["component_names"]
        return {name: int(parts["size"][parts["name"] == code].sum()) for code, name in enumerate(names)}

    def by_shard(self) -> Iterator[tuple[str, np.ndarray]]:
        """Each shard that has clips, and the numbers of its rows, ascending."""
        if not len(self):
            return
        shards = self.field("shard")
        order = np.argsort(shards, kind="stable")
        ends = np.cumsum(np.bincount(shards, minlength=len(self.about["shards"])))
        for name, numbers in zip(self.about["shards"], np.split(order, ends[:-1]), strict=True):
            if len(numbers):
                yield name, numbers

    def runs(self) -> dict[str, tuple[int, int]]:
        """Each shard that has clips, and its rows, from and to.

        Raises:
            UserError: the rows of a shard do not lie together, as packing writes them.
        """
        found: dict[str, tuple[int, int]] = {}
        for first in range(0, len(self), _AT_ONCE):
            shards = self["record"].part(first, min(first + _AT_ONCE, len(self)))["shard"]
            begins = [0, *(np.flatnonzero(np.diff(shards)) + 1).tolist()]
            for begin, end in zip(begins, [*begins[1:], len(shards)], strict=True):
                name = self.about["shards"][int(shards[begin])]
                before = found.get(name, (first + begin, first + begin))
                if before[1] != first + begin:
                    raise UserError(f"{self.path}: the rows of {name} do not lie together; cclslr pack --from mends it")
                found[name] = before[0], first + end
        return found

    def check(self, info: DatasetInfo, name: str) -> None:
        """Raise a UserError for a clip in no shard of dataset.json, beyond the end of its shard, or of no class."""
        sizes = {shard["name"]: shard["bytes"] for shard in info["shards"]}
        fault = None
        if self.about["bare"] >= 0:
            fault = self.about["bare"], "has no component"
        for number, (shard, reach) in enumerate(zip(self.about["shards"], self["reach"].all().tolist(), strict=True)):
            if shard not in sizes:
                fault = self._first(number), f"lies in {shard}, which {INFO_NAME} lacks"
            elif reach > sizes[shard]:
                fault = self._beyond(number, sizes[shard]), f"lies beyond the end of {shard}"
        if fault is None and self.about["max_label"] >= len(info["classes"]):
            labels = self["label"].all()
            row = int(np.flatnonzero(labels >= len(info["classes"]))[0])
            fault = row, f"has label {labels[row]} of {len(info['classes'])} classes"
        if fault is not None:
            row, what = fault
            raise UserError(f"{name}: clip {self.row(row).key} {what}; pack the data set again, or get it anew")

    def _first(self, shard: int) -> int:
        return int(np.flatnonzero(self.field("shard") == shard)[0])

    def _beyond(self, shard: int, size: int) -> int:
        for row in np.flatnonzero(self.field("shard") == shard).tolist():
            if any(part.offset + part.size > size for part in self.row(row).components.values()):
                return row
        raise damaged(self.path, "reach is not that of the rows")


def damaged(path: Path, what: str) -> DamagedColumns:
    """The error of a file that is not as it was written."""
    return DamagedColumns(f"{path} is damaged ({what}): remove it; it is made again from the index")


def part_bit(component: str) -> int:
    """The bit of `parts` for a component; 0 for one that this format does not know."""
    return PART_BITS.get(part_of(component) or "", 0)

"""index.parquet → index.columns (`cclslr.shards.columns`), some thousand rows at a time."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import tempfile
import zlib
from pathlib import Path
from typing import IO, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from cclslr.errors import UserError
from cclslr.files import atomic_write, hold_file
from cclslr.shards.cache import CACHE_DIR
from cclslr.shards.columns import (
    ALIGN,
    BLOCK,
    COLUMNS,
    COLUMNS_NAME,
    COMPONENT,
    MAGIC,
    NO_FRAME,
    PREFIX,
    RECORD,
    Columns,
    DamagedColumns,
    part_bit,
)
from cclslr.shards.format import SPLITS
from cclslr.shards.index import INDEX_NAME, IndexFile, IndexSource, tables
from cclslr.shards.info import DatasetInfo

_MOST = np.iinfo(np.int64).max


def open_columns(source: IndexSource, info: DatasetInfo, folder: Path | None, cache: Path) -> Columns:
    """The columns of a data set, mapped; made first, once a node, where there are none that belong to its index.

    Args:
        source: its index.parquet.
        info: its dataset.json.
        folder: the data set's, where the columns lie; None: it lies elsewhere, or is not to be written to.
        cache: a folder of this node for the columns of such sets.

    Raises:
        FileNotFoundError: there is no index.
        UserError: it is damaged, or no index of this format.
    """
    sha256 = info["index_sha256"]
    places = [cache / f"index-{sha256}.columns"]
    if folder is not None:
        places.insert(0, folder / COLUMNS_NAME)
    for path in places:
        if (found := _current(path, source, sha256)) is not None:
            return found
    for path in places:
        with contextlib.suppress(OSError):
            path.parent.mkdir(parents=True, exist_ok=True)
            with hold_file(path.with_name(f".{path.name}.lock")):
                found = _current(path, source, sha256)  # another process has made them meanwhile
                return found if found is not None else convert(source, sha256, path)
    own = tempfile.TemporaryDirectory(prefix="cclslr-")  # nothing can be kept: of this process alone
    columns = convert(source, sha256, Path(own.name, COLUMNS_NAME))
    columns.own_folder = own
    return columns


def folder_columns(folder: Path, info: DatasetInfo) -> Columns:
    """The columns of a packed data set in a folder; raises as `open_columns`."""
    return open_columns(IndexFile(folder / INDEX_NAME), info, folder, Path(CACHE_DIR).expanduser())


def _current(path: Path, source: IndexSource, sha256: str) -> Columns | None:
    """The columns at `path` if they are whole and of the index that dataset.json speaks of."""
    try:
        columns = Columns(path)
    except (OSError, DamagedColumns):
        return None
    if columns.about["index_sha256"] != sha256 or not source.is_known(columns.about["index_bytes"], path):
        return None
    return columns


def convert(source: IndexSource, sha256: str, path: Path) -> Columns:
    """Write the columns of an index to `path`, atomically, and open them.

    Raises:
        FileNotFoundError, UserError: as `open_columns`.
        OSError: they cannot be written there.
    """
    with source.open() as file, tempfile.TemporaryDirectory(prefix=".index.", dir=path.parent) as aside:
        writer, size = _Writer(Path(aside)), file.seek(0, os.SEEK_END)
        for table in tables(file, source.name, sha256):
            writer.add(table)
        writer.write(path, {"index_sha256": sha256, "index_bytes": size})
    return Columns(path)


class _Writer:
    """Grows each column in a file of its own, then writes them one after the other."""

    def __init__(self, folder: Path) -> None:
        self._files: dict[str, IO[bytes]] = {name: open(folder / name, "w+b") for name in COLUMNS}  # noqa: SIM115
        self._counts = dict.fromkeys(COLUMNS, 0)
        self._names: dict[str, int] = {}  # of components
        self._shards: dict[str, int] = {}
        self._reach = np.zeros(0, np.int64)
        self._sizes: list[np.ndarray] = []  # bytes that a whole clip spans
        self._max_label, self._bare = -1, -1

    def add(self, table: pa.Table) -> None:
        """Append rows of the index."""
        rows, first = len(table), self._counts["label"]
        if not rows:
            return
        column: dict[str, Any] = {name: _flat(table[name]) for name in table.column_names}
        lists = column["components"]
        components, parts_of_row = self._components(lists.flatten()), pc.list_value_length(lists).to_numpy()
        begins = np.cumsum(parts_of_row) - parts_of_row
        bits_P = np.array([part_bit(name) for name in self._names] or [0], np.uint8)[components["name"]]
        shard = self._codes(self._shards, column["shard"])
        ends_P = np.where(
            components["size"] > _MOST - components["offset"], _MOST, components["offset"] + components["size"]
        )
        self._reach = np.concatenate([self._reach, np.zeros(len(self._shards) - len(self._reach), np.int64)])
        np.maximum.at(self._reach, np.repeat(shard, parts_of_row), ends_P)
        some = parts_of_row > 0
        parts = np.zeros(rows, np.uint8)
        if some.any():  # reduceat would give an empty row what belongs to the next
            parts[some] = np.bitwise_or.reduceat(bits_P, begins[some])
            span = np.maximum.reduceat(ends_P, begins[some]) - np.minimum.reduceat(components["offset"], begins[some])
            self._sizes.append(np.minimum(span, np.iinfo(np.uint32).max).astype(np.uint32))
        if not some.all() and self._bare < 0:
            self._bare = first + int(np.flatnonzero(~some)[0])
        keys, signers = column["key"], column["signer"]
        wide = pa.large_string()
        text = pc.binary_join_element_wise(keys.cast(wide), signers.cast(wide), pa.scalar("", wide))
        lengths = pc.binary_length(text).to_numpy()
        text_end = self._counts["text"] + np.cumsum(lengths)
        frames_of_row = pc.list_value_length(column["frame_offsets"]).to_numpy()
        split = pc.index_in(column["split"], pa.array(SPLITS)).to_numpy()
        label = column["label"].to_numpy()
        record = np.zeros(rows, RECORD)
        record["key_end"] = text_end - lengths + pc.binary_length(keys).to_numpy()
        record["signer_end"] = text_end
        record["component_end"] = self._counts["component"] + np.cumsum(parts_of_row)
        record["frame_end"] = self._counts["frame"] + np.cumsum(frames_of_row)
        for name in ("fps", "label", "num_frames", "width", "height"):
            record[name] = column[name].to_numpy()
        record["shard"], record["split"] = shard, split
        self._max_label = max(self._max_label, int(label.max()))
        self._append("record", record)
        self._append("text", _content(text))
        self._append("component", components)
        self._append("frame", _sizes_of_frames(column["frame_offsets"].flatten().to_numpy(), frames_of_row))
        self._append("label", label)
        self._append("parts", parts)
        for number, name in enumerate(SPLITS):
            self._append(name, first + np.flatnonzero(split == number))

    def _components(self, flat: Any) -> np.ndarray:
        components = np.zeros(len(flat), COMPONENT)
        for name in ("offset", "size", "crc32"):
            components[name] = flat.field(name).to_numpy()
        codes = self._codes(self._names, flat.field("name"))
        if len(self._names) > 256:
            raise UserError(f"components have {len(self._names)} names, e.g. {list(self._names)[-1]!r}")
        components["name"] = codes
        return components

    @staticmethod
    def _codes(known: dict[str, int], texts: Any) -> np.ndarray:
        """A number for each text, in the order of their first appearance."""
        coded = texts.dictionary_encode()
        numbers = [known.setdefault(text, len(known)) for text in coded.dictionary.to_pylist()]
        return np.array(numbers or [0], np.int32)[coded.indices.to_numpy()]

    def _append(self, name: str, values: np.ndarray) -> None:
        self._files[name].write(np.ascontiguousarray(values, COLUMNS[name]).data.cast("B"))
        self._counts[name] += len(values)

    def write(self, path: Path, about: dict[str, Any]) -> None:
        """Put all columns into one file."""
        self._append("reach", self._reach)
        for name in COLUMNS:
            if name != "check":
                self._append("check", np.array(_checksums(self._files[name]), np.uint32))
        checks = self._files["check"]
        checks.seek(0)
        sizes = np.concatenate(self._sizes) if self._sizes else np.ones(1, np.uint32)
        header = {
            **about,
            "rows": self._counts["label"],
            "component_names": list(self._names),
            "shards": list(self._shards),
            "block_bytes": int(np.quantile(sizes, 0.99, method="higher")),
            "max_label": self._max_label,
            "bare": self._bare,
            "check_crc32": zlib.crc32(checks.read()),
            "bytes": 0,
            "arrays": [[0, 0]] * len(COLUMNS),
        }
        at = _aligned(PREFIX.size + len(json.dumps(header)) + 64 * (len(COLUMNS) + 1))  # what follows is no longer
        arrays = []
        for name, dtype in COLUMNS.items():
            arrays.append([at, self._counts[name]])
            at = _aligned(at + self._counts[name] * dtype.itemsize)
        data = json.dumps({**header, "bytes": at, "arrays": arrays}).encode()
        with atomic_write(path) as file:
            file.write(PREFIX.pack(MAGIC, len(data), zlib.crc32(data)) + data)
            for source, (begin, _) in zip(self._files.values(), arrays, strict=True):
                source.seek(0)
                file.seek(begin)
                shutil.copyfileobj(source, file, 1 << 20)
                source.close()
            file.truncate(at)


def _flat(column: Any) -> Any:
    chunks = column.combine_chunks()
    return chunks.combine_chunks() if isinstance(chunks, pa.ChunkedArray) else chunks


def _content(texts: Any) -> np.ndarray:
    """The bytes of all texts, one after the other."""
    offsets = np.frombuffer(texts.buffers()[1], np.int64)[texts.offset : texts.offset + len(texts) + 1]
    data = texts.buffers()[2]
    return np.zeros(0, np.uint8) if data is None else np.frombuffer(data, np.uint8)[offsets[0] : offsets[-1]]


def _sizes_of_frames(offsets: np.ndarray, frames_of_row: np.ndarray) -> np.ndarray:
    """Offsets of all rows, one after the other → sizes, and before those of a row where its first frame begins."""
    sizes = np.diff(offsets, prepend=0)
    begins = (np.cumsum(frames_of_row) - frames_of_row)[frames_of_row > 0]
    sizes[begins] = offsets[begins]
    return np.where((sizes < 0) | (sizes > NO_FRAME), NO_FRAME, sizes).astype(np.uint32)


def _checksums(file: IO[bytes]) -> list[int]:
    file.seek(0)
    return [zlib.crc32(block) for block in iter(lambda: file.read(BLOCK), b"")]


def _aligned(offset: int) -> int:
    return -(-offset // ALIGN) * ALIGN

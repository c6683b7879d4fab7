"""index.parquet: a row a clip, so that a reader finds any clip without opening a tar."""

from __future__ import annotations

import contextlib
import hashlib
import io
import os
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import IO, Any, Protocol, cast

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from cclslr.errors import UserError
from cclslr.files import atomic_write
from cclslr.shards.format import KEY_PATTERN, SHARD_PATTERN, SPLITS, Component, IndexRow

INDEX_NAME = "index.parquet"

_COMPONENT = pa.struct(
    [("name", pa.string()), ("offset", pa.int64()), ("size", pa.int64()), ("crc32", pa.uint32())],
)
SCHEMA = pa.schema(
    [
        ("key", pa.string()),
        ("shard", pa.string()),
        ("label", pa.int32()),
        ("split", pa.string()),
        ("signer", pa.string()),
        ("num_frames", pa.int32()),
        ("width", pa.int32()),
        ("height", pa.int32()),
        ("fps", pa.float64()),
        ("components", pa.list_(_COMPONENT)),
        ("frame_offsets", pa.list_(pa.int64())),
    ]
)
ROWS_PER_GROUP = 1 << 17  # that packing holds at once
_ROWS_AT_ONCE = 1 << 15  # that reading holds


def write_index(path: str | Path, rows: Iterable[IndexRow]) -> None:
    """Write the rows in the order given, atomically."""
    with index_writer(path) as writer:
        writer.add(table_of(rows))


class IndexWriter:
    """Writes an index in parts; use through `index_writer`. What was added in which portions makes no difference."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file = pq.ParquetWriter(file, SCHEMA, compression="zstd")
        self._waiting: list[pa.Table] = []
        self._written = False

    def add(self, rows: pa.Table) -> None:
        """Append rows (`table_of`)."""
        self._waiting.append(rows)
        while sum(map(len, self._waiting)) > ROWS_PER_GROUP:
            self._write(ROWS_PER_GROUP)

    def close(self) -> None:
        """Write what waits, and the end of the file."""
        if self._waiting or not self._written:
            self._write(ROWS_PER_GROUP)
        self._file.close()

    def _write(self, rows: int) -> None:
        table = pa.concat_tables([SCHEMA.empty_table(), *self._waiting]).combine_chunks()
        self._file.write_table(table[:rows].combine_chunks(), row_group_size=ROWS_PER_GROUP)
        self._waiting, self._written = [table[rows:]] if len(table) > rows else [], True


@contextlib.contextmanager
def index_writer(path: str | Path) -> Iterator[IndexWriter]:
    """An index that is written in parts and appears when the block ends without an error."""
    with atomic_write(path) as file:
        writer = IndexWriter(file)
        try:
            yield writer
        except BaseException:
            with contextlib.suppress(Exception):  # else it is closed when the file is, which is then reported
                writer.close()
            raise
        writer.close()


class IndexSource(Protocol):
    """An index.parquet, on a disk of this machine or elsewhere."""

    name: str  # for messages

    def open(self) -> IO[bytes]:
        """The file.

        Raises:
            FileNotFoundError: there is none.
        """
        ...

    def is_known(self, size: int, since: Path) -> bool:
        """Whether it is still the file of `size` bytes that was compared with its checksum when `since` was written.

        Raises:
            FileNotFoundError: there is none.
        """
        ...


class IndexFile:
    """An index in a folder."""

    def __init__(self, path: str | Path) -> None:
        self.path, self.name = Path(path), str(path)

    def open(self) -> IO[bytes]:
        """See `IndexSource`."""
        if not self.path.is_file():
            raise FileNotFoundError(f"{self.path} is not there: pack the data set with cclslr pack, or let it end")
        return open(self.path, "rb")

    def is_known(self, size: int, since: Path) -> bool:
        """By its size and time: a file that is as old as `since`, or newer, may have changed and is read."""
        with self.open() as file:
            mine = os.fstat(file.fileno())
        return mine.st_size == size and mine.st_mtime_ns < since.stat().st_mtime_ns


class IndexBytes:
    """An index that is loaded from elsewhere when it is needed; there, files are known by their checksum alone."""

    def __init__(self, name: str, load: Callable[[], bytes]) -> None:
        self.name, self._load = name, load

    def open(self) -> IO[bytes]:
        """See `IndexSource`."""
        return io.BytesIO(self._load())

    def is_known(self, size: int, since: Path) -> bool:
        """See `IndexSource`."""
        return True


def read_index(path: str | Path, sha256: str | None = None) -> list[IndexRow]:
    """All rows of a file; raises as `IndexSource.open` and `tables`."""
    with IndexFile(path).open() as file:
        return [row for table in tables(file, str(path), sha256) for row in rows_of(table)]


def shard_tables(path: str | Path, sha256: str) -> Iterator[tuple[str, pa.Table]]:
    """The rows of a file, a shard at a time, in the order of the index.

    Raises:
        FileNotFoundError, UserError: as `read_index`; or the rows of a shard do not lie together.
    """
    waiting: list[pa.Table] = []
    seen: set[str] = set()
    name = ""
    with IndexFile(path).open() as file:
        for table in tables(file, str(path), sha256):
            for begin, end, found in _runs(table["shard"]):
                if waiting and found != name:
                    yield name, pa.concat_tables(waiting)
                    waiting = []
                if not waiting:
                    name = found
                    if name in seen:
                        raise UserError(f"{path}: the rows of {name} do not lie together; cclslr pack --from mends it")
                    seen.add(name)
                waiting.append(table[begin:end])
    if waiting:
        yield name, pa.concat_tables(waiting)


def _runs(column: Any) -> Iterator[tuple[int, int, str]]:
    """Begin, end and value of each run of equal values."""
    encoded = pc.run_end_encode(column.combine_chunks())
    chunks = encoded.chunks if isinstance(encoded, pa.ChunkedArray) else [encoded]
    begin = 0
    for chunk in chunks:
        for end, value in zip(chunk.run_ends.to_pylist(), chunk.values.to_pylist(), strict=True):
            yield begin, end, value
            begin = end


def tables(file: IO[bytes], name: str, sha256: str | None = None) -> Iterator[pa.Table]:
    """An open index, some thousand rows at a time; with `sha256`, that of dataset.json, only of an intact one.

    Raises:
        UserError: it is damaged, or no index of this format; the message begins with `name`.
    """
    file.seek(0)
    if sha256 is not None and hashlib.file_digest(cast(Any, file), "sha256").hexdigest() != sha256:
        raise UserError(f"{name} is not the one that dataset.json speaks of: run the tool that last wrote it again")
    file.seek(0)
    try:
        parquet = pq.ParquetFile(file)
        if parquet.schema_arrow != SCHEMA:
            raise UserError(f"{name}: the columns are not those of this format's version; pack the data set again")
        # Without threads: with pyarrow 26 one of eight programs aborts that ends soon after reading with them.
        for batch in parquet.iter_batches(_ROWS_AT_ONCE, use_threads=False):
            table = pa.Table.from_batches([batch])
            if (fault := _fault(table)) is not None:
                raise UserError(f"{name}: {fault}; pack the data set again, or get it anew")
            yield table
    except (pa.ArrowException, OSError) as error:
        raise UserError(f"{name}: unreadable index ({str(error).splitlines()[0]})") from error


def _fault(table: pa.Table) -> str | None:
    """What makes an index unusable, or dangerous: data sets come from elsewhere, and names of shards become paths.

    Frames and sizes of a clip are held against the clip when it is read: a wrong one is that clip's fault alone.
    """
    parts = pc.list_flatten(table["components"])
    columns: dict[str, Any] = {name: table[name] for name in SCHEMA.names}
    columns |= {f"components.{field.name}": pc.struct_field(parts, field.name) for field in _COMPONENT}
    for name, column in columns.items():
        if column.null_count:
            return f"{name} is missing in {column.null_count} places"
    for shard in table["shard"].unique().to_pylist():
        if not SHARD_PATTERN.fullmatch(shard):
            return f"{shard!r} is no name of a shard"
    checks = {
        "key": pc.match_substring_regex(table["key"], rf"\A(?:{KEY_PATTERN.pattern})\z"),
        "split": pc.is_in(table["split"], pa.array(SPLITS)),
        "label": pc.greater_equal(table["label"], -1),
        "fps": pc.and_(pc.greater(table["fps"], 0), pc.is_finite(table["fps"])),
        "components.offset": pc.greater_equal(columns["components.offset"], 0),
        "components.size": pc.greater_equal(columns["components.size"], 0),
    }
    for name, good in checks.items():
        if not (found := pc.all(good).as_py()) and found is not None:  # None: there are no rows
            return f"{name} is {columns[name].filter(pc.invert(good))[0]} in a row"
    return None


def table_of(rows: Iterable[IndexRow]) -> pa.Table:
    """Rows in the columns of index.parquet."""
    return pa.Table.from_pylist([_to_dict(row) for row in rows], schema=SCHEMA)


def rows_of(table: pa.Table) -> list[IndexRow]:
    """What `table_of` was given."""
    return [_from_dict(row) for row in table.to_pylist()]


def _to_dict(row: IndexRow) -> dict[str, Any]:
    values = {name: getattr(row, name) for name in SCHEMA.names}
    values["components"] = [
        {"name": name, "offset": part.offset, "size": part.size, "crc32": part.crc32}
        for name, part in row.components.items()
    ]
    values["frame_offsets"] = list(row.frame_offsets)
    return values


def _from_dict(values: dict[str, Any]) -> IndexRow:
    components = {part["name"]: Component(part["offset"], part["size"], part["crc32"]) for part in values["components"]}
    return IndexRow(**{**values, "components": components, "frame_offsets": tuple(values["frame_offsets"])})

"""index.parquet: a row a clip, so that a reader finds any clip without opening a tar."""

from __future__ import annotations

import hashlib
import io
from collections.abc import Iterable
from pathlib import Path
from typing import Any

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


def write_index(path: str | Path, rows: Iterable[IndexRow]) -> None:
    """Write the rows in the order given, atomically."""
    table = pa.Table.from_pylist([_to_dict(row) for row in rows], schema=SCHEMA)
    with atomic_write(path) as file:
        pq.write_table(table, file, compression="zstd")


def read_index(path: str | Path, sha256: str | None = None) -> list[IndexRow]:
    """Read all rows of a file; see `parse_index`.

    Raises:
        FileNotFoundError: there is no index; the folder is no packed data set, or packing has not ended.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"{path} is not there: pack the data set with cclslr pack, or let it end")
    return parse_index(path.read_bytes(), str(path), sha256)


def parse_index(data: bytes, name: str, sha256: str | None = None) -> list[IndexRow]:
    """All rows; with `sha256`, the checksum that dataset.json gives, only of an intact index.

    Raises:
        UserError: it is damaged, or no index of this format; the message begins with `name`.
    """
    if sha256 is not None and hashlib.sha256(data).hexdigest() != sha256:
        raise UserError(f"{name} is not the one that dataset.json speaks of: run the tool that last wrote it again")
    try:
        # Without threads: with pyarrow 26 one of eight programs aborts that ends soon after reading with them.
        table = pq.read_table(io.BytesIO(data), use_threads=False)
    except (pa.ArrowException, OSError) as error:
        raise UserError(f"{name}: unreadable index ({str(error).splitlines()[0]})") from error
    if table.schema != SCHEMA:
        raise UserError(f"{name}: the columns are not those of this format's version; pack the data set again")
    fault = _fault(table)
    if fault is not None:
        raise UserError(f"{name}: {fault}; pack the data set again, or get it anew")
    return [_from_dict(row) for row in table.to_pylist()]


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

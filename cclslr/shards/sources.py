"""sources.parquet: what each clip of a data set was packed from, so that `cclslr pack --add` finds what is new.

Sources are told apart by the hash of their fingerprint, which for files is their path, size and time and what is taken
of them. Clips that were rejected are listed too. The file says also by which options they were packed; training does
without it.
"""

from __future__ import annotations

import hashlib
import io
import json
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from cclslr.console import console
from cclslr.files import atomic_write
from cclslr.shards.format import ManifestRow
from cclslr.shards.place import Place

SOURCES_NAME = "sources.parquet"
_DIGEST = 16  # bytes
_SCHEMA = pa.schema([("key", pa.string()), ("source", pa.binary(_DIGEST)), ("said", pa.binary(_DIGEST))])
_COMMAND = b"command"


@dataclass
class Sources:
    """What sources.parquet says."""

    command: dict[str, Any] | None = None  # how `cclslr pack` was called: {"importer": …, "options": {…}}
    source: dict[str, bytes] = field(default_factory=dict)  # by key: `digest` of the source's fingerprint
    said: dict[str, bytes] = field(default_factory=dict)  # by key: `said_of` the clip, where that is known

    def note(self, row: ManifestRow, fingerprint: str) -> None:
        """Enter a clip of that source."""
        self.source[row.key], self.said[row.key] = digest(fingerprint), said_of(row)


def source_fingerprint(row: ManifestRow) -> str:
    """A text that changes when what is packed of a clip's source does."""
    own = getattr(row.source, "fingerprint", None)
    text = repr(row.source) if own is None else own()
    assert " object at 0x" not in text, f"{type(row.source).__name__} needs a repr or fingerprint() of its contents"
    return text


def digest(text: str) -> bytes:
    """16 bytes for a text."""
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).digest()[:_DIGEST]


def said_of(row: ManifestRow) -> bytes:
    """16 bytes for what is said of a clip: label, gloss, split, signer."""
    return digest(json.dumps([row.label, row.gloss, row.split, row.signer]))


def write_sources(folder: Path, sources: Sources) -> None:
    """Write sources.parquet, atomically."""
    keys = list(sources.source)
    said = [sources.said.get(key) for key in keys]
    table = pa.table([keys, list(sources.source.values()), said], schema=_SCHEMA)
    table = table.replace_schema_metadata({_COMMAND: json.dumps(sources.command).encode()})
    with atomic_write(folder / SOURCES_NAME) as file:
        pq.write_table(table, file, compression="zstd")


def read_sources(place: Place) -> Sources:
    """The file of a data set; where there is none, or it is damaged, one that knows no clip."""
    try:
        data = place.read(SOURCES_NAME)
    except FileNotFoundError:
        return Sources()
    try:
        table = pq.read_table(io.BytesIO(data), use_threads=False)
        keys, *digests = (table[name].to_pylist() for name in _SCHEMA.names)
        command = json.loads((table.schema.metadata or {})[_COMMAND])
    except (pa.ArrowException, OSError, KeyError, ValueError) as error:
        told = f"{place.name}/{SOURCES_NAME} is damaged ({type(error).__name__}); clips are packed again"
        console.print(told, style="yellow", soft_wrap=True)
        return Sources()
    said = {key: value for key, value in zip(keys, digests[1], strict=True) if value is not None}
    return Sources(command, dict(zip(keys, digests[0], strict=True)), said)


def joined(parts: Iterable[tuple[Sources, str, bool]]) -> Sources:
    """Those of several data sets as one: (sources, prefix of the keys, whether labels keep their numbers) each."""
    whole, commands = Sources(), []
    for sources, prefix, same_labels in parts:
        commands.append(sources.command)
        whole.source |= {prefix + key: value for key, value in sources.source.items()}
        if same_labels:
            whole.said |= {prefix + key: value for key, value in sources.said.items()}
    whole.command = commands[0] if all(command == commands[0] for command in commands) else None
    return whole

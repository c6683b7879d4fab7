"""Clips damaged in place: bytes whose checksum differs, and noise in whole containers whose checksums fit."""

from __future__ import annotations

import hashlib
import itertools
import zlib
from pathlib import Path

import numpy as np

from cclslr.codecs import video_extensions
from cclslr.data.beton import BETON_NAME, BetonSet
from cclslr.files import read_json, write_json
from cclslr.shards.format import Component
from cclslr.shards.index import read_index, write_index
from cclslr.shards.reader import ShardSet


def damage(folder: Path, garbled: str, flipped: str | None) -> None:
    """Damage clips by key: all pixels of the first one, with checksums that fit; one bit of the second one's video.

    A .beton of the set is damaged alike.
    """
    info = read_json(folder / "dataset.json")
    rows = read_index(folder / "index.parquet", info["index_sha256"])
    beton = BetonSet(ShardSet([str(folder)])) if (folder / BETON_NAME).exists() else None
    videos = {row.key: bytes(beton.read(i).video or b"") for i, row in enumerate(rows)} if beton else {}
    offsets = {row.key: beton.read(i).row.frame_offsets for i, row in enumerate(rows)} if beton else {}
    for row in rows:
        if row.key not in (flipped, garbled):
            continue
        (name,) = row.components.keys() & video_extensions()
        part = row.components[name]
        data = bytearray((folder / row.shard).read_bytes())
        piece = bytes(data[part.offset : part.offset + part.size])
        broken = flip(piece) if row.key == flipped else garble(piece, row.frame_offsets)
        data[part.offset : part.offset + part.size] = broken
        (folder / row.shard).write_bytes(data)
        if row.key == garbled:
            row.components[name] = Component(part.offset, part.size, zlib.crc32(broken))
        if beton:
            piece = videos[row.key]
            _replace(folder / BETON_NAME, piece, flip(piece) if row.key == flipped else garble(piece, offsets[row.key]))
    if beton:
        _fit_checksum(folder / BETON_NAME, garbled)
    write_index(folder / "index.parquet", rows)
    info["index_sha256"] = hashlib.sha256((folder / "index.parquet").read_bytes()).hexdigest()
    write_json(folder / "dataset.json", info)


def flip(video: bytes) -> bytes:
    """One bit in the middle."""
    middle = len(video) // 2
    return video[:middle] + bytes([video[middle] ^ 1]) + video[middle + 1 :]


def garble(video: bytes, frame_offsets: tuple[int, ...]) -> bytes:
    """Noise instead of every frame, in a container that is whole; of a JPEG, behind its first 20 bytes."""
    noise = np.random.default_rng(0).integers(0, 256, len(video), dtype=np.uint8).tobytes()
    if frame_offsets:
        return b"".join(video[a : a + 20] + noise[a + 20 : b] for a, b in itertools.pairwise(frame_offsets))
    name = video.find(b"mdat")
    end = name - 4 + int.from_bytes(video[name - 4 : name], "big")
    return video[: name + 4] + noise[name + 4 : end] + video[end:]


def _replace(path: Path, old: bytes, new: bytes) -> None:
    data = path.read_bytes()
    assert data.count(old) == 1
    path.write_bytes(data.replace(old, new))


def _fit_checksum(path: Path, key: str) -> None:
    """Write the checksum of a sample's bytes as they are now into FFCV's table of samples."""
    from ffcv.reader import Reader

    table, data = Reader(str(path)).metadata, path.read_bytes()
    fitted = table.copy()
    for sample, columns in enumerate(table):
        fields = [data[int(start) : int(start) + int(size)] for start, size in list(columns)[:5]]
        if fields[-1].decode() == key:
            crc = 0
            for field in fields:
                crc = zlib.crc32(field, crc)
            fitted["f5"][sample] = crc
    _replace(path, table.tobytes(), fitted.tobytes())

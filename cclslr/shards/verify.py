"""Holds a packed data set against its own index: every checksum, the tars' structure, every clip on request."""

from __future__ import annotations

import hashlib
import json
import os
import tarfile
import zlib
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import numpy as np

from cclslr.codecs import Codec, codec_named
from cclslr.shards.cache import CACHE_DIR, NodeCache
from cclslr.shards.columns import Columns
from cclslr.shards.convert import open_columns
from cclslr.shards.done import PARTS_NAME
from cclslr.shards.format import SPLITS, BadClip, IndexRow, part_of, scaled, side_of, smaller_name
from cclslr.shards.index import tables
from cclslr.shards.info import INFO_NAME, DatasetInfo
from cclslr.shards.pack import content_hash
from cclslr.shards.parts import decode_masks, decode_pose
from cclslr.shards.place import place_of
from cclslr.shards.store import open_store
from cclslr.shards.writer import stock_index


@dataclass(frozen=True)
class Fault:
    """Something that is wrong, and where."""

    shard: str
    key: str  # empty: the shard as a whole
    what: str


@dataclass(frozen=True)
class CheckTask:
    """One shard to check."""

    place: str  # folder or URL of the data set
    name: str
    sha256: str
    bytes: int
    columns: Columns
    numbers: np.ndarray  # of its rows
    codec: str | None  # to decode the clips with; None: they are not decoded
    smaller: frozenset[str] = frozenset()  # components that each clip with video has beside it

    @property
    def rows(self) -> list[IndexRow]:
        """Its rows of the index."""
        return [self.columns.row(number) for number in self.numbers.tolist()]


@dataclass
class ShardCheck:
    """What came out of checking one shard."""

    name: str
    clips: int
    bytes: int
    faults: list[Fault] = field(default_factory=list)


def plan_checks(path: str | Path, decode: bool) -> tuple[list[CheckTask], list[Fault]]:
    """What is to be checked shard by shard, and the faults of the data set in a folder or at a URL as a whole.

    Raises:
        FileNotFoundError: there is no packed data set.
        UserError: the index or dataset.json is damaged, or of another version.
        ConnectionError: the URL does not answer.
    """
    place = place_of(path)
    store = open_store(place.name, NodeCache(CACHE_DIR, 0))  # of which nothing but the description is read
    info, index = store.load_info(), store.index()
    with index.open() as file:
        for _ in tables(file, index.name, info["index_sha256"]):
            pass
    columns = open_columns(index, info, store.folder, Path(CACHE_DIR).expanduser())
    columns.verify()
    names = os.listdir(store.folder) if store.folder is not None else {name.split("/")[0] for name in place.sizes()}
    faults = list(_faults_of_info(set(names), info, columns))
    by_shard = dict(columns.by_shard())
    for name in by_shard.keys() - {shard["name"] for shard in info["shards"]}:
        for number in by_shard[name].tolist():
            faults.append(Fault(name, columns.row(number).key, f"the shard is not in {INFO_NAME}"))
    codec = codec_named(info["codec"]).name if decode else None
    sides = info.get("smaller", [])
    smaller = frozenset(smaller_name(side, codec_named(info["codec"]).extension) for side in sides)
    none = np.zeros(0, np.int64)
    tasks = [
        CheckTask(
            place.name,
            shard["name"],
            shard["sha256"],
            shard["bytes"],
            columns,
            by_shard.get(shard["name"], none),
            codec,
            smaller,
        )
        for shard in info["shards"]
    ]
    return tasks, faults


def _faults_of_info(names: set[str], info: DatasetInfo, columns: Columns) -> list[Fault]:
    faults = []

    def expect(value: object, expected: object, name: str) -> None:
        if value != expected:
            faults.append(Fault(INFO_NAME, "", f"{name} is {value}, but {expected} by what is there"))

    expect(info["content_hash"], content_hash([shard["sha256"] for shard in info["shards"]]), "content_hash")
    expect(info["clips"], {split: len(columns[split]) for split in SPLITS}, "clips")
    if not len(columns):
        faults.append(Fault(INFO_NAME, "", "the data set holds no clip"))
    for number in _repeated_keys(columns):
        row = columns.row(number)
        faults.append(Fault(row.shard, row.key, "the key is in the index twice"))
    for number in np.flatnonzero(columns["label"].all() >= len(info["classes"])).tolist():
        row = columns.row(number)
        faults.append(Fault(row.shard, row.key, f"label {row.label} of {len(info['classes'])} classes"))
    named = {shard["name"] for shard in info["shards"]}
    tars = sorted(name for name in names if name.endswith(".tar"))
    faults += [Fault(name, "", f"not in {INFO_NAME}") for name in tars if name not in named]
    if PARTS_NAME in names:
        faults.append(Fault(PARTS_NAME, "", "packing has not ended; run cclslr pack again"))
    return faults


def _repeated_keys(columns: Columns) -> list[int]:
    """Rows whose key an earlier row has, ascending; without all keys in memory."""
    hashes = (int.from_bytes(hashlib.blake2b(key.encode(), digest_size=8).digest()) for key, _ in columns.texts())
    hash_N = np.fromiter(hashes, np.uint64, len(columns))
    order = np.argsort(hash_N, kind="stable")
    same = hash_N[order[1:]] == hash_N[order[:-1]]
    alike = np.unique(np.concatenate([order[:-1][same], order[1:][same]]))
    seen: set[str] = set()
    repeated = []
    for number in alike.tolist():
        key = columns.row(number).key
        if key in seen:
            repeated.append(number)
        seen.add(key)
    return repeated


def check_shard(task: CheckTask) -> ShardCheck:
    """Check one shard: its bytes, its structure, its stock index, each component; decode the clips if asked to.

    Raises:
        ConnectionError: the URL that it is at does not answer.
    """
    place = place_of(task.place)
    rows = task.rows
    check = ShardCheck(task.name, len(rows), task.bytes)

    def fault(what: str, key: str = "") -> None:
        check.faults.append(Fault(task.name, key, what))

    try:
        with place.open(task.name) as file:
            size = file.seek(0, 2)
            if size != task.bytes:
                fault(f"{size} bytes, expected {task.bytes}")
            file.seek(0)
            if hashlib.file_digest(cast(Any, file), "sha256").hexdigest() != task.sha256:
                fault("the sha256 differs")
            file.seek(0)
            expected = [(f"{row.key}.{name}", part) for row in rows for name, part in row.components.items()]
            found = _members(file, fault)
            if found != [(name, part.offset, part.size) for name, part in expected]:
                fault("the files in the tar are not those of the index")
            for row in rows:
                expects = task.smaller if row.has("video") else frozenset()
                if odd := expects ^ {name for name in row.components if part_of(name) == "smaller"}:
                    fault(f"{', '.join(sorted(odd))}: not as {INFO_NAME} says of smaller sizes", row.key)
                parts = {}
                for name, part in row.components.items():
                    if not 0 <= part.offset <= part.offset + part.size <= size:
                        fault(f"{name}: the index says {part.size} bytes from {part.offset} on, of {size}", row.key)
                        continue
                    file.seek(part.offset)
                    parts[name] = file.read(part.size)
                    if zlib.crc32(parts[name]) != part.crc32:
                        fault(f"{name}: the checksum differs", row.key)
                if task.codec is not None:
                    for what in decode_faults(row, parts, codec_named(task.codec)):
                        fault(what, row.key)
    except ConnectionError:
        raise
    except OSError as error:
        fault(f"unreadable: {error.strerror or 'it is not there'}")
    try:
        text = place.read(task.name.removesuffix(".tar") + ".idx").decode()
    except ConnectionError:
        raise
    except (OSError, UnicodeDecodeError) as error:
        fault(f"unreadable .idx: {error}")
    else:
        if text != stock_index(rows):
            fault("the .idx is not that of the index")
    return check


def _members(file: Any, fault: Any) -> list[tuple[str, int, int]]:
    members = []
    try:
        with tarfile.open(fileobj=file, mode="r:") as tar:
            for member in tar:
                members.append((member.name, member.offset_data, member.size))
                if not member.isfile():
                    fault(f"{member.name} is no plain file")
    except tarfile.TarError as error:
        fault(f"no tar: {error}")
    return members


def decode_faults(row: IndexRow, parts: dict[str, bytes], codec: Codec) -> list[str]:
    """What is wrong with the contents of one clip."""
    faults = []
    for name, data in parts.items():
        try:
            if part_of(name) in ("video", "smaller"):
                side = side_of(name)
                if not row.width:
                    continue  # a smaller size of no video, which is said already
                frames_THWC = codec.decode(data)
                width, height = (row.width, row.height) if side is None else scaled(row.width, row.height, side)
                expected = (row.num_frames, height, width, 3)
                if frames_THWC.shape != expected:
                    faults.append(f"{name}: frames {frames_THWC.shape}, expected {expected}")
                if side is None and list(row.frame_offsets) != codec.offsets(data):
                    faults.append(f"{name}: the frame offsets are not where the images begin")
            elif name == "pose.npy":
                pose_TKC = decode_pose(data)
                if len(pose_TKC) != row.num_frames:
                    faults.append(f"{name}: {len(pose_TKC)} frames, expected {row.num_frames}")
                elif not np.isfinite(pose_TKC).all():
                    faults.append(f"{name}: not all numbers are finite")
            elif name == "mask.png":
                if len(decode_masks(data)) != row.num_frames:
                    faults.append(f"{name}: {len(decode_masks(data))} masks for {row.num_frames} frames")
            elif name == "json":
                meta = json.loads(data)
                if (-1 if meta["label"] is None else meta["label"], meta["split"]) != (row.label, row.split):
                    faults.append("json: label or split are not those of the index")
            else:
                faults.append(f"{name}: not a component of this format")
        except (BadClip, ValueError, OSError, KeyError, EOFError, SyntaxError) as error:
            faults.append(f"{name}: {error}")
    return faults

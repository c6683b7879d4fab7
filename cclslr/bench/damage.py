"""Ways to damage a packed data set: at random, or on purpose with checksums that fit."""

from __future__ import annotations

import dataclasses
import hashlib
import io
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from cclslr.data.beton import BETON_NAME
from cclslr.files import read_json, write_json
from cclslr.shards.format import Component, IndexRow
from cclslr.shards.index import INDEX_NAME, read_index, write_index
from cclslr.shards.info import INFO_NAME
from cclslr.shards.pack import finish
from cclslr.shards.writer import PackedClip, open_shard

Random = np.random.Generator


@dataclass(frozen=True)
class Damage:
    """What was done."""

    target: str  # the kind of file, or the part of a clip
    how: str
    victims: tuple[str, ...] = ()  # keys of the clips that may differ; empty: none may


def damage_a_file(folder: Path, rng: Random) -> Damage:
    """Change one file of the data set, and nothing else."""
    kinds = {"tar": 4, "idx": 1, "parquet": 2, "columns": 2, "json": 2, "beton": 4}
    files = [path for path in sorted(folder.iterdir()) if path.suffix[1:] in kinds]
    weights = np.array([kinds[path.suffix[1:]] for path in files], float)
    path = files[rng.choice(len(files), p=weights / weights.sum())]
    data = bytearray(path.read_bytes())
    how = str(rng.choice(["bytes", "bit", "zeros", "cut", "more", "empty", "gone", "swap", "text"]))
    begin = int(rng.integers(len(data)))
    end = min(begin + int(2 ** rng.uniform(0, 14)), len(data))
    if how == "bytes":
        data[begin:end] = rng.bytes(end - begin)
    elif how == "bit":
        data[begin] ^= 1 << int(rng.integers(8))
    elif how == "zeros":
        data[begin:end] = bytes(end - begin)
    elif how == "cut":
        del data[begin:]
    elif how == "more":
        data[begin:begin] = rng.bytes(end - begin)
    elif how == "empty":
        data.clear()
    elif how == "swap":
        other = files[int(rng.integers(len(files)))]
        data = bytearray(other.read_bytes())
    elif how == "text":
        data[begin:end] = bytes(rng.choice(list(b'{}[]",:0 -9eE\n'), end - begin).tolist())
    if how == "gone":
        path.unlink()
    else:
        path.write_bytes(data)
    return Damage(path.suffix[1:], how)


def damage_on_purpose(folder: Path, rng: Random, rows_only: bool = False) -> Damage:
    """Change a clip or what is said of it, and make all checksums fit.

    Args:
        folder: of the data set.
        rng: draws everything.
        rows_only: leave the bytes of the clips as they are.
    """
    what = str(rng.choice(["row", "info"] if rows_only else ["part", "part", "part", "row", "row", "info"]))
    if what == "info":
        return _damage_info(folder, rng)
    rows = read_index(folder / INDEX_NAME)
    number = int(rng.integers(len(rows)))
    if what == "row":
        rows[number], how = _damaged_row(rows[number], rng)
        write_index(folder / INDEX_NAME, rows)
        info = read_json(folder / INFO_NAME)
        info["index_sha256"] = hashlib.sha256((folder / INDEX_NAME).read_bytes()).hexdigest()
        write_json(folder / INFO_NAME, info)
        return Damage("row", how, (rows[number].key,))
    return _damage_part(folder, rows, number, rng)


def _damage_info(folder: Path, rng: Random) -> Damage:
    info = read_json(folder / INFO_NAME)
    at: Any = info
    key: Any = str(rng.choice(sorted(info)))
    while isinstance(at[key], (dict, list)) and at[key] and rng.random() < 0.6:
        at = at[key]
        key = str(rng.choice(sorted(at))) if isinstance(at, dict) else int(rng.integers(len(at)))
    values: list[Any] = [None, -1, 0, 10**30, 0.5, "", "../x", "h264", [], {}, [None], True, "a" * 5000, {"a": {}}]
    if rng.random() < 0.3:
        del at[key]
        how = f"without {key}"
    else:
        at[key] = values[int(rng.integers(len(values)))]
        how = f"{key} = {json.dumps(at[key])[:30]}"
    write_json(folder / INFO_NAME, info)
    return Damage("info", how)


def _damaged_row(row: IndexRow, rng: Random) -> tuple[IndexRow, str]:
    numbers = [-(2**31), -1, 0, 1, 2, row.num_frames + 1, row.num_frames - 1, 10**4, 10**6, 2**31 - 1]
    long = [*numbers, -(2**63), 2**40, 2**62, 2**63 - 1]
    name = str(rng.choice(["num_frames", "width", "height", "label", "fps", "offsets", "component", "drop", "key"]))
    pick = lambda of: int(of[int(rng.integers(len(of)))])  # noqa: E731
    if name == "fps":
        value = [0.0, -1.0, float("nan"), float("inf"), 1e300][int(rng.integers(5))]
        return dataclasses.replace(row, fps=value), f"fps = {value}"
    if name == "offsets":
        offsets = list(row.frame_offsets) or [0]
        offsets[int(rng.integers(len(offsets)))] = pick(long)
        changed = [offsets, offsets[::-1], offsets[:-1], []][int(rng.integers(4))]
        return dataclasses.replace(row, frame_offsets=tuple(changed)), "frame offsets"
    if name in ("component", "drop"):
        part = str(rng.choice(sorted(row.components)))
        components = dict(row.components)
        old = components.pop(part)
        if name == "component":
            field = str(rng.choice(["offset", "size"]))
            components[part] = dataclasses.replace(old, **{field: pick(long)})
            return dataclasses.replace(row, components=components), f"{part}: {field}"
        if rng.random() < 0.5:
            components[str(rng.choice(["x", "mp4", "mjpg", "pose.npy", "mask.png"]))] = Component(0, 10, 0)
        return dataclasses.replace(row, components=components), f"without {part}"
    if name == "key":
        key = ["", "../x", "a" * 300, "☃"][int(rng.integers(4))]
        return dataclasses.replace(row, key=key), f"key = {key[:10]}"
    changed_to: dict[str, Any] = {name: pick(numbers)}
    return dataclasses.replace(row, **changed_to), f"{name} = {changed_to[name]}"


def _damage_part(folder: Path, rows: list[IndexRow], number: int, rng: Random) -> Damage:
    """Change one component of a clip, and write its shard and the index anew."""
    info = read_json(folder / INFO_NAME)
    victim = rows[number]
    name = str(rng.choice(sorted(victim.components)))
    how = ""
    reports = []
    for shard in info["shards"]:
        content = (folder / shard["name"]).read_bytes()
        with open_shard(folder, shard["name"]) as (writer, report):
            for row in rows:
                if row.shard != shard["name"]:
                    continue
                parts = {k: content[part.offset : part.offset + part.size] for k, part in row.components.items()}
                if row is victim:
                    how, parts[name] = _damaged_bytes(name, parts[name], rng)
                writer.add(PackedClip(row, parts))
        reports.append(report)
    finish(folder, reports, info["classes"], info)
    return Damage(name, how, (victim.key,))


def _damaged_bytes(name: str, data: bytes, rng: Random) -> tuple[str, bytes]:
    begin = int(rng.integers(len(data)))
    end = min(begin + int(2 ** rng.uniform(0, 12)), len(data))
    ways: dict[str, Callable[[], bytes]] = {
        "bytes": lambda: data[:begin] + rng.bytes(end - begin) + data[end:],
        "zeros": lambda: data[:begin] + bytes(end - begin) + data[end:],
        "ones": lambda: data[:begin] + b"\xff" * (end - begin) + data[end:],
        "cut": lambda: data[:begin],
        "more": lambda: data + rng.bytes(end - begin),
        "moved": lambda: data[begin:] + data[:begin],
        "other": lambda: rng.bytes(len(data)),
        "header": lambda: rng.bytes(min(40, len(data))) + data[40:],
    }
    if name == "pose.npy":
        ways["numbers"] = lambda: _with_numbers(data, rng)
        ways["frames"] = lambda: _saved(np.load(io.BytesIO(data))[: int(rng.integers(3))])
        ways["kind"] = lambda: _saved(
            np.load(io.BytesIO(data)).astype(rng.choice(["f4", "f8", "i2", ">f2", "c8"]).item())
        )
    how = str(rng.choice(sorted(ways)))
    return how, ways[how]()


def _with_numbers(npy: bytes, rng: Random) -> bytes:
    pose_TKC = np.load(io.BytesIO(npy))
    for _ in range(int(rng.integers(1, 20))):
        at = tuple(int(rng.integers(n)) for n in pose_TKC.shape)
        pose_TKC[at] = [np.nan, np.inf, -np.inf, 6e4, -6e4, 0][int(rng.integers(6))]
    return _saved(pose_TKC)


def _saved(array: np.ndarray) -> bytes:
    file = io.BytesIO()
    np.save(file, array)
    return file.getvalue()


def has_beton(folder: Path) -> bool:
    """Whether the clips are there as an FFCV file too."""
    return (folder / BETON_NAME).exists()

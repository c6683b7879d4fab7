"""The masks of one shard: a new shard is written beside the old one, and told of in a file of its own."""

from __future__ import annotations

import dataclasses
import hashlib
import io
import json
import re
import zlib
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from cclslr.codecs import codec_named
from cclslr.files import write_json
from cclslr.masking.methods import MpmReport
from cclslr.masking.settings import MaskSettings, MaskTotals
from cclslr.shards.format import MASK_SIZE, BadClip, IndexRow
from cclslr.shards.index import index_writer, rows_of
from cclslr.shards.parts import encode_masks
from cclslr.shards.writer import PackedClip, open_shard

PARTS_NAME = ".masks"  # finished shards that the index does not yet know
FRAMES_PER_GROUP = 512  # frames of several clips that go through the flow together


@dataclass(frozen=True)
class MaskTask:
    """All that a worker needs to make the masks of one shard."""

    folder: str
    old_name: str
    new_name: str
    rows: pa.Table  # of the index
    codec: str
    recipe: str
    settings: MaskSettings

    @property
    def name(self) -> str:
        return self.new_name


def suffix(recipe: str) -> str:
    """What the name of a shard with masks of this recipe ends with."""
    return f"-m{recipe[:8]}"


def renamed(name: str, recipe: str) -> str:
    """The name of a shard with masks of this recipe."""
    return re.sub(r"(-m[0-9a-f]{8})?\.tar$", f"{suffix(recipe)}.tar", name)


def part_path(folder: Path, name: str) -> Path:
    """Where it is told that a new shard is finished; its part of the index lies beside it."""
    return folder / PARTS_NAME / f"{Path(name).stem}.json"


def mask_shard(task: MaskTask) -> str:
    """Write the new shard and its part of the index; returns its name."""
    folder, totals = Path(task.folder), MaskTotals()
    if (folder / task.new_name).exists() and not (folder / task.old_name).exists():
        return task.new_name  # by a worker that was thought to be dead, and it is in the index already
    description = {**task.settings.describe(), "recipe": task.recipe}
    with open_shard(folder, task.new_name) as (writer, shard):
        for clip, mask_png, report in _masked_clips(task):
            totals.add(report)
            parts = {name: data for name, data in clip.parts.items() if name != "mask.png"}
            meta = json.loads(parts["json"])
            meta.pop("mask", None)
            if mask_png is not None and report is not None:
                parts["mask.png"] = mask_png
                sha256 = hashlib.sha256(mask_png).hexdigest()
                meta["mask"] = {**description, **report.recorded(), "sha256": sha256}
            parts["json"] = json.dumps(meta, sort_keys=True).encode()
            writer.add(PackedClip(clip.row, parts))
    part = part_path(folder, task.new_name)
    rows = part.with_suffix(".parquet")
    with index_writer(rows) as index:
        index.add(shard.table)
    write_json(
        part,
        {
            "old_name": task.old_name,
            "bytes": shard.bytes,
            "sha256": shard.sha256,
            "index_sha256": hashlib.sha256(rows.read_bytes()).hexdigest(),
            "totals": dataclasses.asdict(totals),
        },
    )
    return task.new_name


def _masked_clips(task: MaskTask) -> Iterator[tuple[PackedClip, bytes | None, MpmReport | None]]:
    """The clips of a shard in their order, each with its mask; a mask that is there by the same recipe stays."""
    with open(Path(task.folder) / task.old_name, "rb") as tar:
        clips = [_read_clip(tar, row, task) for row in rows_of(task.rows)]
    there = [_mask_of(clip, task.recipe) for clip in clips]
    made = _made([clip for clip, mask in zip(clips, there, strict=True) if mask is None], task)
    for clip, mask in zip(clips, there, strict=True):
        yield clip, *(next(made) if mask is None else mask)


def _mask_of(clip: PackedClip, recipe: str) -> tuple[bytes, MpmReport] | None:
    """The mask of a clip that was put into this shard with it, if it is by this recipe."""
    mask_png, record = clip.parts.get("mask.png"), json.loads(clip.parts["json"]).get("mask", {})
    if mask_png is None or record.get("recipe") != recipe:
        return None
    if hashlib.sha256(mask_png).hexdigest() != record["sha256"]:
        return None
    return mask_png, MpmReport(**{item.name: record.get(item.name) for item in dataclasses.fields(MpmReport)})


def _made(clips: list[PackedClip], task: MaskTask) -> Iterator[tuple[bytes | None, MpmReport | None]]:
    """Masks of these clips: they are decoded ahead, and masked in groups."""
    with ThreadPoolExecutor(task.settings.threads) as pool:
        groups = list(_groups(clips))
        decoded = [pool.submit(_decode, clip, task) for clip in groups[0]] if groups else []
        for number in range(len(groups)):
            ready = [future.result() for future in decoded]
            following = groups[number + 1] if number + 1 < len(groups) else []
            decoded = [pool.submit(_decode, clip, task) for clip in following]
            yield from _mask_group(ready, task.settings)


def _read_clip(tar: Any, row: IndexRow, task: MaskTask) -> PackedClip:
    parts = {}
    for name, component in row.components.items():
        tar.seek(component.offset)
        parts[name] = tar.read(component.size)
        if zlib.crc32(parts[name]) != component.crc32:
            raise BadClip(f"{Path(task.folder) / task.old_name}: clip {row.key}: {name} is damaged; see cclslr check")
    return PackedClip(dataclasses.replace(row, shard="", components={}), parts)


def _groups(clips: Sequence[PackedClip]) -> Iterator[list[PackedClip]]:
    group: list[PackedClip] = []
    frames = 0
    for clip in clips:
        group.append(clip)
        frames += clip.row.num_frames
        if frames >= FRAMES_PER_GROUP:
            yield group
            group, frames = [], 0
    if group:
        yield group


@dataclass(frozen=True)
class Ready:
    """A clip on its way to its masks."""

    prepared: Any = None  # for the method, where there is video that decodes
    masks: tuple[np.ndarray, MpmReport] | None = None  # where there is nothing to prepare


def _decode(clip: PackedClip, task: MaskTask) -> Ready:
    """What the method makes of a clip's frames; nothing without video, and a mask that keeps all where it is broken."""
    codec = codec_named(task.codec)
    data = clip.parts.get(codec.extension)
    if data is None:
        return Ready()
    try:
        frames_THWC = codec.decode(data)
    except BadClip:
        ones = np.ones((clip.row.num_frames, MASK_SIZE, MASK_SIZE), np.uint8)
        return Ready(masks=(ones, MpmReport(1.0, None, "undecodable video")))
    settings = task.settings
    return Ready(settings.method.prepare(frames_THWC, _keypoints(clip), settings.options, settings.flow()))


def _keypoints(clip: PackedClip) -> Any:
    data = clip.parts.get("pose.npy")
    return None if data is None else np.load(io.BytesIO(data), allow_pickle=False)


def _mask_group(ready: list[Ready], settings: MaskSettings) -> list[tuple[bytes | None, MpmReport | None]]:
    prepared = [clip.prepared for clip in ready if clip.prepared is not None]
    made = iter(settings.method.masks(prepared, settings.options, settings.flow()) if prepared else ())
    results: list[tuple[bytes | None, MpmReport | None]] = []
    for clip in ready:
        masks = clip.masks if clip.prepared is None else next(made)
        results.append((None, None) if masks is None else (encode_masks(masks[0]), masks[1]))
    return results

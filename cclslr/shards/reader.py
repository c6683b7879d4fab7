"""Reads any clip of one or several packed data sets: one contiguous read through the index, checksummed."""

from __future__ import annotations

import dataclasses
import io
import json
import os
import threading
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from cclslr.files import read_json
from cclslr.shards.format import FORMAT_VERSION, MASK_SIZE, BadClip, IndexRow
from cclslr.shards.index import INDEX_NAME, read_index

INFO_NAME = "dataset.json"
PARTS = ("video", "pose", "mask", "json")


@dataclass
class ClipData:
    """One clip as it lies in the shard; masks and metadata are decoded when asked for."""

    row: IndexRow
    video: bytes | None  # JPEG frames one after the other (row.frame_offsets), or an mp4
    pose_TKC: np.ndarray | None  # float16 (T, 133, 3): x, y in pixels of the packed frame, confidence
    mask_png: bytes | None
    json_text: bytes | None

    @property
    def masks_THW(self) -> np.ndarray | None:
        """uint8 {0, 1} (T, 64, 64); None where the clip has no masks or they were not read."""
        return None if self.mask_png is None else decode_masks(self.mask_png)

    @property
    def meta(self) -> dict[str, Any]:
        """What the clip's json says; empty where it was not read."""
        return {} if self.json_text is None else json.loads(self.json_text)


def decode_masks(png: bytes) -> np.ndarray:
    """A 1-bit PNG of T masks one below the other → uint8 {0, 1} (T, 64, 64)."""
    with Image.open(io.BytesIO(png)) as image:
        stacked = np.asarray(image, dtype=np.uint8)
    return stacked.reshape(-1, MASK_SIZE, MASK_SIZE)


def encode_masks(masks_THW: np.ndarray) -> bytes:
    """{0, 1} (T, 64, 64) → a 1-bit PNG of the masks one below the other."""
    if masks_THW.ndim != 3 or masks_THW.shape[1:] != (MASK_SIZE, MASK_SIZE):
        raise ValueError(f"masks must be (T, {MASK_SIZE}, {MASK_SIZE}), got {masks_THW.shape}")
    file = io.BytesIO()
    Image.fromarray(masks_THW.reshape(-1, MASK_SIZE).astype(bool)).save(file, "PNG")
    return file.getvalue()


class ShardSet:
    """The clips of packed data sets one after the other; a clip's id is its row number here.

    Args:
        paths: folders of packed data sets.
        split: keep only these clips; None keeps all.

    Label spaces are kept apart: the labels of the second data set begin after the last of the first.
    All methods are safe to call from several threads.

    Raises:
        FileNotFoundError: a folder holds no packed data set.
        ValueError: a data set of another format version, no clip left.
    """

    def __init__(self, paths: list[str], split: str | None = None) -> None:
        if not paths:
            raise ValueError("no shards given; set data.shards=[shards/<name>]")
        self.infos: list[dict[str, Any]] = []
        self.rows: list[IndexRow] = []
        self.classes: list[str] = []  # gloss of each label
        self.dataset_ids: np.ndarray  # (N,) int32, which of `paths` a clip is from
        dataset_ids: list[int] = []
        self._folders = [Path(path) for path in paths]
        for number, folder in enumerate(self._folders):
            if not (folder / INFO_NAME).is_file():
                raise FileNotFoundError(
                    f"{folder / INFO_NAME} is not there: pack the data set with tools/make_shards.py, or let it end"
                )
            info = read_json(folder / INFO_NAME)
            if info.get("format_version") != FORMAT_VERSION:
                raise ValueError(
                    f"{folder / INFO_NAME}: format version {info.get('format_version')}, this program reads"
                    f" {FORMAT_VERSION}; pack the data set again with tools/make_shards.py"
                )
            rows = read_index(folder / INDEX_NAME, info["index_sha256"])
            first = len(self.classes)
            kept = [row for row in rows if split is None or row.split == split]
            if first:
                kept = [dataclasses.replace(r, label=r.label + first) if r.label >= 0 else r for r in kept]
            self.rows += kept
            dataset_ids += [number] * len(kept)
            self.classes += info["classes"]
            self.infos.append(info)
        if not self.rows:
            raise ValueError(f"no clip of split {split!r} in {', '.join(map(str, paths))}")
        self.dataset_ids = np.array(dataset_ids, dtype=np.int32)
        self._files: dict[Path, int] = {}
        self._lock = threading.Lock()

    @property
    def info(self) -> dict[str, Any]:
        """dataset.json of the first data set."""
        return self.infos[0]

    def __len__(self) -> int:
        return len(self.rows)

    def path(self, clip_id: int) -> Path:
        """The tar that holds a clip."""
        return self._folders[self.dataset_ids[clip_id]] / self.rows[clip_id].shard

    def read(self, clip_id: int, parts: tuple[str, ...] = PARTS) -> ClipData:
        """Read a clip with one contiguous read of the components in `parts` (of "video", "pose", "mask", "json").

        Raises:
            BadClip: the shard is gone or shorter than the index says, or a checksum differs; names shard and key.
        """
        row = self.rows[clip_id]
        kinds = {name: kind for name in row.components if (kind := _kind(name)) in parts}
        data: dict[str, bytes] = {}
        if kinds:
            begin = min(row.components[name].offset for name in kinds)
            end = max(row.components[name].offset + row.components[name].size for name in kinds)
            path = self.path(clip_id)
            try:
                block = memoryview(_pread(self._descriptor(path), end - begin, begin))
            except OSError as error:
                raise BadClip(f"{path}: clip {row.key}: {error.strerror}") from error
            for name, kind in kinds.items():
                part = row.components[name]
                data[kind] = bytes(block[part.offset - begin : part.offset - begin + part.size])
                if len(data[kind]) != part.size or zlib.crc32(data[kind]) != part.crc32:
                    raise BadClip(f"{path}: clip {row.key}: {name} is damaged (checksum or length differs)")
        pose = None if "pose" not in data else np.load(io.BytesIO(data["pose"]), allow_pickle=False)
        return ClipData(row, data.get("video"), pose, data.get("mask"), data.get("json"))

    def close(self) -> None:
        """Close the files; reading opens them again."""
        with self._lock:
            for descriptor in self._files.values():
                os.close(descriptor)
            self._files.clear()

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in self.__dict__.items() if name not in ("_files", "_lock")}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state, _files={}, _lock=threading.Lock())

    def _descriptor(self, path: Path) -> int:
        descriptor = self._files.get(path)
        if descriptor is None:
            with self._lock:
                descriptor = self._files.get(path)
                if descriptor is None:
                    descriptor = self._files[path] = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        return descriptor


def _kind(component: str) -> str:
    return {"mjpg": "video", "mp4": "video", "pose.npy": "pose", "mask.png": "mask", "json": "json"}[component]


def _pread(descriptor: int, size: int, offset: int) -> bytes:
    """All `size` bytes, or as many as there are: one system call returns at most 2 GiB and may return less."""
    block = os.pread(descriptor, size, offset)
    while 0 < len(block) < size:
        more = os.pread(descriptor, size - len(block), offset + len(block))
        if not more:
            break
        block += more
    return block

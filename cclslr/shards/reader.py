"""Reads any clip of one or several packed data sets: what is wanted of it alone, through the index, checksummed."""

from __future__ import annotations

import math
from collections.abc import Collection
from pathlib import Path
from typing import Any

import numpy as np
from isal.isal_zlib import crc32  # the number that zlib gives, ten times as fast

from cclslr.buffers import Buffers
from cclslr.codecs import Codec, codec_named
from cclslr.errors import UserError
from cclslr.shards.cache import CACHE_DIR, CACHE_GB, NodeCache
from cclslr.shards.convert import open_columns
from cclslr.shards.format import BadClip, Component, IndexRow, part_of, serving, side_of
from cclslr.shards.info import DatasetInfo
from cclslr.shards.parts import ClipData, whole_clip
from cclslr.shards.selection import Rows
from cclslr.shards.store import open_store

PARTS = ("video", "pose", "mask", "json")
MAX_CLIP_BYTES = 1 << 30  # that are read of a clip
SKIP_BYTES = 1 << 16  # between two components: fewer are read with them, more are skipped


class ShardSet:
    """The clips of packed data sets one after the other; a clip's id is its row number here.

    Args:
        paths: folders of packed data sets, or their URLs (s3://, gs://, https://, hf://).
        split: keep only these clips; None keeps all.
        cache_dir, cache_gb: where shards of remote data sets are kept on this node, and how much of them.

    Attributes:
        rows: see `Rows`; a row becomes an object when it is asked for.
        infos: dataset.json of each data set.
        classes: gloss of each label.

    Label spaces are kept apart: the labels of the second data set begin after the last of the first.
    All methods are safe to call from several threads.

    Raises:
        FileNotFoundError: there is no packed data set.
        UserError: a data set of another format version, no clip left.
    """

    def __init__(
        self, paths: list[str], split: str | None = None, *, cache_dir: str = CACHE_DIR, cache_gb: float = CACHE_GB
    ) -> None:
        if not paths:
            raise UserError("no shards given; set data.shards=[shards/<name>]")
        self.infos: list[DatasetInfo] = []  # dataset.json of each data set
        self.classes: list[str] = []  # gloss of each label
        self._paths = list(paths)
        self._cache = NodeCache(cache_dir, int(cache_gb * 1e9))
        self._stores = [open_store(path, self._cache) for path in paths]
        columns = []
        for store in self._stores:
            info = store.load_info()
            index = store.index()
            columns.append(open_columns(index, info, store.folder, self._cache.folder))
            columns[-1].check(info, index.name)
            self.classes += info["classes"]
            self.infos.append(info)
        self.rows = Rows(columns, [len(info["classes"]) for info in self.infos], split)
        if not self.rows:
            raise UserError(f"no clip of split {split!r} in {', '.join(map(str, paths))}")
        self._block_size = min(max(each.about["block_bytes"] for each in columns), MAX_CLIP_BYTES)
        self._blocks = Buffers(self._new_block)

    @property
    def info(self) -> DatasetInfo:
        """dataset.json of the first data set."""
        return self.infos[0]

    @property
    def dataset_ids(self) -> np.ndarray:
        """(N,) int32: which of `paths` each clip is from."""
        return self.rows.dataset_ids

    def __len__(self) -> int:
        return len(self.rows)

    def codec(self, clip_id: int) -> Codec:
        """What a clip's video is packed with.

        Raises:
            UserError: dataset.json names none that there is.
        """
        return codec_named(self.infos[self.rows.dataset(clip_id)]["codec"])

    def smaller(self, least: float) -> list[int]:
        """The sizes that `read` takes instead of the full one, in pixels of the short side; of some data sets none."""
        return sorted({side for info in self.infos if (side := serving(info.get("smaller", []), least)) is not None})

    def path(self, clip_id: int) -> Path:
        """The tar that holds a clip; for messages, and for local data sets to be opened."""
        return Path(self._paths[self.rows.dataset(clip_id)]) / self.rows[clip_id].shard

    def read(self, clip_id: int, parts: tuple[str, ...] = PARTS, least: float = math.inf) -> ClipData:
        """Read the components of a clip in `parts` (of "video", "pose", "mask", "json").

        Args:
            least: pixels that the short side of the video's frames should have: of several sizes the smallest is read
                that has them, and the full one where none has. `ClipData.width` and `height` say which it was.

        Raises:
            BadClip: the shard is gone or shorter than the index says, or a checksum differs; names shard and key.
            ConnectionError: the server of a remote data set stays away.
        """
        row = self.rows[clip_id]
        names = {kind: name for name in row.components if (kind := part_of(name)) in parts}
        if "video" in names and (video := row.video(least)) is not None:
            names["video"] = video
        found = self._whole(clip_id, row, list(names.values()))
        data = {kind: found[name] for kind, name in names.items()}
        mask, text = (bytes(data[kind]) if kind in data else None for kind in ("mask", "json"))
        try:
            codec = self.codec(clip_id) if "video" in data else None
            side = side_of(names.get("video", ""))
            return whole_clip(row, codec, data.get("video"), data.get("pose"), mask, text, side)
        except BadClip as error:
            store = self._stores[self.rows.dataset(clip_id)]
            raise BadClip(f"{store.name}/{row.shard}: clip {row.key}: {error}") from error

    def read_bytes(self, clip_id: int) -> dict[str, bytes]:
        """All components of a clip as they lie in the shard, by name, each compared with its checksum.

        Raises:
            BadClip, ConnectionError: as `read`.
        """
        row = self.rows[clip_id]
        return {name: bytes(self._whole(clip_id, row, [name])[name]) for name in row.components}

    def _whole(self, clip_id: int, row: IndexRow, names: list[str]) -> dict[str, memoryview]:
        """These components of a clip, by name, whole; raises as `read`."""
        if not names:
            return {}
        store = self._stores[self.rows.dataset(clip_id)]
        wanted = {name: row.components[name] for name in names}
        spans = _spans(wanted.values())
        begin, end = spans[0][0], spans[-1][1]
        if begin < 0 or not 0 <= end - begin <= MAX_CLIP_BYTES:
            raise BadClip(f"{store.name}/{row.shard}: clip {row.key}: the index says bytes {begin} to {end}")
        block = self._block(sum(end - begin for begin, end in spans))
        data: dict[str, memoryview] = {}
        try:
            for begin, end in spans:
                piece, block = block[: end - begin], block[end - begin :]
                inside = {name: part for name, part in wanted.items() if begin <= part.offset and _end(part) <= end}
                found = _checked(piece[: store.read(row.shard, begin, piece)], begin, inside)
                if len(found) < len(inside):
                    found = _checked(piece[: store.read_again(row.shard, begin, piece)], begin, inside)
                data |= found
        except BadClip as error:
            raise BadClip(f"{error}: clip {row.key}") from error
        if len(data) < len(wanted):
            damaged = ", ".join(name for name in names if name not in data)
            raise BadClip(f"{store.name}/{row.shard}: clip {row.key}: {damaged}: the checksum or length differs")
        return data

    def _block(self, size: int) -> memoryview:
        """Memory to read into, used again once no part of it is in use; the longest clips get some of their own."""
        block = self._blocks.take() if size <= self._block_size else np.empty(size, np.uint8)
        return block.data[:size]

    def _new_block(self) -> np.ndarray:
        return np.empty(self._block_size, np.uint8)

    def close(self) -> None:
        """Close the files; reading opens them again."""
        for store in self._stores:
            store.close()

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in self.__dict__.items() if name not in ("_stores", "_blocks")}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._blocks = Buffers(self._new_block)
        self._stores = [open_store(path, self._cache) for path in self._paths]
        for store in self._stores:
            store.load_info()


def _spans(components: Collection[Component]) -> list[tuple[int, int]]:
    """The stretches of a shard to read, ascending: what lies between two components is read too where it is short."""
    spans: list[tuple[int, int]] = []
    for begin, end in sorted((part.offset, _end(part)) for part in components):
        if spans and begin - spans[-1][1] <= SKIP_BYTES:
            begin, end = spans[-1][0], max(spans.pop()[1], end)
        spans.append((begin, end))
    return spans


def _end(part: Component) -> int:
    return part.offset + part.size


def _checked(block: memoryview, begin: int, wanted: dict[str, Component]) -> dict[str, memoryview]:
    """The components that are whole, by name."""
    data = {}
    for name, part in wanted.items():
        piece = block.toreadonly()[part.offset - begin : part.offset - begin + part.size]
        if len(piece) == part.size and crc32(piece) == part.crc32:
            data[name] = piece
    return data

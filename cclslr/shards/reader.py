"""Reads any clip of one or several packed data sets: what is wanted of it alone, through the index, checksummed."""

from __future__ import annotations

import io
import itertools
import json
import math
import struct
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from isal.isal_zlib import crc32  # the number that zlib gives, ten times as fast
from PIL import Image

from cclslr.buffers import Buffers
from cclslr.codecs import Codec, codec_named
from cclslr.codecs.base import MAX_FRAMES, MAX_SIDE
from cclslr.errors import UserError
from cclslr.keypoints import NUM_WHOLEBODY
from cclslr.shards.cache import CACHE_DIR, CACHE_GB, NodeCache
from cclslr.shards.convert import open_columns
from cclslr.shards.format import MASK_SIZE, BadClip, Component, IndexRow, part_of, scaled, side_of
from cclslr.shards.info import INFO_NAME, DatasetInfo
from cclslr.shards.selection import Rows
from cclslr.shards.store import open_store

__all__ = [
    "INFO_NAME",
    "PARTS",
    "BadClip",
    "ClipData",
    "ShardSet",
    "decode_masks",
    "decode_pose",
    "encode_masks",
    "whole_clip",
]

PARTS = ("video", "pose", "mask", "json")
MAX_CLIP_BYTES = 1 << 30  # that are read of a clip
SKIP_BYTES = 1 << 16  # between two components: fewer are read with them, more are skipped
_EXPONENT = np.uint16(0x7C00)  # of a float16: all its bits are set in infinities and NaN


@dataclass
class ClipData:
    """One clip as it lies in the shard; masks and metadata are decoded when asked for."""

    row: IndexRow
    video: memoryview | None  # JPEG frames one after the other (frame_offsets), or an mp4; not copied since read
    pose_TKC: np.ndarray | None  # float16 (T, 133, 3): x, y in pixels of the packed frame, confidence
    mask_png: bytes | None
    json_text: bytes | None
    width: int = 0  # of the frames of `video`, which are smaller than row's where a smaller size was read
    height: int = 0
    frame_offsets: tuple[int, ...] = ()  # of `video`; see IndexRow

    @property
    def masks_THW(self) -> np.ndarray | None:
        """uint8 {0, 1} (T, 64, 64); None where the clip has no masks or they were not read."""
        return None if self.mask_png is None else decode_masks(self.mask_png)

    @property
    def meta(self) -> dict[str, Any]:
        """What the clip's json says; empty where it was not read."""
        return {} if self.json_text is None else json.loads(self.json_text)


def decode_pose(npy: bytes | memoryview) -> np.ndarray:
    """The keypoints of a pose.npy as the packer writes it: float16 (T, 133, 3).

    Reading threads share this: np.load parses the header as Python source, which CPython 3.11 gets wrong now and then
    in several threads at once ("AST constructor recursion depth mismatch").
    """
    begin = 10 + int.from_bytes(npy[8:10], "little")
    header = bytes(npy[10:begin])
    if npy[:8] != b"\x93NUMPY\x01\x00" or b"'descr': '<f2'" not in header or b"'fortran_order': False" not in header:
        raise BadClip("pose.npy is not a float16 array in C order")
    frames, rest = divmod(len(npy) - begin, 2 * NUM_WHOLEBODY * 3)
    if frames < 1 or rest or f"({frames}, {NUM_WHOLEBODY}, 3)".encode() not in header:
        raise BadClip(f"pose.npy is no array of (T, {NUM_WHOLEBODY}, 3)")
    return np.frombuffer(npy, "<f2", offset=begin).reshape(frames, NUM_WHOLEBODY, 3)


def decode_masks(png: bytes) -> np.ndarray:
    """A 1-bit PNG of T masks one below the other → uint8 {0, 1} (T, 64, 64).

    Raises:
        BadClip: it is none.
    """
    num_masks = _num_masks(png)
    try:
        with Image.open(io.BytesIO(png), formats=("PNG",)) as image:
            stacked = np.asarray(image, dtype=np.uint8)
    except (OSError, SyntaxError, ValueError) as error:
        raise BadClip(f"mask.png does not decode: {error}") from error
    return stacked.reshape(num_masks, MASK_SIZE, MASK_SIZE)


def _num_masks(png: bytes) -> int:
    """How many masks a PNG holds by its header, which is all that says how much memory decoding takes."""
    kind, width, height, depth, colour = struct.unpack_from(">12x4sIIBB", png) if len(png) > 26 else (b"", 0, 0, 0, 0)
    if png[:8] != b"\x89PNG\r\n\x1a\n" or (kind, width, depth, colour) != (b"IHDR", MASK_SIZE, 1, 0):
        raise BadClip(f"mask.png is no 1-bit PNG {MASK_SIZE} pixels wide")
    if height % MASK_SIZE or not 0 < height <= MAX_FRAMES * MASK_SIZE:
        raise BadClip(f"mask.png is {height} pixels high")
    return height // MASK_SIZE


def encode_masks(masks_THW: np.ndarray) -> bytes:
    """{0, 1} (T, 64, 64) → a 1-bit PNG of the masks one below the other."""
    if masks_THW.ndim != 3 or masks_THW.shape[1:] != (MASK_SIZE, MASK_SIZE):
        raise UserError(f"masks must be (T, {MASK_SIZE}, {MASK_SIZE}), got {masks_THW.shape}")
    file = io.BytesIO()
    Image.fromarray(masks_THW.reshape(-1, MASK_SIZE).astype(bool)).save(file, "PNG")
    return file.getvalue()


def whole_clip(
    row: IndexRow,
    codec: Codec | None,
    video: memoryview | None,
    pose_npy: bytes | memoryview | None,
    mask_png: bytes | None,
    json_text: bytes | None,
    side: int | None = None,
) -> ClipData:
    """The parts of a clip that were read, held against each other and their row.

    Kernels trust these sizes: they read the poses, masks and frames that a row's `num_frames` speaks of by raw address.

    Args:
        side: pixels of the short side of `video`'s frames; None: they have the size that the row says.

    Raises:
        BadClip: something is of another length, size or kind, too large to be decoded, or not finite.
    """
    if not 0 < row.num_frames <= MAX_FRAMES:
        raise BadClip(f"the clip has {row.num_frames} frames; 1 to {MAX_FRAMES} are decoded")
    width, height, offsets = row.width, row.height, row.frame_offsets
    if video is not None:
        assert codec is not None
        if not (0 < row.width <= MAX_SIDE and 0 < row.height <= MAX_SIDE):
            raise BadClip(f"frames of {row.width}x{row.height}; {MAX_SIDE}x{MAX_SIDE} at most are decoded")
        if side is not None:
            (width, height), offsets = scaled(width, height, side), tuple(codec.offsets(video))
        if codec.alone:
            ends = len(offsets) == row.num_frames + 1 and (offsets[0], offsets[-1]) == (0, len(video))
            if not ends or not all(begin < end for begin, end in itertools.pairwise(offsets)):
                raise BadClip(f"the frame offsets are not those of {row.num_frames} frames in {len(video)} bytes")
    pose_TKC = None if pose_npy is None else decode_pose(pose_npy)
    if pose_TKC is not None:
        if len(pose_TKC) != row.num_frames:
            raise BadClip(f"the pose has {len(pose_TKC)} frames, the clip {row.num_frames}")
        if ((pose_TKC.view(np.uint16) & _EXPONENT) == _EXPONENT).any():  # 7 us for 76 frames; np.isfinite takes 95
            raise BadClip("pose.npy holds numbers that are not finite; pack the clip again")
    if mask_png is not None and (masks := _num_masks(mask_png)) != row.num_frames:
        raise BadClip(f"the clip has {masks} masks for {row.num_frames} frames")
    return ClipData(row, video, pose_TKC, mask_png, json_text, width, height, offsets)


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
        served = [[side for side in info.get("smaller", []) if side >= least] for info in self.infos]
        return sorted({min(sides) for sides in served if sides})

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

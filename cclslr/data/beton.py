"""Packed data sets as one FFCV file (.beton): every clip in memory pages that all ranks of a node share.

FFCV lays the file out, maps it and finds a sample's bytes; its fields are FFCV's own, so that any FFCV program reads
them. The order stays the plan's, every clip is checksummed when it is read, and the views are made by
`cclslr.data.rgb_numba`: a run is bit for bit the one that reads JPEG shards. FFCV's own loader could give none of that:
it draws its own order and its own randomness, and one damaged sample ends it.

After the first epoch a clip costs no system call and no copy, which is what pays where all clips fit into memory.
"""

from __future__ import annotations

import io
import itertools
import math
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from isal.isal_zlib import crc32

from cclslr.codecs import Codec
from cclslr.codecs.jpeg import JPEG
from cclslr.errors import BadClip, UserError
from cclslr.shards.format import IndexRow, side_of
from cclslr.shards.parts import ClipData, whole_clip
from cclslr.shards.reader import PARTS, ShardSet
from cclslr.shards.verify import Fault

BETON_NAME = "dataset.beton"
_PAGE = 1 << 23  # bytes; FFCV wants a power of two that holds the largest sample
_FIELDS = ("video", "offsets", "pose", "mask", "key")  # then crc32 of these, and the label; then, for each smaller
# size, its video, and crc32 of the fields with it in the place of the full one
_ABSENT = np.zeros(1, np.uint8)  # FFCV cannot store nothing
_VIDEO, *_OTHERS = (f"f{number}" for number in range(len(_FIELDS)))  # columns of FFCV's metadata
_KEY, _CRC = "f4", "f5"
_SMALLER = 7  # the column where smaller sizes begin
_DAMAGED = -1  # instead of a checksum


def _require_ffcv() -> None:
    try:
        import ffcv  # noqa: F401
    except ImportError as error:
        raise UserError("FFCV is not installed: run tools/setup_ffcv.sh, or set data.backend=numba") from error


class _Samples:
    """What FFCV's writer takes: clips by position, a tuple of fields each."""

    def __init__(self, shards: ShardSet, codec: Codec, quality: int | None) -> None:
        self.shards, self.codec, self.quality = shards, codec, quality
        self.smaller = shards.info.get("smaller", [])

    def __len__(self) -> int:
        return len(self.shards)

    def __getitem__(self, clip_id: int) -> tuple[Any, ...]:
        try:
            clip = self.shards.read(clip_id)
            data, offsets = self._jpeg(clip)
            smaller = [self._jpeg(self.shards.read(clip_id, ("video",), side))[0] for side in self.smaller]
        except BadClip:  # FFCV's writer would wait for ever for the process that raised it
            return *[_ABSENT] * len(_FIELDS), _DAMAGED, -1, *[_ABSENT, _DAMAGED] * len(self.smaller)
        pose = io.BytesIO()
        if clip.pose_TKC is not None:
            np.save(pose, clip.pose_TKC)
        starts = np.array(offsets, np.int64).tobytes()
        fields = [*map(_field, (data, starts, pose.getvalue(), clip.mask_png or b"", clip.row.key.encode()))]
        others = [(video, _checksum([video, *fields[1:]])) for video in map(_field, smaller)]
        return *fields, _checksum(fields), clip.row.label, *itertools.chain.from_iterable(others)

    def _jpeg(self, clip: ClipData) -> tuple[bytes | memoryview, list[int]]:
        """The video of a clip as JPEG frames, and where they begin; nothing where there is none."""
        if clip.video is None or self.codec is JPEG:
            return clip.video or b"", list(clip.frame_offsets)
        return JPEG.encode(self.codec.decode(clip.video), clip.row.fps, self.quality)


def _field(part: bytes | memoryview) -> np.ndarray:
    return np.frombuffer(part, np.uint8) if part else _ABSENT


def _checksum(fields: list[np.ndarray]) -> int:
    crc = 0
    for field in fields:
        crc = crc32(field.data, crc)
    return crc


def write_beton(folder: str | Path, quality: int | None = None, workers: int = 1) -> Path:
    """Write `folder`/dataset.beton from the packed data set in `folder`, in the order of its index.

    JPEG frames are copied; those of other codecs are encoded as JPEG. The file appears when it is complete.

    Args:
        folder: of the packed data set.
        quality: of JPEG, where frames are encoded (default 85).
        workers: processes.

    Raises:
        UserError: FFCV is not installed; damaged clips.
    """
    _require_ffcv()
    from ffcv.fields import BytesField, IntField
    from ffcv.reader import Reader
    from ffcv.writer import DatasetWriter

    shards = ShardSet([str(folder)])
    codec = shards.codec(0)
    rows, samples = shards.rows, _Samples(shards, codec, quality)
    largest = int(rows.sizes_N.max())
    if codec is not JPEG:  # its JPEG frames take some 2 bits a pixel; a byte is enough for noise
        pixels = (rows.numbers(name).astype(np.int64) for name in ("num_frames", "width", "height"))
        largest = int(np.prod(list(pixels), axis=0).max()) * (1 + len(samples.smaller))
    page = max(_PAGE, 1 << (2 * largest).bit_length())
    path = Path(folder) / BETON_NAME
    aside = path.with_name(f".{BETON_NAME}.{os.getpid()}.tmp")
    fields = {name: BytesField() for name in _FIELDS} | {"crc32": IntField(), "label": IntField()}
    for side in samples.smaller:
        fields |= {f"video{side}": BytesField(), f"crc32_{side}": IntField()}
    try:
        writer = DatasetWriter(str(aside), fields, page_size=page, num_workers=workers)
        writer.from_indexed_dataset(samples, chunksize=8)
        damaged = np.flatnonzero(Reader(str(aside)).metadata[_CRC] == _DAMAGED)
        if len(damaged):
            keys = ", ".join(shards.rows[i].key for i in damaged[:5].tolist())
            raise UserError(f"{folder}: {len(damaged)} clips do not decode ({keys}, …): run cclslr check")
        with open(aside, "rb+") as file:
            os.fsync(file.fileno())
        os.replace(aside, path)
    finally:
        aside.unlink(missing_ok=True)
    return path


def check_beton(folder: str | Path) -> list[Fault]:
    """What is wrong with the .beton of a packed data set: damage, and clips that are not those of the shards."""
    name = BETON_NAME
    shards = ShardSet([str(folder)])
    try:
        mine = BetonSet(shards)
    except UserError as error:
        return [Fault(name, "", str(error))]
    faults = []
    for (clip_id, row), least in itertools.product(enumerate(shards.rows), (math.inf, *shards.info.get("smaller", []))):
        try:
            clip, packed = mine.read(clip_id, least=least), shards.read(clip_id, least=least)
        except BadClip as error:
            faults.append(Fault(name, row.key, str(error)))
            continue
        same_video = shards.codec(clip_id) is not JPEG or (clip.video or b"") == (packed.video or b"")
        if not same_video or not _same(clip.pose_TKC, packed.pose_TKC) or clip.mask_png != packed.mask_png:
            faults.append(Fault(name, row.key, f"not the clip of the shards: run cclslr beton {folder} again"))
    return faults


def _same(a: np.ndarray | None, b: np.ndarray | None) -> bool:
    return np.array_equal(a, b) if a is not None and b is not None else a is b


class BetonSet(ShardSet):
    """A `ShardSet` whose clips come from the .beton beside each index; everything else is the `ShardSet`'s.

    Raises:
        UserError: FFCV is not installed; there is no .beton, or it lacks clips.
    """

    def __init__(self, shards: ShardSet) -> None:
        _require_ffcv()
        from ffcv.memory_managers import OSCacheManager
        from ffcv.reader import Reader

        vars(self).update(vars(shards))
        self.infos = [{**info, "codec": JPEG.name} for info in shards.infos]
        self._metadata: dict[int, np.ndarray] = {}
        self._states: dict[int, Any] = {}
        self._columns: dict[tuple[int, int | None], tuple[str, str]] = {}  # of data set and side: video, checksum
        self._samples = np.zeros(len(shards), np.int64)
        keys = [key for key, _ in shards.rows.texts()]
        for number in np.unique(shards.dataset_ids).tolist():
            clip_ids = np.flatnonzero(shards.dataset_ids == number)
            path = self.path(int(clip_ids[0]))
            folder = path.parent
            if not path.is_file():
                raise UserError(f"{path} is not there: run cclslr beton {folder}")
            try:
                reader = Reader(str(path))
            except Exception as error:  # FFCV checks nothing: a damaged file can come out as any error
                raise UserError(f"{path} is damaged ({error!r}): run cclslr beton {folder} again") from error
            manager = OSCacheManager(reader)
            context = manager.schedule_epoch(None)
            context.__enter__()
            self._metadata[number], self._states[number] = reader.metadata, context.state
            self._read = manager.compile_reader()
            self._columns[number, None] = _VIDEO, _CRC
            for place, side in enumerate(shards.infos[number].get("smaller", [])):
                self._columns[number, side] = names = f"f{_SMALLER + 2 * place}", f"f{_SMALLER + 2 * place + 1}"
                if not set(names) <= set(reader.metadata.dtype.names or ()):
                    raise UserError(f"{path} lacks the frames of {side} pixels: run cclslr beton {folder} again")
            position = {self._bytes(number, i, _KEY).tobytes(): i for i in range(reader.num_samples)}
            try:
                self._samples[clip_ids] = [position[keys[i].encode()] for i in clip_ids]
            except KeyError as error:
                raise UserError(
                    f"{path} lacks clip {error.args[0].decode()}: run cclslr beton {folder} again"
                ) from error

    def _bytes(self, number: int, sample: int, column: str) -> np.ndarray:
        """One field of a sample of data set `number`: uint8, where the file is mapped."""
        pointer, size = self._metadata[number][column][sample]
        return self._read(np.uint64(pointer), self._states[number])[:size]

    def path(self, clip_id: int) -> Path:
        """The file that holds a clip."""
        return super().path(clip_id).parent / BETON_NAME

    def read(self, clip_id: int, parts: tuple[str, ...] = PARTS, least: float = math.inf) -> ClipData:
        """See `ShardSet.read`; the video is not copied, and the json is not there.

        Raises:
            BadClip: the checksum differs.
        """
        row: IndexRow = self.rows[clip_id]
        number, sample = int(self.dataset_ids[clip_id]), int(self._samples[clip_id])
        side = side_of(row.video(least) or "")
        video, crc = self._columns[number, side]
        fields = [self._bytes(number, sample, name) for name in (video, *_OTHERS)]
        if _checksum(fields) != self._metadata[number][crc][sample]:
            raise BadClip(f"{self.path(clip_id)}: clip {row.key} is damaged (checksum differs)")
        images, offsets, pose, mask, _ = fields
        starts = np.frombuffer(offsets.data, np.int64, len(offsets) // 8)
        try:
            return whole_clip(
                replace(row, frame_offsets=tuple(starts.tolist()) if len(images) > 1 else ()),
                JPEG,
                images.data if len(images) > 1 and "video" in parts else None,
                pose.data if len(pose) > 1 and "pose" in parts else None,
                mask.tobytes() if len(mask) > 1 and "mask" in parts else None,
                None,
                side,
            )
        except BadClip as error:
            raise BadClip(f"{self.path(clip_id)}: clip {row.key}: {error}") from error

"""The parts of a packed clip: bytes that were read become arrays, and are held against each other and their row."""

from __future__ import annotations

import io
import itertools
import json
import struct
from dataclasses import dataclass
from typing import Any

import numpy as np
from PIL import Image

from cclslr.codecs import Codec
from cclslr.codecs.base import MAX_FRAMES, MAX_SIDE
from cclslr.errors import UserError
from cclslr.keypoints import NUM_WHOLEBODY
from cclslr.shards.format import MASK_SIZE, BadClip, IndexRow, scaled

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

"""What the loader asks of the parts that turn encoded video into RGB views; the parts are in `cclslr.data.backends`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from torch import Tensor

from cclslr.codecs import Codec
from cclslr.data.batch import ViewParams
from cclslr.errors import BadClip, UserError
from cclslr.shards.parts import ClipData
from cclslr.shards.reader import ShardSet


@dataclass(frozen=True)
class EncodedClip:
    """The video of one clip as it lies in its shard."""

    name: str  # shard and key, for messages
    video: memoryview  # JPEG frames one after the other, or an mp4
    codec: Codec
    frame_offsets: tuple[int, ...]  # jpeg: start of each frame within `video`, and the end; else empty
    num_frames: int
    width: int  # of the frames in `video`; the views' crops are in their pixels
    height: int
    masks_THW: np.ndarray | None  # uint8 {0, 1}, (T, 64, 64) over the whole frame; only read where a view is masked


def encoded_clip(shards: ShardSet, clip_id: int, clip: ClipData, masked: bool) -> EncodedClip:
    """The video of a clip that was read; with its masks if they are to be applied.

    Raises:
        BadClip: the masks do not decode.
    """
    row, name = clip.row, f"{shards.path(clip_id)}: clip {clip.row.key}"
    assert clip.video is not None
    try:
        masks_THW = clip.masks_THW if masked else None
    except BadClip as error:
        raise BadClip(f"{name}: {error}") from error
    return EncodedClip(
        name=name,
        video=clip.video,
        codec=shards.codec(clip_id),
        frame_offsets=clip.frame_offsets,
        num_frames=row.num_frames,
        width=clip.width,
        height=clip.height,
        masks_THW=masks_THW,
    )


class BadVideo(UserError):
    """Clips of a submitted batch that cannot be decoded: reason by position in the batch."""

    def __init__(self, reasons: dict[int, str]) -> None:
        super().__init__("; ".join(reasons.values()))
        self.reasons = reasons


class RgbBackend(Protocol):
    """Batches of encoded clips in, RGB views out, in the order of submission; called from one thread only.

    Every backend computes the same: frame choice; bilinear resize of the crop to the square view (half-pixel centres,
    no antialiasing, samples clamped to the frame's edge, not to the crop's); flip; the 3x4 colour matrix; clamp to
    0..255; and for a masked view zeros where the mask's pixel is 0 that lies at the centre of the view's pixel.
    """

    def submit(self, clips: Sequence[EncodedClip], params: ViewParams) -> None:
        """Begin to work on a batch; returns at once. The loader keeps at most `prefetch` batches in flight."""
        ...

    def result(self) -> Tensor:
        """The oldest batch in flight: uint8 (V, B, T, size, size, 3), strided as the backend likes.

        Raises:
            BadVideo: some of its clips cannot be decoded. All batches in flight are dropped; the caller submits again.
        """
        ...

    def close(self) -> None:
        """End the threads; drop what is in flight."""
        ...

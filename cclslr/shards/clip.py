"""One clip's bytes: checked, cropped, encoded, described."""

from __future__ import annotations

import io
import json
from collections.abc import Iterable
from dataclasses import dataclass, field

import numpy as np

from cclslr.codecs import Codec, codec_named
from cclslr.errors import UserError
from cclslr.keypoints import NUM_WHOLEBODY
from cclslr.shards.crop import CROPS, crop_and_resize, smaller_frames
from cclslr.shards.format import MAX_SMALLER, BadClip, IndexRow, ManifestRow, RawClip, smaller_name
from cclslr.shards.writer import PackedClip


@dataclass(frozen=True)
class PackOptions:
    """How clips are packed; everything here is part of the recipe that decides whether a shard is up to date."""

    codec: str = "jpeg"  # until another one measures better on a GPU
    size: int = 256  # pixels: the side of the square crop, or the short side without a crop
    crop: str = "signer"  # signer | none
    quality: int | None = None  # JPEG quality or crf; None: the codec's default
    clips_per_shard: int = 256
    allow_unlabelled: bool = False
    licence_note: str = ""
    smaller: tuple[int, ...] = field(default=(), repr=False)  # other sizes that each video is packed in too, descending

    def __post_init__(self) -> None:
        smallest = codec_named(self.codec).smallest
        if self.crop not in CROPS:
            raise UserError(f"unknown crop {self.crop!r}; choose one of {', '.join(CROPS)}")
        if self.size < smallest or self.size % 2:
            raise UserError(
                f"size is {self.size}; choose an even number of pixels, at least {smallest} for {self.codec}"
            )
        for side in self.smaller:
            if not smallest <= side <= min(self.size - 1, MAX_SMALLER) or side % 2:
                raise UserError(
                    f"a smaller size is {side}; choose even numbers of pixels from {smallest} (for {self.codec}) to "
                    f"{min(self.size - 2, MAX_SMALLER)}, below size {self.size}"
                )
        if list(self.smaller) != sorted(set(self.smaller), reverse=True):
            raise UserError(f"smaller sizes are {self.smaller}; name each once, the largest first")
        if self.clips_per_shard < 1:
            raise UserError(f"clips per shard is {self.clips_per_shard}; choose at least 1")


def pack_clip(row: ManifestRow, clip: RawClip, options: PackOptions) -> PackedClip:
    """Crop, resize and encode one clip.

    Raises:
        BadClip: the clip's parts do not fit each other.
    """
    check_clip(clip)
    clip = crop_and_resize(clip, options.size, options.crop)
    frames_THWC, keypoints_TKC = clip.frames_THWC, clip.keypoints_TKC
    parts: dict[str, bytes] = {}
    frame_offsets: list[int] = []
    height = width = 0
    if frames_THWC is not None:
        num_frames, height, width, _ = frames_THWC.shape
        codec = codec_named(options.codec)
        parts[codec.extension], frame_offsets = codec.encode(frames_THWC, clip.fps, options.quality)
        parts |= smaller_videos(frames_THWC, clip.fps, options.smaller, codec, options.quality)
    if keypoints_TKC is not None:
        num_frames = len(keypoints_TKC)
        file = io.BytesIO()
        np.save(file, keypoints_TKC.astype(np.float16))
        parts["pose.npy"] = file.getvalue()
    meta = {
        "label": row.label,
        "gloss": row.gloss,
        "signer": row.signer,
        "split": row.split,
        "fps": clip.fps,
        "frames": num_frames,
        **clip.meta,
    }
    parts["json"] = json.dumps(meta, sort_keys=True).encode()
    index_row = IndexRow(
        key=row.key,
        shard="",
        label=-1 if row.label is None else row.label,
        split=row.split,
        signer=row.signer or "",
        num_frames=num_frames,
        width=width,
        height=height,
        fps=clip.fps,
        components={},
        frame_offsets=tuple(frame_offsets),
    )
    return PackedClip(index_row, parts)


def smaller_videos(
    frames_THWC: np.ndarray, fps: float, sides: Iterable[int], codec: Codec, quality: int | None
) -> dict[str, bytes]:
    """The components of a clip at other sizes, made from its packed frames.

    Poses and masks are there once: pixels of the packed frame are shares of it, and so of any of these.
    """
    return {
        smaller_name(side, codec.extension): codec.encode(smaller_frames(frames_THWC, side), fps, quality)[0]
        for side in sides
    }


def check_clip(clip: RawClip) -> None:
    """Raises BadClip where the shapes or lengths of a clip's parts are wrong."""
    frames_THWC, keypoints_TKC = clip.frames_THWC, clip.keypoints_TKC
    if frames_THWC is None and keypoints_TKC is None:
        raise BadClip("neither video nor pose")
    if frames_THWC is not None and len(frames_THWC) == 0:
        raise BadClip("the video has no frame")
    if keypoints_TKC is not None:
        if keypoints_TKC.ndim != 3 or keypoints_TKC.shape[1:] != (NUM_WHOLEBODY, 3):
            raise BadClip(f"keypoints have shape {keypoints_TKC.shape}, expected (T, {NUM_WHOLEBODY}, 3)")
        if len(keypoints_TKC) == 0:
            raise BadClip("the pose has no frame")
        if frames_THWC is not None and len(frames_THWC) != len(keypoints_TKC):
            raise BadClip(f"the pose has {len(keypoints_TKC)} frames, the video {len(frames_THWC)}")

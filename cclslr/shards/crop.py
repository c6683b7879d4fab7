"""The square crop around the signer, and the resize; frames and keypoints move together.

Coordinates are continuous, with the origin in the top left corner of the top left pixel.
"""

from __future__ import annotations

import dataclasses

import numpy as np
from PIL import Image

from cclslr.shards.format import RawClip

CROPS = ("signer", "none")
MARGIN = 0.1  # of the box around the keypoints, on each side
CONFIDENT = 0.3  # keypoints below say nothing about where the signer is


def crop_and_resize(clip: RawClip, size: int, crop: str) -> RawClip:
    """Cut the signer's square out of every frame and resize it.

    Args:
        size: side of the result with `crop="signer"`; short side of the result with `crop="none"`.

    Returns:
        The clip with frames (T, h, w, 3) and keypoints in their pixels; meta says `crop_box` in the source's pixels.
    """
    box = signer_box(clip) if crop == "signer" else None
    if box is None:
        if clip.frames_THWC is None:
            return clip
        _, height, width, _ = clip.frames_THWC.shape
        box = (0, 0, width, height)
        scale = size / min(width, height)
        out_w, out_h = (max(2, 2 * round(side * scale / 2)) for side in (width, height))
    else:
        out_w = out_h = size
    x0, y0, x1, y1 = box
    keypoints_TKC = clip.keypoints_TKC
    if keypoints_TKC is not None:
        scale_2 = np.array([out_w / (x1 - x0), out_h / (y1 - y0)], dtype=np.float32)
        xy_TK2 = (keypoints_TKC[..., :2] - np.array([x0, y0], dtype=np.float32)) * scale_2
        keypoints_TKC = np.concatenate([xy_TK2, keypoints_TKC[..., 2:]], axis=-1)
    frames_THWC = clip.frames_THWC
    if frames_THWC is not None:
        frames_THWC = np.stack([_resize(frame_HWC, box, out_w, out_h) for frame_HWC in frames_THWC])
    meta = {**clip.meta, "crop_box": list(box)}
    return dataclasses.replace(clip, frames_THWC=frames_THWC, keypoints_TKC=keypoints_TKC, meta=meta)


def signer_box(clip: RawClip) -> tuple[int, int, int, int] | None:
    """One square for the whole clip around its confident keypoints; None where nothing says where the signer is."""
    return None


def _resize(frame_HWC: np.ndarray, box: tuple[int, int, int, int], width: int, height: int) -> np.ndarray:
    image = Image.fromarray(frame_HWC)
    return np.asarray(image.resize((width, height), Image.Resampling.BICUBIC, box=box, reducing_gap=None))

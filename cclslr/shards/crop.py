"""The square crop around the signer, and the resize; frames and keypoints move together.

Coordinates are continuous, with the origin in the top left corner of the top left pixel.
"""

from __future__ import annotations

import dataclasses

import numpy as np
from PIL import Image

from cclslr.keypoints import CONFIDENT, SELECTED
from cclslr.shards.format import BadClip, RawClip, scaled

CROPS = ("signer", "none")
MARGIN = 0.1  # of the keypoints' extent, on each side
_TRUSTED_FRAMES = 0.01  # share of the frames at either extreme that is taken for an estimator's slip
_MAX_COORDINATE = 60_000.0  # float16 ends a little above

Box = tuple[float, float, float, float]


def crop_and_resize(clip: RawClip, size: int, crop: str) -> RawClip:
    """Cut the signer's square out of every frame and resize it.

    Args:
        size: with `crop="signer"` the side of the result, with `crop="none"` its short side.
        crop: `signer` takes one square for the whole clip: around the confident keypoints; where there are none, around
            the box that the annotations give (`meta["box"]`); else the middle of the frame. A square that is larger
            than the frame is filled up with black. `none` keeps the whole frame.

    Returns:
        The clip with frames uint8 (T, h, w, 3), even h and w, and keypoints in their pixels; points that were not found
        are (0, 0, 0). `meta["crop_box"]` is the square in the source's pixels, `meta["points_not_finite"]` counts the
        points with a number that is not finite, where there are any. A clip of poses alone gets the
        coordinates that its frames would have had.

    Raises:
        BadClip: keypoints that cannot be pixels.
    """
    keypoints_TKC = clip.keypoints_TKC
    if keypoints_TKC is not None:
        finite_TK = np.isfinite(keypoints_TKC).all(axis=-1)
        if not finite_TK.all():
            clip = dataclasses.replace(clip, meta={**clip.meta, "points_not_finite": int((~finite_TK).sum())})
        # What has a number missing, or no confidence, was not found.
        keypoints_TKC = np.where((finite_TK & (keypoints_TKC[..., 2] > 0))[..., None], keypoints_TKC, np.float32(0))
    frame_size = None if clip.frames_THWC is None else (clip.frames_THWC.shape[2], clip.frames_THWC.shape[1])
    box = _choose_box(keypoints_TKC, frame_size, clip.meta.get("box"), crop)
    if box is None:
        return dataclasses.replace(clip, keypoints_TKC=keypoints_TKC)
    x0, y0, x1, y1 = box
    if crop == "signer":
        width = height = size
    else:
        width, height = scaled(x1 - x0, y1 - y0, size)
    frames_THWC = clip.frames_THWC
    if frames_THWC is not None:
        frames_THWC = _resized(frames_THWC, box, width, height)
    if keypoints_TKC is not None:
        keypoints_TKC = keypoints_TKC.copy()
        found_TK = keypoints_TKC[..., 2] > 0
        keypoints_TKC[..., 0] = (keypoints_TKC[..., 0] - x0) * (width / (x1 - x0)) * found_TK
        keypoints_TKC[..., 1] = (keypoints_TKC[..., 1] - y0) * (height / (y1 - y0)) * found_TK
        if np.abs(keypoints_TKC[..., :2]).max() > _MAX_COORDINATE:
            raise BadClip("keypoints lie too far from the signer to be pixels")
    return dataclasses.replace(
        clip, frames_THWC=frames_THWC, keypoints_TKC=keypoints_TKC, meta={**clip.meta, "crop_box": list(box)}
    )


def smaller_frames(frames_THWC: np.ndarray, side: int) -> np.ndarray:
    """Packed frames with `side` pixels on their short side; what lies at x, y lies at the same share of the frame."""
    height, width = frames_THWC.shape[1:3]
    return _resized(frames_THWC, (0.0, 0.0, float(width), float(height)), *scaled(width, height, side))


def signer_box(keypoints_TKC: np.ndarray, frame_size: tuple[int, int] | None) -> Box | None:
    """Bounds of the confident upper-body keypoints over the clip: x0, y0, x1, y1; None where too few are confident.

    Per frame the extent of the joints, over frames all but the outermost hundredth: one slip of the estimator must not
    make the signer small. Points beyond the frame count as lying on its edge.
    """
    points_TJC = keypoints_TKC[:, list(SELECTED)]
    confident_TJ = points_TJC[..., 2] > CONFIDENT
    seen = confident_TJ.sum(axis=1) >= 2
    if not seen.any():
        return None
    xy_TJ2 = points_TJC[seen, :, :2].astype(np.float64)
    if frame_size is not None:
        xy_TJ2 = np.clip(xy_TJ2, 0, frame_size)
    hidden_TJ1 = ~confident_TJ[seen][..., None]
    low_T2 = np.where(hidden_TJ1, np.inf, xy_TJ2).min(axis=1)
    high_T2 = np.where(hidden_TJ1, -np.inf, xy_TJ2).max(axis=1)
    x0, y0 = np.quantile(low_T2, _TRUSTED_FRAMES, axis=0, method="nearest")
    x1, y1 = np.quantile(high_T2, 1 - _TRUSTED_FRAMES, axis=0, method="nearest")
    return (float(x0), float(y0), float(x1), float(y1)) if max(x1 - x0, y1 - y0) > 0 else None


def _choose_box(
    keypoints_TKC: np.ndarray | None, frame_size: tuple[int, int] | None, given: Box | None, crop: str
) -> Box | None:
    if crop == "none":
        return None if frame_size is None else (0.0, 0.0, float(frame_size[0]), float(frame_size[1]))
    bounds = None if keypoints_TKC is None else signer_box(keypoints_TKC, frame_size)
    if bounds is None and frame_size is not None:
        width, height = frame_size
        if given is not None:
            x0, y0, x1, y1 = np.clip(given, 0, (width, height, width, height))
            bounds = (x0, y0, x1, y1) if x1 - x0 >= 2 and y1 - y0 >= 2 else None
        if bounds is None:
            side = min(width, height)
            bounds = ((width - side) / 2, (height - side) / 2, (width + side) / 2, (height + side) / 2)
    return None if bounds is None else _square(bounds, frame_size)


def _square(bounds: Box, frame_size: tuple[int, int] | None) -> Box:
    """The square about the bounds, with its margin, moved into the frame as far as it fits."""
    x0, y0, x1, y1 = bounds
    extent = max(x1 - x0, y1 - y0)
    side = extent * (1 + 2 * MARGIN)
    if frame_size is None:
        return (x0 + x1 - side) / 2, (y0 + y1 - side) / 2, (x0 + x1 + side) / 2, (y0 + y1 + side) / 2
    # The margin alone never reaches beyond the frame.
    side = max(round(max(extent, min(side, *frame_size))), 2)
    corner = []
    for low, high, limit in ((x0, x1, frame_size[0]), (y0, y1, frame_size[1])):
        wanted = round((low + high - side) / 2)
        corner.append((limit - side) // 2 if side > limit else min(max(wanted, 0), limit - side))
    return float(corner[0]), float(corner[1]), float(corner[0] + side), float(corner[1] + side)


def _resized(frames_THWC: np.ndarray, box: Box, width: int, height: int) -> np.ndarray:
    return np.stack([_resize(frame_HWC, box, width, height) for frame_HWC in frames_THWC])


def _resize(frame_HWC: np.ndarray, box: Box, width: int, height: int) -> np.ndarray:
    image = Image.fromarray(np.ascontiguousarray(frame_HWC))
    x0, y0, x1, y1 = (round(value) for value in box)
    if x0 < 0 or y0 < 0 or x1 > image.width or y1 > image.height:
        image = image.crop((x0, y0, x1, y1))  # black beyond the frame
        x0, y0, x1, y1 = 0, 0, image.width, image.height
    if (x1 - x0, y1 - y0) == (width, height):
        return np.asarray(image.crop((x0, y0, x1, y1)))
    # Bicubic with a support that grows with the reduction: no aliasing.
    return np.asarray(image.resize((width, height), Image.Resampling.BICUBIC, box=(x0, y0, x1, y1)))

"""From a clip's frames and keypoints to what the exported model takes. Needs NumPy and Pillow, nothing else.

    import json, numpy, onnxruntime, preprocess
    config = json.load(open("config.json"))
    clip = numpy.load("test_clip.npz")
    inputs = preprocess.prepare(clip["frames"], clip["keypoints"], config, packed=bool(clip["packed"]))

The clip is cut and resized as training data was packed, frames are taken at the centres of equal segments, RGB is the
middle square, and keypoints become the 75 normalised joints of the pose branch (CCL-SLR, section 4).
"""

from __future__ import annotations

from typing import Any, TypeAlias

import numpy as np
from PIL import Image

Array: TypeAlias = np.ndarray
Size: TypeAlias = tuple[int, int]  # width, height
CONFIDENT = 0.3  # a point of a confidence above it counts as found
MARGIN = 0.1  # around the signer, of the keypoints' extent
TRUSTED_FRAMES = 0.01  # share of the frames at either extreme that is taken for an estimator's slip
MIN_BODY_POINTS = 4
# Of the 133 points of COCO-WholeBody: the joints, the group's reference point, and its stand-in.
BODY = (0, 5, 7, 9, 6, 8, 10)
GROUPS = (
    (tuple(range(91, 112)), 91, 9),  # left hand: its wrist, else the body's
    (tuple(range(112, 133)), 112, 10),
    ((*range(23, 40), 53), 53, 0),  # face contour and nose tip
    (tuple(range(83, 91)), 53, 0),  # mouth
)
JOINTS = BODY + tuple(k for points, _, _ in GROUPS for k in points)


def prepare(
    frames_THWC: Array | None,
    keypoints_TKC: Array | None,
    config: dict[str, Any],
    packed: bool = False,
    frame_size: Size | None = None,
) -> dict[str, Array]:
    """Inputs of the exported graphs, a batch of one.

    Args:
        frames_THWC: uint8 RGB (T, H, W, 3); None for the pose branch alone.
        keypoints_TKC: (T, 133, 3), x and y in pixels of the frames, confidence 0 to 1; None for RGB alone.
        config: the folder's config.json.
        packed: the clip is cut and resized already, as `cclslr pack` does it.
        frame_size: width and height of the frames, where only their keypoints are given: the shape of a pixel counts.

    Returns:
        "rgb": uint8 (1, rgb_frames, size, size, 3); "pose": float32 (1, pose_frames, 75, 3). Of what was given.
    """
    views = config["config"]["views"]
    if frames_THWC is not None:
        frame_size = frames_THWC.shape[2], frames_THWC.shape[1]
    if not packed and config["packing"]:
        how = config["packing"]["size"], config["packing"]["crop"]
        frames_THWC, keypoints_TKC, frame_size = cut(frames_THWC, keypoints_TKC, frame_size, *how)
    inputs = {}
    if frames_THWC is not None:
        inputs["rgb"] = rgb_view(frames_THWC, views["rgb_frames"], views["size"])[None]
    if keypoints_TKC is not None:
        inputs["pose"] = pose_view(keypoints_TKC, frame_size or (1, 1), views["pose_frames"])[None]
    return inputs


def segment_centres(total: int, wanted: int) -> Array:
    """Frame numbers at the centres of `wanted` equal segments of `total` frames."""
    return np.minimum(np.floor((np.arange(wanted) + 0.5) / wanted * total), total - 1).astype(int)


def rgb_view(frames_THWC: Array, wanted: int, size: int) -> Array:
    """The middle square of the chosen frames, `size` pixels wide, by bilinear interpolation of two by two pixels."""
    chosen_THWC = frames_THWC[segment_centres(len(frames_THWC), wanted)].astype(np.float32)
    _, height, width, _ = chosen_THWC.shape
    side = min(height, width)

    def taps(start: float, length: int) -> tuple[Array, Array]:
        at = np.clip(start + (np.arange(size) + 0.5) / size * side - 0.5, 0, length - 1)
        first = np.clip(at.astype(int), 0, max(length - 2, 0))
        return first, (at - first).astype(np.float32)

    row, row_weight = taps((height - side) / 2, height)
    column, column_weight = taps((width - side) / 2, width)
    next_row, next_column = np.minimum(row + 1, height - 1), np.minimum(column + 1, width - 1)
    weight = row_weight[:, None, None]
    rows = chosen_THWC[:, row] * (1 - weight) + chosen_THWC[:, next_row] * weight
    weight = column_weight[:, None]
    view = rows[:, :, column] * (1 - weight) + rows[:, :, next_column] * weight
    return np.clip(np.rint(view), 0, 255).astype(np.uint8)


def pose_view(keypoints_TKC: Array, frame_size: Size, wanted: int) -> Array:
    """Joints relative to their group's reference point, in units of the body's square; zeros where not found."""
    points_TKC = np.asarray(keypoints_TKC, np.float16).astype(np.float32)  # as they are packed
    xy_TK2, confidence_TK = points_TKC[..., :2], points_TKC[..., 2]
    found_TK = confidence_TK > CONFIDENT
    view_TJC = np.zeros((len(points_TKC), len(JOINTS), 3), np.float32)
    body_N2 = xy_TK2[:, BODY][found_TK[:, BODY]]
    chosen_T = segment_centres(len(points_TKC), wanted)
    if len(body_N2) < MIN_BODY_POINTS:
        return view_TJC[chosen_T]
    low, high = body_N2.min(0), body_N2.max(0)
    side = ((high - low) / np.array(frame_size, np.float32)).max()
    if not side > 0:
        return view_TJC[chosen_T]
    unit = (2 / (side * np.array(frame_size, np.float32))).astype(np.float32)

    def put(first: int, points: tuple[int, ...], origin: Array, known: Any) -> None:
        where = slice(first, first + len(points))
        kept = confidence_TK[:, points] * known
        kept[~(kept > CONFIDENT)] = 0
        relative = np.clip((xy_TK2[:, points] - origin) * unit, -1, 1)
        view_TJC[:, where, :2] = relative * (kept > 0)[..., None]
        view_TJC[:, where, 2] = kept

    put(0, BODY, (low + high) / 2, 1)
    first = len(BODY)
    for points, reference, stand_in in GROUPS:
        anchor_T = np.where(found_TK[:, reference], reference, stand_in)
        every = np.arange(len(points_TKC))
        put(first, points, xy_TK2[every, anchor_T][:, None], found_TK[every, anchor_T][:, None])
        first += len(points)
    return view_TJC[chosen_T]


def cut(
    frames_THWC: Array | None, keypoints_TKC: Array | None, frame: Size | None, size: int | None, crop: str
) -> tuple[Array | None, Array | None, Size | None]:
    """Frames, keypoints and frame size as they are packed: `signer`, a square around the signer; `none`, all of it.

    Args:
        size: side of the square, or the short side of the frame; None: as it is.
    """
    if keypoints_TKC is not None:
        keypoints_TKC = np.array(keypoints_TKC, np.float32)
        keypoints_TKC[~(np.isfinite(keypoints_TKC).all(-1) & (keypoints_TKC[..., 2] > 0))] = 0
    if size is None or (frame is None and (crop == "none" or keypoints_TKC is None)):
        return frames_THWC, keypoints_TKC, frame
    if crop == "signer":
        box = _square(_signer(keypoints_TKC, frame), frame)
        width = height = size
    else:
        assert frame is not None
        box = (0.0, 0.0, *map(float, frame))
        width, height = (2 * round(side * size / min(frame) / 2) for side in frame)
    if frames_THWC is not None:
        frames_THWC = np.stack([_resize(image, [round(side) for side in box], width, height) for image in frames_THWC])
    if keypoints_TKC is not None:
        x0, y0, x1, y1 = box
        moved = (keypoints_TKC[..., :2] - (x0, y0)) * (width / (x1 - x0), height / (y1 - y0))
        keypoints_TKC[..., :2] = moved * (keypoints_TKC[..., 2:] > 0)
    return frames_THWC, keypoints_TKC, (width, height)


def _signer(keypoints_TKC: Array | None, frame: Size | None) -> tuple[float, ...]:
    """Bounds of the confident joints over the clip; the middle of the frame where too few are confident."""
    if keypoints_TKC is not None:
        points_TJC = keypoints_TKC[:, JOINTS]
        found_TJ = points_TJC[..., 2] > CONFIDENT
        seen = found_TJ.sum(1) >= 2
        if seen.any():
            xy_TJ2 = points_TJC[seen, :, :2].astype(float)
            xy_TJ2 = xy_TJ2 if frame is None else np.clip(xy_TJ2, 0, frame)
            hidden = ~found_TJ[seen][..., None]
            low = np.quantile(np.where(hidden, np.inf, xy_TJ2).min(1), TRUSTED_FRAMES, axis=0, method="nearest")
            high = np.quantile(np.where(hidden, -np.inf, xy_TJ2).max(1), 1 - TRUSTED_FRAMES, axis=0, method="nearest")
            if (high - low).max() > 0:
                return (*low, *high)
    if frame is None:
        return (0.0, 0.0, 1.0, 1.0)
    side = min(frame)
    return tuple((length + sign * side) / 2 for sign in (-1, 1) for length in frame)


def _square(bounds: tuple[float, ...], frame: Size | None) -> tuple[float, ...]:
    """The square about the bounds with its margin, moved into the frame as far as it fits."""
    x0, y0, x1, y1 = bounds
    extent = max(x1 - x0, y1 - y0)
    side = extent * (1 + 2 * MARGIN)
    if frame is None:
        return ((x0 + x1 - side) / 2, (y0 + y1 - side) / 2, (x0 + x1 + side) / 2, (y0 + y1 + side) / 2)
    side = max(round(max(extent, min(side, *frame))), 2)
    corner = []
    for low, high, limit in ((x0, x1, frame[0]), (y0, y1, frame[1])):
        wanted = round((low + high - side) / 2)
        corner.append((limit - side) // 2 if side > limit else min(max(wanted, 0), limit - side))
    return (*map(float, corner), *(float(at + side) for at in corner))


def _resize(image_HWC: Array, box: list[int], width: int, height: int) -> Array:
    image = Image.fromarray(np.ascontiguousarray(image_HWC))
    x0, y0, x1, y1 = box
    if x0 < 0 or y0 < 0 or x1 > image.width or y1 > image.height:
        image = image.crop((x0, y0, x1, y1))  # black beyond the frame
        x0, y0, x1, y1 = 0, 0, image.width, image.height
    if (x1 - x0, y1 - y0) == (width, height):
        return np.asarray(image.crop((x0, y0, x1, y1)))
    return np.asarray(image.resize((width, height), Image.Resampling.BICUBIC, box=(x0, y0, x1, y1)))

"""What is random about a view, drawn for whole batches at once before anything is read (CCL-SLR §5)."""

from __future__ import annotations

import dataclasses
import math

import numpy as np

from cclslr.config import ViewConfig
from cclslr.data.batch import ViewParams
from cclslr.data.draw import Purpose, hash_words, purpose, uniform
from cclslr.keypoints import NUM_JOINTS

_LUMA = np.array([0.299, 0.587, 0.114])
_TO_YIQ = np.array([_LUMA, [0.595716, -0.274453, -0.321263], [0.211456, -0.522591, 0.311135]])
_FROM_YIQ = np.linalg.inv(_TO_YIQ)


def draw_views(
    cfg: ViewConfig, seed: int, epoch: int, keys_B: np.ndarray, num_frames_B: np.ndarray, sizes_B2: np.ndarray
) -> ViewParams:
    """Two views of each clip, query and key, drawn independently.

    Args:
        cfg: ranges of everything that is drawn.
        seed: of the run.
        epoch: 0-based.
        keys_B: what tells clips apart: their ids (`Slots.keys_B`).
        num_frames_B: frames of each clip.
        sizes_B2: width and height of its packed frames; 0, 0 without video.
    """
    view_V1 = np.arange(2)[:, None]
    words = (seed, epoch, keys_B[None], view_V1)

    drawn_PVB = uniform(*words, np.arange(len(Purpose))[:, None, None])  # one call: 0.25 ms for 8 clips, not 0.6

    def draw(what: Purpose | str, low: float = 0.0, high: float = 1.0) -> np.ndarray:
        return low + (high - low) * (drawn_PVB[what] if isinstance(what, Purpose) else uniform(*words, purpose(what)))

    frames_B = num_frames_B.astype(np.float64)
    length_VB = draw(Purpose.LENGTH, cfg.min_length) * frames_B
    start_VB = draw(Purpose.START) * (frames_B - length_VB)

    flip_VB = draw(Purpose.FLIP) < cfg.flip
    matrix_VB34 = colour_matrix(
        draw(Purpose.BRIGHTNESS, 1 - cfg.brightness, 1 + cfg.brightness),
        draw(Purpose.CONTRAST, 1 - cfg.contrast, 1 + cfg.contrast),
        draw(Purpose.SATURATION, 1 - cfg.saturation, 1 + cfg.saturation),
        draw(Purpose.HUE, -cfg.hue, cfg.hue),
    )
    angle = math.radians(cfg.rotation)
    return ViewParams(
        rgb_index_VBT=frame_index(start_VB, length_VB, num_frames_B, cfg.rgb_frames),
        pose_index_VBT=frame_index(start_VB, length_VB, num_frames_B, cfg.pose_frames),
        crop_VB4=_random_resized_crop(
            sizes_B2,
            draw(Purpose.AREA, *cfg.area),
            np.exp(draw(Purpose.RATIO, math.log(cfg.ratio[0]), math.log(cfg.ratio[1]))),
            draw(Purpose.CROP_X),
            draw(Purpose.CROP_Y),
        ),
        flip_VB=flip_VB,
        colour_VB34=matrix_VB34,
        masked_VB=draw(Purpose.MASK) < cfg.mask_alpha,
        rotation_VB=draw(Purpose.ROTATION, -angle, angle).astype(np.float32),
        scale_VB=draw(Purpose.SCALE, *cfg.scale).astype(np.float32),
        hidden_VBJ=_hidden_joints(draw(Purpose.HIDDEN_COUNT, 0, cfg.masked_joints + 1).astype(np.int64), words),
    )


def eval_views(cfg: ViewConfig, num_frames_B: np.ndarray, sizes_B2: np.ndarray) -> ViewParams:
    """The one view (V = 1) that is evaluated: the whole clip at segment centres, the centre square, nothing random."""
    num_clips = len(num_frames_B)
    start_VB, length_VB = np.zeros((1, num_clips)), num_frames_B[None].astype(np.float64)
    side_B1 = sizes_B2.min(axis=1, keepdims=True)
    corner_B2 = (sizes_B2 - side_B1) / 2
    one_VB = np.ones((1, num_clips))
    return ViewParams(
        rgb_index_VBT=frame_index(start_VB, length_VB, num_frames_B, cfg.rgb_frames),
        pose_index_VBT=frame_index(start_VB, length_VB, num_frames_B, cfg.pose_frames),
        crop_VB4=np.concatenate([corner_B2, corner_B2 + side_B1], axis=1, dtype=np.float32)[None],
        flip_VB=one_VB < 0,
        colour_VB34=colour_matrix(one_VB, one_VB, one_VB, 0 * one_VB),
        masked_VB=one_VB < 0,
        rotation_VB=np.zeros((1, num_clips), np.float32),
        scale_VB=one_VB.astype(np.float32),
        hidden_VBJ=np.zeros((1, num_clips, NUM_JOINTS), bool),
    )


def frame_index(start_VB: np.ndarray, length_VB: np.ndarray, num_frames_B: np.ndarray, num: int) -> np.ndarray:
    """Frames at the centres of `num` equal segments of a temporal crop: (V, B, num) int32.

    The crop begins at `start` and lasts `length`, both in frames and both real, within [0, num_frames].
    """
    centre_T = (np.arange(num) + 0.5) / num
    index = np.floor(start_VB[..., None] + centre_T * length_VB[..., None])
    return np.minimum(index, num_frames_B[:, None] - 1).astype(np.int32)


def colour_matrix(brightness: np.ndarray, contrast: np.ndarray, saturation: np.ndarray, hue: np.ndarray) -> np.ndarray:
    """Colour jitter as one affine map of RGB values in 0..255: (..., 3, 4) float32.

    In this order: times `brightness`; `contrast` about mid-grey 127.5 (not the frame's mean, which would make the map
    depend on the content); blend with the luma by `saturation`; rotate the chroma plane of YIQ by `hue` full turns. The
    result is clamped once, at the end. The last two leave grey as it is, so they do not touch the offset.
    """
    angle = 2 * np.pi * hue
    rotation = np.zeros((*angle.shape, 3, 3))
    rotation[..., 0, 0] = 1
    rotation[..., 1, 1] = rotation[..., 2, 2] = np.cos(angle)
    rotation[..., 2, 1] = np.sin(angle)
    rotation[..., 1, 2] = -rotation[..., 2, 1]
    saturate = saturation[..., None, None] * np.eye(3) + (1 - saturation[..., None, None]) * _LUMA
    linear = (brightness * contrast)[..., None, None] * (_FROM_YIQ @ rotation @ _TO_YIQ @ saturate)
    offset = np.broadcast_to((127.5 * (1 - contrast))[..., None, None], (*angle.shape, 3, 1))
    return np.concatenate([linear, offset], axis=-1, dtype=np.float32)


def least_side(cfg: ViewConfig) -> float:
    """Pixels on the short side of a frame that serve the random views of a phase: the smallest size with so many is
    read (`ShardSet.read`).

    A crop of the mean area is to have at least 7/8 of the view's pixels along a side, so that it is hardly enlarged.
    The paper's own views are made thus: 224 pixels from crops of 214 on average, of frames of 256 (0.96). So 128 serve
    112, 192 serve 160, and where crops are cut smaller (views.area) larger frames are read. A larger size than that
    costs time and brings nothing: frames are resized without antialiasing, so what is much larger is skipped over,
    while packing made the smaller size with antialiasing.

    Views that are evaluated are made from the full size, as `cclslr predict` makes them: what a model says of a clip
    does not depend on which other sizes there are.
    """
    return 7 / 8 * cfg.size / math.sqrt(sum(cfg.area) / 2)


def in_frames(params: ViewParams, sizes_B2: np.ndarray, frames_B2: np.ndarray) -> ViewParams:
    """Views with their crops in the pixels of frames that are smaller than the packed ones.

    Args:
        params: as they are drawn.
        sizes_B2: width and height of the packed frames, which `params` and poses count in.
        frames_B2: the same of the frames that were read.
    """
    if np.array_equal(sizes_B2, frames_B2):
        return params
    scale_B4 = np.tile(frames_B2 / sizes_B2, 2).astype(np.float32)
    return dataclasses.replace(params, crop_VB4=params.crop_VB4 * scale_B4)


def to_view(points_xy: np.ndarray, params: ViewParams, v: int, b: int, size: int) -> np.ndarray:
    """Packed-frame pixels (..., 2) as pixels of RGB view `v` of clip `b`, which is `size` pixels wide and high."""
    x0, y0, x1, y1 = params.crop_VB4[v, b].astype(np.float64)
    view_xy = (np.asarray(points_xy, np.float64) - (x0, y0)) * (size / (x1 - x0), size / (y1 - y0))
    if params.flip_VB[v, b]:
        view_xy[..., 0] = size - view_xy[..., 0]
    return view_xy


def _random_resized_crop(
    sizes_B2: np.ndarray, area_VB: np.ndarray, ratio_VB: np.ndarray, x_VB: np.ndarray, y_VB: np.ndarray
) -> np.ndarray:
    """Crop of a share of the frame's area and a ratio of width to height, clamped to the frame: (V, B, 4) float32."""
    width_B, height_B = sizes_B2.T.astype(np.float64)
    pixels_VB = area_VB * width_B * height_B
    crop_w = np.minimum(np.sqrt(pixels_VB * ratio_VB), width_B)
    crop_h = np.minimum(np.sqrt(pixels_VB / ratio_VB), height_B)
    x0, y0 = x_VB * (width_B - crop_w), y_VB * (height_B - crop_h)
    return np.stack([x0, y0, x0 + crop_w, y0 + crop_h], axis=-1).astype(np.float32)


def _hidden_joints(count_VB: np.ndarray, words: tuple[int | np.ndarray, ...]) -> np.ndarray:
    """A random subset of `count` joints: (V, B, J) bool."""
    words_VB1 = tuple(np.asarray(word)[..., None] for word in words)
    lots_VBJ = hash_words(*words_VB1, Purpose.HIDDEN_JOINT, np.arange(NUM_JOINTS))
    largest_VB1 = np.take_along_axis(np.sort(lots_VBJ), np.maximum(count_VB - 1, 0)[..., None], axis=-1)
    return (lots_VBJ <= largest_VB1) & (count_VB > 0)[..., None]

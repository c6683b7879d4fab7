"""RGB views in slow NumPy float64, and small clips to make them from; what every backend is compared with."""

from __future__ import annotations

import io
from dataclasses import dataclass

import av
import numpy as np

from cclslr.codecs import codec_named
from cclslr.data.backend import EncodedClip
from cclslr.data.batch import ViewParams
from cclslr.shards.format import BadClip, RawClip


def frame_view(frame_HWC: np.ndarray, params: ViewParams, v: int, b: int, size: int, mask_HW=None) -> np.ndarray:
    """One frame of one view: float64 (size, size, 3), not rounded."""
    height, width, _ = frame_HWC.shape
    x0, y0, x1, y1 = params.crop_VB4[v, b].astype(np.float64)
    centre = (np.arange(size) + 0.5) / size
    x, y = x0 + centre * (x1 - x0), y0 + centre * (y1 - y0)

    def axis(at: np.ndarray, length: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        low = np.floor(at - 0.5).astype(int)
        return np.clip(low, 0, length - 1), np.clip(low + 1, 0, length - 1), at - 0.5 - low

    left, right, fx = axis(x, width)
    top, bottom, fy = axis(y, height)
    frame = frame_HWC.astype(np.float64)
    fx, fy = fx[None, :, None], fy[:, None, None]
    upper = frame[top][:, left] * (1 - fx) + frame[top][:, right] * fx
    lower = frame[bottom][:, left] * (1 - fx) + frame[bottom][:, right] * fx
    view = upper * (1 - fy) + lower * fy
    matrix = params.colour_VB34[v, b].astype(np.float64)
    view = np.clip(view @ matrix[:, :3].T + matrix[:, 3], 0, 255)
    if mask_HW is not None:
        rows = np.clip((y * len(mask_HW) / height).astype(int), 0, len(mask_HW) - 1)
        columns = np.clip((x * mask_HW.shape[1] / width).astype(int), 0, mask_HW.shape[1] - 1)
        view = view * mask_HW[rows][:, columns, None]
    return view[:, ::-1] if params.flip_VB[v, b] else view


def exact_rgb(data: bytes) -> np.ndarray:
    """Frames of an mp4 in float64 (T, H, W, 3): BT.601, limited range, chroma in the middle of 2x2 pixels.

    libswscale's fast conversion, which `Codec.decode` uses, repeats chroma samples instead, and is 1 darker on average.
    """
    frames = []
    with av.open(io.BytesIO(data), "r") as container:
        for frame in container.decode(video=0):
            planes = [
                np.frombuffer(p, np.uint8).reshape(-1, p.line_size)[:, : p.width].astype(float) for p in frame.planes
            ]
            y, u, v = (planes[0] - 16) * 255 / 219, *(_double(c - 128) * 255 / 224 for c in planes[1:])
            frames.append(np.stack([y + 1.402 * v, y - 0.344136 * u - 0.714136 * v, y + 1.772 * u], axis=-1))
    return np.clip(frames, 0, 255)


def _double(plane: np.ndarray) -> np.ndarray:
    for axis in range(2):
        lines = np.moveaxis(plane, axis, 0)
        padded = np.concatenate([lines[:1], lines, lines[-1:]])
        both = np.stack([0.75 * lines + 0.25 * padded[:-2], 0.75 * lines + 0.25 * padded[2:]], axis=1)
        plane = np.moveaxis(both.reshape(-1, lines.shape[1]), 0, axis)
    return plane


def views(clips: list[EncodedClip], params: ViewParams, size: int, exact: bool = False) -> np.ndarray:
    """All views of a batch: float64 (V, B, T, size, size, 3); `exact` where RGB is made as by `exact_rgb`."""
    num_views, _, num_frames = params.rgb_index_VBT.shape
    out = np.empty((num_views, len(clips), num_frames, size, size, 3))
    for b, clip in enumerate(clips):
        frames = exact_rgb(clip.video) if exact else clip.codec.decode(clip.video)
        for v in range(num_views):
            masks = clip.masks_THW if params.masked_VB[v, b] else None
            for i, t in enumerate(params.rgb_index_VBT[v, b]):
                out[v, b, i] = frame_view(frames[t], params, v, b, size, None if masks is None else masks[t])
    return out


def smooth_frames(num: int, width: int, height: int, seed: int) -> np.ndarray:
    """Moving colours without hard edges, which every codec keeps: uint8 (num, height, width, 3)."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:height, :width] / max(width, height)
    waves = rng.uniform(2, 9, (3, 2))
    frames = [
        np.stack([127 + 100 * np.sin(wx * x + wy * y + 0.3 * t + c) for c, (wx, wy) in enumerate(waves)], -1)
        for t in range(num)
    ]
    return np.array(frames).astype(np.uint8)


def encoded(
    frames_THWC: np.ndarray, codec: str, masks_THW: np.ndarray | None = None, name: str = "clip"
) -> EncodedClip:
    """Frames as the loader would hand them to a backend."""
    data, offsets = codec_named(codec).encode(frames_THWC, 25.0)
    num, height, width, _ = frames_THWC.shape
    return EncodedClip(name, data, codec_named(codec), tuple(offsets), num, width, height, masks_THW)


@dataclass(frozen=True)
class SmallClip:
    """A `ClipSource` with video, keypoints or both."""

    seed: int
    frames: int = 12
    size: tuple[int, int] = (64, 48)
    parts: str = "rgb pose"
    broken: bool = False

    def load(self) -> RawClip:
        if self.broken:
            raise BadClip("broken on purpose")
        rng = np.random.default_rng(self.seed)
        points = np.concatenate([rng.uniform(5, 45, (self.frames, 133, 2)), np.ones((self.frames, 133, 1))], -1)
        return RawClip(
            smooth_frames(self.frames, *self.size, self.seed) if "rgb" in self.parts else None,
            points.astype(np.float32) if "pose" in self.parts else None,
            25.0,
        )


def checker_masks(frames_THWC: np.ndarray, keypoints_TKC: np.ndarray | None) -> np.ndarray:
    """Masks with a pattern that moves: uint8 {0, 1} (T, 64, 64)."""
    y, x = np.mgrid[:64, :64]
    return np.array([(x + 3 * t) // 8 % 2 ^ y // 8 % 2 for t in range(len(frames_THWC))]).astype(np.uint8)

"""Frames in another pixel format."""

from __future__ import annotations

import numpy as np
from av.video.frame import VideoFrame
from av.video.reformatter import Colorspace, VideoReformatter


class Converter:
    """Converts the frames of one clip, by one thread.

    `VideoFrame.to_ndarray(format=…)` and `reformat` give the same bits, but set up a converter of several threads for
    each frame: a film of 24 frames of 96x96 took 185 ms with them and 5 ms with this, its opening and decoding
    included, on two cores that others used (docs/results/serve).
    """

    def __init__(self) -> None:
        self._reformatter = VideoReformatter()

    def rgb(self, frame: VideoFrame) -> np.ndarray:
        """A decoded frame → uint8 (H, W, 3)."""
        return self._reformatter.reformat(frame, format="rgb24", threads=1).to_ndarray()

    def yuv(self, rgb_HWC: np.ndarray) -> VideoFrame:
        """A picture, uint8 (H, W, 3) → a frame for an encoder: yuv420p in the colours of BT.601."""
        frame = VideoFrame.from_ndarray(np.ascontiguousarray(rgb_HWC), format="rgb24")
        return self._reformatter.reformat(frame, format="yuv420p", dst_colorspace=Colorspace.SMPTE170M, threads=1)

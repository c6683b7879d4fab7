"""Chosen frames of a packed clip as RGB on a CPU thread: libavcodec for video, Pillow for JPEG; both free the GIL."""

from __future__ import annotations

import numpy as np

from cclslr.data.backend import EncodedClip
from cclslr.errors import BadClip


def decode_frames(clip: EncodedClip, wanted: np.ndarray) -> list[np.ndarray]:
    """Frames `wanted` (ascending, each once) of a clip, each uint8 RGB (H, W, 3), contiguous.

    Decoding ends with the last frame that is wanted, and only those wanted are converted to RGB.

    Raises:
        BadClip: the video does not decode, ends too early, or has frames of another size than the index says.
    """
    frames = []
    try:
        for number, frame_HWC in clip.codec.rgb(clip.video, clip.frame_offsets, wanted.tolist()):
            if frame_HWC.shape != (clip.height, clip.width, 3):
                size = f"{frame_HWC.shape[1]}x{frame_HWC.shape[0]}"
                raise BadClip(f"frame {number} is {size}, expected {clip.width}x{clip.height}")
            frames.append(frame_HWC)
    except BadClip as error:
        raise BadClip(f"{clip.name}: {error}") from error
    if len(frames) < len(wanted):
        raise BadClip(f"{clip.name}: the video ends before frame {wanted[len(frames)]} of {clip.num_frames}")
    return frames

"""Chosen frames of a packed clip on a CPU thread: libavcodec for video, Pillow for JPEG; both let go of the GIL."""

from __future__ import annotations

import io

import av
import numpy as np
from PIL import Image

from cclslr.data.backend import EncodedClip
from cclslr.shards.format import BadClip
from cclslr.shards.video import video_frames


def decode_frames(clip: EncodedClip, wanted: np.ndarray) -> list[np.ndarray]:
    """Frames `wanted` (ascending, each once) of a clip, each uint8 RGB (H, W, 3).

    Decoding ends with the last frame that is wanted, and only those wanted are converted to RGB.

    Raises:
        BadClip: the video does not decode, or ends too early.
    """
    try:
        frames = _decode_jpeg(clip, wanted) if clip.codec == "jpeg" else _decode_video(clip, wanted)
    except (av.FFmpegError, OSError, IndexError, SyntaxError) as error:
        raise BadClip(f"{clip.name}: {clip.codec} does not decode: {error}") from error
    if len(frames) < len(wanted):
        raise BadClip(f"{clip.name}: the video ends before frame {wanted[len(frames)]} of {clip.num_frames}")
    return frames


def _decode_jpeg(clip: EncodedClip, wanted: np.ndarray) -> list[np.ndarray]:
    frames = []
    for number in wanted:
        data = clip.video[clip.frame_offsets[number] : clip.frame_offsets[number + 1]]
        with Image.open(io.BytesIO(data)) as image:
            frames.append(np.asarray(image.convert("RGB")))
    return frames


def _decode_video(clip: EncodedClip, wanted: np.ndarray) -> list[np.ndarray]:
    return [frame.to_ndarray(format="rgb24") for _, frame in video_frames(clip.video, wanted.tolist())]

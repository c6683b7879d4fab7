"""Chosen frames of a packed video through libavcodec, in threads; PyAV lets go of the GIL while it decodes."""

from __future__ import annotations

import io

import av
import numpy as np

from cclslr.data.backend import EncodedClip
from cclslr.shards.format import BadClip


def decode_frames(clip: EncodedClip, wanted: np.ndarray) -> list[np.ndarray]:
    """Frames `wanted` (ascending, each once) of a clip, each uint8 RGB (H, W, 3).

    Decoding ends with the last frame that is wanted, and only those wanted are converted to RGB.

    Raises:
        BadClip: the video does not decode, or ends too early.
    """
    if clip.codec == "jpeg":
        data, format_ = clip.video[: clip.frame_offsets[wanted[-1] + 1]], "mjpeg"
    else:
        data, format_ = clip.video, None
    frames: list[np.ndarray] = []
    try:
        with av.open(io.BytesIO(data), "r", format=format_) as container:
            stream = container.streams.video[0]
            stream.codec_context.thread_count = 1  # clips are decoded side by side instead
            for number, frame in enumerate(container.decode(stream)):
                if number == wanted[len(frames)]:
                    frames.append(frame.to_ndarray(format="rgb24"))
                    if len(frames) == len(wanted):
                        return frames
    except (av.FFmpegError, IndexError) as error:
        raise BadClip(f"{clip.name}: {clip.codec} does not decode: {error}") from error
    raise BadClip(f"{clip.name}: the video ends before frame {wanted[len(frames)]} of {clip.num_frames}")

"""What the project has to know about a codec, and what a codec has to do."""

from __future__ import annotations

import abc
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from cclslr.errors import BadClip

if TYPE_CHECKING:
    from av.video.frame import VideoFrame

# What is decoded at most: a file can claim any size in a few bytes.
MAX_SIDE = 4096  # pixels
MAX_FRAMES = 10_000  # of a clip
MAX_BYTES = 4 << 30  # of a clip's RGB frames, where all are asked for

Data = bytes | memoryview


@dataclass(frozen=True, kw_only=True)
class Codec(abc.ABC):
    """One way to pack frames.

    Frames are uint8 RGB (T, H, W, 3). Encoding is pure: the same frames give the same bytes, on any machine and after
    anything else. Where decoding fails, or gives less than is asked for, that is a `BadClip`.
    """

    name: str  # as in dataset.json and on the command line
    about: str  # what speaks for it, for the help
    extension: str  # of its component: mjpg (JPEG images one after the other) or mp4
    clip_kb: float  # kB of 58 frames of 256x256 of a signer, at the default quality
    quality: int  # the default: JPEG quality, or crf
    smallest: int  # pixels of a side that it can be asked for; sides are even
    alone: bool  # each frame is an image by itself; else frames are made from others
    dali_cpu: bool  # DALI decodes it on the CPU
    dali_gpu: bool  # DALI decodes it on the GPU, by nvJPEG or NVDEC
    triangle: bool  # chroma is interpolated (as DALI's CPU decoders do it); else repeated, as libswscale does

    @abc.abstractmethod
    def encode(self, frames_THWC: np.ndarray, fps: float, quality: int | None = None) -> tuple[bytes, list[int]]:
        """Encode frames; `fps` is written into an mp4.

        Returns:
            The bytes; and where frames are images by themselves the start of each and the end of the last (T + 1
            numbers), else an empty list.

        Raises:
            BadClip: the frames are smaller than `smallest`.
        """

    @abc.abstractmethod
    def offsets(self, data: Data) -> list[int]:
        """The second of what `encode` returned, found in its bytes."""

    @abc.abstractmethod
    def planes(self, data: Data, offsets: Sequence[int], wanted: Sequence[int]) -> Iterator[tuple[int, VideoFrame]]:
        """Frames `wanted` (ascending, each once) with their numbers, as libavcodec decodes them: YUV.

        One thread; each is decoded when it is asked for. `offsets` as `encode` returned them.

        Raises:
            av.FFmpegError: the bytes do not decode.
        """

    @abc.abstractmethod
    def rgb(
        self, data: Data, offsets: Sequence[int], wanted: Sequence[int] | None = None
    ) -> Iterator[tuple[int, np.ndarray]]:
        """The same as uint8 RGB (H, W, 3), contiguous; all frames by default.

        Raises:
            BadClip: the bytes do not decode; the reason begins with the codec's name.
        """

    def decode(self, data: Data) -> np.ndarray:
        """All frames: (T, H, W, 3).

        Raises:
            BadClip: the bytes are not this codec's, or hold more than `MAX_BYTES` of frames.
        """
        frames: list[np.ndarray] = []
        left = MAX_BYTES
        for _, frame_HWC in self.rgb(data, self.offsets(data)):
            left -= frame_HWC.nbytes
            if left < 0 or len(frames) == MAX_FRAMES:
                raise BadClip(f"{self.name}: more than {MAX_FRAMES} frames, or {MAX_BYTES / 1e9:.1f} GB of them")
            if frames and frame_HWC.shape != frames[0].shape:
                raise BadClip(f"{self.name}: the frame size changes within the clip")
            frames.append(frame_HWC)
        if not frames:
            raise BadClip(f"{self.name} holds no frame")
        return np.stack(frames)

    def check_size(self, height: int, width: int) -> None:
        """Raises BadClip for frames that the encoder cannot be asked for."""
        if min(height, width) < self.smallest:
            raise BadClip(
                f"frames of {width}x{height} are too small for {self.name}; it takes {self.smallest} pixels or more"
            )

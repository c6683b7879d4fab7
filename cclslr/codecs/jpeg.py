"""JPEG images one after the other, which is a valid MJPEG stream: any frame decodes alone, anywhere."""

from __future__ import annotations

import io
import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

from cclslr.codecs.base import MAX_SIDE, Codec, Data
from cclslr.errors import BadClip

if TYPE_CHECKING:
    from av.video.frame import VideoFrame


@dataclass(frozen=True, kw_only=True)
class Jpeg(Codec):
    """See `Codec`."""

    def encode(self, frames_THWC: np.ndarray, fps: float, quality: int | None = None) -> tuple[bytes, list[int]]:
        self.check_size(*frames_THWC.shape[1:3])
        file, offsets = io.BytesIO(), [0]
        for frame_HWC in frames_THWC:
            image = Image.fromarray(frame_HWC)
            image.save(file, "JPEG", quality=self.quality if quality is None else quality, subsampling="4:2:0")
            offsets.append(file.tell())
        return file.getvalue(), offsets

    def offsets(self, data: Data) -> list[int]:
        # The end of one image and the start of the next cannot occur inside an image without a thumbnail.
        # Found by NumPy: 130 us for 780 kB, and other threads go on; `re` takes 230 and holds the GIL.
        data_N = np.frombuffer(data, np.uint8)
        at = np.flatnonzero(data_N[2:-1] == 0xFF) + 2
        at = at[(data_N[at - 2] == 0xFF) & (data_N[at - 1] == 0xD9) & (data_N[at + 1] == 0xD8)]
        return [0, *at.tolist(), len(data)]

    def planes(self, data: Data, offsets: Sequence[int], wanted: Sequence[int]) -> Iterator[tuple[int, VideoFrame]]:
        import av

        decoder = av.VideoCodecContext.create("mjpeg", "r")
        decoder.thread_count = 1
        for number in wanted:
            packet = av.Packet(memoryview(data)[offsets[number] : offsets[number + 1]])  # type: ignore[arg-type]
            for frame in decoder.decode(packet):
                yield number, frame

    def rgb(
        self, data: Data, offsets: Sequence[int], wanted: Sequence[int] | None = None
    ) -> Iterator[tuple[int, np.ndarray]]:
        spans = list(itertools.pairwise(offsets))
        for number in range(len(spans)) if wanted is None else wanted:
            try:
                begin, end = spans[number]
                with Image.open(io.BytesIO(data[begin:end]), formats=("JPEG",)) as image:
                    if max(image.size) > MAX_SIDE:
                        raise BadClip(f"{self.name} does not decode: frame {number} of {image.size} pixels")
                    yield number, np.asarray(image.convert("RGB"))
            except (OSError, SyntaxError, IndexError, Image.DecompressionBombError) as error:
                raise BadClip(f"{self.name} does not decode: frame {number}: {error}") from error


JPEG = Jpeg(
    name="jpeg",
    about="for any GPU, five times the bytes of h264",
    extension="mjpg",
    clip_kb=870.0,
    quality=85,
    smallest=16,
    alone=True,
    dali_cpu=True,
    dali_gpu=True,
    triangle=True,
)

"""Video codecs in mp4 files, encoded and decoded by libavcodec through PyAV; what packing and CPU training use."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction

import av
import numpy as np
from av.video.frame import VideoFrame
from av.video.stream import VideoStream

from cclslr.buffers import Kept
from cclslr.codecs.base import MAX_SIDE, Codec, Data
from cclslr.codecs.boxes import Track, read_track
from cclslr.codecs.pixels import Converter
from cclslr.errors import BadClip

# Long groups of pictures: 32 of 75 frames are wanted, and short groups cost bytes and time. Of H.264 and HEVC three of
# four frames are B-frames that no other is made from: those are decoded only if wanted (see `VideoCodec.planes`).
GOP = "250"


@dataclass(frozen=True, kw_only=True)
class VideoCodec(Codec):
    """A codec whose packets lie in an mp4, and whose frames are made from others."""

    extension: str = "mp4"
    alone: bool = False
    encoder: str  # of libavcodec
    settings: Mapping[str, str]  # the encoder's options beside crf; one thread: the bytes do not depend on the machine
    tag: str | None = None  # of the mp4, where the muxer's own choice does not play everywhere
    decoder: str  # of libavcodec, in software
    sample_entries: tuple[str, ...]  # its names in an mp4 (stsd)
    parameters: str | None  # the box in the sample entry that the decoder wants first; None: it wants none
    skips: bool  # the decoder can be told before any packet to pass over a frame that no other is made from
    trials: tuple[str, ...] = ()  # other settings that `cclslr bench encoder` compares with

    def options(self, shape: tuple[int, ...], quality: int | None) -> dict[str, str]:
        """The encoder's options for a clip of that shape (T, H, W, 3)."""
        crf = self.quality if quality is None else quality
        return {"flags": "+bitexact", "crf": str(crf), **self.settings}  # bitexact: no dates, no versions

    def encode(self, frames_THWC: np.ndarray, fps: float, quality: int | None = None) -> tuple[bytes, list[int]]:
        _, height, width, _ = frames_THWC.shape
        self.check_size(height, width)
        rate = Fraction(fps).limit_denominator(1001)
        file = io.BytesIO()
        with av.open(file, "w", format="mp4", options={"fflags": "+bitexact"}) as container:
            stream = container.add_stream(self.encoder, rate=rate, options=self.options(frames_THWC.shape, quality))
            assert isinstance(stream, VideoStream)
            context = stream.codec_context
            context.width, context.height, context.pix_fmt = width, height, "yuv420p"
            context.time_base = 1 / rate
            context.thread_count = 1
            # Say which matrix the colours were made with; players guess by the frame's size otherwise.
            context.color_primaries, context.color_trc, context.colorspace, context.color_range = 6, 6, 6, 1
            if self.tag is not None:
                context.codec_tag = self.tag
            self.open(context)
            convert = Converter()
            for number, frame_HWC in enumerate(frames_THWC):
                frame = convert.yuv(frame_HWC)
                frame.pts, frame.time_base = number, 1 / rate
                container.mux(stream.encode(frame))
            container.mux(stream.encode())
        return file.getvalue(), []

    def open(self, encoder: av.VideoCodecContext) -> None:
        """Open the encoder, which is set up."""
        encoder.open()

    def offsets(self, data: Data) -> list[int]:
        return []

    def planes(
        self, data: Data, offsets: Sequence[int] = (), wanted: Sequence[int] | None = None
    ) -> Iterator[tuple[int, VideoFrame]]:
        """See `Codec.planes`; all frames by default.

        Of the frames that are not wanted, those are not decoded that come after the last, and those that no frame is
        made from: 19 % of the time of an H.264 draw (one core).
        """
        track = read_track(data, self.sample_entries, self.parameters)
        keep = set(track.shown if wanted is None else wanted)
        last = max(keep)
        with _decoder(self, track) as decoder:
            for content, number in zip(track.packets, track.shown, strict=True):
                if self.skips:
                    decoder.skip_frame = "DEFAULT" if number in keep else "NONREF"
                packet = av.Packet(content)  # type: ignore[arg-type]  # anything with a buffer
                packet.pts = number
                for frame in decoder.decode(packet):
                    if frame.pts in keep:
                        yield frame.pts, frame
                    if frame.pts == last:
                        return
            yield from ((frame.pts, frame) for frame in decoder.decode(None) if frame.pts in keep)

    def rgb(
        self, data: Data, offsets: Sequence[int] = (), wanted: Sequence[int] | None = None
    ) -> Iterator[tuple[int, np.ndarray]]:
        convert = Converter()
        try:
            for number, frame in self.planes(data, offsets, wanted):
                # PyAV's array is a part of padded rows where the width is no multiple of what the converter likes.
                yield number, np.ascontiguousarray(convert.rgb(frame))
        except av.FFmpegError as error:
            raise BadClip(f"{self.name} does not decode: {error}") from error


# They keep the memory of their frames. Asked for anew at every clip, 150 kB a frame, it made resident memory rise by 40
# to 170 kB now and then, thousands of clips after the start. Kinds of video differ by frame rate, mostly: it is written
# into H.264's parameters.
_decoders: Kept[av.VideoCodecContext] = Kept(most=8)


@contextlib.contextmanager
def _decoder(codec: VideoCodec, track: Track) -> Iterator[av.VideoCodecContext]:
    """A decoder with nothing in it, for one clip. One that met an error, or was left before its time, is not kept."""
    key = codec.decoder, track.parameters
    decoder = _decoders.take(key) or _new_decoder(codec, track)
    yield decoder
    decoder.flush_buffers()
    _decoders.keep(key, decoder)


def _new_decoder(codec: VideoCodec, track: Track) -> av.VideoCodecContext:
    decoder = av.CodecContext.create(codec.decoder, "r")
    assert isinstance(decoder, av.VideoCodecContext)
    decoder.thread_count = 1  # clips are decoded side by side instead
    decoder.options = {"max_pixels": str(MAX_SIDE**2)}
    decoder.extradata = track.parameters or None
    return decoder

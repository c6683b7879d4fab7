"""The packed codecs: frames to bytes and back. The slow, simple, exact decoder; training has faster ones."""

from __future__ import annotations

import contextlib
import io
import itertools
import re
import threading
from collections.abc import Iterator, Sequence
from fractions import Fraction

import av
import numpy as np
from av.video.frame import VideoFrame
from av.video.stream import VideoStream
from PIL import Image

from cclslr.errors import UserError
from cclslr.shards.decode import decode_file
from cclslr.shards.format import CODECS, BadClip
from cclslr.shards.mp4 import Track, read_track

__all__ = ["decode", "decode_file", "encode", "extension", "jpeg_offsets", "video_frames"]

# Long groups of pictures: 32 of 75 frames are wanted, and short groups cost bytes and time. Of H.264 and HEVC three of
# four frames are B-frames that no other is made from: those are decoded only if wanted (see `video_frames`). One
# thread: the bytes do not depend on the machine.
_GOP = "250"
ENCODERS: dict[str, tuple[str, dict[str, str]]] = {
    "vp9": (
        "libvpx-vp9",
        {"crf": "30", "b": "0", "deadline": "good", "cpu-used": "4", "row-mt": "0", "auto-alt-ref": "0", "g": _GOP},
    ),
    "h264": (
        "libx264",
        # cpu-independent: the vectorised macroblock tree reads memory that nobody wrote, and the bytes vary with it.
        # psy, aq-mode: bits that please the eye cost time to decode and bring no frame nearer to its source.
        {
            "crf": "22",
            "preset": "fast",
            "tune": "fastdecode",
            "bf": "3",
            "g": _GOP,
            "x264-params": "cpu-independent=1:psy=0:aq-mode=0:b-adapt=0:b-pyramid=none:weightb=0",
        },
    ),
    "hevc": (
        "libx265",
        {
            "crf": "22",
            "preset": "fast",
            "tune": "fastdecode",
            "x265-params": f"keyint={_GOP}:bframes=3:b-adapt=0:b-pyramid=0:weightb=0"
            ":pools=1:frame-threads=1:wpp=0:info=0:log-level=error",
        },
    ),
}


class _Kept(threading.local):
    """Decoders for the next clips of a thread, by codec and parameter sets; longest unused first.

    They keep the memory of their frames. Asked for anew at every clip, 150 kB a frame, it made resident memory rise by
    40 to 170 kB now and then, thousands of clips after the start.
    """

    MOST = 8  # frame rates, mostly: they are written into H.264's parameters

    def __init__(self) -> None:
        self.decoders: dict[tuple[str, bytes], av.VideoCodecContext] = {}


_kept = _Kept()


def extension(codec: str) -> str:
    """The component's name of a codec."""
    return "mjpg" if codec == "jpeg" else "mp4"


def encode(frames_THWC: np.ndarray, codec: str, fps: float, quality: int | None = None) -> tuple[bytes, list[int]]:
    """Encode uint8 RGB frames.

    Args:
        frames_THWC: (T, H, W, 3); even H and W for the codecs of mp4.
        codec: one of `CODECS`.
        fps: frames a second, written into the mp4.
        quality: JPEG quality (default 85), or crf of the others (defaults above).

    Returns:
        The bytes, and for jpeg the start of each image and the end of the last (T + 1 numbers), else an empty list.
    """
    if codec not in CODECS:
        raise UserError(f"unknown codec {codec!r}; choose one of {', '.join(CODECS)}")
    if codec == "jpeg":
        return _encode_jpeg(frames_THWC, 85 if quality is None else quality)
    return _encode_mp4(frames_THWC, codec, fps, quality), []


def _encode_jpeg(frames_THWC: np.ndarray, quality: int) -> tuple[bytes, list[int]]:
    file, offsets = io.BytesIO(), [0]
    for frame_HWC in frames_THWC:
        Image.fromarray(frame_HWC).save(file, "JPEG", quality=quality, subsampling="4:2:0")
        offsets.append(file.tell())
    return file.getvalue(), offsets


def _encode_mp4(frames_THWC: np.ndarray, codec: str, fps: float, quality: int | None) -> bytes:
    num_frames, height, width, _ = frames_THWC.shape
    encoder, defaults = ENCODERS[codec]
    options = {"flags": "+bitexact", **defaults}  # no dates, no versions
    if codec == "hevc" and num_frames == 1:  # x265 would read the type of a next frame, which nobody wrote
        options["x265-params"] += ":bframes=0"
    if quality is not None:
        options["crf"] = str(quality)
    rate = Fraction(fps).limit_denominator(1001)
    file = io.BytesIO()
    with av.open(file, "w", format="mp4", options={"fflags": "+bitexact"}) as container:
        stream = container.add_stream(encoder, rate=rate, options=options)
        assert isinstance(stream, VideoStream)
        context = stream.codec_context
        context.width, context.height, context.pix_fmt = width, height, "yuv420p"
        context.time_base = 1 / rate
        context.thread_count = 1
        # Say which matrix the colours were made with; players guess by the frame's size otherwise.
        context.color_primaries, context.color_trc, context.colorspace, context.color_range = 6, 6, 6, 1
        if codec == "hevc":
            context.codec_tag = "hvc1"
        for number, frame_HWC in enumerate(frames_THWC):
            frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(frame_HWC), format="rgb24")
            frame = frame.reformat(format="yuv420p", dst_colorspace="smpte170m")
            frame.pts, frame.time_base = number, 1 / rate
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return file.getvalue()


def decode(data: bytes | memoryview, codec: str) -> np.ndarray:
    """Decode a packed component → uint8 RGB (T, H, W, 3).

    Raises:
        BadClip: the bytes are not what the codec says.
    """
    try:
        frames = _decode_jpeg(data) if codec == "jpeg" else _decode_mp4(data)
    except (av.FFmpegError, OSError, SyntaxError) as error:
        raise BadClip(f"{codec} does not decode: {error}") from error
    if not frames:
        raise BadClip(f"{codec} holds no frame")
    return np.stack(frames)


def video_frames(data: bytes | memoryview, wanted: Sequence[int] | None = None) -> Iterator[tuple[int, VideoFrame]]:
    """Frames of a video component with their numbers, in order, decoded on one thread as they are asked for.

    Args:
        data: an mp4.
        wanted: numbers of frames, ascending, each once; all by default. Of the others, those are not decoded that come
            after the last, and those that no frame is made from: 19 % of the time of an H.264 draw (one core).

    Raises:
        av.FFmpegError: the bytes do not decode.
    """
    track = read_track(data)
    keep = set(track.shown if wanted is None else wanted)
    last = max(keep)
    with _decoder(track) as decoder:
        for content, number in zip(track.packets, track.shown, strict=True):
            decoder.skip_frame = "DEFAULT" if number in keep else "NONREF"
            packet = av.Packet(content)  # type: ignore[arg-type]  # anything with a buffer
            packet.pts = number
            for frame in decoder.decode(packet):
                if frame.pts in keep:
                    yield frame.pts, frame
                if frame.pts == last:
                    return
        yield from ((frame.pts, frame) for frame in decoder.decode(None) if frame.pts in keep)


@contextlib.contextmanager
def _decoder(track: Track) -> Iterator[av.VideoCodecContext]:
    """A decoder with nothing in it, for one clip. One that met an error, or was left before its time, is not kept."""
    key = track.codec, track.extradata
    decoder = _kept.decoders.pop(key, None) or _new_decoder(track)
    yield decoder
    decoder.flush_buffers()
    _kept.decoders[key] = decoder
    if len(_kept.decoders) > _Kept.MOST:
        del _kept.decoders[next(iter(_kept.decoders))]


def _new_decoder(track: Track) -> av.VideoCodecContext:
    decoder = av.CodecContext.create(track.codec, "r")
    assert isinstance(decoder, av.VideoCodecContext)
    decoder.thread_count = 1  # clips are decoded side by side instead
    decoder.extradata = track.extradata or None
    return decoder


def jpeg_offsets(data: bytes | memoryview) -> list[int]:
    """Where each JPEG of a stream begins, and the end; the marker cannot occur inside an image without a thumbnail."""
    return [0, *(found.start() + 2 for found in re.finditer(b"\xff\xd9\xff\xd8", data)), len(data)]


def _decode_jpeg(data: bytes | memoryview) -> list[np.ndarray]:
    offsets = jpeg_offsets(data)
    frames = []
    for begin, end in itertools.pairwise(offsets):
        with Image.open(io.BytesIO(data[begin:end])) as image:
            frames.append(np.asarray(image.convert("RGB")))
    return frames


def _decode_mp4(data: bytes | memoryview) -> list[np.ndarray]:
    return [frame.to_ndarray(format="rgb24") for _, frame in video_frames(data)]

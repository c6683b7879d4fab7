"""Small videos of which each frame says its number, and changes to their bytes that files in the world have."""

from __future__ import annotations

import struct
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import av
import numpy as np

HEIGHT, WIDTH = 48, 64

# One for each container and codec that PyAV's wheels write: file suffix → encoder, pixel format, options of the muxer.
KINDS: dict[str, tuple[str, str, dict[str, str]]] = {
    "mp4": ("libx264", "yuv420p", {}),
    "frag.mp4": ("libx264", "yuv420p", {"movflags": "frag_keyframe+empty_moov"}),
    "hevc.mp4": ("libx265", "yuv420p", {}),
    "av1.mp4": ("libsvtav1", "yuv420p", {}),
    "mov": ("mpeg4", "yuv420p", {}),
    "m4v": ("mpeg4", "yuv420p", {}),
    "mkv": ("libx264", "yuv420p", {}),
    "webm": ("libvpx", "yuv420p", {}),
    "vp9.webm": ("libvpx-vp9", "yuv420p", {}),
    "avi": ("libx264", "yuv420p", {}),
    "divx.avi": ("mpeg4", "yuv420p", {}),
    "mjpeg.avi": ("mjpeg", "yuvj420p", {}),
    "ts": ("libx264", "yuv420p", {}),
    "mpg": ("mpeg2video", "yuv420p", {}),
    "flv": ("flv1", "yuv420p", {}),
    "swf": ("flv1", "yuv420p", {}),
    "wmv": ("wmv2", "yuv420p", {}),
    "rm": ("rv10", "yuv420p", {}),
    "ivf": ("libvpx", "yuv420p", {}),
    "gif": ("gif", "rgb8", {}),
    "apng": ("apng", "rgb24", {}),
    "nut": ("ffv1", "yuv420p", {}),
    "mxf": ("mpeg2video", "yuv422p", {}),
    "y4m": ("rawvideo", "yuv420p", {}),
    "h264": ("libx264", "yuv420p", {}),
}
QUIET = {"libx265": {"x265-params": "log-level=none"}}
IDENTITY = (0x10000, 0, 0, 0, 0x10000, 0, 0, 0, 0x40000000)


def moving_bar(num_frames: int, height: int = HEIGHT, width: int = WIDTH) -> np.ndarray:
    """Frame t: gray, with the column block t painted white; tells which frame is which after lossy coding."""
    frames = np.full((num_frames, height, width, 3), 60, dtype=np.uint8)
    for t in range(num_frames):
        frames[t, (t // 8 % 6) * 8 : (t // 8 % 6) * 8 + 8, t % 8 * 8 : t % 8 * 8 + 8] = 240
    return frames


def frame_numbers(frames_THWC: np.ndarray) -> list[int]:
    """Which frames of `moving_bar` these are."""
    blocks = frames_THWC[:, :48, :64].mean(axis=-1).reshape(-1, 6, 8, 8, 8).mean(axis=(2, 4)).reshape(-1, 48)
    return blocks.argmax(axis=1).tolist()


def encode(
    path: Path,
    frames: np.ndarray,
    codec: str = "libx264",
    pix_fmt: str = "yuv420p",
    muxer: dict[str, str] | None = None,
    setup: Callable[[Any], None] | None = None,
    **options: str,
) -> Path:
    """Write a video of 25 frames a second, with a key frame every 8 and B-frames where the codec makes them."""
    with av.open(str(path), "w", options=muxer or {}) as container:
        stream = container.add_stream(codec, rate=25, options=QUIET.get(codec, {}) | options)
        stream.width, stream.height, stream.pix_fmt = frames.shape[2], frames.shape[1], pix_fmt
        stream.codec_context.gop_size = 8
        if setup is not None:
            setup(stream)
        for image in frames:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(image, format="rgb24")))
        container.mux(stream.encode())
    return path


def encode_kind(path: Path, kind: str, num_frames: int = 24) -> Path:
    """A `moving_bar` as one of `KINDS`."""
    codec, pix_fmt, muxer = KINDS[kind]
    return encode(path, moving_bar(num_frames), codec, pix_fmt, muxer)


def mux(path: Path, source: Path, packets: Sequence[bytes], keys: Sequence[bool]) -> Path:
    """A file with the codec of `source` and these packets, each with its number as its time."""
    with av.open(str(source)) as template, av.open(str(path), "w") as container:
        stream = container.add_stream_from_template(template.streams.video[0])
        for number, (content, key) in enumerate(zip(packets, keys)):
            packet = av.Packet(content)
            packet.stream, packet.is_keyframe = stream, key
            packet.pts = packet.dts = number
            packet.time_base = 1 / stream.average_rate if stream.average_rate else stream.time_base
            container.mux(packet)
    return path


def packets_of(path: Path) -> list[bytes]:
    """The packets of a file's video, in its order."""
    with av.open(str(path)) as container:
        return [bytes(packet) for packet in container.demux(container.streams.video[0]) if packet.size]


def set_matrix(path: Path, matrix: Sequence[int]) -> None:
    """Give an mp4's track a display matrix of 16.16 numbers."""
    data = bytearray(path.read_bytes())
    at = data.index(struct.pack(">9i", *IDENTITY), data.index(b"tkhd"))
    data[at : at + 36] = struct.pack(">9i", *matrix)
    path.write_bytes(data)


def set_edit(path: Path, first: int, frames: int) -> None:
    """Make an mp4's edit list show `frames` frames from `first` on, as a cut that copies the packets leaves it."""
    with av.open(str(path)) as container:
        ticks = round(1 / (25 * container.streams.video[0].time_base))
    data = bytearray(path.read_bytes())
    at = data.index(b"elst") + 4
    flags, count, _, begin, rate = struct.unpack(">IIIiI", data[at : at + 20])
    assert (flags, count) == (0, 1)
    data[at : at + 20] = struct.pack(">IIIiI", flags, count, frames * 40, begin + first * ticks, rate)
    path.write_bytes(data)

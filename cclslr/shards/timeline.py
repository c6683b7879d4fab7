"""Opens the video files that users have, and says when each of their frames is shown."""

from __future__ import annotations

import contextlib
import itertools
import os
import stat
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import av
import numpy as np
from av.container import InputContainer
from av.stream import Disposition
from av.video.stream import VideoStream

from cclslr.shards.foreign import MAX_CPU_SECONDS, MAX_FRAMES, MAX_PIXELS, check_size, within_time
from cclslr.shards.format import BadClip

_DEFAULT_FPS = 25.0  # of a file that does not say
_MAX_FPS = 1000.0  # a still picture with a clock of 90,000 ticks says 90,000
_PICTURES = Disposition.attached_pic | Disposition.still_image | Disposition.timed_thumbnails
_DURATION_IS_WRITTEN = {"matroska,webm", "flv", "mxf"}  # containers whose header says it, not the frames that are there
_ASF_FILE_PROPERTIES = bytes.fromhex("a1dcab8c47a9cf118ee400c00c205365")  # ASF specification, 3.2
_ASF_HEADER_BYTES = 1 << 16


@dataclass
class Timeline:
    """When each frame of a file is shown."""

    pts: list[int]  # ascending, in the stream's time base; by number where the file has no times of showing
    keys: list[int]  # of these, the ones that decoding can begin at
    seconds: np.ndarray  # float64, from the first frame on
    fps: float
    intact: int  # frames before the first damaged one
    missing: int  # frames that the header speaks of and that are not in the file, not even hidden
    timed: bool


@dataclass
class _Packets:
    """What the packets of a file say, in its order, without decoding them."""

    pts: list[int]  # of the frames to be shown
    keys: list[bool]
    bad: list[bool]
    hidden: int  # packets from which no frame is shown
    timed: bool  # all of them have a time
    end: float  # seconds: where the last packet of any stream that was read ends


@contextmanager
def open_video(path: str | Path, **options: str) -> Iterator[tuple[InputContainer, VideoStream]]:
    """The container and the stream that is the video: a moving picture, the one marked as default before others.

    Args:
        options: of FFmpeg's demuxer.

    Raises:
        BadClip: not a file, no video in it, an encrypted one, a codec or a frame size that cannot be decoded.
        Exception: whatever FFmpeg finds; `reading` makes it a `BadClip`.
    """
    if not stat.S_ISREG(Path(path).stat().st_mode):
        raise BadClip("unreadable: not a file")
    limits = {"max_pixels": str(MAX_PIXELS)}
    with av.open(
        f"file:{path}",  # a name with a colon is no address
        metadata_errors="replace",  # titles come in any encoding
        options={"protocol_whitelist": "file", **limits, **options},  # nothing is fetched for a playlist
        timeout=MAX_CPU_SECONDS,
    ) as container:
        stream = _choose(container)
        context = stream.codec_context
        if context is None:
            raise BadClip("the video's codec is not known")
        if "enc_key_id" in stream.metadata:  # Matroska; mp4 says it beside each packet
            raise BadClip("the video is encrypted")
        check_size(context.width, context.height, 1)
        context.options = limits
        context.thread_count = 1  # the workers are processes
        yield container, stream


def _choose(container: InputContainer) -> VideoStream:
    videos = [stream for stream in container.streams.video if not stream.disposition & _PICTURES]
    if not videos:
        raise BadClip("the file has no video stream")
    moving = [stream for stream in videos if stream.frames != 1] or videos
    return next((stream for stream in moving if stream.disposition & Disposition.default), moving[0])


def read_timeline(path: str | Path) -> Timeline:
    """Read a file's packets, and decode them only where they do not say which frame is shown when.

    Raises:
        BadClip, Exception: as `open_video`; no frame, too many, or encrypted.
    """
    with open_video(path) as (container, stream):
        packets = _read_packets(container, stream)
        # A guess counts hidden frames, too.
        rate = float(stream.average_rate or (0 if packets.hidden else stream.guessed_rate) or 0)
        time_base = float(stream.time_base or 0)
        frames = len(packets.pts)
        announced, duration = stream.frames, container.duration
        # With B-frames the order of coding is not that of showing: times that rise with it are times of decoding, as in
        # AVI, which has no others.
        reorders = stream.codec_context.has_b_frames and packets.pts == sorted(packets.pts)
        format_name = container.format.name
    if frames == 0:
        raise BadClip("the video has no frame")
    if packets.timed and len(set(packets.pts)) == frames and not (reorders and frames > 1):
        shown = sorted(zip(packets.pts, packets.keys, packets.bad))
        pts, timed = [at for at, _, _ in shown], True
        keys = [at for at, key, _ in shown if key]
        intact = len(shown)
        bad = [damaged for _, _, damaged in shown]
    else:
        pts, timed, intact = _decode_times(path, frames)
        keys = []  # decoded from the start: these times may not be those to seek by
        bad = packets.bad
    intact = min(intact, bad.index(True) if True in bad else len(pts))
    fps = rate if 0 < rate <= _MAX_FPS else 0.0
    if timed and len(pts) > 1 and time_base:
        seconds = (np.array(pts, dtype=np.float64) - pts[0]) * time_base
        fps = fps or min((len(pts) - 1) / seconds[-1], _MAX_FPS)
    else:
        fps = fps or _DEFAULT_FPS
        seconds = np.arange(len(pts)) / fps
    missing = announced - frames - packets.hidden
    if missing > slack(announced):
        missing = announced - _count_samples(path)
    elif format_name == "asf":
        missing = round(frames * _missing_of_asf(path))
    elif not announced and format_name in _DURATION_IS_WRITTEN and duration is not None:
        missing = round((duration / av.time_base - packets.end) * fps)
    return Timeline(pts, keys, seconds, fps, intact, missing, timed)


def slack(frames: int) -> int:
    """How many of so many frames may be missing: containers round, and edit lists cut between frames."""
    return max(2, frames // 50)


def _read_packets(container: InputContainer, stream: VideoStream) -> _Packets:
    packets = _Packets([], [], [], 0, True, 0.0)
    codec = stream.codec_context.name
    for packet in within_time(container.demux()):
        if packet.pts is not None and packet.time_base:
            packets.end = max(packets.end, float((packet.pts + (packet.duration or 0)) * packet.time_base))
        if packet.stream is not stream or (packet.size == 0 and packet.dts is None):  # the latter ends the stream
            continue
        if packet.has_sidedata("encryption_info"):
            raise BadClip("the video is encrypted")
        if packet.size == 0 or packet.is_discard or _serves_others(codec, memoryview(packet)):
            packets.hidden += 1
            continue
        packets.timed = packets.timed and packet.pts is not None
        packets.pts.append(packet.pts or 0)
        packets.keys.append(packet.is_keyframe)
        packets.bad.append(packet.is_corrupt)
        if len(packets.pts) > MAX_FRAMES:
            raise BadClip(f"the video has more than {MAX_FRAMES} frames; cut it")
    return packets


def _serves_others(codec: str, data: memoryview) -> bool:
    """Whether a VP8 or VP9 packet holds only a frame that is never shown (RFC 6386, 9.1; VP9 bitstream, 6.2, annex B).

    Some muxers give such alternative reference frames packets of their own.
    """
    if codec == "vp8":
        return not data[0] & 0x10
    if codec != "vp9" or data[-1] & 0xE0 == 0xC0:  # a superframe ends with one that is shown
        return False
    bits = data[0] << 1 if data[0] & 0x30 == 0x30 else data[0]  # profile 3 has one bit more
    return bits & 0x08 == 0 and bits & 0x02 == 0


def _decode_times(path: str | Path, packets: int) -> tuple[list[int], bool, int]:
    """Times of all frames in the order they are shown, or numbers where they have none; whether it is times; and how
    many frames decode before the first that does not."""
    times: list[int | None] = []
    with open_video(path) as (container, stream), contextlib.suppress(av.FFmpegError):
        times += (frame.pts for frame in within_time(container.decode(stream)))
    pts = [at for at in times if at is not None]
    if len(times) < packets or len(pts) < len(times) or any(b <= a for a, b in itertools.pairwise(pts)):
        return list(range(max(len(times), packets))), False, len(times)
    return pts, True, len(times)


def _count_samples(path: str | Path) -> int:
    """Frames that lie in an mp4, those that its edit list leaves out included."""
    with open_video(path, ignore_editlist="1") as (container, stream):
        return sum(packet.size > 0 for packet in within_time(container.demux(stream)))


def _missing_of_asf(path: str | Path) -> float:
    """Bytes that a WMV lacks for each that is there, by the size that its header says; FFmpeg hides what it says then.

    0 where the header was written before the size was known (a broadcast).
    """
    with open(path, "rb") as file:
        head = file.read(_ASF_HEADER_BYTES)
        there = os.fstat(file.fileno()).st_size
    at = head.find(_ASF_FILE_PROPERTIES)
    if at < 0 or len(head) < at + 92:
        return 0.0
    size, flags = *struct.unpack_from("<Q", head, at + 40), *struct.unpack_from("<I", head, at + 88)
    return 0.0 if flags & 1 else max(0, size - there) / there

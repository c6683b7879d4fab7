"""Frames out of the video files that users have: variable frame rate, rotated, truncated, or no video at all."""

from __future__ import annotations

import zlib
from bisect import bisect_right
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import av
import numpy as np
from av.container import InputContainer
from av.video.stream import VideoStream

from cclslr.keypoints import NUM_WHOLEBODY
from cclslr.shards.format import BadClip, RawClip

MAX_BYTES = 4 << 30  # of decoded frames; a sign is seconds long
_SPAN_SLACK = 1e-3  # seconds: spans are written with three digits, and made by dividing frame numbers by frame rates
_DEFAULT_FPS = 25.0  # of a file that does not say

Frames = tuple[int, int | None]
Seconds = tuple[float, float | None]


@dataclass
class _Timeline:
    """When each frame of a file is shown."""

    pts: list[int]  # ascending, in the stream's time base; by number where the file has no time stamps
    keys: list[int]  # of these, the ones that decoding can begin at
    seconds: np.ndarray  # float64, from the first frame on
    fps: float
    intact: int  # frames before the first damaged one
    announced: int  # frames that the header speaks of; 0 where it says nothing
    timed: bool


def decode_file(path: str | Path, frames: Frames | None = None, seconds: Seconds | None = None) -> RawClip:
    """Decode a span of a video file → uint8 RGB frames, turned upright as the file's rotation says.

    Args:
        frames: half-open span of frame numbers from 0; a missing end is the end of the file.
        seconds: half-open span of time from the first frame on; at most one of the two is given.

    Returns:
        A clip without keypoints. Its meta says the file's `source` name, the `span` in frames that was taken, and
        `source_frames` in the whole file.

    Raises:
        BadClip: unreadable, empty or truncated file, or a span that begins beyond its end.
    """
    assert frames is None or seconds is None
    path = Path(path)
    try:
        with av.open(str(path)) as container:
            if not container.streams.video:
                raise BadClip("the file has no video stream")
            stream = container.streams.video[0]
            timeline = _timeline(container, stream)
            frame_bytes = stream.codec_context.width * stream.codec_context.height * 3
        begin, end = _span(timeline, frames, seconds)
        if (end - begin) * frame_bytes > MAX_BYTES:
            raise BadClip(
                f"{end - begin} frames of {frame_bytes / 1e6:.1f} MB are too many for one clip; cut the video"
            )
        images = _decode_span(path, timeline, begin, end)
    except (av.FFmpegError, OSError, UnicodeError) as error:
        raise BadClip(f"unreadable video: {getattr(error, 'strerror', None) or error}") from error
    if len({image.shape for image in images}) > 1:
        raise BadClip("the frame size changes within the clip")
    meta = {"source": path.name, "span": [begin, end], "source_frames": len(timeline.pts)}
    return RawClip(np.stack(images), None, timeline.fps, meta)


def _timeline(container: InputContainer, stream: VideoStream) -> _Timeline:
    """Read the file's packets without decoding them."""
    shown: list[tuple[int, bool, bool]] = []
    timed = True
    for packet in container.demux(stream):
        if packet.size == 0 or packet.is_discard:
            continue
        timed = timed and packet.pts is not None
        shown.append((packet.pts if packet.pts is not None else len(shown), packet.is_keyframe, packet.is_corrupt))
    if not shown:
        raise BadClip("the video has no frame")
    if not timed or len({pts for pts, _, _ in shown}) != len(shown):
        timed = False
        shown = [(number, key, bad) for number, (_, key, bad) in enumerate(shown)]
    shown.sort()
    pts = [item[0] for item in shown]
    bad = [number for number, item in enumerate(shown) if item[2]]
    rate = float(stream.average_rate or stream.guessed_rate or 0)
    if timed and len(pts) > 1 and pts[-1] > pts[0]:
        assert stream.time_base is not None
        times = (np.array(pts, dtype=np.float64) - pts[0]) * float(stream.time_base)
        fps = rate if rate > 0 else (len(pts) - 1) / times[-1]
    else:
        fps = rate if rate > 0 else _DEFAULT_FPS
        times = np.arange(len(pts)) / fps
    return _Timeline(
        pts, [item[0] for item in shown if item[1]], times, fps, bad[0] if bad else len(pts), stream.frames, timed
    )


def _span(timeline: _Timeline, frames: Frames | None, seconds: Seconds | None) -> tuple[int, int]:
    """The span in frame numbers, held against what the file really has."""
    total = len(timeline.pts)
    if seconds is not None:
        begin = int(np.searchsorted(timeline.seconds, seconds[0] - _SPAN_SLACK))
        end = total if seconds[1] is None else int(np.searchsorted(timeline.seconds, seconds[1] - _SPAN_SLACK))
        to_end = seconds[1] is None or seconds[1] > timeline.seconds[-1] + 2 / timeline.fps
    else:
        begin, wanted = (0, None) if frames is None else frames
        end = total if wanted is None else wanted
        to_end = wanted is None or wanted > total
    if begin < 0:
        raise BadClip(f"the span begins at frame {begin}")
    if begin >= total:
        raise BadClip(f"the span begins at frame {begin}, the video has {total}")
    if begin >= end:
        raise BadClip(f"the span is empty (frames {begin} to {end})")
    # An edit list may hide a frame or two of those that the header counts; more than that are missing.
    if to_end and timeline.announced - total > max(2, timeline.announced // 50):
        raise BadClip(f"truncated video: {total} of {timeline.announced} frames are there")
    if seconds is not None and seconds[1] is not None:
        missing = round((seconds[1] - timeline.seconds[-1]) * timeline.fps) - 1
    else:
        missing = end - total
    end = min(end, total)
    if missing > max(2, (end - begin + max(missing, 0)) // 10):
        raise BadClip(f"the span ends {missing} frames beyond the end of the video, which has {total}")
    if end > timeline.intact:
        raise BadClip(f"truncated or damaged video: only the first {timeline.intact} of {total} frames are whole")
    return begin, end


def _decode_span(path: Path, timeline: _Timeline, begin: int, end: int) -> list[np.ndarray]:
    wanted = timeline.pts[begin:end]
    key = bisect_right(timeline.keys, wanted[0]) - 1
    if timeline.timed and key > 0:
        images = _decode_from(path, timeline.keys[key], wanted, timed=True)
        if len(images) == len(wanted):
            return images
    # From the start: there is no time stamp to seek to, or the key frame was none (open groups of pictures).
    images = _decode_from(path, None, wanted, timeline.timed)
    if len(images) != len(wanted):
        raise BadClip(f"truncated or damaged video: {len(images)} of {len(wanted)} frames decode")
    return images


def _decode_from(path: Path, start: int | None, wanted: list[int], timed: bool) -> list[np.ndarray]:
    images: list[np.ndarray] = []
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        stream.codec_context.thread_count = 1  # the workers are processes
        if start is not None:
            container.seek(start, stream=stream)
        for number, frame in enumerate(container.decode(stream)):
            at = frame.pts if timed else number
            if at is None or at < wanted[0]:
                continue
            if at <= wanted[-1]:
                images.append(np.rot90(frame.to_ndarray(format="rgb24"), frame.rotation // 90))
            if at >= wanted[-1]:
                break
    return images


def load_keypoints(path: str | Path) -> tuple[np.ndarray, dict[str, str]]:
    """Read a keypoint file: .npz with an array `keypoints` (or one array only), or .npy.

    Returns:
        float32 (T, 133, 3), and the texts beside it in an .npz, such as the estimator's name and version.

    Raises:
        BadClip: unreadable, or of another shape.
    """
    path = Path(path)
    texts: dict[str, str] = {}
    try:
        loaded: Any = np.load(path, allow_pickle=False)
        if isinstance(loaded, np.ndarray):
            keypoints = loaded
        else:
            with loaded:
                texts = {name: str(loaded[name]) for name in loaded.files if loaded[name].dtype.kind == "U"}
                arrays = [name for name in loaded.files if name not in texts]
                if "keypoints" not in arrays and len(arrays) != 1:
                    raise BadClip(f"{path.name} holds the arrays {arrays}; call one of them keypoints")
                keypoints = loaded["keypoints" if "keypoints" in arrays else arrays[0]]
    except (OSError, ValueError, EOFError, KeyError, NotImplementedError, BadZipFile, zlib.error) as error:
        if isinstance(error, BadClip):
            raise
        raise BadClip(f"unreadable keypoints {path.name}: {error}") from error
    if keypoints.ndim != 3 or keypoints.shape[1:] != (NUM_WHOLEBODY, 3) or keypoints.dtype.kind not in "fiu":
        raise BadClip(f"keypoints {path.name} have shape {keypoints.shape}, expected (T, {NUM_WHOLEBODY}, 3)")
    return keypoints.astype(np.float32), texts

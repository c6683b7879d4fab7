"""Frames out of the video files that users have: variable frame rate, turned, cut, truncated, or no video at all.

Frames are the pixels that the file stores, turned upright: keypoints and boxes count the same pixels. They are not
stretched where pixels are not square, not deinterlaced and not tone-mapped; the clip's meta then says so.
"""

from __future__ import annotations

import math
from bisect import bisect_right
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
from av.video.reformatter import ColorTrc

from cclslr.codecs.pixels import Converter
from cclslr.shards.foreign import check_size, reading, within_time
from cclslr.shards.format import BadClip, RawClip
from cclslr.shards.timeline import Timeline, open_video, read_timeline, slack

_SPAN_SLACK = 1e-3  # seconds: spans are written with three digits, and made by dividing frame numbers by frame rates
_HDR: dict[int, str] = {ColorTrc.SMPTE2084: "PQ", ColorTrc.ARIB_STD_B67: "HLG"}

Frames = tuple[int, int | None]
Seconds = tuple[float, float | None]


def decode_file(path: str | Path, frames: Frames | None = None, seconds: Seconds | None = None) -> RawClip:
    """Decode a span of a video file → uint8 RGB frames, turned and mirrored as the file's display matrix says.

    Args:
        frames: half-open span of frame numbers from 0; a missing end is the end of the file.
        seconds: half-open span of time from the first frame on; at most one of the two is given.

    Returns:
        A clip without keypoints. Its meta says the file's `source` name, the `span` in frames that was taken, and
        `source_frames` in the whole file; `as_stored` lists what a player would show otherwise, where there is any.

    Raises:
        BadClip: unreadable, empty, truncated, damaged or encrypted file, one beyond the limits of `foreign`, or a span
            that begins beyond its end; names the file.
    """
    assert frames is None or seconds is None
    path = Path(path)
    with reading(path):
        timeline = read_timeline(path)
        begin, end = _span(timeline, frames, seconds)
        frames_THWC, as_stored = _decode_span(path, timeline, begin, end)
    meta = {"source": path.name, "span": [begin, end], "source_frames": len(timeline.pts)}
    return RawClip(frames_THWC, None, timeline.fps, meta | ({"as_stored": as_stored} if as_stored else {}))


def _span(timeline: Timeline, frames: Frames | None, seconds: Seconds | None) -> tuple[int, int]:
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
    if to_end and timeline.missing > slack(total + timeline.missing):
        raise BadClip(f"truncated video: {total} of {total + timeline.missing} frames are there")
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


def _decode_span(path: Path, timeline: Timeline, begin: int, end: int) -> tuple[np.ndarray, list[str]]:
    wanted = timeline.pts[begin:end]
    key = bisect_right(timeline.keys, wanted[0]) - 1
    if timeline.timed and key > 0:
        frames_THWC, as_stored = _decode_from(path, timeline.keys[key], wanted, timed=True)
        if len(frames_THWC) == len(wanted):
            return frames_THWC, as_stored
    # From the start: there is nothing to seek to or no way, or the key frame was none (open groups of pictures).
    frames_THWC, as_stored = _decode_from(path, None, wanted, timeline.timed)
    if len(frames_THWC) != len(wanted):
        raise BadClip(f"truncated or damaged video: {len(frames_THWC)} of {len(wanted)} frames decode")
    return frames_THWC, as_stored


def _decode_from(path: Path, start: int | None, wanted: list[int], timed: bool) -> tuple[np.ndarray, list[str]]:
    """The wanted frames that decode whole (T, H, W, 3), and what a player would show otherwise."""
    frames_THWC, count = np.empty((0, 0, 0, 3), np.uint8), 0
    notes: set[str] = set()
    convert = Converter()
    with open_video(path) as (container, stream):
        notes |= _pixel_shape(stream.sample_aspect_ratio)
        if start is not None:
            try:
                container.seek(start, stream=stream)
            except av.FFmpegError:  # RealMedia, for one
                return frames_THWC, []
        for number, frame in enumerate(within_time(container.decode(stream))):
            at = frame.pts if timed else number
            if at is None or at < wanted[0] or frame.is_corrupt:
                continue
            if at > wanted[-1] or count == len(wanted):
                break
            if count == 0:
                check_size(frame.width, frame.height, len(wanted))
                # The track's. PyAV loses memory with each question: 2 kB when 73 frames were asked.
                matrix = _display_matrix(frame)
            frame_HWC = upright(convert.rgb(frame), matrix)
            if count == 0:
                frames_THWC = np.empty((len(wanted), *frame_HWC.shape), np.uint8)
            if frame_HWC.shape != frames_THWC.shape[1:]:
                raise BadClip("the frame size changes within the clip")
            frames_THWC[count] = frame_HWC
            count += 1
            notes |= _picture_notes(frame)
            if at == wanted[-1]:
                break
    return frames_THWC[:count], sorted(notes)


def _display_matrix(frame: av.VideoFrame) -> np.ndarray:
    """The 3 x 3 matrix that takes stored positions to shown ones, as ints; the identity where the file has none."""
    found = frame.side_data.get("DISPLAYMATRIX")
    return np.eye(3, dtype=np.int32) if found is None else np.frombuffer(bytes(found), np.int32).reshape(3, 3)  # type: ignore[call-overload]


def upright(frame_HWC: np.ndarray, matrix: np.ndarray) -> np.ndarray:
    """Turn and mirror a frame as a player does: (x, y, 1) is shown at (x, y, 1) times matrix (ISO/IEC 14496-12, 6.2.2).

    Raises:
        BadClip: the matrix turns by something else than quarters of a circle.
    """
    (a, b), (c, d) = matrix[:2, :2].astype(float)
    if (a == 0 and b == 0) or (c == 0 and d == 0):  # it says nothing
        return frame_HWC
    if max(min(abs(a), abs(b)), min(abs(c), abs(d))) > math.sin(math.radians(1)) * max(abs(a), abs(b)):
        raise BadClip("the video is turned by an angle that is not a quarter of a circle; turn it upright")
    if abs(b) > abs(a):
        frame_HWC, a, d = frame_HWC.transpose(1, 0, 2), c, b
    return frame_HWC[:: -1 if d < 0 else 1, :: -1 if a < 0 else 1]


def _pixel_shape(aspect: Fraction | None) -> set[str]:
    if not aspect or abs(aspect - 1) < 0.01:  # widths that codecs round are no shape
        return set()
    return {f"pixels of {aspect.numerator}:{aspect.denominator}"}


def _picture_notes(frame: av.VideoFrame) -> set[str]:
    notes = {"interlaced"} if frame.interlaced_frame else set()
    return notes | ({f"HDR ({_HDR[frame.color_trc]})"} if frame.color_trc in _HDR else set())

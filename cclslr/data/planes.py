"""Chosen frames of an encoded clip as YUV 4:2:0 planes, on one CPU thread and without the GIL for the long part.

Video goes through PyAV, whose frames are looked at where libavcodec wrote them. JPEG goes through libjpeg-turbo, and
through libavcodec's MJPEG decoder where that library is missing.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import av
import numpy as np

from cclslr.codecs.jpeg import Jpeg
from cclslr.data.backend import EncodedClip
from cclslr.data.turbojpeg import SAMPLING_420, turbojpeg
from cclslr.errors import BadClip

_FULL_RANGE = 2  # AVCOL_RANGE_JPEG
_BT709 = 1  # AVCOL_SPC_BT709
_FORMATS = ("yuv420p", "yuvj420p")


@dataclass
class Planes:
    """One decoded frame; its arrays are valid until the next one is asked for."""

    number: int  # of the frame within the clip
    y_HW: np.ndarray  # uint8, rows padded to an even length
    u_HW: np.ndarray  # uint8, half the size, rounded up
    v_HW: np.ndarray
    full_range: bool
    bt709: bool


def empty_planes(width: int, height: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Y, U and V for a 4:2:0 frame, rows padded to multiples of 64, for chroma too: see yuv.py."""
    height_c, row = (height + 1) // 2, -(-width // 128) * 128
    u_HW, v_HW = np.empty((2, height_c, row // 2), np.uint8)
    return np.empty((2 * height_c, row), np.uint8), u_HW, v_HW


def decode_planes(clip: EncodedClip, wanted: np.ndarray) -> Iterator[Planes]:
    """The frames `wanted` (ascending, each once) of a clip, in order; what comes after the last is not decoded.

    Raises:
        BadClip: the clip does not decode, ends too early, or is not 4:2:0 of the size that the index says.
    """
    if isinstance(clip.codec, Jpeg) and turbojpeg() is not None:
        return _decode_turbojpeg(clip, wanted)
    return _decode_libav(clip, wanted)


def _decode_libav(clip: EncodedClip, wanted: np.ndarray) -> Iterator[Planes]:
    found = 0
    try:
        for number, frame in clip.codec.planes(clip.video, clip.frame_offsets, wanted.tolist()):
            if frame.format.name not in _FORMATS or (frame.width, frame.height) != (clip.width, clip.height):
                raise BadClip(
                    f"{clip.name}: frame {number} is {frame.format.name} {frame.width}x{frame.height}, expected yuv420p"
                    f" {clip.width}x{clip.height}"
                )
            found += 1
            y_HW, u_HW, v_HW = (np.ndarray((p.height, p.line_size), np.uint8, memoryview(p)) for p in frame.planes)
            yield Planes(number, y_HW, u_HW, v_HW, frame.color_range == _FULL_RANGE, frame.colorspace == _BT709)
    except av.FFmpegError as error:
        raise BadClip(f"{clip.name}: {clip.codec.name} does not decode: {error}") from error
    if found < len(wanted):
        raise BadClip(f"{clip.name}: the video ends before frame {wanted[found]} of {clip.num_frames}")


def _decode_turbojpeg(clip: EncodedClip, wanted: np.ndarray) -> Iterator[Planes]:
    library = turbojpeg()
    assert library is not None
    y_HW, u_HW, v_HW = empty_planes(clip.width, clip.height)
    data = np.frombuffer(clip.video, np.uint8)
    for number in wanted.tolist():
        begin, end = clip.frame_offsets[number], clip.frame_offsets[number + 1]
        address = data.ctypes.data + begin
        try:
            if not 0 <= begin < end <= len(data):
                raise ValueError(f"lies at {begin}..{end} of {len(data)} bytes")
            if library.header(address, end - begin) != (clip.width, clip.height, SAMPLING_420):
                raise ValueError(f"not a 4:2:0 image of {clip.width}x{clip.height}")
            library.decode(address, end - begin, (y_HW, u_HW, v_HW))
        except ValueError as error:
            raise BadClip(f"{clip.name}: frame {number}: jpeg does not decode: {error}") from error
        yield Planes(number, y_HW, u_HW, v_HW, full_range=True, bt709=False)

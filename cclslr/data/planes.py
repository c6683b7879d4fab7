"""Chosen frames of an encoded clip as YUV 4:2:0 planes, on one CPU thread and without the GIL for the long part.

Video goes through PyAV, whose frames are looked at where libavcodec wrote them. JPEG goes through libjpeg-turbo, found
as a system library: 0.13 ms for a 256x256 frame, against 0.21 ms for libavcodec's MJPEG decoder, which stands in where
the library is missing (one core of an AMD EPYC).
"""

from __future__ import annotations

import ctypes
import ctypes.util
import functools
import threading
from collections.abc import Iterator
from dataclasses import dataclass

import av
import numpy as np

from cclslr.codecs.jpeg import Jpeg
from cclslr.data.backend import EncodedClip
from cclslr.errors import BadClip

_FULL_RANGE = 2  # AVCOL_RANGE_JPEG
_BT709 = 1  # AVCOL_SPC_BT709
_SAMPLING_420 = 2  # TJSAMP_420
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


class TurboJpeg:
    """The few functions of libjpeg-turbo that give planes; one decompressor a thread.

    Raises:
        OSError: the library is not installed (Debian: libturbojpeg0).
    """

    def __init__(self) -> None:
        self._lib = ctypes.CDLL(ctypes.util.find_library("turbojpeg") or "libturbojpeg.so.0")
        pointer, number = ctypes.c_void_p, ctypes.c_int
        self._lib.tjInitDecompress.restype = pointer
        self._lib.tjGetErrorStr2.restype, self._lib.tjGetErrorStr2.argtypes = ctypes.c_char_p, [pointer]
        self._lib.tjDestroy.argtypes = [pointer]
        self._lib.tjDecompressHeader3.argtypes = [pointer, pointer, ctypes.c_ulong, *[ctypes.POINTER(number)] * 4]
        self._lib.tjDecompressToYUVPlanes.argtypes = [
            pointer, pointer, ctypes.c_ulong, ctypes.POINTER(pointer), number, ctypes.POINTER(number), number, number
        ]  # fmt: skip
        self._local = threading.local()

    def decode(self, data: int, size: int, planes: tuple[np.ndarray, np.ndarray, np.ndarray]) -> None:
        """Decode the JPEG at address `data` into Y, U and V planes, whose rows may be padded.

        Raises:
            ValueError: libjpeg-turbo's message, also for its warnings: a damaged image is not passed on.
        """
        handle = self._handle()
        pointers = (ctypes.c_void_p * 3)(*(plane.ctypes.data for plane in planes))
        strides = (ctypes.c_int * 3)(*(plane.shape[1] for plane in planes))
        if self._lib.tjDecompressToYUVPlanes(handle, data, size, pointers, 0, strides, 0, 0) != 0:
            raise self._failure()

    def header(self, data: int, size: int) -> tuple[int, int, int]:
        """Width, height and chroma subsampling (2: 4:2:0) of the JPEG at address `data`."""
        handle = self._handle()
        width, height, sampling, space = (ctypes.c_int() for _ in range(4))
        if self._lib.tjDecompressHeader3(handle, data, size, width, height, sampling, space) != 0:
            raise self._failure()
        return width.value, height.value, sampling.value

    def _handle(self) -> int:
        handle = getattr(self._local, "handle", None)
        if handle is None:
            handle = self._local.handle = self._lib.tjInitDecompress()
        return handle

    def _failure(self) -> ValueError:
        """What went wrong.

        The decompressor may still stand within the damaged header, and would find the same damage in every image to
        come: it is given up.
        """
        handle = self._local.handle
        self._local.handle = None
        error = ValueError(self._lib.tjGetErrorStr2(handle).decode())
        self._lib.tjDestroy(handle)
        return error


@functools.cache
def turbojpeg() -> TurboJpeg | None:
    """libjpeg-turbo, or None where it is not installed."""
    try:
        return TurboJpeg()
    except (OSError, AttributeError):
        return None


def _decode_turbojpeg(clip: EncodedClip, wanted: np.ndarray) -> Iterator[Planes]:
    library = turbojpeg()
    assert library is not None
    height_c = (clip.height + 1) // 2
    row = -(-clip.width // 128) * 128  # multiples of 64 for chroma too: see yuv.py
    y_HW = np.empty((2 * height_c, row), np.uint8)
    u_HW, v_HW = np.empty((2, height_c, row // 2), np.uint8)
    data = np.frombuffer(clip.video, np.uint8)
    for number in wanted.tolist():
        begin, end = clip.frame_offsets[number], clip.frame_offsets[number + 1]
        address = data.ctypes.data + begin
        try:
            if not 0 <= begin < end <= len(data):
                raise ValueError(f"lies at {begin}..{end} of {len(data)} bytes")
            if library.header(address, end - begin) != (clip.width, clip.height, _SAMPLING_420):
                raise ValueError(f"not a 4:2:0 image of {clip.width}x{clip.height}")
            library.decode(address, end - begin, (y_HW, u_HW, v_HW))
        except ValueError as error:
            raise BadClip(f"{clip.name}: frame {number}: jpeg does not decode: {error}") from error
        yield Planes(number, y_HW, u_HW, v_HW, full_range=True, bt709=False)

"""libavcodec for compiled code, which decodes a whole clip without Python, and so without the GIL, between its packets.

PyAV takes Python twice a packet: two threads that decode 128x128 H.264 waited for each other a quarter of the time, and
made 350 clips/s where one alone makes 430 (docs/measured/loader.md). The library is the one that PyAV has loaded; of
its structs only the heads of AVPacket, AVFrame and AVCodecParameters are looked at, as they are in libavcodec `MAJOR`.
PyAV stays the way for any other version, for what does not decode, and the reference in the tests.
"""

from __future__ import annotations

import ctypes
import functools
import io
from pathlib import Path

import av
import numpy as np
from PIL import Image

MAJOR = 62  # of libavcodec: FFmpeg 8, PyAV 17 and 18
NON_REFERENCE = 8  # AVDISCARD_NONREF: of skip_frame; AVDISCARD_DEFAULT is 0
FORMATS = (0, 12)  # AV_PIX_FMT_YUV420P, and the same in full range


class AvCodec:
    """The few functions that decode.

    Attributes:
        send: address of avcodec_send_packet, for compiled code, as the next three.
        receive: avcodec_receive_frame.
        unref: av_frame_unref.
        set_option: av_opt_set_int.

    Raises:
        OSError: the library is of a version that is not known here, or not found.
    """

    def __init__(self) -> None:
        self.lib = _loaded_by_pyav()
        pointer, number = ctypes.c_void_p, ctypes.c_int
        for name, returns, takes in (
            ("avcodec_find_decoder_by_name", pointer, [ctypes.c_char_p]),
            ("avcodec_alloc_context3", pointer, [pointer]),
            ("avcodec_free_context", None, [pointer]),
            ("avcodec_open2", number, [pointer] * 3),
            ("avcodec_flush_buffers", None, [pointer]),
            ("avcodec_parameters_alloc", pointer, []),
            ("avcodec_parameters_free", None, [pointer]),
            ("avcodec_parameters_from_context", number, [pointer] * 2),
            ("avcodec_parameters_to_context", number, [pointer] * 2),
            ("av_packet_alloc", pointer, []),
            ("av_packet_free", None, [pointer]),
            ("av_frame_alloc", pointer, []),
            ("av_frame_free", None, [pointer]),
            ("av_opt_set_int", number, [pointer, ctypes.c_char_p, ctypes.c_int64, number]),
        ):
            function = getattr(self.lib, name)
            function.restype, function.argtypes = returns, takes
        self.send, self.receive, self.unref, self.set_option = (
            ctypes.cast(getattr(self.lib, name), pointer).value or 0
            for name in ("avcodec_send_packet", "avcodec_receive_frame", "av_frame_unref", "av_opt_set_int")
        )


class Decoder:
    """A decoder with one thread of its own, a packet and a frame.

    Args:
        name: of libavcodec's decoder.
        parameters: what it wants first (FFmpeg's extradata).
        max_pixels: of a frame; larger ones are refused.

    Attributes:
        context: address of the AVCodecContext, as of the next two.
        packet, frame: of the AVPacket and the AVFrame.
        packet_8: int64, the packet's first fields: 1 when it is shown, 3 where its data are.
        packet_4: int32, the same memory: 8 how many bytes.
        frame_8: int64, the frame's first fields: 0 to 2 where its planes are, 17 which packet it is from.
        frame_4: int32, the same memory: 16 to 18 bytes of a row, 26 width, 27 height, 29 format.

    Raises:
        OSError: the library has no such decoder, or does not open it.
    """

    def __init__(self, library: AvCodec, name: str, parameters: bytes, max_pixels: int) -> None:
        self._lib = lib = library.lib
        self.context = self.packet = self.frame = 0
        codec = lib.avcodec_find_decoder_by_name(name.encode())
        if not codec:
            raise OSError(f"libavcodec has no decoder {name}")
        self.context = lib.avcodec_alloc_context3(codec)
        self.packet, self.frame = lib.av_packet_alloc(), lib.av_frame_alloc()
        self._set_parameters(parameters)
        lib.av_opt_set_int(self.context, b"threads", 1, 0)  # clips are decoded side by side instead
        lib.av_opt_set_int(self.context, b"max_pixels", max_pixels, 0)
        if lib.avcodec_open2(self.context, codec, None) < 0:
            raise OSError(f"libavcodec does not open its decoder {name}")
        self.packet_8 = np.ctypeslib.as_array((ctypes.c_int64 * 5).from_address(self.packet))
        self.frame_8 = np.ctypeslib.as_array((ctypes.c_int64 * 18).from_address(self.frame))
        self.packet_4, self.frame_4 = self.packet_8.view(np.int32), self.frame_8.view(np.int32)

    def _set_parameters(self, parameters: bytes) -> None:
        settings = self._lib.avcodec_parameters_alloc()
        self._lib.avcodec_parameters_from_context(settings, self.context)
        settings_8 = np.ctypeslib.as_array((ctypes.c_int64 * 4).from_address(settings))
        kept = ctypes.create_string_buffer(parameters, len(parameters) + 64)  # it may read a little beyond the end
        settings_8[2], settings_8.view(np.int32)[6] = ctypes.addressof(kept), len(parameters)
        if parameters:
            self._lib.avcodec_parameters_to_context(self.context, settings)
        settings_8[2] = 0  # is ours
        self._lib.avcodec_parameters_free(ctypes.byref(ctypes.c_void_p(settings)))

    def flush(self) -> None:
        """Make it ready for another clip."""
        self._lib.avcodec_flush_buffers(self.context)

    def __del__(self) -> None:
        for free, address in (
            (self._lib.av_frame_free, self.frame),
            (self._lib.av_packet_free, self.packet),
            (self._lib.avcodec_free_context, self.context),
        ):
            if address:
                free(ctypes.byref(ctypes.c_void_p(address)))


@functools.cache
def avcodec() -> AvCodec | None:
    """The library; None where it is of another version, or does not give what PyAV gives."""
    try:
        library = AvCodec()
    except (OSError, AttributeError):
        return None
    return library if _agrees(library) else None


def _loaded_by_pyav() -> ctypes.CDLL:
    """The libavcodec of PyAV; other packages may have loaded another one into this process.

    Raises:
        OSError: it is of a version that is not known here, or the system does not say where it is.
    """
    version = av.library_versions["libavcodec"]
    lines = Path("/proc/self/maps").read_text().splitlines()
    for path in dict.fromkeys("/" + line.partition("/")[2] for line in lines if "/libavcodec" in line):
        library = ctypes.CDLL(path)  # a handle of what is there; finds what it links to, too
        number = library.avcodec_version()
        if version[0] == MAJOR and (number >> 16, number >> 8 & 255, number & 255) == version:
            return library
    raise OSError(f"libavcodec {version} is not {MAJOR}, or not found")


def _agrees(library: AvCodec) -> bool:
    """Whether a small picture comes out as PyAV decodes it: the structs are laid out as they are looked at here."""
    levels_HWC = np.random.default_rng(0).integers(0, 256, (32, 48, 3), np.uint8)
    file = io.BytesIO()
    Image.fromarray(levels_HWC).save(file, "JPEG", subsampling="4:2:0")
    picture = np.frombuffer(file.getvalue(), np.uint8)
    (frame,) = av.VideoCodecContext.create("mjpeg", "r").decode(av.Packet(file.getvalue()))

    decoder = Decoder(library, "mjpeg", b"", 10_000)
    decoder.packet_8[1], decoder.packet_8[3], decoder.packet_4[8] = 7, picture.ctypes.data, len(picture)
    function = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_void_p, ctypes.c_void_p)
    if function(library.send)(decoder.context, decoder.packet) or function(library.receive)(
        decoder.context, decoder.frame
    ):
        return False
    if decoder.frame_8[17] != 7 or tuple(decoder.frame_4[[26, 27]]) != (48, 32) or decoder.frame_4[29] not in FORMATS:
        return False
    return all(
        row == plane.line_size
        and ctypes.string_at(int(address), plane.height * row) == bytes(memoryview(plane)[: plane.height * row])
        for address, row, plane in zip(decoder.frame_8[:3], decoder.frame_4[16:19], frame.planes, strict=True)
    )

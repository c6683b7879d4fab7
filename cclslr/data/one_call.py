"""A clip as one compiled call, without the GIL: decoded by a C library, each frame rendered while it is in the cache.

What `decode_planes` and `yuv.render_frame` do frame by frame, bit for bit; that way is there for all that this one
cannot do, and finds out what is wrong with a clip that does not decode.
"""

from __future__ import annotations

import errno
from collections.abc import Callable

import av
import numpy as np

from cclslr.buffers import Kept
from cclslr.codecs.avcodec import AvCodec, Decoder, avcodec
from cclslr.codecs.base import MAX_SIDE
from cclslr.codecs.boxes import read_track
from cclslr.codecs.jpeg import Jpeg
from cclslr.codecs.video import VideoCodec
from cclslr.data import yuv
from cclslr.data.backend import EncodedClip
from cclslr.data.jpeg import header_size
from cclslr.data.planes import Planes, empty_planes
from cclslr.data.turbojpeg import SAMPLING_420, turbojpeg

Views = Callable[[bool, bool], yuv.ClipViews]  # of frames that are in full range, that are in BT.709
_SKIP_FRAME = np.frombuffer(b"skip_frame\0", np.uint8)
_decoders: Kept[Decoder] = Kept(most=8)
_colours: dict[tuple[str, bytes], tuple[bool, bool]] = {}  # full range and BT.709, by kind of video


def render(clip: EncodedClip, wanted: np.ndarray, views: Views) -> bool:
    """Decode frames `wanted` (ascending, each once) of a clip and write its views; False if some are left to do.

    Left is a video of a kind that was not met before, too: its frames must say first what colours they are in. A kind
    is a decoder and its parameters, so a codec without any (VP9) is always left.
    """
    if isinstance(clip.codec, Jpeg):
        return _jpegs(clip, wanted, views(True, False))
    return isinstance(clip.codec, VideoCodec) and _packets(clip, clip.codec, wanted, views)


def _jpegs(clip: EncodedClip, wanted: np.ndarray, views: yuv.ClipViews) -> bool:
    library = turbojpeg()
    if library is None:
        return False
    data_N, offsets = np.frombuffer(clip.video, np.uint8), np.array(clip.frame_offsets)
    try:
        first = bytes(clip.video[offsets[0] : offsets[1]])
        size = header_size(first, clip.width, clip.height)
        if library.sampling(first) != SAMPLING_420:
            return False
    except (ValueError, IndexError):
        return False
    planes = empty_planes(clip.width, clip.height)
    done = yuv.render_jpegs(library.decompress, library.handle(), data_N, offsets, size, wanted, *planes, views)
    if done < len(wanted):
        library.give_up()
    return done == len(wanted)


def _packets(clip: EncodedClip, codec: VideoCodec, wanted: np.ndarray, views: Views) -> bool:
    library = avcodec()
    if library is None or codec.parameters is None:
        return False
    try:
        track = read_track(clip.video, codec.sample_entries, codec.parameters)
        kind = codec.decoder, track.parameters
        if kind not in _colours:
            return False
        decoder = _decoders.take(kind) or Decoder(library, *kind, max_pixels=MAX_SIDE**2)
    except (av.FFmpegError, OSError):
        return False
    data_N = np.frombuffer(clip.video, np.uint8)
    packets_P3 = np.array([(begin, end - begin, number) for (begin, end), number in zip(track.spans, track.shown)])
    packets_P3[:, 0] += data_N.ctypes.data
    wanted_T = np.zeros(max(len(packets_P3), wanted[-1] + 1), bool)
    wanted_T[wanted] = True
    option = _SKIP_FRAME if codec.skips else _SKIP_FRAME[:0]
    into = views(*_colours[kind])
    done = yuv.render_packets(_calls(library, decoder), packets_P3, option, wanted_T, clip.height, -errno.EAGAIN, into)
    if done < len(wanted):
        return False  # and the decoder is not used again
    decoder.flush()
    _decoders.keep(kind, decoder)
    return True


def _calls(to: AvCodec, decoder: Decoder) -> yuv.Calls:
    return yuv.Calls(
        to.send, to.receive, to.unref, to.set_option, decoder.context, decoder.packet, decoder.frame,
        decoder.packet_8, decoder.packet_4, decoder.frame_8, decoder.frame_4,
    )  # fmt: skip


def meet(clip: EncodedClip, frame: Planes) -> None:
    """Remember from its first frame what colours a kind of video has."""
    codec = clip.codec
    if avcodec() is not None and isinstance(codec, VideoCodec) and codec.parameters is not None:
        track = read_track(clip.video, codec.sample_entries, codec.parameters)
        _colours[codec.decoder, track.parameters] = frame.full_range, frame.bt709

"""Packets from an mp4's own tables, against FFmpeg's demuxer."""

from __future__ import annotations

import contextlib
import io

import av
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from cclslr.buffers import Kept
from cclslr.codecs import codec_named, codecs, video
from cclslr.codecs.boxes import Track, read_track
from cclslr.codecs.pixels import Converter
from cclslr.shards.format import BadClip

CODECS = tuple(name for name, codec in codecs().items() if not codec.alone)


def encoded(codec: str, frames: int = 40, size: int = 96, seed: int = 0) -> bytes:
    rng = np.random.default_rng(seed)
    texture_HWC = rng.integers(0, 256, (size, 2 * size, 3), dtype=np.uint8)
    return codec_named(codec).encode(np.stack([texture_HWC[:, t : t + size] for t in range(frames)]), 25.0)[0]


def track_of(data: bytes, codec: str) -> Track:
    kind = codec_named(codec)
    assert isinstance(kind, video.VideoCodec)
    return read_track(data, kind.sample_entries, kind.parameters)


@pytest.mark.parametrize("codec", CODECS)
@pytest.mark.parametrize("frames", [1, 7, 90])
def test_packets_and_parameter_sets_are_those_of_ffmpeg(codec: str, frames: int) -> None:
    data = encoded(codec, frames)
    with av.open(io.BytesIO(data), "r") as container:
        stream = container.streams.video[0]
        extradata = stream.codec_context.extradata or b""
        packets = {packet.pts: bytes(packet) for packet in container.demux(stream) if packet.size}
    track = track_of(data, codec)
    assert track.parameters == extradata
    assert track.packets == list(packets.values())
    assert [packet for _, packet in sorted(zip(track.shown, track.packets, strict=True))] == [
        packets[pts] for pts in sorted(packets)
    ]


@pytest.mark.parametrize("codec", CODECS)
def test_frames_and_their_colours_are_those_of_ffmpeg(codec: str) -> None:
    data = encoded(codec)
    with av.open(io.BytesIO(data), "r") as container:
        expected = list(container.decode(video=0))
    frames = list(codec_named(codec).planes(data))
    assert [number for number, _ in frames] == list(range(40))
    for (_, ours), theirs in zip(frames, expected, strict=True):
        assert (ours.format.name, ours.color_range, ours.colorspace) == (
            theirs.format.name,
            theirs.color_range,
            theirs.colorspace,
        )
        np.testing.assert_array_equal(ours.to_ndarray(), theirs.to_ndarray())


CLIPS = {codec: encoded(codec, frames=23) for codec in CODECS}
EVERY_FRAME = {codec: codec_named(codec).decode(data) for codec, data in CLIPS.items()}


@given(codec=st.sampled_from(CODECS), wanted=st.sets(st.integers(0, 22), min_size=1).map(sorted))
@settings(max_examples=100, deadline=None)
def test_frames_are_the_same_when_others_are_not_decoded(codec: str, wanted: list[int]) -> None:
    frames = dict(codec_named(codec).planes(CLIPS[codec], wanted=wanted))
    assert list(frames) == wanted
    np.testing.assert_array_equal(
        np.stack([frame.to_ndarray(format="rgb24") for frame in frames.values()]), EVERY_FRAME[codec][wanted]
    )


@pytest.mark.parametrize("warm", [False, True])
@pytest.mark.parametrize("codec", CODECS)
def test_a_new_decoder_gives_every_frame_that_is_wanted(codec: str, warm: bool) -> None:
    """dav1d reads what it is to skip when it opens, and never again: decoders that are kept hide what it then loses."""
    rng = np.random.default_rng(0)
    for draw in range(200):
        wanted = sorted(rng.choice(23, size=rng.integers(1, 23), replace=False).tolist())
        if not warm:
            video._decoders.clear()
        frames = dict(codec_named(codec).rgb(CLIPS[codec], (), wanted))
        assert list(frames) == wanted, f"draw {draw}"
        np.testing.assert_array_equal(np.stack(list(frames.values())), EVERY_FRAME[codec][wanted])


PREDECESSORS = {(codec, size): encoded(codec, frames=9, size=size, seed=1) for codec in CODECS for size in (64, 96)}


@given(
    codec=st.sampled_from(CODECS),
    before=st.lists(
        st.tuples(st.sampled_from(sorted(PREDECESSORS)), st.sampled_from(["whole", "left", "at once", "damaged"])),
        min_size=1,
        max_size=3,
    ),
    wanted=st.sets(st.integers(0, 22), min_size=1).map(sorted),
)
@settings(max_examples=100, deadline=None)
def test_frames_are_the_same_whatever_the_thread_decoded_before(
    codec: str, before: list[tuple[tuple[str, int], str]], wanted: list[int]
) -> None:
    at_once = []
    for kind, how in before:
        data = bytearray(PREDECESSORS[kind])
        if how == "damaged":
            packets = slice(data.index(b"mdat") + 40, data.index(b"moov") - 4, 7)
            data[packets] = bytes(len(data[packets]))
        with contextlib.suppress(av.FFmpegError):
            frames = codec_named(kind[0]).planes(bytes(data))
            if how in ("left", "at once"):
                next(frames)
                if how == "at once":
                    at_once.append(frames)
            else:
                list(frames)
    pictures = [frame.to_ndarray(format="rgb24") for _, frame in codec_named(codec).planes(CLIPS[codec], wanted=wanted)]
    np.testing.assert_array_equal(np.stack(pictures), EVERY_FRAME[codec][wanted])
    for frames in at_once:
        assert [number for number, _ in frames] == list(range(1, 9))


def test_a_few_decoders_are_kept_for_clips_alike(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(video, "_decoders", Kept(most=2))

    def decoder_after(codec: str, size: int) -> object:
        list(codec_named(codec).planes(PREDECESSORS[codec, size]))
        return list(video._decoders._things.values())[-1]

    first = decoder_after("h264", 64)
    second = decoder_after("h264", 96)
    assert second is not first
    assert decoder_after("h264", 64) is first
    decoder_after("hevc", 64)
    assert decoder_after("h264", 64) is first
    assert decoder_after("h264", 96) is not second, "it had not been used for longest"


@pytest.mark.parametrize("codec", ["h264", "hevc"])
def test_no_frame_is_made_from_three_of_four(codec: str) -> None:
    with av.open(io.BytesIO(CLIPS[codec]), "r") as container:
        stream = container.streams.video[0]
        stream.codec_context.skip_frame = "NONREF"
        times = [frame.time for frame in container.decode(stream)]
    assert [round(25 * (time - times[0])) for time in times] == [0, 4, 8, 12, 16, 20, 22]


H264 = encoded("h264", frames=5)


@given(length=st.integers(0, len(H264) - 1))
@settings(max_examples=200, deadline=None)
def test_a_file_that_ends_early_is_a_bad_clip(length: int) -> None:
    with pytest.raises(BadClip):
        codec_named("h264").decode(H264[:length])


@given(data=st.data())
@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_damaged_tables_give_a_bad_clip_or_packets(data: st.DataObject) -> None:
    broken = bytearray(H264)
    tables = H264.index(b"moov") - 4
    for at in data.draw(st.lists(st.integers(tables, len(H264) - 1), min_size=1, max_size=4)):
        broken[at] = data.draw(st.integers(0, 255))
    try:
        track = track_of(bytes(broken), "h264")
    except av.error.InvalidDataError:
        return
    assert all(len(packet) <= len(broken) for packet in track.packets)


def test_a_packet_count_beyond_belief_is_refused() -> None:
    """All packets of one size: the table is a count alone, and four billion of them took hours."""
    at = H264.index(b"stsz")
    broken = H264[: at + 8] + (1).to_bytes(4, "big") + (2**32 - 1).to_bytes(4, "big") + H264[at + 16 :]
    at = broken.index(b"stsc")
    broken = broken[: at + 16] + (2**32 - 1).to_bytes(4, "big") + broken[at + 20 :]
    with pytest.raises(BadClip, match="4294967295 packets"):
        codec_named("h264").decode(broken)


def test_another_container_is_named() -> None:
    with pytest.raises(av.error.InvalidDataError, match="not a readable mp4"):
        track_of(b"RIFF" * 100, "h264")


@pytest.mark.parametrize("name", codecs())
def test_frames_that_an_encoder_cannot_hold_are_refused(name: str) -> None:
    """x265 writes beyond the rows of frames 34 to 48 wide, and the heap is corrupt."""
    codec = codec_named(name)
    assert codec.smallest >= (64 if name == "hevc" else 2)
    large = codec.smallest
    for height, width in ((large, large - 2), (large - 2, large)):
        with pytest.raises(BadClip, match=f"{width}x{height} are too small for {name}"):
            codec.encode(np.zeros((4, height, width, 3), np.uint8), 25.0)
    assert codec.encode(np.zeros((4, large, large, 3), np.uint8), 25.0)


@pytest.mark.parametrize(("height", "width"), [(2, 2), (18, 34), (96, 96), (240, 322)])
def test_a_converter_kept_for_a_clip_gives_the_bits_of_one_made_for_each_frame(height: int, width: int) -> None:
    convert = Converter()
    for seed in range(3):
        rgb_HWC = np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)
        ours = convert.yuv(rgb_HWC)
        theirs = av.VideoFrame.from_ndarray(rgb_HWC, format="rgb24")
        theirs = theirs.reformat(format="yuv420p", dst_colorspace="smpte170m")
        np.testing.assert_array_equal(ours.to_ndarray(), theirs.to_ndarray())
        np.testing.assert_array_equal(convert.rgb(ours), theirs.to_ndarray(format="rgb24"))

"""Video files as they lie in the world: decoded as a player shows them, or refused with a reason; nothing else."""

from __future__ import annotations

import os
import random
import struct
import tracemalloc
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from av.stream import Disposition
from hypothesis import given, settings
from hypothesis import strategies as st
from videos import KINDS, encode, encode_kind, frame_numbers, moving_bar, mux, packets_of, set_edit, set_matrix

from cclslr.datasets.media import Probe, probe_video
from cclslr.shards import foreign, timeline
from cclslr.shards.decode import decode_file, upright
from cclslr.shards.format import BadClip, RawClip

ONE = 0x10000
TURNS = {  # what FFmpeg's filters of these names do to a frame
    "nothing": ((ONE, 0, 0, ONE), lambda frame: frame),
    "hflip": ((-ONE, 0, 0, ONE), lambda frame: frame[:, ::-1]),
    "vflip": ((ONE, 0, 0, -ONE), lambda frame: frame[::-1]),
    "rotate by 180": ((-ONE, 0, 0, -ONE), lambda frame: frame[::-1, ::-1]),
    "transpose=clock": ((0, ONE, -ONE, 0), lambda frame: np.rot90(frame, -1)),
    "transpose=cclock": ((0, -ONE, ONE, 0), lambda frame: np.rot90(frame)),
    "transpose=cclock_flip": ((0, ONE, ONE, 0), lambda frame: frame.transpose(1, 0, 2)),
    "transpose=clock_flip": ((0, -ONE, -ONE, 0), lambda frame: frame[::-1, ::-1].transpose(1, 0, 2)),
}


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An mp4 with B-frames, of 40 frames."""
    return encode(tmp_path_factory.mktemp("videos") / "whole.mp4", moving_bar(40))


def shown(path: Path, **span: Any) -> list[int]:
    """The numbers of the frames that come out."""
    frames_THWC = decode_file(path, **span).frames_THWC
    assert frames_THWC is not None
    return frame_numbers(frames_THWC)


def every(path: Path, total: int) -> None:
    """All frames come out, and spans of them are the same frames."""
    assert shown(path) == list(range(total))
    assert shown(path, frames=(total // 2, total // 2 + 5)) == list(range(total // 2, total // 2 + 5))
    assert shown(path, seconds=(total // 3 / 25, None)) == list(range(total // 3, total))


@pytest.mark.parametrize("turn", TURNS)
def test_display_matrix_turns_and_mirrors(whole: Path, tmp_path: Path, turn: str) -> None:
    (a, b, c, d), expected = TURNS[turn]
    path = tmp_path / "turned.mp4"
    path.write_bytes(whole.read_bytes())
    set_matrix(path, (a, b, 0, c, d, 0, 0, 0, 0x40000000))
    stored, turned = decode_file(whole, frames=(3, 6)).frames_THWC, decode_file(path, frames=(3, 6)).frames_THWC
    np.testing.assert_array_equal(turned, np.stack([expected(frame) for frame in stored]))


def test_other_angles_are_refused(whole: Path, tmp_path: Path) -> None:
    path = tmp_path / "slanted.mp4"
    path.write_bytes(whole.read_bytes())
    set_matrix(path, (46341, 46341, 0, -46341, 46341, 0, 0, 0, 0x40000000))
    with pytest.raises(BadClip, match=r"slanted\.mp4: .*quarter"):
        decode_file(path)


@given(st.lists(st.integers(-(2**31), 2**31 - 1), min_size=9, max_size=9))
@settings(deadline=None)
def test_any_matrix_gives_the_same_pixels_or_a_reason(numbers: list[int]) -> None:
    frame = moving_bar(1)[0]
    try:
        turned = upright(frame, np.array(numbers, np.int32).reshape(3, 3))
    except BadClip:
        return
    assert sorted(turned.shape) == sorted(frame.shape)
    assert turned.sum() == frame.sum()


@pytest.mark.parametrize("kind", KINDS)
def test_every_container(kind: str, tmp_path: Path) -> None:
    every(encode_kind(tmp_path / f"clip.{kind}", kind), 24)


@pytest.mark.parametrize("bframes", [1, 3])
def test_avi_with_b_frames_has_times_of_decoding_only(tmp_path: Path, bframes: int) -> None:
    every(encode(tmp_path / "b.avi", moving_bar(40), bf=str(bframes)), 40)


def test_packed_b_frames(tmp_path: Path) -> None:
    """DivX and XviD in AVI: a B-frame lies in the packet of the frame after it, whose place an empty frame takes."""
    source = encode(tmp_path / "plain.avi", moving_bar(25), "mpeg4", bf="1", sc_threshold="1000000000")
    packets = packets_of(source)
    is_b = [packet[packet.index(b"\0\0\1\xb6") + 4] >> 6 == 2 for packet in packets]
    nothing = b"\0\0\1\xb6\x50\x4f"  # a predicted picture, not coded
    packed = []
    for packet, b, next_is_b, after in zip(packets, is_b, [*is_b[1:], False], [*packets[1:], b""]):
        packed.append(nothing if b else packet + after * next_is_b)
    encoder = packets[0][packets[0].index(b"Lavc") :].split(b"\0\0\1")[0]
    packed = [packet.replace(encoder, b"DivX503b1393p") for packet in packed]
    assert sum(is_b) > 8
    path = mux(tmp_path / "packed.avi", source, packed, [number == 0 for number in range(25)])
    every(path, 25)


@pytest.mark.parametrize(("first", "frames"), [(0, 40), (10, 30), (10, 20), (0, 20), (13, 9)])
def test_cuts_that_copy_packets_are_whole(whole: Path, tmp_path: Path, first: int, frames: int) -> None:
    path = tmp_path / "cut.mp4"
    path.write_bytes(whole.read_bytes())
    set_edit(path, first, frames)
    assert shown(path) == list(range(first, first + frames))
    assert shown(path, frames=(2, 6)) == list(range(first + 2, first + 6))
    assert probe_video(path) == Probe(frames, 25.0, 64, 48)


@pytest.mark.parametrize("share", [0.5, 0.8, 0.95])
def test_a_cut_that_is_truncated_is_not_whole(tmp_path: Path, share: float) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (40, 48, 64, 3), dtype=np.uint8)
    path = encode(tmp_path / "cut.mp4", noise, muxer={"movflags": "faststart"})
    set_edit(path, 10, 30)
    data = path.read_bytes()
    begin = data.index(b"mdat")
    path.write_bytes(data[: begin + int(share * (len(data) - begin))])
    with pytest.raises(BadClip, match=r"cut\.mp4: truncated"):
        decode_file(path)


@pytest.mark.parametrize(("codec", "show_frame"), [("libvpx", 0x10), ("libvpx-vp9", 0x02)])
@pytest.mark.parametrize("earlier", [0, 10])  # milliseconds
def test_alternative_reference_frames_are_not_shown(tmp_path: Path, codec: str, show_frame: int, earlier: int) -> None:
    source = encode(tmp_path / "plain.webm", moving_bar(24), codec, setup=lambda s: setattr(s, "gop_size", 1))
    path = tmp_path / "hidden.webm"
    hidden = []
    with av.open(str(source)) as plain, av.open(str(path), "w") as container:
        stream = container.add_stream_from_template(plain.streams.video[0])
        for packet in plain.demux(plain.streams.video[0]):
            if packet.size and packet.pts % 160 == 80:
                hidden.append(bytes(packet))
                copy = av.Packet(hidden[-1])
                copy.stream, copy.time_base, copy.is_keyframe = stream, packet.time_base, True
                copy.pts = copy.dts = packet.pts - earlier
                container.mux(copy)
            if packet.size:
                packet.stream = stream
                container.mux(packet)
    data = bytearray(path.read_bytes())  # changed here: the muxer would put a hidden frame into the packet after it
    for content in hidden:
        at = data.index(content)
        assert data[at] & show_frame
        data[at] &= ~show_frame
    path.write_bytes(data)
    assert len(packets_of(path)) == 24 + len(hidden) == 30
    every(path, 24)


@pytest.mark.parametrize("title", ["Gebärde".encode("latin-1"), "手语".encode("gbk"), b"\xff\xfe\x00"])
def test_titles_in_any_encoding(tmp_path: Path, title: bytes) -> None:
    mark = b"T" * len(title)
    path = tmp_path / "title.avi"
    with av.open(str(path), "w") as container:
        container.metadata["title"] = mark.decode()
        stream = container.add_stream("mpeg4", rate=25)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        for image in moving_bar(10):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(image, format="rgb24")))
        container.mux(stream.encode())
    path.write_bytes(path.read_bytes().replace(mark, title))
    assert shown(path) == list(range(10))
    assert probe_video(path) == Probe(10, 25.0, 64, 48)


def test_unknown_codec(whole: Path, tmp_path: Path) -> None:
    path = tmp_path / "unknown.mp4"
    path.write_bytes(whole.read_bytes().replace(b"avc1", b"zzz1"))
    with pytest.raises(BadClip, match=r"unknown\.mp4: .*codec"):
        decode_file(path)
    assert probe_video(path) is None


@pytest.mark.parametrize("kind", ["mkv", "webm", "flv", "mxf", "wmv"])
@pytest.mark.parametrize("share", [0.4, 0.7, 0.9])
def test_header_says_how_long_it_should_be(tmp_path: Path, kind: str, share: float) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (48, 48, 64, 3), dtype=np.uint8)
    path = encode(tmp_path / f"cut.{kind}", noise, *KINDS[kind])
    assert len(decode_file(path).frames_THWC) == 48
    data = path.read_bytes()
    path.write_bytes(data[: int(share * len(data))])
    with pytest.raises(BadClip, match=rf"cut\.{kind}: truncated"):
        decode_file(path)
    assert len(decode_file(path, frames=(0, 5)).frames_THWC) == 5


def test_sound_may_be_longer_than_the_video(tmp_path: Path) -> None:
    path = tmp_path / "long sound.mkv"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=25)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        sound = container.add_stream("aac", rate=16000)
        for image in moving_bar(12):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(image, format="rgb24")))
        container.mux(stream.encode())
        for number in range(40):
            frame = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), format="fltp", layout="mono")
            frame.rate, frame.pts = 16000, 1024 * number
            container.mux(sound.encode(frame))
        container.mux(sound.encode())
    assert shown(path) == list(range(12))


def test_encrypted(tmp_path: Path) -> None:
    secret = {
        "encryption_key": "76a6c65c5ea762046bd749a2e632ccbb",
        "encryption_kid": "a7e61c373e219033c21091fa607bf3b8",
    }
    muxer = {"encryption_scheme": "cenc-aes-ctr", **secret}
    with pytest.raises(BadClip, match=r"locked\.mp4: .*encrypted"):
        decode_file(encode(tmp_path / "locked.mp4", moving_bar(12), muxer=muxer))


def test_an_encrypted_matroska(tmp_path: Path) -> None:
    """No muxer writes one: the track's title gives way to elements that say it (RFC 9559, 5.1.4.1.31)."""

    def element(name: str, content: bytes) -> bytes:
        return bytes.fromhex(name) + bytes([0x80 | len(content)]) + content

    title = 40 * "T"
    path = encode(tmp_path / "locked.mkv", moving_bar(12), setup=lambda s: s.metadata.update(title=title))
    key = element("47e1", b"\5") + element("47e2", b"0123456789abcdef")  # AES, and the key's number
    encryption = element("6240", element("5033", b"\1") + element("5035", key))
    padded = encryption + element("ec", bytes(len(title) - len(encryption) - 2))
    data = path.read_bytes()
    assert data.count(element("536e", title.encode())) == 1
    path.write_bytes(data.replace(element("536e", title.encode()), element("6d80", padded)))
    with pytest.raises(BadClip, match=r"locked\.mkv: .*encrypted"):
        decode_file(path)
    assert probe_video(path) is None


def test_a_wmv_that_lost_only_its_index_is_whole(tmp_path: Path) -> None:
    path = encode_kind(tmp_path / "clip.wmv", "wmv")
    path.write_bytes(path.read_bytes()[:-8])
    every(path, 24)


def test_damage_within_a_frame_is_noticed(tmp_path: Path) -> None:
    """Decoders hide what they cannot read behind the pixels around; the frame says so."""
    noise = np.random.default_rng(0).integers(0, 256, (12, 48, 64, 3), dtype=np.uint8)
    path = encode(tmp_path / "damaged.mp4", noise, bf="0", slices="1")
    data = bytearray(path.read_bytes())
    content = packets_of(path)[6]
    at = data.index(content) + len(content) // 2
    data[at : at + 24] = np.random.default_rng(1).bytes(24)  # most bytes are noticed, not all
    path.write_bytes(data)
    with av.open(str(path)) as container:
        assert any(frame.is_corrupt for frame in container.decode(video=0))
    with pytest.raises(BadClip, match=r"damaged\.mp4: .*damaged"):
        decode_file(path)
    assert len(decode_file(path, frames=(0, 5)).frames_THWC) == 5


def two_tracks(path: Path, codecs: list[str], marks: list[Disposition], counts: list[int]) -> Path:
    """Two video tracks; the second is 64 x 48 and says its frames' numbers."""
    with av.open(str(path), "w") as container:
        streams = []
        for number, codec in enumerate(codecs):
            stream = container.add_stream(codec, rate=25)
            stream.width, stream.height = ((32, 32), (64, 48))[number]
            stream.pix_fmt = "yuvj420p" if codec == "mjpeg" else "yuv420p"
            stream.disposition = marks[number]
            streams.append(stream)
        for stream, frames in zip(streams, (np.zeros((counts[0], 32, 32, 3), np.uint8), moving_bar(counts[1]))):
            for image in frames:
                container.mux(stream.encode(av.VideoFrame.from_ndarray(image, format="rgb24")))
        for stream in streams:
            container.mux(stream.encode())
    return path


@pytest.mark.parametrize(
    ("name", "codecs", "marks", "counts"),
    [
        ("cover.mp4", ["mjpeg", "libx264"], [Disposition.attached_pic, Disposition.default], [1, 12]),
        ("still.mp4", ["mjpeg", "libx264"], [Disposition.default, Disposition(0)], [1, 12]),
        ("second.mkv", ["libx264", "libx264"], [Disposition(0), Disposition.default], [12, 12]),
        ("second.mp4", ["libx264", "libx264"], [Disposition(0), Disposition.default], [12, 12]),
    ],
)
def test_the_moving_default_track(
    tmp_path: Path, name: str, codecs: list[str], marks: list[Disposition], counts: list[int]
) -> None:
    path = two_tracks(tmp_path / name, codecs, marks, counts)
    assert shown(path) == list(range(12))
    probe = probe_video(path)
    assert probe is not None
    assert (probe.frames, probe.width) == (12, 64)


def test_a_cover_alone_is_no_video(tmp_path: Path) -> None:
    path = tmp_path / "song.mp4"
    with av.open(str(path), "w") as container:
        sound, cover = container.add_stream("aac", rate=16000), container.add_stream("mjpeg", rate=25)
        cover.width, cover.height, cover.pix_fmt, cover.disposition = 64, 48, "yuvj420p", Disposition.attached_pic
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), format="fltp", layout="mono")
        frame.rate = 16000
        container.mux(sound.encode(frame))
        container.mux(cover.encode(av.VideoFrame.from_ndarray(moving_bar(1)[0], format="rgb24")))
        container.mux(cover.encode())
        container.mux(sound.encode())
    with pytest.raises(BadClip, match="no video stream"):
        decode_file(path)


def test_what_is_not_as_a_player_shows_it_is_said(whole: Path, tmp_path: Path) -> None:
    def anamorphic(stream: Any) -> None:
        stream.codec_context.sample_aspect_ratio = Fraction(64, 45)

    def hdr(stream: Any) -> None:
        context = stream.codec_context
        context.color_trc, context.color_primaries, context.colorspace = 16, 9, 9

    wide = encode(tmp_path / "wide.mp4", moving_bar(8), setup=anamorphic)
    combed = encode(tmp_path / "combed.mp4", moving_bar(8), **{"x264-params": "tff=1"})
    bright = encode(tmp_path / "bright.mp4", moving_bar(8), "libx265", "yuv420p10le", setup=hdr)
    assert decode_file(wide).meta["as_stored"] == ["pixels of 64:45"]
    assert decode_file(combed).meta["as_stored"] == ["interlaced"]
    assert decode_file(bright).meta["as_stored"] == ["HDR (PQ)"]
    assert "as_stored" not in decode_file(whole).meta
    for path in (wide, combed, bright):
        assert shown(path) == list(range(8))


def test_memory_holds_the_frames_once(tmp_path: Path) -> None:
    path = encode(tmp_path / "large.mp4", np.zeros((40, 360, 640, 3), np.uint8))
    decode_file(path, frames=(0, 2))
    tracemalloc.start()
    try:
        frames_THWC = decode_file(path).frames_THWC
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert frames_THWC is not None
    assert peak < 1.2 * frames_THWC.nbytes


def claim(path: Path, frames: int) -> None:
    """Make an mp4's tables say that it has so many frames of one byte."""
    data = bytearray(path.read_bytes())
    for name, offset, content in (("stts", 8, (frames,)), ("stsz", 4, (1, frames)), ("stsc", 12, (frames,))):
        at = data.index(name.encode()) + 4 + offset
        data[at : at + 4 * len(content)] = struct.pack(f">{len(content)}I", *content)
    path.write_bytes(data)


def test_a_million_frames_that_are_not_there(tmp_path: Path) -> None:
    path = encode(tmp_path / "claims.mp4", moving_bar(8), bf="0")
    claim(path, 1_000_000)
    with pytest.raises(BadClip, match=r"claims\.mp4: "):
        decode_file(path)


@pytest.mark.parametrize(
    ("module", "limit", "value", "reason"),
    [
        (foreign, "MAX_PIXELS", 64 * 48 - 1, "64x48 pixels are too large"),
        (timeline, "MAX_FRAMES", 39, "more than 39 frames"),
        (foreign, "MAX_CLIP_BYTES", 40 * 64 * 48 * 3 - 1, "40 frames of 64x48 pixels are more than"),
        (foreign, "MAX_CPU_SECONDS", 0.0, "more than 0 seconds"),
    ],
)
def test_limits(
    whole: Path, monkeypatch: pytest.MonkeyPatch, module: Any, limit: str, value: float, reason: str
) -> None:
    monkeypatch.setattr(module, limit, value)
    with pytest.raises(BadClip, match=rf"whole\.mp4: .*{reason}"):
        decode_file(whole)
    if limit == "MAX_CLIP_BYTES":
        assert len(decode_file(whole, frames=(0, 39)).frames_THWC) == 39


def test_the_decoder_keeps_the_limit_where_the_header_lies(whole: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(timeline, "MAX_PIXELS", 64 * 48 - 1)  # what FFmpeg is told
    with pytest.raises(BadClip, match=r"whole\.mp4: unreadable"):
        decode_file(whole)


def test_what_is_no_file_is_refused_at_once(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.mp4")
    (tmp_path / "folder.mp4").mkdir()
    (tmp_path / "link.mp4").symlink_to(tmp_path / "nowhere")
    for name in ("pipe.mp4", "folder.mp4", "link.mp4"):
        with pytest.raises(BadClip, match=f"{name}: unreadable"):
            decode_file(tmp_path / name)
        assert probe_video(tmp_path / name) is None


def test_names_are_no_addresses(whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("a:b.mp4", "concat:a|b.mp4", "%d #?&.mp4", os.fsdecode(b"caf\xe9.mp4")):
        Path(name).write_bytes(whole.read_bytes())
        assert shown(Path(name), frames=(0, 3)) == [0, 1, 2]


def test_a_playlist_fetches_nothing(tmp_path: Path) -> None:
    path = tmp_path / "list.mp4"
    path.write_text("#EXTM3U\n#EXT-X-TARGETDURATION:4\n#EXTINF:4,\nhttp://127.0.0.1:9/clip.ts\n#EXT-X-ENDLIST\n")
    with pytest.raises(BadClip, match=r"list\.mp4: "):
        decode_file(path)


def damaged(data: bytes, rng: random.Random) -> bytes:
    """The bytes with some changed, some emptied, or the end lost."""
    result = bytearray(data)
    way = rng.choice(("change", "change", "change", "begin", "empty", "cut"))
    if way == "cut":
        return bytes(result[: rng.randrange(len(result))])
    if way == "empty":
        at = rng.randrange(len(result))
        result[at : at + 64] = bytes(len(result[at : at + 64]))
    else:
        reach = len(result) if way == "change" else min(len(result), 600)
        for _ in range(rng.choice((1, 2, 8, 40))):
            result[rng.randrange(reach)] = rng.randrange(256)
    return bytes(result)


@pytest.mark.parametrize("kind", KINDS)
def test_any_damage_is_a_clip_or_a_reason(kind: str, tmp_path: Path) -> None:
    path = encode_kind(tmp_path / f"clip.{kind}", kind)
    data = path.read_bytes()
    for seed in range(12):
        rng = random.Random(f"{kind} {seed}")
        path.write_bytes(damaged(data, rng))
        try:
            clip = decode_file(path, **rng.choice(({}, {"frames": (3, 9)}, {"seconds": (0.2, None)})))
        except BadClip as error:
            reason = str(error)
        else:
            reason = f"clip.{kind}: none"
            assert isinstance(clip, RawClip)
            assert len(clip.frames_THWC) == clip.meta["span"][1] - clip.meta["span"][0]
        assert reason.startswith(f"clip.{kind}: ")
        probe_video(path)

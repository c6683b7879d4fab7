"""Decoding the files that users have."""

from __future__ import annotations

import struct
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cclslr.datasets.base import VideoFile
from cclslr.shards.decode import decode_file
from cclslr.shards.format import BadClip
from cclslr.shards.keypoint_file import load_keypoints


def moving_bar(num_frames: int, height: int = 48, width: int = 64) -> np.ndarray:
    """Frame t: gray, with the column block t painted white; tells which frame is which after lossy coding."""
    frames = np.full((num_frames, height, width, 3), 60, dtype=np.uint8)
    for t in range(num_frames):
        frames[t, (t // 8 % 6) * 8 : (t // 8 % 6) * 8 + 8, t % 8 * 8 : t % 8 * 8 + 8] = 240
    return frames


def frame_numbers(frames_THWC: np.ndarray) -> list[int]:
    """Which frames of `moving_bar` these are."""
    blocks = frames_THWC[:, :48, :64].mean(axis=-1).reshape(-1, 6, 8, 8, 8).mean(axis=(2, 4)).reshape(-1, 48)
    return blocks.argmax(axis=1).tolist()


def write_video(path: Path, frames: np.ndarray, times: list[int] | None = None, gop: int = 12) -> None:
    """An H.264 file with B-frames, as people have them; `times` in milliseconds make its frame rate variable."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=25, options={"crf": "10", "g": str(gop), "bf": "2"})
        stream.width, stream.height, stream.pix_fmt = frames.shape[2], frames.shape[1], "yuv420p"
        stream.codec_context.time_base = Fraction(1, 1000)
        for number, image in enumerate(frames):
            frame = av.VideoFrame.from_ndarray(image, format="rgb24")
            frame.pts, frame.time_base = (40 * number if times is None else times[number]), Fraction(1, 1000)
            container.mux(stream.encode(frame))
        container.mux(stream.encode())


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("videos") / "ünïcode ☃.mp4"
    write_video(path, moving_bar(40))
    return path


@given(st.integers(0, 45), st.none() | st.integers(0, 50))
@settings(max_examples=40, deadline=None)
def test_frame_span_is_a_slice(clip: Path, begin: int, end: int | None) -> None:
    expected = list(range(40))[begin : 40 if end is None else end]
    beyond = 0 if end is None else max(end - 40, 0)
    if expected and (beyond <= 2 or beyond <= (end - begin) // 10):
        decoded = decode_file(clip, frames=(begin, end))
        assert frame_numbers(decoded.frames_THWC) == expected
        assert decoded.meta["span"] == [begin, begin + len(expected)]
    else:
        with pytest.raises(BadClip, match="span"):
            decode_file(clip, frames=(begin, end))


@given(st.data())
@settings(max_examples=20, deadline=None)
def test_seconds_choose_frames_by_their_time_stamps(data: st.DataObject) -> None:
    import tempfile

    steps = data.draw(st.lists(st.sampled_from([10, 33, 40, 125]), min_size=30, max_size=30))
    times = np.cumsum([0, *steps[:-1]])
    begin = data.draw(st.integers(0, 28))
    end = data.draw(st.integers(begin + 1, 29))
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "vfr.mp4"
        write_video(path, moving_bar(30), times.tolist(), gop=8)
        decoded = decode_file(path, seconds=(times[begin] / 1000, times[end] / 1000))
    assert frame_numbers(decoded.frames_THWC) == list(range(begin, end))


def test_rotation_in_the_header_is_applied(tmp_path: Path) -> None:
    """A telephone held upright: the pixels lie on their side and the track's matrix turns them 90 degrees clockwise."""
    frames = np.zeros((4, 48, 64, 3), dtype=np.uint8)
    frames[:, :16, :16] = 255  # top left as coded, so top right as shown
    path = tmp_path / "upright.mp4"
    write_video(path, frames)
    data = bytearray(path.read_bytes())
    identity = struct.pack(">9i", 0x10000, 0, 0, 0, 0x10000, 0, 0, 0, 0x40000000)
    at = data.index(identity, data.index(b"tkhd"))
    data[at : at + 36] = struct.pack(">9i", 0, 0x10000, 0, -0x10000, 0, 0, 48 << 16, 0, 0x40000000)
    path.write_bytes(data)
    shown = decode_file(path).frames_THWC
    assert shown.shape == (4, 64, 48, 3)
    assert shown[0, :14, -14:].mean() > 200
    assert shown[0, :, :30].mean() < 30


@pytest.mark.parametrize(
    ("content", "reason"),
    [(b"", "unreadable"), (b"\0" * 5000, "unreadable"), ("half", "truncated|unreadable")],
)
def test_broken_files_say_why(clip: Path, tmp_path: Path, content: bytes | str, reason: str) -> None:
    path = tmp_path / "broken.mp4"
    whole = clip.read_bytes()
    path.write_bytes(whole[: len(whole) // 2] if isinstance(content, str) else content)
    with pytest.raises(BadClip, match=reason):
        decode_file(path)
    with pytest.raises(BadClip, match="unreadable"):
        decode_file(tmp_path / "not there.mp4")


@pytest.mark.parametrize("share", [0.3, 0.6, 0.9, 0.99])
def test_truncated_download_is_never_a_shorter_clip(real: Path, tmp_path: Path, share: float) -> None:
    whole = (real / "clips/asl_house.mp4").read_bytes()  # its index lies in front, so a part of it opens
    path = tmp_path / "part.mp4"
    path.write_bytes(whole[: int(share * len(whole))])
    with pytest.raises(BadClip, match="truncated"):
        decode_file(path)
    assert len(decode_file(path, frames=(0, 10)).frames_THWC) == 10


def test_audio_without_video_is_a_bad_clip(tmp_path: Path) -> None:
    path = tmp_path / "sound.mp4"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("aac", rate=16000)
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 1024), dtype=np.float32), format="fltp", layout="mono")
        frame.rate = 16000
        container.mux(stream.encode(frame))
        container.mux(stream.encode())
    with pytest.raises(BadClip, match="no video stream"):
        decode_file(path)


def keypoint_file(path: Path, num_frames: int, **texts: str) -> np.ndarray:
    keypoints = np.random.default_rng(1).random((num_frames, 133, 3)).astype(np.float32) * np.float32((64, 48, 1))
    np.savez(path, keypoints=keypoints, **texts)
    return keypoints


def test_keypoints_of_the_whole_video_are_cut_with_it(clip: Path, tmp_path: Path) -> None:
    keypoints = keypoint_file(tmp_path / "k.npz", 40, estimator="x 1.0")
    loaded = VideoFile(str(clip), str(tmp_path / "k.npz"), frames=(5, 15)).load()
    np.testing.assert_array_equal(loaded.keypoints_TKC, keypoints[5:15])
    assert loaded.meta["pose"] == {"estimator": "x 1.0"}
    keypoints = keypoint_file(tmp_path / "k.npz", 10)
    loaded = VideoFile(str(clip), str(tmp_path / "k.npz"), frames=(5, 15)).load()
    np.testing.assert_array_equal(loaded.keypoints_TKC, keypoints)


@pytest.mark.parametrize("length", [1, 9, 39, 41])
def test_keypoints_of_another_length_are_refused(clip: Path, tmp_path: Path, length: int) -> None:
    keypoint_file(tmp_path / "k.npz", length)
    with pytest.raises(BadClip, match=f"pose has {length} frames"):
        VideoFile(str(clip), str(tmp_path / "k.npz"), frames=(5, 15)).load()


@pytest.mark.parametrize("shape", [(40, 75, 3), (40, 133, 2), (133, 3), (40, 399)])
def test_keypoints_of_another_shape_are_refused(tmp_path: Path, shape: tuple[int, ...]) -> None:
    np.save(tmp_path / "k.npy", np.zeros(shape))
    with pytest.raises(BadClip, match="shape"):
        load_keypoints(tmp_path / "k.npy")


@given(st.binary(max_size=200))
@settings(max_examples=50, deadline=None)
def test_any_bytes_as_keypoints_are_a_bad_clip(content: bytes) -> None:
    import tempfile

    with tempfile.NamedTemporaryFile(suffix=".npz") as file:
        file.write(content)
        file.flush()
        with pytest.raises(BadClip):
            load_keypoints(file.name)


def test_truncated_npz_is_a_bad_clip(tmp_path: Path) -> None:
    keypoint_file(tmp_path / "k.npz", 10)
    (tmp_path / "k.npz").write_bytes((tmp_path / "k.npz").read_bytes()[:-100])
    with pytest.raises(BadClip):
        load_keypoints(tmp_path / "k.npz")


def test_poses_alone_follow_the_span(tmp_path: Path) -> None:
    keypoints = keypoint_file(tmp_path / "k.npz", 50)
    by_frames = VideoFile(None, str(tmp_path / "k.npz"), frames=(10, 20)).load()
    by_seconds = VideoFile(None, str(tmp_path / "k.npz"), seconds=(0.4, 0.8)).load()
    np.testing.assert_array_equal(by_frames.keypoints_TKC, keypoints[10:20])
    np.testing.assert_array_equal(by_seconds.keypoints_TKC, keypoints[10:20])
    assert by_frames.frames_THWC is None
    with pytest.raises(BadClip, match="span"):
        VideoFile(None, str(tmp_path / "k.npz"), frames=(10, 51)).load()

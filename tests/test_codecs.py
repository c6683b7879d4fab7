"""Every codec of the table: its frames, its bytes, and what it says of damaged ones."""

from __future__ import annotations

import io
import itertools
import os
import subprocess
import sys

import numpy as np
import pytest

from cclslr.bench.memory import heap_bytes
from cclslr.codecs import codec_named, codecs
from cclslr.codecs.jpeg import JPEG
from cclslr.codecs.video import VideoCodec
from cclslr.shards.format import BadClip

VIDEO = [name for name, codec in codecs().items() if not codec.alone]


def moving_bar(num_frames: int, height: int = 64, width: int = 64) -> np.ndarray:
    """Frame t: gray, with block t painted white; tells which frame is which after lossy coding."""
    frames = np.full((num_frames, height, width, 3), 60, dtype=np.uint8)
    for t in range(num_frames):
        frames[t, (t // 8 % 6) * 8 : (t // 8 % 6) * 8 + 8, t % 8 * 8 : t % 8 * 8 + 8] = 240
    return frames


def frame_numbers(frames_THWC: np.ndarray) -> list[int]:
    """Which frames of `moving_bar` these are."""
    blocks = frames_THWC[:, :48, :64].mean(axis=-1).reshape(-1, 6, 8, 8, 8).mean(axis=(2, 4)).reshape(-1, 48)
    return blocks.argmax(axis=1).tolist()


@pytest.mark.parametrize("codec", codecs())
def test_codec_returns_every_frame_in_order(codec: str) -> None:
    frames = moving_bar(40)
    data, offsets = codec_named(codec).encode(frames, 25.0)
    again, _ = codec_named(codec).encode(frames, 25.0)
    decoded = codec_named(codec).decode(data)
    assert data == again
    assert decoded.shape == frames.shape
    assert frame_numbers(decoded) == list(range(40))
    assert np.abs(decoded.astype(int) - frames).mean() < 4
    assert offsets == codec_named(codec).offsets(data)
    assert len(offsets) == (41 if codec_named(codec).alone else 0)


@pytest.mark.parametrize("codec", VIDEO)
def test_decoding_that_stops_early_loses_no_memory(codec: str) -> None:
    data, _ = codec_named(codec).encode(moving_bar(12), 25.0)

    def stop_early(times: int) -> None:
        for _ in range(times):
            next(codec_named(codec).planes(data))

    stop_early(100)  # fills caches
    before = heap_bytes()
    if before is None:
        pytest.skip("the C library does not tell how much of the heap is in use")
    stop_early(400)
    after = heap_bytes()
    assert after is not None
    assert after - before < 400 * 30  # bytes; a generator left open costs 150 each


ENCODE = """
import hashlib, sys
import numpy as np
from cclslr.codecs import codec_named
for size in (64, 96, 224):
    rng = np.random.default_rng(size)
    frames = rng.integers(0, 256, (1, size, size, 3)).repeat(12, 0)
    for t in range(12):
        frames[t, size // 2 :, 4 * t : 4 * t + 30] = 20 * t
    print(hashlib.sha256(codec_named(sys.argv[1]).encode(frames.astype(np.uint8), 25.0)[0]).hexdigest())
"""


@pytest.mark.parametrize("codec", codecs())
def test_bytes_do_not_depend_on_what_memory_held_before(codec: str) -> None:
    digests = set()
    for fill in ("1", "170"):  # glibc hands out memory filled with this
        done = subprocess.run(
            [sys.executable, "-c", ENCODE, codec],
            env={**os.environ, "MALLOC_PERTURB_": fill}, capture_output=True, text=True, check=True,
        )  # fmt: skip
        digests.add(done.stdout)
    assert len(digests) == 1


def test_jpeg_offsets_cut_out_whole_images() -> None:
    from PIL import Image

    data, offsets = JPEG.encode(np.random.default_rng(0).integers(0, 256, (5, 32, 32, 3), dtype=np.uint8), 25.0)
    assert len(offsets) == 6
    for begin, end in itertools.pairwise(offsets):
        with Image.open(io.BytesIO(data[begin:end])) as image:
            image.load()
            assert image.size == (32, 32)


@pytest.mark.parametrize("codec", codecs())
def test_quality_changes_the_size(codec: str) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (8, 64, 64, 3), dtype=np.uint8)
    low, high = (20, 95) if codec_named(codec).alone else (50, 15)
    assert len(codec_named(codec).encode(noise, 25.0, low)[0]) < len(codec_named(codec).encode(noise, 25.0, high)[0])


@pytest.mark.parametrize("codec", codecs())
def test_damaged_bytes_are_a_bad_clip(codec: str) -> None:
    data, _ = codec_named(codec).encode(moving_bar(8), 25.0)
    with pytest.raises(BadClip):
        codec_named(codec).decode(b"x" + data[: len(data) // 3])


@pytest.mark.parametrize("codec", codecs().values(), ids=lambda codec: codec.name)
def test_an_encoder_leaves_the_scheduling_of_its_caller_alone(codec, monkeypatch):
    """SVT-AV1 makes real-time threads of its own and of its caller's where root runs it."""

    def policies() -> set[int]:
        return {os.sched_getscheduler(int(thread)) for thread in os.listdir("/proc/self/task")}

    seen: list[set[int]] = []
    if isinstance(codec, VideoCodec):
        start = type(codec).open

        def spy(self, encoder):
            start(self, encoder)
            seen.append(policies())

        monkeypatch.setattr(type(codec), "open", spy)
    before = policies()
    codec.encode(np.zeros((4, 64, 64, 3), np.uint8), 25.0)
    assert policies() == before
    assert all(during == before for during in seen)
    assert len(seen) == isinstance(codec, VideoCodec)

"""The index and the reader, against the bytes in the tars."""

from __future__ import annotations

import io
import pickle
import subprocess
import sys
import tarfile
import zlib
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cclslr.codecs import codec_named
from cclslr.files import read_json, write_json
from cclslr.shards import reader
from cclslr.shards.format import MASK_SIZE, BadClip, Component, IndexRow, ManifestRow, RawClip
from cclslr.shards.index import read_index, write_index
from cclslr.shards.pack import PackOptions, finish, pack
from cclslr.shards.parts import decode_masks, decode_pose, encode_masks
from cclslr.shards.reader import ShardSet
from cclslr.shards.writer import PackedClip, open_shard


@dataclass(frozen=True)
class Noise:
    """A clip that is a pure function of its number."""

    number: int
    parts: str = "video pose"

    def load(self) -> RawClip:
        rng = np.random.default_rng(self.number)
        length = 4 + self.number % 3
        frames = rng.integers(0, 256, (length, 32, 32, 3), dtype=np.uint8)
        pose = rng.uniform(0, 32, (length, 133, 3)).astype(np.float32)
        return RawClip(
            frames if "video" in self.parts else None, pose if "pose" in self.parts else None, 25.0, {"n": self.number}
        )


def rows(count: int, parts: str = "video pose") -> list[ManifestRow]:
    splits = ("train", "val", "test")
    return [
        ManifestRow(f"clip-{n}", Noise(n, parts), n % 3, f"sign {n % 3}", splits[n % 3], f"s{n % 2}")
        for n in range(count)
    ]


PACKING = {"codec": "jpeg", "size": 32, "crop": "none", "quality": 90, "masks": None}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("shards") / "set"
    pack(rows(20), out, PackOptions("jpeg", 32, "none", clips_per_shard=7), workers=0)
    return out


def test_every_clip_is_what_it_was(folder: Path) -> None:
    shards = ShardSet([str(folder)])
    assert sorted(row.key for row in shards.rows) == sorted(f"clip-{n}" for n in range(20))
    assert shards.classes == ["sign 0", "sign 1", "sign 2"]
    for clip_id, row in enumerate(shards.rows):
        clip = shards.read(clip_id)
        number = int(row.key.split("-")[1])
        source = Noise(number).load()
        assert (row.label, row.signer, row.num_frames) == (number % 3, f"s{number % 2}", len(source.frames_THWC))
        assert (row.width, row.height, row.fps) == (32, 32, 25.0)
        assert clip.meta["n"] == number
        assert clip.meta["gloss"] == f"sign {number % 3}"
        assert clip.pose_TKC.dtype == np.float16
        np.testing.assert_allclose(clip.pose_TKC, source.keypoints_TKC, atol=0.02)
        assert clip.masks_THW is None
        expected, offsets = codec_named("jpeg").encode(source.frames_THWC, 25.0)
        assert clip.video == expected
        assert list(row.frame_offsets) == offsets


def test_index_points_at_what_tarfile_finds(folder: Path) -> None:
    shards = ShardSet([str(folder)])
    found = {}
    for path in sorted(folder.glob("*.tar")):
        with tarfile.open(path) as tar:
            for member in tar:
                found[member.name] = tar.extractfile(member).read()
                assert (member.mtime, member.uname, member.uid) == (0, "cclslr", 0)
    expected = {}
    for clip_id, row in enumerate(shards.rows):
        clip = shards.read(clip_id)
        expected[f"{row.key}.mjpg"] = clip.video
        expected[f"{row.key}.json"] = clip.json_text
        assert f"{row.key}.pose.npy" in found
    assert {name: data for name, data in found.items() if not name.endswith("npy")} == expected


def test_only_what_is_asked_for_is_read(folder: Path) -> None:
    shards = ShardSet([str(folder)])
    clip = shards.read(3, ("pose",))
    assert clip.video is None
    assert clip.meta == {}
    assert clip.pose_TKC is not None
    clip = shards.read(3, ("video", "mask"))
    assert clip.video is not None
    assert clip.pose_TKC is None


def test_memory_is_used_again_but_not_while_a_clip_is(folder: Path) -> None:
    shards = ShardSet([str(folder)])
    videos = [bytes(shards.read(n).video) for n in range(len(shards))]
    poses = [shards.read(n).pose_TKC.copy() for n in range(len(shards))]
    assert len(shards._blocks) == 1, "each clip was let go before the next"
    held = []
    for n in np.random.default_rng(0).integers(len(shards), size=100).tolist():
        held.append((n, shards.read(n)))
        for m, clip in held:
            assert clip.video == videos[m]
            np.testing.assert_array_equal(clip.pose_TKC, poses[m])
        if len(held) == 5:
            del held[n % 5]
    assert len(shards._blocks) <= 6
    with pytest.raises(TypeError, match="read-only"):
        held[0][1].video[0] = 0


def test_a_longer_clip_than_most_is_read_too(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shards = ShardSet([str(folder)])
    expected = bytes(shards.read(7).video)
    monkeypatch.setattr(shards, "_block_size", 100)
    assert shards.read(7).video == expected


def test_several_data_sets_have_ids_and_labels_of_their_own(folder: Path) -> None:
    both = ShardSet([str(folder), str(folder)], split="train")
    one = ShardSet([str(folder)], split="train")
    assert {row.split for row in both.rows} == {"train"}
    assert len(both) == 2 * len(one)
    assert both.classes == 2 * one.classes
    assert both.dataset_ids.tolist() == [0] * len(one) + [1] * len(one)
    for n, row in enumerate(one.rows):
        assert both.rows[n] == row
        assert both.rows[n + len(one)] == replace(row, label=row.label + 3)
        assert both.read(n + len(one)).video == one.read(n).video


def test_threads_and_pickling(folder: Path) -> None:
    shards = ShardSet([str(folder)])
    expected = [shards.read(n).video for n in range(len(shards))]
    shards.close()
    order = np.random.default_rng(0).permutation(np.repeat(np.arange(len(shards)), 20))
    with ThreadPoolExecutor(8) as pool:
        assert all(
            clip.video == expected[n]
            for n, clip in zip(order, pool.map(pickle.loads(pickle.dumps(shards)).read, order))
        )


@given(st.binary(max_size=40_000), st.integers(0, 2**32 - 1))
def test_the_checksum_is_that_of_zlib(data: bytes, begin: int) -> None:
    """The packer takes zlib's; beyond 5 kB the reader's lets go of the GIL."""
    assert reader.crc32(memoryview(data), begin) == zlib.crc32(data, begin)
    assert reader.crc32(data * 3) == zlib.crc32(data * 3)


def test_every_damaged_byte_is_noticed(folder: Path, tmp_path: Path) -> None:
    shards = ShardSet([str(folder)])
    row, path = shards.rows[5], shards.path(5)
    whole = path.read_bytes()
    rng = np.random.default_rng(0)
    try:
        for name, part in row.components.items():
            for at in (0, part.size - 1, *rng.integers(0, part.size, 5)):
                damaged = bytearray(whole)
                damaged[part.offset + at] ^= 1 << int(rng.integers(8))
                path.write_bytes(damaged)
                with pytest.raises(BadClip, match=rf"{path.name}.*{row.key}.*{name}"):
                    ShardSet([str(folder)]).read(5)
        path.write_bytes(whole[: row.components["json"].offset + 10])
        with pytest.raises(BadClip, match=row.key):
            ShardSet([str(folder)]).read(5)
        path.unlink()
        with pytest.raises(BadClip, match="No such file"):
            ShardSet([str(folder)]).read(5)
    finally:
        path.write_bytes(whole)


def test_errors_name_the_file_and_the_fix(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"data\.shards"):
        ShardSet([])
    with pytest.raises(FileNotFoundError, match="cclslr pack"):
        ShardSet([str(tmp_path)])
    with pytest.raises(ValueError, match="no clip of split 'dev'"):
        ShardSet([str(folder)], split="dev")
    for name in ("dataset.json", "index.parquet"):
        (tmp_path / name).write_bytes((folder / name).read_bytes())
    info = read_json(tmp_path / "dataset.json")
    write_json(tmp_path / "dataset.json", {**info, "format_version": 99})
    with pytest.raises(ValueError, match="version 99"):
        ShardSet([str(tmp_path)])
    write_json(tmp_path / "dataset.json", info)
    with open(tmp_path / "index.parquet", "r+b") as file:
        file.seek(100)
        file.write(b"damage")
    with pytest.raises(ValueError, match=r"index\.parquet"):
        ShardSet([str(tmp_path)])


@pytest.mark.parametrize("parts", ["video", "pose"])
def test_either_part_alone_is_a_data_set(tmp_path: Path, parts: str) -> None:
    pack(rows(5, parts), tmp_path / "set", PackOptions("vp9", 32), workers=0)
    shards = ShardSet([str(tmp_path / "set")])
    for n in range(5):
        clip = shards.read(n)
        assert (clip.video is None) == (parts == "pose")
        assert (clip.pose_TKC is None) == (parts == "video")
        assert (clip.row.width, clip.row.height) == ((32, 32) if parts == "video" else (0, 0))
        assert clip.row.num_frames == clip.meta["frames"]


def test_masks_are_read_back(tmp_path: Path) -> None:
    masks_THW = np.random.default_rng(0).integers(0, 2, (6, MASK_SIZE, MASK_SIZE), dtype=np.uint8)
    assert np.array_equal(decode_masks(encode_masks(masks_THW)), masks_THW)
    row = IndexRow("a", "", 0, "train", "", 6, 0, 0, 25.0, {}, ())
    with open_shard(tmp_path, "s.tar") as (writer, shard):
        writer.add(PackedClip(row, {"mask.png": encode_masks(masks_THW), "json": b"{}"}))
    finish(tmp_path, [shard], ["x"], PACKING)
    clip = ShardSet([str(tmp_path)]).read(0)
    assert clip.masks_THW.dtype == np.uint8
    np.testing.assert_array_equal(clip.masks_THW, masks_THW)
    with pytest.raises(ValueError, match="64"):
        encode_masks(masks_THW[:, :32])


components = st.dictionaries(
    st.sampled_from(["mjpg", "pose.npy", "mask.png", "json"]),
    st.builds(Component, st.integers(0, 2**40), st.integers(0, 2**40), st.integers(0, 2**32 - 1)),
)
index_rows = st.builds(
    IndexRow,
    key=st.from_regex(r"[A-Za-z0-9_-]{1,90}", fullmatch=True),
    shard=st.just("s.tar"),
    label=st.integers(-1, 10**6),
    split=st.sampled_from(["train", "val", "test"]),
    signer=st.text(st.characters(codec="utf-8"), max_size=10),
    num_frames=st.integers(1, 10**6),
    width=st.integers(0, 4000),
    height=st.integers(0, 4000),
    fps=st.floats(1, 240),
    components=components,
    frame_offsets=st.lists(st.integers(0, 2**40), max_size=5).map(tuple),
)


@given(st.lists(index_rows, max_size=5))
@settings(max_examples=40, deadline=None)
def test_index_keeps_every_row(items: list[IndexRow]) -> None:
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        write_index(Path(folder, "index.parquet"), items)
        assert read_index(Path(folder, "index.parquet")) == items


def test_a_shard_appears_only_when_it_is_complete(tmp_path: Path) -> None:
    row = IndexRow("a", "", 0, "train", "", 6, 0, 0, 25.0, {}, ())

    def break_off() -> None:
        with open_shard(tmp_path, "s.tar") as (writer, _):
            writer.add(PackedClip(row, {"json": b"{}"}))
            raise RuntimeError

    with pytest.raises(RuntimeError):
        break_off()
    assert list(tmp_path.iterdir()) == []


@settings(max_examples=20, deadline=None)
@given(frames=st.integers(1, 300))
def test_keypoints_are_read_as_numpy_reads_them(frames):
    pose_TKC = np.random.default_rng(frames).normal(size=(frames, 133, 3)).astype(np.float16)
    file = io.BytesIO()
    np.save(file, pose_TKC)
    assert np.array_equal(decode_pose(file.getvalue()), np.load(io.BytesIO(file.getvalue())))
    file = io.BytesIO()
    np.save(file, pose_TKC.astype(np.float32))
    with pytest.raises(BadClip, match="float16"):
        decode_pose(file.getvalue())


def test_programs_that_end_soon_after_reading_the_index_end_well(folder: Path) -> None:
    """With pyarrow's threads one of eight aborts."""
    program = "import sys; from cclslr.shards.index import read_index; read_index(sys.argv[1])"
    command = [sys.executable, "-c", program, str(folder / "index.parquet")]
    running = [subprocess.Popen(command, stderr=subprocess.PIPE) for _ in range(16)]
    assert [process.communicate()[1] for process in running] == [b""] * 16
    assert [process.returncode for process in running] == [0] * 16

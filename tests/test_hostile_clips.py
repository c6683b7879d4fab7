"""Clips whose checksums are right and whose contents are not: each is named and replaced, by every backend."""

from __future__ import annotations

import dataclasses
import io
import os
import resource
import struct
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from rgb_reference import SmallClip, checker_masks

from cclslr.codecs import codec_named, codecs
from cclslr.config import DataConfig, ViewConfig
from cclslr.data.loader import Loader
from cclslr.data.plan import Plan
from cclslr.distributed import Process
from cclslr.shards.clip import PackOptions, pack_clip
from cclslr.shards.format import BadClip, ManifestRow
from cclslr.shards.pack import finish, pack
from cclslr.shards.parts import encode_masks
from cclslr.shards.reader import ShardSet
from cclslr.shards.writer import PackedClip, open_shard

CLIPS, VICTIM = 8, 3
VIEWS = ViewConfig(rgb_frames=4, pose_frames=6, size=32, mask_alpha=1.0)


def write_set(folder: Path, codec: str, spoil: Callable[[PackedClip], PackedClip], size: int = 64) -> ShardSet:
    """A data set with masks, in which one clip went through `spoil` before its checksums were made."""
    options = PackOptions(codec=codec, size=size, crop="none")
    with open_shard(folder, "000000.tar") as (writer, report):
        for number in range(CLIPS):
            source = SmallClip(number, frames=9, size=(size, size))
            packed = pack_clip(
                ManifestRow(f"clip{number}", source, number % 2, None, "train", None), source.load(), options
            )
            packed.parts["mask.png"] = encode_masks(checker_masks(np.empty(9), None))
            writer.add(spoil(packed) if number == VICTIM else packed)
    packing = {"codec": codec, "size": 64, "crop": "none", "quality": 90, "masks": None}
    finish(folder, [report], ["a", "b"], packing)
    return ShardSet([str(folder)])


def quarantined(shards: ShardSet, backend: str, decode: str = "auto", steps: int = 6) -> dict[int, str]:
    """What two epochs found bad; the rest of the batches must be made of good clips."""
    cfg = DataConfig(shards=["here"], backend=backend, decode=decode, max_bad_share=0.5)
    plan = Plan.for_training(shards, cfg, 4, seed=1)
    process = Process(0, 1, torch.device("cpu"))
    with Loader(cfg, VIEWS, shards, plan, process, ("rgb", "pose"), seed=5).start() as loader:
        for _ in range(steps):
            batch = next(loader)
            assert VICTIM not in batch.clip_ids_B.tolist()
            assert torch.isfinite(batch.pose_VBTJC).all()
    return loader.quarantine.reasons


def part(name: str, change: Callable[[bytes], bytes]) -> Callable[[PackedClip], PackedClip]:
    def spoil(clip: PackedClip) -> PackedClip:
        return PackedClip(clip.row, {**clip.parts, name: change(clip.parts[name])})

    return spoil


def row(**changes: object) -> Callable[[PackedClip], PackedClip]:
    return lambda clip: PackedClip(dataclasses.replace(clip.row, **changes), clip.parts)


def pose(change: Callable[[np.ndarray], np.ndarray]) -> Callable[[PackedClip], PackedClip]:
    def saved(npy: bytes) -> bytes:
        file = io.BytesIO()
        np.save(file, change(np.load(io.BytesIO(npy))))
        return file.getvalue()

    return part("pose.npy", saved)


def with_number(pose_TKC: np.ndarray, number: float) -> np.ndarray:
    pose_TKC[2, 5, 0] = number
    return pose_TKC


def image(form: str, mode: str = "1", size: tuple[int, int] = (64, 9 * 64)) -> Callable[[bytes], bytes]:
    def made(_: bytes) -> bytes:
        file = io.BytesIO()
        Image.new(mode, size).save(file, form)
        return file.getvalue()

    return made


def bomb(png: bytes) -> bytes:
    """A header that speaks of 8 GB."""
    header = b"IHDR" + struct.pack(">IIBBBBB", 64, 64 * 2_000_000, 1, 0, 0, 0, 0)
    return png[:12] + header + struct.pack(">I", zlib.crc32(header)) + png[33:]


SPOILT: dict[str, tuple[Callable[[PackedClip], PackedClip], str]] = {
    "short pose": (pose(lambda p: p[:2]), "pose has 2 frames, the clip 9"),
    "long pose": (pose(lambda p: np.concatenate([p, p])), "pose has 18 frames"),
    "empty pose": (pose(lambda p: p[:0]), "no array of"),
    "pose of another shape": (pose(lambda p: p[:, :75]), "no array of"),
    "pose of another kind": (pose(lambda p: p.astype(np.float64)), "not a float16"),
    "cut pose": (part("pose.npy", lambda npy: npy[:-100]), "no array of"),
    "pose that is none": (part("pose.npy", lambda _: b"GIF89a"), "not a float16"),
    "NaN": (pose(lambda p: with_number(p, np.nan)), "not finite"),
    "infinity": (pose(lambda p: with_number(p, -np.inf)), "not finite"),
    "short mask": (part("mask.png", image("PNG", size=(64, 2 * 64))), "2 masks for 9 frames"),
    "mask of half a frame": (part("mask.png", image("PNG", size=(64, 9 * 64 - 32))), "pixels high"),
    "narrow mask": (part("mask.png", image("PNG", size=(32, 9 * 128))), "no 1-bit PNG"),
    "grey mask": (part("mask.png", image("PNG", "L")), "no 1-bit PNG"),
    "GIF": (part("mask.png", image("GIF")), "no 1-bit PNG"),
    "EPS": (part("mask.png", image("EPS", "L")), "no 1-bit PNG"),
    "cut mask": (part("mask.png", lambda png: png[:60]), "does not decode"),
    "bomb": (part("mask.png", bomb), "pixels high"),
    "a million frames": (row(num_frames=10**6), "1000000 frames"),
    "no frame": (row(num_frames=0), "0 frames"),
    "fewer frames": (row(num_frames=8), ""),
    "more frames": (row(num_frames=10), ""),
    "another width": (row(width=96), ""),
    "a large frame": (row(width=10**6, height=10**6), "at most are decoded"),
    "negative height": (row(height=-64), "at most are decoded"),
}


@pytest.mark.parametrize("backend", ["numba", "dali"])
@pytest.mark.parametrize("kind", SPOILT)
def test_a_clip_that_does_not_fit_its_row_is_quarantined(tmp_path: Path, kind: str, backend: str) -> None:
    spoil, reason = SPOILT[kind]
    reasons = quarantined(write_set(tmp_path, "jpeg", spoil), backend)
    assert list(reasons) == [VICTIM]
    assert f"clip{VICTIM}" in reasons[VICTIM]
    assert reason in reasons[VICTIM]


@pytest.mark.parametrize("offsets", [(), (0, 5), (5,) * 10, tuple(range(10)), (0, *range(10**6, 10**6 + 9))])
def test_wrong_frame_offsets_are_quarantined(tmp_path: Path, offsets: tuple[int, ...]) -> None:
    shards = write_set(tmp_path, "jpeg", row(frame_offsets=offsets))
    assert "frame offsets" in quarantined(shards, "numba")[VICTIM]


PATHS = [("numba", "auto", codec) for codec in codecs()]
PATHS += [("dali", "libav", codec) for codec in codecs()]
PATHS += [("dali", "dali", name) for name, codec in codecs().items() if codec.dali_cpu]


@pytest.mark.parametrize(("backend", "decode", "codec"), PATHS)
@pytest.mark.parametrize("how", ["packets", "cut"])
def test_damaged_video_is_quarantined(tmp_path: Path, backend: str, decode: str, codec: str, how: str) -> None:
    """DALI's reasons hold file names in square brackets, which no console may take for markup."""

    def damage(data: bytes) -> bytes:
        if how == "cut":
            return data[: len(data) * 2 // 3]
        begin = data.find(b"mdat") + 8 if b"mdat" in data else 0
        end = data.find(b"moov") - 4 if b"mdat" in data else len(data)
        return data[:begin] + bytes(end - begin) + data[end:]

    spoil = part(codec_named(codec).extension, damage)
    reasons = quarantined(write_set(tmp_path, codec, spoil), backend, decode)
    assert list(reasons) == [VICTIM]
    assert f"clip{VICTIM}" in reasons[VICTIM]


@pytest.mark.parametrize("width", [86, 114, 342])
@pytest.mark.parametrize(("backend", "decode", "codec"), PATHS)
def test_widths_that_are_no_multiple_of_anything(
    tmp_path: Path, backend: str, decode: str, codec: str, width: int
) -> None:
    shards = write_set(tmp_path, codec, lambda clip: clip, size=width)
    cfg = DataConfig(shards=["here"], backend=backend, decode=decode)
    plan = Plan.for_training(shards, cfg, 4, seed=1)
    with Loader(cfg, VIEWS, shards, plan, Process(0, 1, torch.device("cpu")), ("rgb",), seed=5).start() as loader:
        next(loader)
    assert not loader.quarantine.reasons


@pytest.mark.parametrize(("lacks", "remedy"), [("pose", "poses and pack again"), ("rgb", "poses alone")])
def test_clips_that_lack_what_is_wanted_are_refused_with_their_number(tmp_path: Path, lacks: str, remedy: str) -> None:
    """Left out of a batch, they gave the poses of their neighbours to others, silently."""
    rest = {"pose": "rgb", "rgb": "pose"}[lacks]
    rows = [
        ManifestRow(f"c{n}", SmallClip(n, parts=rest if n in (2, 5) else "rgb pose"), 0, None, "train", None)
        for n in range(8)
    ]
    pack(rows, tmp_path / "set", PackOptions(codec="jpeg", size=48, crop="none"), workers=0)
    shards = ShardSet([str(tmp_path / "set")])
    cfg = DataConfig(backend="numba")
    plan = Plan.for_training(shards, cfg, 4, seed=1)
    process = Process(0, 1, torch.device("cpu"))
    with pytest.raises(ValueError, match=rf"2 of 8 clips .c2, c5. .*{remedy}"):
        Loader(cfg, VIEWS, shards, plan, process, ("rgb", "pose"), seed=5)
    with Loader(cfg, dataclasses.replace(VIEWS, mask_alpha=0.0), shards, plan, process, (rest,), seed=5).start() as it:
        next(it)


@pytest.mark.parametrize("what", ["pipe", "folder"])
def test_a_shard_that_is_no_file_makes_its_clips_bad(tmp_path: Path, what: str) -> None:
    shards = write_set(tmp_path, "jpeg", lambda clip: clip)
    (tmp_path / "000000.tar").unlink()
    os.mkfifo(tmp_path / "000000.tar") if what == "pipe" else (tmp_path / "000000.tar").mkdir()
    with pytest.raises(BadClip, match="not a plain file"):
        shards.read(0)


def test_more_shards_than_a_process_may_open(tmp_path: Path) -> None:
    rows = [ManifestRow(f"c{n}", SmallClip(n), 0, None, "train", None) for n in range(40)]
    pack(rows, tmp_path, PackOptions(codec="jpeg", size=16, crop="none", clips_per_shard=1), workers=0)
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    used = len(os.listdir("/proc/self/fd"))
    resource.setrlimit(resource.RLIMIT_NOFILE, (used + 20, hard))
    try:
        shards = ShardSet([str(tmp_path)])
        for _ in range(2):
            assert [shards.read(n).row.key for n in range(40)] == [row.key for row in shards.rows]
        shards.close()
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))

"""A .beton gives the batches of the shards it was made from, bit for bit; and says so where it cannot."""

from __future__ import annotations

import builtins
import math
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from rgb_reference import SmallClip, checker_masks

from cclslr.config import DataConfig, ViewConfig
from cclslr.data import beton
from cclslr.data.loader import Loader
from cclslr.data.plan import EvalPlan, Plan
from cclslr.distributed import Process
from cclslr.shards.format import BadClip, ManifestRow
from cclslr.shards.pack import PackOptions, pack
from cclslr.shards.parts import ClipData, encode_masks
from cclslr.shards.reader import PARTS, ShardSet

READ = ShardSet.read
VIEWS = ViewConfig(rgb_frames=4, pose_frames=6, size=32, mask_alpha=0.5)


def _pack(out: Path, codec: str, num: int = 10, name: str = "clip") -> Path:
    clips = [SmallClip(i, frames=8 + i % 5, size=(64, 64)) for i in range(num)]
    rows = [
        ManifestRow(f"{name}{i}", clip, i % 3, None, "train" if i % 4 else "val", None) for i, clip in enumerate(clips)
    ]
    pack(rows, out, PackOptions(codec=codec, size=64, crop="none", clips_per_shard=4))
    return out


@pytest.fixture(scope="module", autouse=True)
def masks() -> Iterator[None]:
    """Every second clip comes with masks."""
    read = ShardSet.read

    def read_with_masks(
        self: ShardSet, clip_id: int, parts: tuple[str, ...] = PARTS, least: float = math.inf
    ) -> ClipData:
        clip = read(self, clip_id, parts, least)
        if "mask" in parts and int(clip.row.key[-1]) % 2:
            clip.mask_png = encode_masks(checker_masks(np.empty(clip.row.num_frames), None))
        return clip

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ShardSet, "read", read_with_masks)
        yield


@pytest.fixture(scope="module")
def jpeg(tmp_path_factory: pytest.TempPathFactory) -> Path:
    pytest.importorskip("ffcv", reason="FFCV is not installed")
    folder = _pack(tmp_path_factory.mktemp("beton") / "jpeg", "jpeg")
    beton.write_beton(folder, workers=2)
    return folder


def _loader(folder: Path, backend: str, split: str | None = "train", augment: bool = True) -> Loader:
    shards = ShardSet([str(folder)], split)
    cfg = DataConfig(shards=[str(folder)], backend=backend, device="cpu", max_bad_share=0.9)
    plan = Plan(len(shards), 4, seed=3) if augment else EvalPlan(len(shards), 4)
    process = Process(0, 1, torch.device("cpu"))
    return Loader(cfg, VIEWS, shards, plan, process, ["rgb", "pose"], 3, augment)


def test_batches_are_those_of_the_shards(jpeg: Path) -> None:
    with _loader(jpeg, "ffcv").start() as mine, _loader(jpeg, "numba").start() as other:
        for _ in range(5):
            a, b = next(mine), next(other)
            assert (a.clip_ids_B == b.clip_ids_B).all()
            assert (a.labels_B == b.labels_B).all()
            assert (a.rgb_VBTHWC == b.rgb_VBTHWC).all()
            assert (a.pose_VBTJC == b.pose_VBTJC).all()
            assert a.rgb_VBTHWC.float().std() > 10


def test_every_clip_comes_back_whole(jpeg: Path) -> None:
    shards = ShardSet([str(jpeg)], "val")
    mine = beton.BetonSet(shards)
    assert len(mine) == len(shards) == 3
    for clip_id in range(len(shards)):
        a, b = mine.read(clip_id), shards.read(clip_id)
        assert bytes(a.video) == b.video
        assert a.row.frame_offsets == b.row.frame_offsets
        np.testing.assert_array_equal(a.pose_TKC, b.pose_TKC)
        np.testing.assert_array_equal(a.masks_THW, b.masks_THW)
        only = mine.read(clip_id, ("pose",))
        assert only.video is None
        assert only.mask_png is None
        assert only.pose_TKC is not None


def test_video_becomes_jpeg(tmp_path: Path, jpeg: Path) -> None:
    folder = _pack(tmp_path / "h264", "h264")
    path = beton.write_beton(folder, quality=95)
    assert path == folder / beton.BETON_NAME
    assert sorted(p.name for p in folder.iterdir() if "beton" in p.name) == [beton.BETON_NAME]
    with (
        _loader(folder, "ffcv", augment=False).start() as mine,
        _loader(folder, "numba", augment=False).start() as other,
    ):
        for a, b in zip(mine, other, strict=True):
            difference = (a.rgb_VBTHWC.int() - b.rgb_VBTHWC.int()).abs().float()
            assert difference.mean() < 2.5  # JPEG again, and two ways to place chroma
            assert difference.quantile(0.99) <= 10


def test_ffcv_itself_reads_the_file(jpeg: Path) -> None:
    from ffcv.fields.decoders import IntDecoder
    from ffcv.loader import Loader as FFCVLoader
    from ffcv.loader import OrderOption

    fields: dict[str, Any] = dict.fromkeys(("video", "offsets", "pose", "mask", "key", "crc32"))
    loader = FFCVLoader(
        str(jpeg / beton.BETON_NAME), 10, 1, order=OrderOption.SEQUENTIAL, pipelines={**fields, "label": [IntDecoder()]}
    )
    ((labels,),) = list(loader)
    assert labels[:, 0].tolist() == [row.label for row in ShardSet([str(jpeg)]).rows]


def test_a_damaged_clip_is_named_and_replaced(tmp_path: Path, jpeg: Path) -> None:
    folder = tmp_path / "damaged"
    shutil.copytree(jpeg, folder)
    shards = ShardSet([str(folder)], "train")
    victim = beton.BetonSet(shards).read(2)
    data = bytearray((folder / beton.BETON_NAME).read_bytes())
    data[data.find(bytes(victim.video)) + 300] ^= 255
    (folder / beton.BETON_NAME).write_bytes(data)
    with pytest.raises(BadClip, match=rf"{beton.BETON_NAME}: clip {shards.rows[2].key} is damaged"):
        beton.BetonSet(shards).read(2)
    with _loader(folder, "ffcv").start() as loader:
        seen = [clip_id for _ in range(4) for clip_id in next(loader).clip_ids_B.tolist()]
    assert 2 not in seen
    assert list(loader.quarantine.reasons) == [2]


def test_check_looks_into_the_beton(tmp_path: Path, jpeg: Path) -> None:
    folder = tmp_path / "set"
    shutil.copytree(jpeg, folder)
    whole = (folder / beton.BETON_NAME).read_bytes()
    with pytest.MonkeyPatch.context() as patch:  # without the masks that only this module's reader adds
        patch.setattr(beton.ShardSet, "read", READ)
        beton.write_beton(folder)
        assert beton.check_beton(folder) == []
        data = bytearray((folder / beton.BETON_NAME).read_bytes())
        victim = beton.BetonSet(ShardSet([str(folder)])).read(2)
        data[data.find(bytes(victim.video)) + 300] ^= 255
        (folder / beton.BETON_NAME).write_bytes(data)
        (fault,) = beton.check_beton(folder)
        assert (fault.shard, fault.key) == (beton.BETON_NAME, victim.row.key)
        (folder / beton.BETON_NAME).write_bytes(whole)  # has masks, the shards have none
        assert all("cclslr beton" in fault.what for fault in beton.check_beton(folder))
        assert len(beton.check_beton(folder)) == 5
        for rest in (b"", whole[:100], whole[: len(whole) // 2]):
            (folder / beton.BETON_NAME).write_bytes(rest)
            assert beton.check_beton(folder)


def test_a_damaged_shard_makes_no_beton(tmp_path: Path, jpeg: Path) -> None:
    folder = _pack(tmp_path / "shards", "jpeg", num=3)
    (tar,) = folder.glob("*.tar")
    data = bytearray(tar.read_bytes())
    row = ShardSet([str(folder)]).rows[1]
    data[row.components["mjpg"].offset + 9] ^= 1
    tar.write_bytes(data)
    with pytest.raises(ValueError, match=f"1 clips do not decode .{row.key}"):
        beton.write_beton(folder)
    assert not [p for p in folder.iterdir() if "beton" in p.name]


def test_errors_say_what_to_do(tmp_path: Path, jpeg: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = _pack(tmp_path / "plain", "jpeg", num=3, name="other")
    with pytest.raises(ValueError, match=r"run cclslr beton \S+/plain"):
        beton.BetonSet(ShardSet([str(folder)]))
    shutil.copy(jpeg / beton.BETON_NAME, folder)
    with pytest.raises(ValueError, match=r"lacks clip other\d: run cclslr"):
        beton.BetonSet(ShardSet([str(folder)]))
    real_import = builtins.__import__

    def without_ffcv(name: str, *arguments: Any, **options: Any) -> Any:
        if name.split(".")[0] == "ffcv":
            raise ImportError("No module named 'ffcv'")
        return real_import(name, *arguments, **options)

    monkeypatch.setattr(builtins, "__import__", without_ffcv)
    with pytest.raises(ValueError, match=r"FFCV is not installed: .* data.backend=numba"):
        beton.BetonSet(ShardSet([str(jpeg)]))

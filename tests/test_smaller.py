"""Videos in several sizes in one data set: what is written, what is read of it, and that views are the same."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
import shutil
from collections.abc import Callable
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch
from packing import contents
from rgb_reference import checker_masks, smooth_frames

from cclslr.codecs import codec_named
from cclslr.commands import describe
from cclslr.commands.pack import main
from cclslr.config import DataConfig, ViewConfig
from cclslr.data import beton
from cclslr.data.batch import Batch
from cclslr.data.loader import Loader
from cclslr.data.plan import EvalPlan, Plan
from cclslr.data.views import least_side
from cclslr.distributed import Process
from cclslr.errors import UserError
from cclslr.inspect.page import summarise
from cclslr.masking.methods import MpmOptions
from cclslr.masking.rewrite import make_masks
from cclslr.masking.settings import MaskSettings
from cclslr.shards import reader
from cclslr.shards.deal import fingerprint_of
from cclslr.shards.format import ManifestRow, RawClip, part_of, scaled, side_of
from cclslr.shards.index import INDEX_NAME, write_index
from cclslr.shards.info import INFO_NAME, load_info
from cclslr.shards.pack import PackOptions, finish, pack
from cclslr.shards.parts import ClipData, encode_masks
from cclslr.shards.reader import ShardSet
from cclslr.shards.reshard import reshard
from cclslr.shards.verify import check_shard, plan_checks
from cclslr.shards.writer import PackedClip, ShardFile, open_shard

VIEWS = ViewConfig(rgb_frames=4, pose_frames=6, size=64, mask_alpha=0.5, area=(0.5, 1.0))
ALONE = Process(0, 1, torch.device("cpu"))
Folders = Callable[..., Path]


@dataclasses.dataclass(frozen=True)
class Wide:
    """A clip of 240x180 pixels; every third is of poses alone where `bare` says so."""

    number: int
    bare: bool = False

    def load(self) -> RawClip:
        num = 8 + self.number % 5
        rng = np.random.default_rng(self.number)
        pose_TKC = rng.uniform(20, 160, (num, 133, 3)).astype(np.float32)
        pose_TKC[..., 2] = 0.9
        frames_THWC = None if self.bare and self.number % 3 == 0 else smooth_frames(num, 240, 180, self.number)
        return RawClip(frames_THWC, pose_TKC, 25.0)


def options(codec: str = "jpeg", smaller: tuple[int, ...] = (80,), **more: object) -> PackOptions:
    return dataclasses.replace(PackOptions(codec, 160, "none", clips_per_shard=5, smaller=smaller), **more)  # type: ignore[arg-type]


def clips(bare: bool = False) -> list[ManifestRow]:
    return [ManifestRow(f"c{n:02}", Wide(n, bare), n % 3, None, "train", None) for n in range(10)]


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> Folders:
    """Packed sets by options, each packed once."""

    @cache
    def packed(codec: str = "jpeg", smaller: tuple[int, ...] = (80,), bare: bool = False) -> Path:
        out = tmp_path_factory.mktemp("set") / "set"
        pack(clips(bare), out, options(codec, smaller), workers=0)
        return out

    return packed


def faults(folder: Path, decode: bool = True) -> list[str]:
    tasks, found = plan_checks(folder, decode)
    return [str(fault) for fault in [*found, *(fault for task in tasks for fault in check_shard(task).faults)]]


def rewritten(folder: Path, out: Path, change: Callable[[dict[str, bytes]], dict[str, bytes]]) -> Path:
    """The set once more, its first clip with other components, whose checksums are right."""
    shards = ShardSet([str(folder)])
    out.mkdir()
    written: list[ShardFile] = []
    for name, clip_ids in shards.rows.by_shard():
        with open_shard(out, name) as (writer, shard):
            for clip_id in clip_ids.tolist():
                parts = shards.read_bytes(clip_id)
                row = dataclasses.replace(shards.rows[clip_id], shard="", components={})
                writer.add(PackedClip(row, change(parts) if clip_id == 0 else parts))
        written.append(shard)
    finish(out, written, shards.classes, dict(shards.info))
    return out


# What is written


def test_a_set_of_one_size_has_the_recipe_and_the_files_that_it_always_had(folders: Folders, tmp_path: Path) -> None:
    # As it was before there were smaller sizes.
    assert fingerprint_of([], [], PackOptions()) == "c83a1775c4622361f22dd0e0e677b57b897323e55eec7c9b7b17a434e44cde4a"
    assert fingerprint_of([], [], options(smaller=())) != fingerprint_of([], [], options())
    assert "smaller" not in json.loads((folders("jpeg", ()) / "dataset.json").read_text())
    assert {part_of(name) for row in ShardSet([str(folders("jpeg", ()))]).rows for name in row.components} == {
        "video", "pose", "json",
    }  # fmt: skip


@pytest.mark.parametrize("codec", ["jpeg", "h264", "hevc", "vp9", "av1"])
def test_every_video_is_there_in_each_size_and_shows_the_same(folders: Folders, codec: str) -> None:
    folder = folders(codec, (128, 80), bare=True)
    assert faults(folder) == []
    shards = ShardSet([str(folder)])
    assert shards.info["smaller"] == [128, 80]
    without = 0
    for clip_id, row in enumerate(shards.rows):
        sides = [side for name in row.components if (side := side_of(name)) is not None]
        assert sorted(sides) == ([80, 128] if row.has("video") else [])
        without += not sides
        if not sides:
            continue
        assert (row.width, row.height) == (214, 160)
        full_THWC = smooth_frames(row.num_frames, 214, 160, int(row.key[1:]))
        for side, width in ((128, 172), (80, 108)):
            clip = shards.read(clip_id, ("video",), side)
            assert clip.video is not None
            assert (clip.width, clip.height) == (width, side) == scaled(214, 160, side)
            frames_THWC = shards.codec(clip_id).decode(clip.video).astype(int)
            assert frames_THWC.shape == (row.num_frames, side, width, 3)
            y = ((np.arange(side) + 0.5) * 160 / side).astype(int)
            x = ((np.arange(width) + 0.5) * 214 / width).astype(int)
            assert np.abs(frames_THWC - full_THWC[:, y][:, :, x]).mean() < 6
    assert without == 4


def test_a_smaller_size_added_to_a_packed_set_changes_nothing_else(folders: Folders, tmp_path: Path) -> None:
    plain, together = folders("jpeg", ()), folders("jpeg", (128, 80))
    reshard([str(plain)], tmp_path / "one", 5, smaller=[80], workers=0)
    result = reshard([str(tmp_path / "one")], tmp_path / "two", 5, smaller=[128, 80], workers=0)
    assert result.info["smaller"] == [128, 80]
    assert faults(tmp_path / "two") == []
    before, after, anew = (ShardSet([str(folder)]) for folder in (plain, tmp_path / "two", together))
    for clip_id, row in enumerate(before.rows):
        old, new, direct = (shards.read_bytes(clip_id) for shards in (before, after, anew))
        assert {name: data for name, data in new.items() if side_of(name) is None} == old
        assert new["80.mjpg"] == ShardSet([str(tmp_path / "one")]).read_bytes(clip_id)["80.mjpg"]
        for name in ("128.mjpg", "80.mjpg"):  # from frames that JPEG has been over once more
            one, other = (codec_named("jpeg").decode(data[name]).astype(int) for data in (new, direct))
            assert np.abs(one - other).mean() < 2
        assert dataclasses.replace(after.rows[clip_id], components={}) == dataclasses.replace(row, components={})


def test_masks_leave_all_sizes_as_they_are(folders: Folders, tmp_path: Path) -> None:
    before, out = ShardSet([str(folders())]), Path(shutil.copytree(folders(), tmp_path / "set"))
    make_masks(out, MaskSettings(MpmOptions(method="temporal_std")), 0, ALONE)
    assert faults(out) == []
    after = ShardSet([str(out)])
    for clip_id in range(len(after)):
        old, new = before.read_bytes(clip_id), after.read_bytes(clip_id)
        assert new.keys() - old.keys() == {"mask.png"}
        assert all(new[name] == old[name] for name in ("80.mjpg", "mjpg", "pose.npy"))


def test_sets_of_other_sizes_do_not_become_one(folders: Folders, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"smaller=None.*with \[80\].*--smaller"):
        reshard([str(folders()), str(folders("jpeg", ()))], tmp_path / "out", 5, prefix=True)


@pytest.mark.parametrize(("wrong", "told"), [("160", "to 158"), ("41", "even numbers"), ("8", "from 16")])
def test_sizes_that_cannot_be_are_refused(folders: Folders, tmp_path: Path, wrong: str, told: str) -> None:
    with pytest.raises(UserError, match=told):
        main(["--from", str(folders("jpeg", ())), "--out", str(tmp_path / "out"), "--smaller", "64", wrong])
    assert not (tmp_path / "out").exists()
    with pytest.raises(UserError, match=told):
        main([*f"synthetic --size 160 --out {tmp_path / 'out'} --smaller".split(), wrong])


def test_the_command_tells_the_cost_and_new_clips_get_the_sizes(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def command(out: str, classes: int, *more: str) -> list[str]:
        words = f"synthetic --classes {classes} --clips-per-class 2 1 1 --size 48 --frames 8 8 --codec jpeg"
        return [*words.split(), "--out", str(tmp_path / out), *more]

    assert main(command("set", 3, "--smaller", "24", "32")) == 0
    shown = " ".join(capsys.readouterr().out.split())
    assert "frames of 32 pixels: 0.1 MB more, " in shown
    assert "frames of 24 pixels: 0.1 MB more, " in shown
    describe.main([str(tmp_path / "set")])
    rows = ShardSet([str(tmp_path / "set")]).rows
    small, full = (rows.bytes_by_component()[name] for name in ("24.mjpg", "mjpg"))
    assert f"- frames of 24 pixels: 0.1 MB more, {100 * small / full:.1f} %" in (tmp_path / "set/CARD.md").read_text()
    assert "jpeg, also in 32 pixels, also in 24 pixels. " in summarise(load_info(tmp_path / "set"))

    with pytest.raises(UserError, match="packed with --smaller 32 24, this command says --smaller 16"):
        main(command("set", 4, "--smaller", "16", "--add"))
    assert main(command("set", 4, "--add")) == 0
    assert main(command("anew", 4, "--smaller", "32", "24")) == 0
    added, anew = contents(tmp_path / "set"), contents(tmp_path / "anew")
    for name in anew:
        if name.endswith((".tar", ".idx", ".parquet")) and name != "sources.parquet":
            assert added[name] == anew[name], name
    assert json.loads(added["dataset.json"])["smaller"] == [32, 24]


# What is read


def test_the_smallest_size_that_serves_is_read(folders: Folders) -> None:
    shards = ShardSet([str(folders("h264", (128, 80)))])
    heights = {0: 80, 80: 80, 80.5: 128, 128: 128, 129: 160, 200: 160, math.inf: 160}
    assert {least: shards.read(0, least=least).height for least in heights} == heights
    clip = shards.read(0, least=0)
    assert (clip.row.width, clip.row.height) == (214, 160)  # poses and masks stay in these pixels
    assert np.array_equal(clip.pose_TKC, shards.read(0).pose_TKC)


def test_which_size_serves_which_views() -> None:
    """The examples of the docstring, at the paper's areas of crops; smaller crops need larger frames."""
    needs = {size: least_side(ViewConfig(size=size)) for size in (64, 112, 160, 224)}
    assert needs[64] < 80
    assert 112 < needs[112] <= 128
    assert 160 < needs[160] <= 192
    assert 192 < needs[224] <= 256
    assert least_side(ViewConfig(size=112, area=(0.08, 1.0))) > 128
    assert least_side(ViewConfig(size=112, area=(1.0, 1.0))) < 112


def test_what_is_not_wanted_is_not_read(folders: Folders, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a clip in two sizes the small one, mask and pose: not the full video that lies between."""
    monkeypatch.setattr(reader, "SKIP_BYTES", 4096)  # clips of tests are short
    shards = ShardSet([str(folders())])
    stretches = []
    read = type(shards._stores[0]).read

    def counted(store: object, shard: str, begin: int, block: memoryview) -> int:
        stretches.append((begin, begin + len(block)))
        return read(store, shard, begin, block)  # type: ignore[arg-type]

    monkeypatch.setattr(type(shards._stores[0]), "read", counted)
    row = shards.rows[3]
    clip = shards.read(3, ("video", "mask", "pose"), 80)
    small, pose, full = (row.components[name] for name in ("80.mjpg", "pose.npy", "mjpg"))
    assert stretches == [(part.offset, part.offset + part.size) for part in (small, pose)]
    assert bytes(clip.video or b"") == shards.read_bytes(3)["80.mjpg"]
    stretches.clear()
    shards.read(3, ("video", "pose"))
    assert stretches == [(full.offset, pose.offset + pose.size)]


# Views


def loader_of(*folders: Path, views: ViewConfig = VIEWS, augment: bool = True, **data: str) -> Loader:
    shards = ShardSet([str(folder) for folder in folders])
    cfg = DataConfig(shards=[str(folder) for folder in folders], **{"device": "cpu", **data})  # type: ignore[arg-type]
    plan = Plan(len(shards), 4, seed=3) if augment else EvalPlan(len(shards), 4)
    return Loader(cfg, views, shards, plan, ALONE, ["rgb", "pose"], 3, augment)


@pytest.fixture
def masks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Clips come with masks."""
    read = ShardSet.read

    def with_masks(
        self: ShardSet, clip_id: int, parts: tuple[str, ...] = reader.PARTS, least: float = math.inf
    ) -> ClipData:
        clip = read(self, clip_id, parts, least)
        clip.mask_png = encode_masks(checker_masks(np.empty(clip.row.num_frames), None)) if "mask" in parts else None
        return clip

    monkeypatch.setattr(ShardSet, "read", with_masks)


def batches(loader: Loader, count: int = 4) -> list[Batch]:
    with loader.start():
        return [next(loader) for _ in range(count)]


BACKENDS = [
    *((codec, "numba", "auto") for codec in ("jpeg", "h264", "hevc", "vp9", "av1")),
    ("jpeg", "dali", "dali"), ("h264", "dali", "libav"), ("av1", "dali", "libav"),
]  # fmt: skip


@pytest.mark.usefixtures("masks")
@pytest.mark.parametrize(("codec", "backend", "decode"), BACKENDS)
def test_views_are_those_of_the_full_size(folders: Folders, codec: str, backend: str, decode: str) -> None:
    """The same crop, mirrored and masked alike, of the same frames, in nearly the same colours; poses bit for bit."""
    if backend == "dali":
        pytest.importorskip("nvidia.dali")
    small, full = (
        batches(loader_of(folders(codec, smaller), backend=backend, decode=decode)) for smaller in ((80,), ())
    )
    for ours, theirs in zip(small, full, strict=True):
        assert torch.equal(ours.clip_ids_B, theirs.clip_ids_B)
        assert ours.pose_VBTJC is not None
        assert torch.equal(ours.pose_VBTJC, theirs.pose_VBTJC)  # type: ignore[arg-type]
        assert ours.rgb_VBTHWC is not None
        assert theirs.rgb_VBTHWC is not None
        difference = (ours.rgb_VBTHWC.float() - theirs.rgb_VBTHWC.float()).abs()
        assert 0 < difference.mean() < 6  # of 255; another size was read
        hidden_ours, hidden_theirs = ((views == 0).all(-1) for views in (ours.rgb_VBTHWC, theirs.rgb_VBTHWC))
        assert hidden_ours.any()
        assert (hidden_ours != hidden_theirs).float().mean() < 0.01


@pytest.mark.parametrize(("codec", "backend", "decode"), [BACKENDS[1], *BACKENDS[-3:-1]])
def test_a_batch_mixes_sets_with_and_without_the_size(folders: Folders, codec: str, backend: str, decode: str) -> None:
    """Each clip is the same in a batch with clips of either kind."""
    if backend == "dali":
        pytest.importorskip("nvidia.dali")
    small, full = (folders(codec, smaller) for smaller in ((80,), ()))

    def read(*sets: Path) -> list[Batch]:
        views = dataclasses.replace(VIEWS, mask_alpha=0.0)
        return batches(loader_of(*sets, views=views, backend=backend, decode=decode))

    mixed, alone, plain = read(small, full), read(small, small), read(full, full)
    seen = set()
    for batch, of_small, of_full in zip(mixed, alone, plain, strict=True):
        for b, clip_id in enumerate(batch.clip_ids_B.tolist()):
            seen.add(clip_id < 10)
            expected = (of_small if clip_id < 10 else of_full).rgb_VBTHWC
            assert torch.equal(batch.rgb_VBTHWC[:, b], expected[:, b])  # type: ignore[index]
    assert seen == {True, False}


def test_evaluation_reads_the_full_size(folders: Folders) -> None:
    small, full = (batches(loader_of(folders("jpeg", sizes), augment=False), 3) for sizes in ((80,), ()))
    for ours, theirs in zip(small, full, strict=True):
        assert torch.equal(ours.rgb_VBTHWC, theirs.rgb_VBTHWC)  # type: ignore[arg-type]


@pytest.mark.usefixtures("masks")
@pytest.mark.parametrize("codec", ["jpeg", "h264"])
def test_a_beton_holds_all_sizes(tmp_path: Path, codec: str) -> None:
    pytest.importorskip("ffcv", reason="FFCV is not installed")
    folder = tmp_path / "set"
    pack(clips(), folder, options(codec, (128, 80)), workers=0)
    beton.write_beton(folder)
    assert beton.check_beton(folder) == []
    mine, shards = beton.BetonSet(ShardSet([str(folder)])), ShardSet([str(folder)])
    for least, height in ((0, 80), (81, 128), (129, 160)):
        clip, packed = mine.read(3, least=least), shards.read(3, least=least)
        assert clip.height == packed.height == height
        assert len(clip.frame_offsets) == clip.row.num_frames + 1
    ours, theirs = (batches(loader_of(folder, backend=backend)) for backend in ("ffcv", "numba"))
    for one, other in zip(ours, theirs, strict=True):
        assert torch.equal(one.pose_VBTJC, other.pose_VBTJC)  # type: ignore[arg-type]
        assert one.rgb_VBTHWC is not None
        if codec == "jpeg":
            assert torch.equal(one.rgb_VBTHWC, other.rgb_VBTHWC)  # type: ignore[arg-type]
        else:
            assert (one.rgb_VBTHWC.float() - other.rgb_VBTHWC.float()).abs().mean() < 6


def test_a_beton_without_the_smaller_size_is_refused_before_the_first_step(tmp_path: Path) -> None:
    pytest.importorskip("ffcv", reason="FFCV is not installed")
    plain = tmp_path / "plain"
    pack(clips(), plain, options(smaller=()), workers=0)
    beton.write_beton(plain)
    reshard([str(plain)], tmp_path / "set", 5, smaller=[80], workers=0)
    (tmp_path / "set" / beton.BETON_NAME).write_bytes((plain / beton.BETON_NAME).read_bytes())
    with pytest.raises(UserError, match=r"dataset.beton lacks the frames of 80 pixels: run cclslr beton"):
        loader_of(tmp_path / "set", backend="ffcv")


# Damage


def test_damage_of_a_smaller_size_is_found_and_its_clip_left_out(tmp_path: Path) -> None:
    folder = tmp_path / "set"
    pack(clips(), folder, options(), workers=0)
    whole = contents(folder)
    row = ShardSet([str(folder)]).rows[0]
    data = bytearray(whole[row.shard])
    data[row.components["80.mjpg"].offset + 200] ^= 4
    (folder / row.shard).write_bytes(data)
    assert any(f"key='{row.key}', what='80.mjpg: the checksum differs'" in fault for fault in faults(folder, False))
    loader = loader_of(folder, max_bad_share=0.5)  # type: ignore[arg-type]
    assert not any(0 in batch.clip_ids_B for batch in batches(loader, 6))
    (reason,) = loader.quarantine.reasons.values()
    assert f"clip {row.key}: 80.mjpg: the checksum or length differs" in reason
    assert ShardSet([str(folder)]).read(0).video  # the full size is whole, and evaluation reads it
    pack(clips(), folder, options(), workers=0)  # once more: mended
    assert contents(folder) == whole


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (lambda parts: {n: d for n, d in parts.items() if n != "80.mjpg"}, "80.mjpg: not as dataset.json says"),
        (lambda parts: {**parts, "32.mjpg": parts["80.mjpg"]}, "32.mjpg: not as dataset.json says"),
        (lambda parts: {**parts, "80.mjpg": parts["mjpg"]}, "frames (12, 160, 214, 3), expected (12, 80, 108, 3)"),
        (lambda parts: {**parts, "80.mjpg": parts["80.mjpg"][:-900]}, "80.mjpg: "),
    ],
)  # fmt: skip
def test_a_smaller_size_that_is_another_is_found(folders: Folders, tmp_path: Path, change, told: str) -> None:
    folder = rewritten(folders(), tmp_path / "out", change)
    assert any(told in fault for fault in faults(folder)), faults(folder)
    if "frames" in told:  # readers do not believe the name: the clip is put aside
        loader = loader_of(folder, max_bad_share=0.5)  # type: ignore[arg-type]
        assert not any(0 in batch.clip_ids_B for batch in batches(loader, 6))
        assert "not a 4:2:0 image of 108x80" in loader.quarantine.reasons[0]


def test_a_smaller_size_beside_no_video_is_found_and_not_read(folders: Folders, tmp_path: Path) -> None:
    """Sizes are divided by those of the frames, which are 0 then."""
    out = tmp_path / "out"
    shards = ShardSet([str(folders("jpeg", (80,), bare=True))])
    bare, full = (next(n for n, row in enumerate(shards.rows) if row.has("video") is has) for has in (False, True))
    shutil.copytree(folders("jpeg", (80,), bare=True), out)
    rows, stolen = list(shards.rows), shards.rows[full].components["80.mjpg"]
    rows[bare] = dataclasses.replace(rows[bare], shard=rows[full].shard, components={"80.mjpg": stolen})
    write_index(out / INDEX_NAME, rows)
    info = json.loads((out / INFO_NAME).read_text())
    info["index_sha256"] = hashlib.sha256((out / INDEX_NAME).read_bytes()).hexdigest()
    (out / INFO_NAME).write_text(json.dumps(info))
    found = [fault for fault in faults(out) if f"key='{rows[bare].key}'" in fault]
    assert [fault.partition("what='")[2] for fault in found] == ["80.mjpg: not as dataset.json says of smaller sizes')"]
    assert ShardSet([str(out)]).read(bare, ("video",), 0).video is None

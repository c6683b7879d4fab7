"""Masks in packed data sets: what is written, what survives a kill, what is refused."""

from __future__ import annotations

import dataclasses
import hashlib
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from clusters import cluster

from cclslr.codecs import codec_named
from cclslr.codecs.jpeg import Jpeg
from cclslr.commands.masks import main as command
from cclslr.errors import UserError
from cclslr.files import read_json, write_json
from cclslr.masking import rewrite
from cclslr.masking.architecture import flow_config
from cclslr.masking.flow import Flow, FlowCard, load_flow, save_flow
from cclslr.masking.methods import MpmOptions, motion_alone, motion_mask
from cclslr.masking.options import DEFAULT_FLOW, subnet_dtype
from cclslr.masking.required import require_masks
from cclslr.masking.rewrite import make_masks
from cclslr.masking.settings import MaskSettings
from cclslr.shards.clip import PackOptions
from cclslr.shards.format import BadClip, ManifestRow, RawClip
from cclslr.shards.index import read_index, rows_of, shard_tables, write_index
from cclslr.shards.pack import finish, pack
from cclslr.shards.reader import ShardSet

ALONE = rewrite.Process(0, 1, torch.device("cpu"))
STD = MaskSettings(MpmOptions(method="temporal_std"))


@dataclasses.dataclass(frozen=True)
class Square:
    """A bright square that crosses a textured frame; clip 0 stands still, the last has only a pose."""

    index: int
    last: int

    def load(self) -> RawClip:
        rng = np.random.default_rng(self.index)
        keypoints = rng.uniform(0, 64, (9, 133, 3)).astype(np.float32)
        if self.index == self.last:
            return RawClip(None, keypoints, 25.0)
        frames = np.repeat(rng.integers(100, 120, (1, 64, 64, 3)).astype(np.uint8), 9, 0)
        for t in range(9):
            x = 10 if self.index == 0 else 5 * t
            frames[t, 20:36, x : x + 16] = 250
        return RawClip(frames, keypoints, 25.0, {"index": self.index})


@pytest.fixture(scope="module")
def packed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Ten clips in four shards, without masks."""
    out = tmp_path_factory.mktemp("packed")
    rows = [ManifestRow(f"c{i}", Square(i, 9), i % 3, f"sign {i % 3}", "train", "s0") for i in range(10)]
    pack(rows, out, PackOptions(codec="jpeg", size=64, crop="none", quality=95, clips_per_shard=3), workers=0)
    return out


@pytest.fixture
def shards(packed: Path, tmp_path: Path) -> Path:
    """A copy to write to."""
    return Path(shutil.copytree(packed, tmp_path / "set"))


@pytest.fixture(scope="module")
def flow_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.set_num_threads(1)
    torch.manual_seed(0)
    flow = Flow(flow_config("tiny", 32), FlowCard("trained"))
    flow.normalise_to(0.5 + 0.1 * torch.randn(64, 3, 32, 32))
    path = tmp_path_factory.mktemp("flow") / "flow.safetensors"
    save_flow(flow, path)
    return path


def contents(folder: Path) -> dict[str, Any]:
    """Everything but masks that a reader gets from a data set, by key."""
    found, shards = {}, ShardSet([str(folder)])
    for clip_id, row in enumerate(shards.rows):
        clip = shards.read(clip_id)
        meta = {name: value for name, value in clip.meta.items() if name != "mask"}
        pose = None if clip.pose_TKC is None else clip.pose_TKC.tobytes()
        found[row.key] = (clip.video, pose, meta, row.label, row.split, row.frame_offsets, row.num_frames)
    return found


def masks_of(folder: Path) -> dict[str, bytes | None]:
    shards = ShardSet([str(folder)])
    return {row.key: shards.read(i).mask_png for i, row in enumerate(shards.rows)}


def tars(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir() if path.suffix in (".tar", ".idx"))


def test_every_clip_gets_the_mask_of_its_packed_frames(packed: Path, shards: Path, flow_path: Path) -> None:
    settings = MaskSettings(motion_alone(), str(flow_path))
    masks = make_masks(shards, settings, 0, ALONE)
    flow, done = load_flow(flow_path), ShardSet([str(shards)])
    assert contents(shards) == contents(packed)
    for clip_id, row in enumerate(done.rows):
        clip = done.read(clip_id)
        if clip.video is None:
            assert clip.masks_THW is None
            assert "mask" not in clip.meta
            continue
        frames = codec_named("jpeg").decode(clip.video)
        expected, report = motion_mask(frames, motion_alone(), flow)
        assert clip.masks_THW is not None
        assert clip.masks_THW.shape == (9, 64, 64)
        assert (clip.masks_THW != expected).mean() < 1e-3  # sums are taken in another order
        record = clip.meta["mask"]
        assert record["flow"]["sha256"] == flow.card.sha256
        assert record["options"] == dataclasses.asdict(motion_alone())
        assert record["recipe"] == settings.recipe() == masks["recipe"]
        assert record["degenerate"] == report.degenerate
        assert (row.key == "c0") == (report.degenerate is not None)
    info = read_json(shards / "dataset.json")
    assert info["masks"] == masks
    assert masks["complete"]
    assert masks["totals"]["clips"] == 9
    assert masks["totals"]["without_video"] == 1
    assert masks["totals"]["degenerate"] == {"everything static": 1}
    assert info["content_hash"] != read_json(packed / "dataset.json")["content_hash"]
    assert {entry["name"] for entry in info["shards"]} == {row.shard for row in done.rows}
    assert len(tars(shards)) == len(tars(packed))
    assert not (shards / ".masks").exists()


def test_the_same_masks_are_not_made_twice_and_others_replace_them(shards: Path) -> None:
    make_masks(shards, STD, 0, ALONE)
    first, names = masks_of(shards), tars(shards)
    times = {path.name: path.stat().st_mtime_ns for path in shards.iterdir()}
    again = make_masks(shards, STD, 0, ALONE)
    assert again["totals"]["clips"] == 9
    assert {path.name: path.stat().st_mtime_ns for path in shards.iterdir() if path.name in times} == times
    discs = MaskSettings(MpmOptions(method="pose_discs"))
    assert make_masks(shards, discs, 0, ALONE)["totals"]["clips"] == 9
    assert masks_of(shards) != first
    assert len(tars(shards)) == len(names)
    make_masks(shards, STD, 0, ALONE)
    assert masks_of(shards) == first
    assert tars(shards) == names


class Killed(BaseException):
    pass


@pytest.mark.parametrize("shards_before_kill", [0, 1, 3])
def test_a_killed_run_goes_on(
    packed: Path, shards: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, shards_before_kill: int
) -> None:
    whole = Path(shutil.copytree(packed, tmp_path / "whole"))
    make_masks(whole, STD, 0, ALONE)
    made: list[str] = []
    real = rewrite.mask_shard

    def dying(task: rewrite.MaskTask) -> str:
        if len(made) == shards_before_kill:
            raise Killed
        made.append(task.name)
        return real(task)

    monkeypatch.setattr(rewrite, "mask_shard", dying)
    with pytest.raises(Killed):
        make_masks(shards, STD, 0, ALONE)
    assert contents(shards) == contents(packed)  # readable all the time
    again: list[str] = []
    monkeypatch.setattr(rewrite, "mask_shard", lambda task: again.append(task.name) or real(task))
    make_masks(shards, STD, 0, ALONE)
    assert len(again) == len(tars(packed)) // 2 - shards_before_kill
    assert not set(again) & set(made)
    assert read_json(shards / "dataset.json") == read_json(whole / "dataset.json")
    assert tars(shards) == tars(whole)
    assert masks_of(shards) == masks_of(whole)


@pytest.mark.parametrize("moment", range(4))
def test_a_kill_during_the_exchange_is_made_good(
    packed: Path, shards: Path, monkeypatch: pytest.MonkeyPatch, moment: int
) -> None:
    """The renames of a commit: the pair gets ready, index.parquet, dataset.json; then the old shards go."""
    real_replace, real_unlink, count = os.replace, Path.unlink, [0]

    def dying(function: Callable[..., None], only: Callable[[Any], bool]) -> Callable[..., None]:
        def call(first: Any, *args: Any, **kwargs: Any) -> None:
            if only(first):
                if count[0] == moment:
                    raise Killed
                count[0] += 1
            function(first, *args, **kwargs)

        return call

    is_exchange = lambda path: rewrite.PARTS_NAME in str(path) and Path(path).name in (  # noqa: E731
        "written", "index.parquet", "dataset.json",
    )  # fmt: skip
    monkeypatch.setattr(rewrite.os, "replace", dying(real_replace, is_exchange))
    monkeypatch.setattr(
        Path, "unlink", dying(real_unlink, lambda path: path.suffix == ".tar" and ".tmp" not in path.name)
    )
    with pytest.raises(Killed):
        make_masks(shards, STD, 0, ALONE)
    monkeypatch.undo()
    make_masks(shards, STD, 0, ALONE)
    assert contents(shards) == contents(packed)
    assert read_json(shards / "dataset.json")["masks"]["complete"]
    assert read_json(shards / "dataset.json")["masks"]["totals"]["clips"] == 9
    assert len(tars(shards)) == len(tars(packed))
    assert all(rewrite.suffix(STD.recipe()) in name for name in tars(shards))
    assert not (shards / ".masks").exists()


KILLED_EVERYWHERE = """
import os, shutil, signal, sys
from pathlib import Path
import torch
from cclslr.masking.methods import MpmOptions
from cclslr.masking import rewrite
from cclslr.masking.settings import MaskSettings
from cclslr.distributed import Process

packed, out = Path(sys.argv[1]), Path(sys.argv[2])
CALLS = ("fsync", "replace", "unlink", "rmdir", "mkdir")  # a kill before each of them, and between any two

def run(folder, moment):
    # In a process of its own, which kills itself when it is about to make call number `moment`.
    child = os.fork()
    if child:
        return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    count = [0]
    def dying(call):
        def wrapped(*arguments, **options):
            if count[0] == moment:
                os.kill(os.getpid(), signal.SIGKILL)
            count[0] += 1
            return call(*arguments, **options)
        return wrapped
    for name in CALLS:
        setattr(os, name, dying(getattr(os, name)))
    torch.set_num_threads(1)
    if moment is None:
        rewrite.commit = lambda *arguments: os._exit(0)
    rewrite.make_masks(folder, MaskSettings(MpmOptions(method="temporal_std")), 0, Process(0, 1, torch.device("cpu")))
    os._exit(0)

def names(folder):
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*"))

assert run(packed, None) == 0  # all masks are made, none is in the index
whole = Path(shutil.copytree(packed, out / "whole"))
assert run(whole, -1) == 0
moment = 0
while True:
    folder = Path(shutil.copytree(packed, out / str(moment)))
    code = run(folder, moment)
    if code == 0:
        break
    assert code == -signal.SIGKILL, code
    assert run(folder, -1) == 0, f"stuck after a kill at {moment}"
    for name in ("dataset.json", "index.parquet"):
        assert (folder / name).read_bytes() == (whole / name).read_bytes(), (moment, name)
    assert names(folder) == names(whole), (moment, names(folder))
    shutil.rmtree(folder)
    moment += 1
print("kills:", moment)
"""


def test_a_commit_killed_before_any_call_that_changes_files(tmp_path: Path) -> None:
    """Real processes, killed by SIGKILL before each fsync, rename and removal in turn; the next run makes it good."""
    rows = [ManifestRow(f"c{i}", Square(i, 9), 0, "sign", "train", None) for i in range(4)]
    pack(rows, tmp_path / "packed", PackOptions(size=64, crop="none", clips_per_shard=2), workers=0)
    (tmp_path / "packed" / ".lock").unlink(missing_ok=True)
    script = [sys.executable, "-c", KILLED_EVERYWHERE, str(tmp_path / "packed"), str(tmp_path)]
    done = subprocess.run(script, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout.rpartition("kills: ")[2]) > 15


@pytest.mark.parametrize("where", ["index", "dataset.json", ".masks"])
def test_names_that_lead_out_of_the_folder_are_refused(shards: Path, tmp_path: Path, where: str) -> None:
    victim = tmp_path / "victim.tar"
    victim.write_bytes((shards / "shard-00000.tar").read_bytes())
    info = read_json(shards / "dataset.json")
    if where == "index":
        rows = read_index(shards / "index.parquet")
        write_index(shards / "index.parquet", [dataclasses.replace(row, shard="../victim.tar") for row in rows])
        info["index_sha256"] = hashlib.sha256((shards / "index.parquet").read_bytes()).hexdigest()
    elif where == "dataset.json":
        info["shards"][0]["name"] = "../victim.tar"
    else:
        part = {"old_name": "../victim.tar", "bytes": 0, "sha256": "", "index_sha256": "", "totals": {}}
        write_json(shards / ".masks" / f"x{rewrite.suffix(STD.recipe())}.json", part)
    write_json(shards / "dataset.json", info)
    before = victim.read_bytes()
    with pytest.raises(UserError, match=r"'\.\./victim\.tar'"):
        make_masks(shards, STD, 0, ALONE)
    assert victim.read_bytes() == before
    assert {path.name for path in tmp_path.iterdir()} == {"victim.tar", "set"}


def test_rows_of_a_shard_that_do_not_lie_together_are_refused(shards: Path) -> None:
    """The index is read and written a shard at a time."""
    rows, info = read_index(shards / "index.parquet"), read_json(shards / "dataset.json")
    write_index(shards / "index.parquet", rows[1::2] + rows[::2])
    info["index_sha256"] = hashlib.sha256((shards / "index.parquet").read_bytes()).hexdigest()
    write_json(shards / "dataset.json", info)
    before = tars(shards)
    with pytest.raises(UserError, match=r"the rows of shard-\d+\.tar do not lie together; cclslr pack --from mends it"):
        make_masks(shards, STD, 0, ALONE)
    assert tars(shards) == before


def test_a_shard_at_a_time_is_what_the_index_says(shards: Path) -> None:
    rows, info = read_index(shards / "index.parquet"), read_json(shards / "dataset.json")
    found = [(name, rows_of(table)) for name, table in shard_tables(shards / "index.parquet", info["index_sha256"])]
    assert [name for name, _ in found] == [entry["name"] for entry in info["shards"]]
    assert [row for _, part in found for row in part] == rows
    planned = rewrite.plan(shards, STD, STD.recipe())
    assert planned.sizes == [len(part) for _, part in found]
    assert [rows_of(task.rows) for task in planned] == [part for _, part in found]


def test_a_shard_that_another_worker_has_done_is_left_alone(packed: Path, shards: Path) -> None:
    """A worker that was thought to be dead may end its task, which is then handed out a second time."""
    late = list(rewrite.plan(shards, STD, STD.recipe()))
    make_masks(shards, STD, 0, ALONE)
    before = {path.name: path.read_bytes() for path in shards.iterdir()}
    assert [rewrite.mask_shard(task) for task in late] == [task.name for task in late]
    assert {path.name: path.read_bytes() for path in shards.iterdir()} == before


def test_a_set_without_clips_is_refused(shards: Path) -> None:
    pack_info = read_json(shards / "dataset.json")
    finish(shards, [], [], {"masks": None, "codec": "jpeg", "size": 64, "crop": "none", "quality": 95})
    assert read_json(shards / "dataset.json")["clips"] != pack_info["clips"]
    with pytest.raises(UserError, match="holds no clip"):
        make_masks(shards, STD, 0, ALONE)


def test_committing_after_every_shard_changes_nothing(
    packed: Path, shards: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = Path(shutil.copytree(packed, tmp_path / "whole"))
    make_masks(whole, STD, 0, ALONE)
    monkeypatch.setattr(rewrite, "COMMIT_EVERY", -1.0)
    masks = make_masks(shards, STD, 0, ALONE)
    assert masks["totals"]["clips"] == 9
    assert read_json(shards / "dataset.json") == read_json(whole / "dataset.json")
    assert masks_of(shards) == masks_of(whole)
    assert tars(shards) == tars(whole)
    assert not (shards / ".masks").exists()


def test_two_ranks_share_the_shards(packed: Path, shards: Path, tmp_path: Path) -> None:
    whole = Path(shutil.copytree(packed, tmp_path / "whole"))
    make_masks(whole, STD, 0, ALONE)

    class Apart(rewrite.Process):
        def gather_objects(self, value: Any) -> list[Any]:
            return [value]  # nobody to wait for: the test runs one after the other

    assert make_masks(shards, STD, 0, Apart(1, 2, torch.device("cpu"))) == {}
    assert contents(shards) == contents(packed)
    make_masks(shards, STD, 0, Apart(0, 2, torch.device("cpu")))
    assert read_json(shards / "dataset.json") == read_json(whole / "dataset.json")
    assert masks_of(shards) == masks_of(whole)


def test_processes_give_the_same_bytes(packed: Path, shards: Path, tmp_path: Path) -> None:
    whole = Path(shutil.copytree(packed, tmp_path / "whole"))
    make_masks(whole, STD, 0, ALONE)
    make_masks(shards, STD, 2, ALONE)
    assert read_json(shards / "dataset.json") == read_json(whole / "dataset.json")


@pytest.mark.parametrize("dies", ["a worker", "the tool"])
def test_a_cluster_gives_the_same_bytes_whoever_dies(packed: Path, shards: Path, tmp_path: Path, dies: str) -> None:
    whole = Path(shutil.copytree(packed, tmp_path / "whole"))
    make_masks(whole, STD, 0, ALONE)
    run = [sys.executable, "-m", "cclslr", "masks", str(shards), "--method", "temporal_std"]
    with cluster(2) as (address, workers):
        tool = subprocess.Popen([*run, "--scheduler", address], stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
        while not list(shards.glob("*-m????????.tar")) and tool.poll() is None:
            time.sleep(0.005)
        (tool if dies == "the tool" else workers[0]).kill()
        output, _ = tool.communicate(timeout=120)
    if dies == "the tool":
        assert tool.returncode != 0
        assert contents(shards) == contents(packed)
        subprocess.run([*run, "--workers", "1"], check=True, capture_output=True)
    else:
        assert tool.returncode == 0, output
    assert read_json(shards / "dataset.json") == read_json(whole / "dataset.json")
    assert masks_of(shards) == masks_of(whole)
    assert tars(shards) == tars(whole)


def test_a_damaged_clip_stops_with_its_name(shards: Path) -> None:
    row = ShardSet([str(shards)]).rows[1]
    data = bytearray((shards / row.shard).read_bytes())
    data[row.components["json"].offset + 3] ^= 1
    (shards / row.shard).write_bytes(data)
    with pytest.raises(BadClip, match=rf"{row.shard}: clip {row.key}: json is damaged"):
        make_masks(shards, STD, 0, ALONE)


def test_an_undecodable_clip_keeps_everything_and_is_counted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = [ManifestRow(f"c{i}", Square(i, 9), 0, "sign", "train", "s0") for i in (1, 2)]
    real = Jpeg.encode

    def garbage(codec: Jpeg, frames: np.ndarray, *options: Any) -> tuple[bytes, list[int]]:
        return (b"\xff\xd8no jpeg", list(range(10))) if frames[0, 0, 0, 0] == first else real(codec, frames, *options)

    first = Square(1, 9).load().frames_THWC[0, 0, 0, 0]  # type: ignore[index]
    monkeypatch.setattr(Jpeg, "encode", garbage)
    pack(rows, tmp_path / "set", PackOptions(codec="jpeg", size=64, crop="none"), workers=0)
    masks = make_masks(tmp_path / "set", STD, 0, ALONE)
    assert masks["totals"]["degenerate"] == {"undecodable video": 1}
    shards = ShardSet([str(tmp_path / "set")])
    clip = next(shards.read(i) for i, row in enumerate(shards.rows) if row.key == "c1")
    assert clip.masks_THW is not None
    assert clip.masks_THW.shape == (9, 64, 64)
    assert clip.masks_THW.all()


@pytest.mark.parametrize(
    ("multiplies", "dtype"), [({"avx512_bf16": True}, "bfloat16"), ({"avx512_f": True}, "float32")]
)
def test_half_precision_is_the_default_where_the_hardware_has_it(
    monkeypatch: pytest.MonkeyPatch, multiplies: dict[str, bool], dtype: str
) -> None:
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: multiplies)
    assert subnet_dtype("auto", torch.device("cpu")) == dtype
    assert subnet_dtype("fp32", torch.device("cpu")) == "float32"
    assert subnet_dtype("bf16", torch.device("cpu")) == "bfloat16"


def test_masks_in_half_precision_differ_little_and_say_so(shards: Path, flow_path: Path) -> None:
    exact = make_masks(shards, MaskSettings(motion_alone(), str(flow_path)), 0, ALONE)
    masks = masks_of(shards)
    half = make_masks(shards, MaskSettings(motion_alone(), str(flow_path), "bfloat16"), 0, ALONE)
    assert (exact["dtype"], half["dtype"]) == ("float32", "bfloat16")
    assert exact["recipe"] != half["recipe"]
    assert masks_of(shards).keys() == masks.keys()
    assert half["share_kept"] == pytest.approx(exact["share_kept"], abs=0.02)


def test_training_with_masks_needs_masks(packed: Path, shards: Path) -> None:
    require_masks(ShardSet([str(packed)]), 0.0)
    with pytest.raises(ValueError, match=r"cclslr masks"):
        require_masks(ShardSet([str(packed)]), 0.2)


def test_the_command(shards: Path) -> None:
    command([str(shards), "--device", "cpu", "--workers", "0"])
    masks = read_json(shards / "dataset.json")["masks"]
    assert masks["flow"]["sha256"] == load_flow(DEFAULT_FLOW).card.sha256
    assert masks["totals"]["clips"] == 9
    with pytest.raises(UserError, match="leave out --workers"):
        command([str(shards), "--scheduler", "tcp://x:1", "--workers", "2"])
    with pytest.raises(FileNotFoundError, match="cclslr pack"):
        command([str(shards / "nowhere"), "--workers", "0"])
    with pytest.raises(FileNotFoundError, match="cclslr flow"):
        command([str(shards), "--flow", "nowhere.safetensors"])

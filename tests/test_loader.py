"""The loader: the same stream after any restart and at any number of ranks, bad clips, errors, ends."""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Iterable, Set
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch
from rgb_reference import SmallClip, checker_masks

from cclslr.config import DataConfig, ViewConfig
from cclslr.data import loader as loader_module
from cclslr.data.batch import Batch
from cclslr.data.loader import Loader
from cclslr.data.plan import Plan
from cclslr.distributed import Process
from cclslr.shards.clip import PackOptions
from cclslr.shards.format import BadClip, ManifestRow
from cclslr.shards.pack import pack
from cclslr.shards.parts import ClipData, encode_masks
from cclslr.shards.reader import PARTS, ShardSet

VIEWS = ViewConfig(rgb_frames=4, pose_frames=6, size=32, mask_alpha=0.5)
CLIPS, BATCH, STEPS = 19, 4, 4  # 3 clips are left out of each epoch


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory):
    @cache
    def packed(codec: str, parts: str = "rgb pose") -> str:
        out = tmp_path_factory.mktemp("shards") / codec
        rows = [
            ManifestRow(f"clip{i}", SmallClip(i, frames=8 + i % 5, parts=parts), i % 3, f"g{i % 3}", "train", None)
            for i in range(CLIPS)
        ]
        pack(rows, out, PackOptions(codec=codec, size=48, crop="none", clips_per_shard=7))
        return str(out)

    return packed


class Masked(ShardSet):
    """Every second clip has masks."""

    def read(self, clip_id: int, parts: tuple[str, ...] = PARTS, least: float = math.inf) -> ClipData:
        clip = super().read(clip_id, parts, least)
        if "mask" in parts and clip_id % 2:
            clip.mask_png = encode_masks(checker_masks(np.empty(clip.row.num_frames), None))
        return clip


def _process(rank: int = 0, world: int = 1) -> Process:
    return Process(rank, world, torch.device("cpu"))


def _loader(
    folder: str,
    process: Process | None = None,
    modalities: tuple[str, ...] = ("rgb", "pose"),
    augment: bool = True,
    shards: ShardSet | None = None,
    batch: int = BATCH,
    **data,
) -> Loader:
    cfg = DataConfig(shards=[folder], **{"backend": "numba", **data})
    shards = shards or Masked([folder], "train")
    plan = Plan.for_training(shards, cfg, batch, seed=1) if augment else Plan.for_evaluation(shards, batch)
    return Loader(cfg, VIEWS, shards, plan, process or _process(), modalities, seed=5, augment=augment)


def _stream(loader: Loader, first: int, num: int) -> list[list[int]]:
    """Checksums of `num` batches from step `first`."""
    with loader.start(first):
        return [loader.batch_hashes(next(loader)) for _ in range(num)]


@pytest.mark.parametrize(
    ("codec", "backend"), [("jpeg", "numba"), ("h264", "numba"), ("jpeg", "dali"), ("vp9", "dali")]
)
def test_restart_at_every_step_and_other_ranks(folders, codec: str, backend: str) -> None:
    folder = folders(codec)
    whole = _stream(_loader(folder, backend=backend), 0, 2 * STEPS + 1)
    assert len({crc for batch in whole for crc in batch}) == len(whole) * BATCH
    for first in range(2 * STEPS) if backend == "numba" else (STEPS - 1,):
        again = _stream(_loader(folder, backend=backend, prefetch=3, workers=3), first, 2)
        assert again == whole[first : first + 2]
    for world in (2, 4):
        parts = [_stream(_loader(folder, _process(rank, world), backend=backend), 2, 3) for rank in range(world)]
        assert [_flat(of_ranks) for of_ranks in zip(*parts, strict=True)] == whole[2:5]


def test_batches_hold_what_the_plan_and_the_shards_say(folders) -> None:
    shards = ShardSet([folders("jpeg")], "train")
    plan = Plan.for_training(shards, DataConfig(), BATCH, seed=1)
    with _loader(folders("jpeg")).start(3) as loader:
        for step in range(3, 7):
            batch = next(loader)
            assert batch.clip_ids_B.tolist() == plan.batch(*divmod(step, STEPS)).tolist()
            assert batch.labels_B.tolist() == [shards.rows[i].label for i in batch.clip_ids_B]
            assert batch.rgb_VBTHWC is not None
            assert batch.pose_VBTJC is not None
            assert batch.rgb_VBTHWC.shape == (2, BATCH, 4, 32, 32, 3)
            assert batch.pose_VBTJC.shape == (2, BATCH, 6, 75, 3)
            assert batch.rgb_VBTHWC.dtype == torch.uint8
            assert batch.pose_VBTJC.dtype == torch.float32


@pytest.mark.parametrize("world", [1, 3])
def test_evaluation_gives_each_clip_once(folders, world: int) -> None:
    seen: list[int] = []
    for rank in range(world):
        with _loader(folders("h264"), _process(rank, world), augment=False).start() as loader:
            for batch in loader:
                assert batch.rgb_VBTHWC is not None
                assert batch.rgb_VBTHWC.shape[:2] == (1, len(batch.clip_ids_B))
                seen += batch.clip_ids_B.tolist()
            with pytest.raises(StopIteration):
                next(loader)
    assert seen == list(range(CLIPS))


@pytest.mark.parametrize("modality", ["rgb", "pose"])
def test_one_modality(folders, modality: str) -> None:
    both = _loader(folders("jpeg"))
    with both.start() as loader:
        expected = next(loader)
    with _loader(folders("jpeg"), modalities=(modality,)).start() as loader:
        batch = next(loader)
    present, absent = ("rgb_VBTHWC", "pose_VBTJC") if modality == "rgb" else ("pose_VBTJC", "rgb_VBTHWC")
    assert getattr(batch, absent) is None
    assert torch.equal(getattr(batch, present), getattr(expected, present))


def test_poses_alone(folders) -> None:
    folder = folders("jpeg", "pose")
    with _loader(folder, modalities=("pose",)).start() as loader:
        assert (next(loader).pose_VBTJC != 0).any()
    with pytest.raises(ValueError, match="poses alone"):
        _loader(folder)


class Damaged(Masked):
    """Some clips cannot be read; counts what is read."""

    def __init__(self, folder: str, bad: set[int], garbled: Set[int] = frozenset()) -> None:
        super().__init__([folder], "train")
        self.bad, self.garbled, self.reads = bad, garbled, list[int]()

    def read(self, clip_id: int, parts: tuple[str, ...] = PARTS, least: float = math.inf) -> ClipData:
        self.reads.append(clip_id)
        if clip_id in self.bad:
            raise BadClip(f"clip {self.rows[clip_id].key} is damaged")
        clip = super().read(clip_id, parts, least)
        if clip_id in self.garbled:
            clip.video = bytes(len(clip.video or b""))
        return clip


def _ids(loader: Loader, first: int, num: int) -> list[list[int]]:
    with loader.start(first):
        return [next(loader).clip_ids_B.tolist() for _ in range(num)]


def _flat(batches: Iterable[list[int]]) -> list[int]:
    return [number for batch in batches for number in batch]


@pytest.mark.parametrize("how", ["bad", "garbled"])
def test_bad_clips_are_replaced_the_same_way_whenever_they_are_found(folders, how: str) -> None:
    folder = folders("jpeg")
    clean = _ids(_loader(folder), 0, 2 * STEPS)
    damage = set(_flat(clean)[1:14:5])
    loader = _loader(folder, shards=Damaged(folder, **{"bad": set(), how: damage}), max_bad_share=0.5)
    whole = _ids(loader, 0, 2 * STEPS)
    assert loader.quarantine.count == 3
    assert set(loader.quarantine.reasons) == damage
    assert all("clip" in reason for reason in loader.quarantine.reasons.values())
    for mine, planned in zip(_flat(whole), _flat(clean), strict=True):
        assert mine not in damage
        assert mine == planned or planned in damage
    stands_in = [m for m, p in zip(_flat(whole), _flat(clean), strict=True) if p in damage]
    assert len(set(stands_in)) > 1
    for first in range(0, 2 * STEPS, 3):
        shards = Damaged(folder, **{"bad": set(), how: damage})
        again = _ids(_loader(folder, shards=shards, max_bad_share=0.5, prefetch=1), first, 2)
        assert again == whole[first : first + 2]


def test_bad_clips_are_left_out_of_evaluation(folders) -> None:
    folder = folders("jpeg")
    shards = Damaged(folder, {0, 1, 2, 3, 10}, garbled={5})  # all of the first batch
    with _loader(folder, augment=False, shards=shards, max_bad_share=0.5).start() as loader:
        seen = _flat(batch.clip_ids_B.tolist() for batch in loader)
    assert seen == [i for i in range(CLIPS) if i not in {0, 1, 2, 3, 5, 10}]


def test_too_many_bad_clips_stop_the_run_and_are_named(folders) -> None:
    folder = folders("jpeg")
    with _loader(folder, shards=Damaged(folder, set(range(8)))).start() as loader:
        with pytest.raises(ValueError, match=r"(?s)max_bad_share.*clip \w+ is damaged"):
            list(loader)  # endless otherwise
        with pytest.raises(ValueError, match="max_bad_share"):  # and it stays so
            next(loader)


def test_an_error_in_a_thread_reaches_the_consumer(folders, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(*_: object) -> Batch:
        raise MemoryError("no room")

    monkeypatch.setattr(loader_module, "pose_views", fails)
    before = threading.active_count()
    with _loader(folders("jpeg"), modalities=("pose",)).start() as loader, pytest.raises(MemoryError, match="no room"):
        next(loader)
    assert threading.active_count() == before


@pytest.mark.parametrize("taken", [0, 1, 5])
def test_closing_at_any_time_ends_the_threads(folders, taken: int) -> None:
    before = threading.active_count()
    with _loader(folders("jpeg")).start() as loader:
        for _ in range(taken):
            next(loader)
    loader.close()  # once more does no harm
    assert threading.active_count() == before


@pytest.mark.parametrize("prefetch", [1, 3])
def test_reads_ahead_by_the_prefetch_and_no_more(folders, prefetch: int) -> None:
    folder = folders("jpeg")
    shards = Damaged(folder, set())
    with _loader(folder, shards=shards, prefetch=prefetch).start() as loader:
        next(loader)
        most = (1 + prefetch) * BATCH
        deadline = time.monotonic() + 20
        while len(shards.reads) < most and time.monotonic() < deadline:
            time.sleep(0.01)
        time.sleep(0.2)
        assert len(shards.reads) == most


class Slow(Masked):
    def read(self, clip_id: int, parts: tuple[str, ...] = PARTS, least: float = math.inf) -> ClipData:
        time.sleep(0.1)
        return super().read(clip_id, parts, least)


def test_waiting_is_put_down_to_its_reason(folders) -> None:
    folder = folders("jpeg")
    began = time.perf_counter()
    with _loader(folder, shards=Slow([folder], "train"), modalities=("pose",), workers=1).start() as loader:
        for _ in range(3):
            next(loader)
        waited = dict(loader.waited)
    assert set(waited) == {"fetch", "decode", "copy"}
    assert min(waited.values()) >= 0
    assert sum(waited.values()) <= time.perf_counter() - began
    assert waited["fetch"] > 0.9  # 12 clips, 0.1 s each, one after the other


def test_memory_of_a_batch_is_its_own(folders) -> None:
    """What the consumer keeps is not written over by later batches."""
    for backend in ("numba", "dali"):
        with _loader(folders("jpeg"), backend=backend).start() as loader:
            kept = [next(loader) for _ in range(6)]
            hashes = [loader.batch_hashes(batch) for batch in kept]
        assert hashes == _stream(_loader(folders("jpeg"), backend=backend), 0, 6)


def test_mixed_codecs(folders) -> None:
    shards = ShardSet([folders("jpeg"), folders("h264")], "train")
    with pytest.raises(ValueError, match="mix codecs"):
        _loader(folders("jpeg"), shards=shards)


def test_weights_over_two_data_sets(folders, tmp_path: Path) -> None:
    rows = [ManifestRow(f"other{i}", SmallClip(100 + i), 0, "g", "train", None) for i in range(5)]
    pack(rows, tmp_path / "b", PackOptions(codec="jpeg", size=48, crop="none"))
    shards = ShardSet([folders("jpeg"), str(tmp_path / "b")], "train")
    loader = _loader(folders("jpeg"), shards=shards, weights=[1.0, 1.0])
    drawn = np.array(_flat(_ids(loader, 0, 6)))
    assert (shards.dataset_ids[drawn] == 1).sum() > 8  # 5 of 24 clips, but half of the draws: they come repeatedly


class OnGpu:
    """A tensor on a GPU, as far as moving and recording go."""

    is_cuda = True

    def __init__(self) -> None:
        self.streams: list[object] = []

    def record_stream(self, stream: object) -> None:
        self.streams.append(stream)


def test_every_tensor_of_a_batch_is_recorded_on_the_stream_that_reads_it() -> None:
    tensors = [OnGpu() for _ in range(4)]
    Batch(*tensors).record_stream("training")
    assert [tensor.streams for tensor in tensors] == [["training"]] * 4
    clip_ids, labels = OnGpu(), OnGpu()
    Batch(None, None, clip_ids, labels).record_stream("training")
    assert clip_ids.streams == labels.streams == ["training"]


def test_one_stream_copies_all_batches_of_a_loader(folders, monkeypatch: pytest.MonkeyPatch) -> None:
    made, used = [], []

    def to_device(batch: Batch, device: torch.device, stream: object) -> Batch:
        used.append(stream)
        return batch

    monkeypatch.setattr(torch.cuda, "Stream", lambda device: made.append(device) or "copies")
    monkeypatch.setattr(torch.cuda, "current_stream", lambda device: "training")
    monkeypatch.setattr(loader_module, "to_device", to_device)
    monkeypatch.setattr(Batch, "record_stream", lambda batch, stream: used.append(stream))
    gpu = Process(0, 1, torch.device("cuda", 0))
    with _loader(folders("jpeg"), gpu, modalities=("pose",)).start() as loader:
        for _ in range(5):
            next(loader)
    assert made == [torch.device("cuda", 0)]
    assert used.count("training") == 5
    assert set(used) == {"copies", "training"}

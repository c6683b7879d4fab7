"""Peers that read from a store of their own, which is written first: FFCV, LitData, Energon."""

from __future__ import annotations

import contextlib
import functools
import io
import itertools
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch

from cclslr.bench.jobs import Jobs, Setup
from cclslr.bench.peer_views import torch_view, torch_views, usual_decoder
from cclslr.bench.process import drop_from_cache

_FFCV_CLIPS = 2048  # in one of FFCV's epochs, whose order is fixed beforehand
_LITDATA_CLIPS = 1024  # at least, in one of LitData's epochs: it starts its workers anew at each


class _Frames:
    """Every frame of every clip, for FFCV's writer."""

    def __init__(self, jobs: Jobs) -> None:
        self.jobs = jobs
        self.first = np.cumsum([0, *jobs.shards.rows.numbers("num_frames")])
        self._clip: tuple[int, np.ndarray] | None = None

    def __len__(self) -> int:
        return int(self.first[-1])

    def __getitem__(self, number: int) -> tuple[np.ndarray]:
        clip_id = int(np.searchsorted(self.first, number, side="right")) - 1
        if self._clip is None or self._clip[0] != clip_id:
            data = self.jobs.shards.read(clip_id, ("video",)).video
            assert data is not None
            self._clip = clip_id, self.jobs.codec.decode(data)
        return (self._clip[1][number - self.first[clip_id]],)


def ffcv_loader(setup: Setup) -> Iterator[int]:
    """FFCV's own loader over a .beton of JPEG frames: it decodes each view's frames, torch makes the views."""
    from ffcv.fields import RGBImageField
    from ffcv.fields.rgb_image import SimpleRGBImageDecoder
    from ffcv.loader import Loader, OrderOption
    from ffcv.transforms import ToTensor
    from ffcv.writer import DatasetWriter
    from numba import get_num_threads

    stream, workers = Jobs(setup), min(setup.cfg.data.workers, get_num_threads())
    frames, path = _Frames(stream), setup.scratch / "frames.beton"
    if not path.exists():
        writer = DatasetWriter(str(path), {"frame": RGBImageField(write_mode="jpg")}, num_workers=1)
        with contextlib.redirect_stderr(io.StringIO()):  # its progress bar
            writer.from_indexed_dataset(frames, chunksize=64)
        drop_from_cache(path)
    jobs = list(itertools.islice(stream, _FFCV_CLIPS // stream.plan.batch_size * stream.plan.batch_size))
    shown = [frames.first[job.clip_id] + job.params.rgb_index_VBT[:, job.b].ravel() for job in jobs]
    loader = Loader(
        str(path),
        batch_size=stream.plan.batch_size * 2 * setup.cfg.views.rgb_frames,
        num_workers=workers,
        order=OrderOption.SEQUENTIAL,  # of the indices
        indices=np.concatenate(shown),
        pipelines={"frame": [SimpleRGBImageDecoder(), ToTensor()]},
        os_cache=True,
    )
    torch.set_num_threads(workers)
    size = setup.cfg.views.size
    while True:
        waiting = iter(jobs)
        for (frames_NHWC,) in loader:
            clips = frames_NHWC.unflatten(0, (stream.plan.batch_size, 2, -1))
            views = [torch_view(clip[v], job, v, size) for clip, job in zip(clips, waiting) for v in range(2)]
            torch.stack(views)
            yield len(clips)


def _views_of(jobs: Jobs, clip_id: int, data: bytes) -> torch.Tensor:
    """(2, T, size, size, 3) of a clip that a peer chose."""
    job = jobs.of_clip(clip_id)
    return torch_views(usual_decoder(jobs.codec)(data, job), job, jobs.cfg.views.size)


def _stored(jobs: Jobs, clip_id: int) -> dict[str, Any]:
    """A clip as LitData stores it."""
    return {"clip_id": clip_id, "video": jobs.read(jobs.of_clip(clip_id))}


def _views_stored(jobs: Jobs, stored: dict[str, Any]) -> torch.Tensor:
    return _views_of(jobs, stored["clip_id"], stored["video"])


def litdata_loader(setup: Setup) -> Iterator[int]:
    """LitData's chunks and loader; it draws its own order."""
    import litdata

    jobs, folder = Jobs(setup), setup.scratch / "litdata"
    if not folder.exists():
        clip_ids = [*range(len(jobs.shards))] * -(-_LITDATA_CLIPS // len(jobs.shards))
        litdata.optimize(
            functools.partial(_stored, jobs), clip_ids, str(folder), chunk_bytes="64MB", num_workers=1, verbose=False
        )

    torch.set_num_threads(1)  # no thread is there to be lost in the fork
    dataset = litdata.StreamingDataset(str(folder), shuffle=True, transform=functools.partial(_views_stored, jobs))
    while True:
        workers = setup.cfg.data.workers
        for views_BVTHWC in litdata.StreamingDataLoader(dataset, batch_size=setup.cfg.optim.batch, num_workers=workers):
            yield len(views_BVTHWC)


def energon_loader(setup: Setup) -> Iterator[int]:
    """Energon's readers of the shards and its loader; it draws its own order."""
    from megatron import energon

    jobs, folder = Jobs(setup), setup.scratch / "energon"
    if not folder.exists():
        folder.mkdir()
        for tar in Path(setup.folder).glob("*.tar"):
            (folder / tar.name).symlink_to(tar.resolve())
        prepare = ["-m", "megatron.energon.cli.main", "prepare", "--non-interactive", "--num-workers", "1"]
        kind = ["--split-ratio", "1,0,0", "--sample-type", "CrudeWebdataset"]
        subprocess.run([sys.executable, *prepare, *kind, str(folder)], check=True, capture_output=True)
    clip_ids = {key: clip_id for clip_id, (key, _) in enumerate(jobs.shards.rows.texts())}

    @energon.stateless  # type: ignore[untyped-decorator,unused-ignore]
    def cook(sample: dict[str, Any]) -> dict[str, Any]:
        key = sample["__key__"].rpartition("/")[2]
        return {"__key__": key, "views": _views_of(jobs, clip_ids[key], sample[jobs.codec.extension])}

    class Views(energon.DefaultTaskEncoder):
        decoder = None  # bytes as they are
        cookers = (energon.Cooker(cook),)

        def batch(self, samples: list[dict[str, Any]]) -> torch.Tensor:
            return torch.stack([sample["views"] for sample in samples])

    torch.set_num_threads(1)  # no thread is there to be lost in the fork
    dataset = energon.get_train_dataset(
        str(folder),
        worker_config=energon.WorkerConfig(rank=0, world_size=1, num_workers=setup.cfg.data.workers),
        batch_size=setup.cfg.optim.batch,
        shuffle_buffer_size=4 * setup.cfg.optim.batch,
        max_samples_per_sequence=100,
        task_encoder=Views(),
    )
    for views_BVTHWC in energon.get_loader(dataset):
        yield len(views_BVTHWC)

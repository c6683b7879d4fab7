"""What a user would pick instead: each makes two RGB views of (T, size, size, 3) uint8 of a clip, endlessly.

The clips come in the order and with the views of a training run (frames, crop, flip, colour), and each loader reads
them from the shards itself, so all do the same work; each is written as its documentation advises. A loader is a
function of a `Setup` that yields the number of clips of each batch. Imported by cclslr bench loader.
"""

from __future__ import annotations

import functools
import itertools
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset

from cclslr.bench.jobs import Job, Jobs, Setup
from cclslr.bench.peer_dali import dali_dynamic
from cclslr.bench.peer_stores import energon_loader, ffcv_loader, litdata_loader
from cclslr.bench.peer_views import (
    Decode,
    decode_decord,
    decode_pillow,
    decode_pyav,
    decode_torchcodec,
    decode_torchcodec_mapped,
    open_video,
    torch_views,
    usual_decoder,
)

if TYPE_CHECKING:
    import spdl.io


class _Views(Dataset[torch.Tensor]):
    def __init__(self, jobs: Jobs, decode: Decode) -> None:
        self.jobs, self.decode = jobs, decode

    def __getitem__(self, number: int) -> torch.Tensor:
        job = self.jobs[number]
        return torch_views(self.decode(self.jobs.read(job), job), job, self.jobs.cfg.views.size)


def data_loader(decode: Decode, setup: Setup) -> Iterator[int]:
    """torch's DataLoader with worker processes."""
    torch.set_num_threads(1)  # no thread is there to be lost in the fork
    dataset = _Views(Jobs(setup), decode)
    dataset[0]  # an import that fails does so here, in one line
    loader = DataLoader(dataset, setup.cfg.optim.batch, sampler=itertools.count(), num_workers=setup.cfg.data.workers)
    for views_BVTHWC in loader:
        yield len(views_BVTHWC)


def webdataset_loader(setup: Setup) -> Iterator[int]:
    """webdataset's own reader, shuffle and loader; shards are resampled, so that any number of workers has some."""
    import webdataset as wds

    jobs = Jobs(setup)
    clip_ids = {key: clip_id for clip_id, (key, _) in enumerate(jobs.shards.rows.texts())}
    decode = usual_decoder(jobs.codec)

    def views(sample: dict[str, bytes | str]) -> torch.Tensor:
        job = jobs.of_clip(clip_ids[str(sample["__key__"])])
        (data,) = (value for name, value in sample.items() if name == jobs.codec.extension)
        assert isinstance(data, bytes)
        return torch_views(decode(data, job), job, setup.cfg.views.size)

    tars = sorted(str(path) for path in Path(setup.folder).glob("*.tar"))
    dataset = wds.WebDataset(
        tars, resampled=True, shardshuffle=False, select_files=lambda name: name.endswith(f".{jobs.codec.extension}")
    )
    dataset = dataset.shuffle(4 * setup.cfg.optim.batch).map(views)
    dataset = dataset.batched(setup.cfg.optim.batch, collation_fn=torch.stack)
    for views_BVTHWC in wds.WebLoader(dataset, batch_size=None, num_workers=setup.cfg.data.workers):
        yield len(views_BVTHWC)


def _view_filters(job: Job, v: int, size: int, numbers_T: np.ndarray) -> str:
    """The view as FFmpeg filters; of the frames that come in, it shows `numbers_T` (ascending)."""
    x0, y0, x1, y1 = job.crop(v)
    shown = "+".join(f"eq(n\\,{number})" for number in numbers_T)
    filters = [f"select='{shown}'", f"crop={x1 - x0}:{y1 - y0}:{x0}:{y0}", f"scale={size}:{size}", "setsar=1"]
    filters += ["hflip"] if job.params.flip_VB[v, job.b] else []
    # FFmpeg's eq is the nearest it has to a colour matrix.
    gain = float(np.clip(job.params.colour_VB34[v, job.b, :, :3].sum() / 3, 0.1, 3))
    return ",".join([*filters, f"eq=contrast={gain:.3f}:saturation={gain:.3f}", "format=rgb24"])


def _spdl_packets(jobs: Jobs, job: Job) -> tuple[spdl.io.VideoPackets, np.ndarray]:
    """The packets that a clip's views need, and where the frames of the views are among their frames (V, T)."""
    import spdl.io

    data = jobs.read(job)
    if job.codec.alone:
        mjpeg = spdl.io.demux_config(format="mjpeg")
        return spdl.io.demux_video(b"".join(job.images(data)), demux_config=mjpeg), job.positions_VT
    until = (int(job.wanted[-1]) + 0.5) / job.row.fps
    return spdl.io.demux_video(data, timestamp=(0.0, until)), job.params.rgb_index_VBT[:, job.b]


def _spdl_views(jobs: Jobs, split: bool, job: Job) -> np.ndarray:
    """(2, T, size, size, 3). Split: one filter graph for both views, so that a frame is decoded once."""
    import spdl.io

    packets, numbers_VT = _spdl_packets(jobs, job)
    shown = [np.unique(numbers_T) for numbers_T in numbers_VT]  # what a view shows more than once comes once
    graphs = [_view_filters(job, v, jobs.cfg.views.size, shown[v]) for v in range(2)]
    each = [packets.clone(), packets]
    if split:
        # SPDL drops frames that a filter moves beyond the time that was asked for, as concat does.
        graphs = [f"split=2[a][b];[a]{graphs[0]}[c];[b]{graphs[1]}[d];[c][d]concat=n=2:v=1:a=0,setpts=N*0.001/TB"]
        each = [packets]
    decoded = [spdl.io.decode_packets(one, filter_desc=graph) for one, graph in zip(each, graphs, strict=True)]
    frames = np.concatenate([spdl.io.to_numpy(spdl.io.convert_frames(frames)) for frames in decoded])
    assert len(frames) == len(shown[0]) + len(shown[1])
    first, second = (np.searchsorted(shown[v], numbers_VT[v]) for v in range(2))
    return np.stack([frames[first], frames[len(shown[0]) + second]])


def spdl_pipeline(split: bool, setup: Setup) -> Iterator[int]:
    """SPDL's pipeline of threads with FFmpeg filters; a clip is demuxed once and decoded once a view, or once if split.

    SPDL's documentation decodes clones of the packets; the split graph is faster, so both are here.
    """
    from spdl.pipeline import PipelineBuilder

    jobs, workers = Jobs(setup), setup.cfg.data.workers
    builder = PipelineBuilder().add_source(jobs).pipe(functools.partial(_spdl_views, jobs, split), concurrency=workers)
    pipeline = builder.aggregate(setup.cfg.optim.batch).pipe(np.stack).add_sink(2).build(num_threads=workers)
    _spdl_views(jobs, split, jobs[0])  # a pipeline only logs what went wrong
    with pipeline.auto_stop():
        for views_BVTHWC in pipeline:
            yield len(views_BVTHWC)


def bare_decoder(setup: Setup) -> Iterator[int]:
    """No loader at all: libavcodec decodes every frame in threads and drops it. The line nobody decoding can pass."""
    jobs = Jobs(setup)

    def decode(job: Job) -> None:
        with open_video(jobs.read(job), job.codec) as container:
            for _ in container.decode(video=0):
                pass

    decoding: deque[Future[None]] = deque()
    with ThreadPoolExecutor(setup.cfg.data.workers) as pool:
        for job in jobs:
            decoding.append(pool.submit(decode, job))
            if len(decoding) > 2 * setup.cfg.data.workers:
                decoding.popleft().result()
                yield 1


PEERS: dict[str, Callable[[Setup], Iterator[int]]] = {
    "dataloader-pyav": functools.partial(data_loader, decode_pyav),
    "dataloader-pillow": functools.partial(data_loader, decode_pillow),
    "dataloader-decord2": functools.partial(data_loader, decode_decord),
    "dataloader-torchcodec": functools.partial(data_loader, decode_torchcodec),
    "dataloader-torchcodec-mapped": functools.partial(data_loader, decode_torchcodec_mapped),
    "webdataset": webdataset_loader,
    "litdata": litdata_loader,
    "energon": energon_loader,
    "dali-dynamic": dali_dynamic,
    "spdl-ffmpeg": functools.partial(spdl_pipeline, False),
    "spdl-ffmpeg-split": functools.partial(spdl_pipeline, True),
    "ffcv": ffcv_loader,
    "bare-decoder": bare_decoder,
}

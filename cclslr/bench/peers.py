"""What a user would pick instead: each makes two RGB views of (T, size, size, 3) uint8 of a clip, endlessly.

The clips come in the order and with the views of a training run (frames, crop, flip, colour), and each loader reads
them from the shards itself, so all do the same work; each is written as its documentation advises. A loader is a
function of a `Setup` that yields the number of clips of each batch. Imported by cclslr bench loader.
"""

from __future__ import annotations

import contextlib
import functools
import io
import itertools
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING

import av
import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch.utils.data import DataLoader, Dataset

from cclslr.bench.jobs import Job, Jobs, Setup
from cclslr.bench.process import drop_from_cache
from cclslr.codecs import Codec

if TYPE_CHECKING:
    import spdl.io

_FFCV_CLIPS = 2048  # in one of FFCV's epochs, whose order is fixed beforehand


def torch_view(frames_THWC: torch.Tensor, job: Job, v: int, size: int) -> torch.Tensor:
    """Crop, resize, flip and colour in torch: (T, size, size, 3) uint8.

    The resize takes channels-last uint8, as torchvision advises; a convolution was the fastest way to colour.
    """
    x0, y0, x1, y1 = job.crop(v)
    x_TCHW = frames_THWC[:, y0:y1, x0:x1].permute(0, 3, 1, 2)
    x_TCHW = F.interpolate(x_TCHW, (size, size), mode="bilinear", align_corners=False)
    if job.params.flip_VB[v, job.b]:
        x_TCHW = x_TCHW.flip(3)
    matrix = torch.from_numpy(job.params.colour_VB34[v, job.b])
    x_TCHW = F.conv2d(x_TCHW.float(), matrix[:, :3, None, None], matrix[:, 3])
    return x_TCHW.round_().clamp_(0, 255).byte().permute(0, 2, 3, 1)


def torch_views(frames_THWC: torch.Tensor, job: Job, size: int) -> torch.Tensor:
    """(2, T, size, size, 3) uint8 from the frames that are wanted."""
    return torch.stack([torch_view(frames_THWC[job.positions_VT[v]], job, v, size) for v in range(2)])


# Decoders: the wanted frames of a clip as RGB, uint8 (T, H, W, 3).


def _open_video(data: bytes, codec: Codec) -> av.container.InputContainer:
    container = av.open(io.BytesIO(data), "r", format="mjpeg" if codec.alone else None)
    container.streams.video[0].codec_context.thread_count = 1  # clips are decoded side by side instead
    return container


def decode_pyav(data: bytes, job: Job) -> torch.Tensor:
    """libavcodec through PyAV, up to the last wanted frame; only wanted frames become RGB."""
    wanted = job.wanted
    with _open_video(data, job.codec) as container:
        shown = itertools.islice(container.decode(video=0), int(wanted[-1]) + 1)
        keep = set(wanted.tolist())
        return torch.from_numpy(np.stack([f.to_ndarray(format="rgb24") for n, f in enumerate(shown) if n in keep]))


def decode_pillow(data: bytes, job: Job) -> torch.Tensor:
    """Each wanted JPEG by Pillow."""
    return torch.from_numpy(
        np.stack([np.asarray(Image.open(io.BytesIO(image)).convert("RGB")) for image in job.images(data)])
    )


def decode_decord(data: bytes, job: Job) -> torch.Tensor:
    """decord2, one thread."""
    import decord

    reader = decord.VideoReader(io.BytesIO(data), num_threads=1)
    return torch.from_numpy(reader.get_batch(job.wanted.tolist()).asnumpy())


def decode_torchcodec(data: bytes, job: Job) -> torch.Tensor:
    """torchcodec, one thread, frames by number; of JPEG frames it gets the wanted ones alone."""
    from torchcodec.decoders import VideoDecoder

    wanted = job.wanted
    if job.codec.alone:
        data, wanted = b"".join(job.images(data)), np.arange(len(wanted))
    decoder = VideoDecoder(data, num_ffmpeg_threads=1, dimension_order="NHWC")
    return decoder.get_frames_at(wanted.tolist()).data


Decode = Callable[[bytes, Job], torch.Tensor]


# Loaders.


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
    decode = decode_pillow if jobs.codec.alone else decode_pyav

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


def bare_decoder(setup: Setup) -> Iterator[int]:
    """No loader at all: libavcodec decodes every frame in threads and drops it. The line nobody decoding can pass."""
    jobs = Jobs(setup)

    def decode(job: Job) -> None:
        with _open_video(jobs.read(job), job.codec) as container:
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
    "webdataset": webdataset_loader,
    "spdl-ffmpeg": functools.partial(spdl_pipeline, False),
    "spdl-ffmpeg-split": functools.partial(spdl_pipeline, True),
    "ffcv": ffcv_loader,
    "bare-decoder": bare_decoder,
}

"""What a user would pick instead: each makes two RGB views of (T, size, size, 3) uint8 from the bytes of a clip.

The views are those of the plan (frames, crop, flip, colour), so all do the same work; each is written as its
documentation advises. Imported by tools/bench_loader.py.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice

import av
import numpy as np
import torch
import torch.nn.functional as F
from torch.utils.data import DataLoader, Dataset

from cclslr.data.batch import ViewParams


@dataclass(frozen=True)
class Job:
    """One clip and its two views."""

    video: bytes
    params: ViewParams
    b: int  # of the clip in `params`
    size: int


def torch_views(frames_THWC: np.ndarray, job: Job) -> torch.Tensor:
    """Crop, resize, flip and colour with float torch ops, as a transform library would: (2, T, size, size, 3) uint8."""
    views = []
    for v in range(2):
        x0, y0, x1, y1 = (round(float(edge)) for edge in job.params.crop_VB4[v, job.b])
        crop = frames_THWC[job.params.rgb_index_VBT[v, job.b], y0 : max(y1, y0 + 1), x0 : max(x1, x0 + 1)]
        x_TCHW = torch.from_numpy(np.ascontiguousarray(crop)).permute(0, 3, 1, 2).float()
        x_TCHW = F.interpolate(x_TCHW, (job.size, job.size), mode="bilinear", align_corners=False)
        if job.params.flip_VB[v, job.b]:
            x_TCHW = x_TCHW.flip(3)
        matrix = torch.from_numpy(job.params.colour_VB34[v, job.b])
        x_THWC = x_TCHW.permute(0, 2, 3, 1) @ matrix[:, :3].T + matrix[:, 3]
        views.append(x_THWC.round().clamp(0, 255).byte())
    return torch.stack(views)


def decode_pyav(video: bytes) -> np.ndarray:
    """Every frame as RGB, by libavcodec through PyAV."""
    with av.open(io.BytesIO(video), "r") as container:
        return np.stack([frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)])


def decode_decord(video: bytes) -> np.ndarray:
    """Every frame as RGB, by decord2."""
    import decord

    reader = decord.VideoReader(io.BytesIO(video), num_threads=1)
    return reader.get_batch(range(len(reader))).asnumpy()


class _Views(Dataset[torch.Tensor]):
    def __init__(self, jobs: Sequence[Job], decode: Callable[[bytes], np.ndarray]) -> None:
        self.jobs, self.decode = jobs, decode

    def __len__(self) -> int:
        return len(self.jobs)

    def __getitem__(self, number: int) -> torch.Tensor:
        torch.set_num_threads(1)
        return torch_views(self.decode(self.jobs[number].video), self.jobs[number])


def data_loader(decode: Callable[[bytes], np.ndarray], jobs: Sequence[Job], batch: int, workers: int) -> Iterator[int]:
    """torch's DataLoader with worker processes; yields the clips of each batch."""
    loader = DataLoader(_Views(jobs, decode), batch, num_workers=workers, multiprocessing_context="fork")
    for views_BVTHWC in loader:
        yield len(views_BVTHWC)


def _spdl_clip(job: Job) -> list[np.ndarray]:
    import spdl.io

    views = []
    for v in range(2):
        x0, y0, x1, y1 = (round(float(edge)) for edge in job.params.crop_VB4[v, job.b])
        index_T = job.params.rgb_index_VBT[v, job.b]
        wanted = "+".join(f"eq(n\\,{frame})" for frame in sorted(set(index_T.tolist())))
        filters = [f"select='{wanted}'", f"crop={x1 - x0}:{y1 - y0}:{x0}:{y0}", f"scale={job.size}:{job.size}"]
        filters += ["hflip"] if job.params.flip_VB[v, job.b] else []
        # FFmpeg's eq is the nearest it has to a colour matrix
        gain = float(np.clip(job.params.colour_VB34[v, job.b, :, :3].sum() / 3, 0.1, 3))
        filters += [f"eq=contrast={gain:.3f}:saturation={gain:.3f}", "format=rgb24"]
        frames = spdl.io.load_video(job.video, filter_desc=",".join(filters))
        shown_THWC = spdl.io.to_numpy(frames)
        views.append(shown_THWC[np.searchsorted(sorted(set(index_T.tolist())), index_T)])
    return views


def spdl_threads(jobs: Sequence[Job], batch: int, workers: int) -> Iterator[int]:
    """SPDL with FFmpeg filters (crop, scale, flip, colour, rgb24), a thread a clip; decodes a clip once a view."""
    with ThreadPoolExecutor(workers) as pool:
        results = pool.map(_spdl_clip, jobs)
        while made := list(islice(results, batch)):
            np.stack([np.stack(views) for views in made])
            yield len(made)


def bare_decoder(jobs: Sequence[Job], batch: int, workers: int) -> Iterator[int]:
    """No loader at all: libavcodec decodes every frame in threads and drops it. The line nobody decoding can pass."""

    def decode(job: Job) -> None:
        with av.open(io.BytesIO(job.video), "r") as container:
            for _ in container.decode(video=0):
                pass

    with ThreadPoolExecutor(workers) as pool:
        results = pool.map(decode, jobs)
        while made := list(islice(results, batch)):
            yield len(made)


PEERS: dict[str, Callable[[Sequence[Job], int, int], Iterator[int]]] = {
    "dataloader-pyav": lambda jobs, batch, workers: data_loader(decode_pyav, jobs, batch, workers),
    "dataloader-decord2": lambda jobs, batch, workers: data_loader(decode_decord, jobs, batch, workers),
    "spdl-ffmpeg": spdl_threads,
    "bare-decoder": bare_decoder,
}

"""A peer without a graph: DALI's dynamic mode, whose operators are called one by one on a whole batch."""

from __future__ import annotations

import itertools
from collections import deque
from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np

from cclslr.bench.jobs import Job, Jobs, Setup

if TYPE_CHECKING:
    from nvidia.dali.experimental.dynamic import Batch


def dali_views(jobs: Jobs, batch: list[Job]) -> Batch:
    """Both views of a batch of clips of JPEG frames, in the order clip, view, frame; a sample is (size, size, 3) uint8.

    A wanted frame is decoded once. The work may go on after this returns.
    """
    import nvidia.dali.experimental.dynamic as ndd

    images = [job.images(jobs.read(job)) for job in batch]
    encoded = [np.frombuffer(image, np.uint8) for clip in images for image in clip]
    decoded = ndd.decoders.image(ndd.as_batch(encoded), device="cpu", jpeg_fancy_upsampling=True).tensors
    first = np.cumsum([0, *map(len, images)])
    shown = [decoded[int(i)] for start, job in zip(first, batch) for i in (start + job.positions_VT).ravel()]
    num_frames = jobs.cfg.views.rgb_frames
    crops = np.array([job.crop(v) for job in batch for v in range(2)], np.float32)
    flips = np.array([job.params.flip_VB[v, job.b] for job in batch for v in range(2)])
    left, top, right, bottom = crops.T
    left, right = np.where(flips, right, left), np.where(flips, left, right)  # which ndd.resize follows
    colour = np.array([job.params.colour_VB34[v, job.b] for job in batch for v in range(2)], np.float32)

    def per_frame(values: np.ndarray) -> Batch:
        return ndd.as_batch(list(np.repeat(values, num_frames, axis=0)))

    size = jobs.cfg.views.size
    frames = ndd.resize(
        ndd.as_batch(shown),
        size=[size, size],
        roi_start=per_frame(np.stack([top, left], -1)),
        roi_end=per_frame(np.stack([bottom, right], -1)),
        antialias=False,
    )
    return ndd.coord_transform(
        frames, M=per_frame(colour[..., :3]), T=per_frame(np.ascontiguousarray(colour[..., 3])), dtype=ndd.uint8
    )


def dali_dynamic(setup: Setup) -> Iterator[int]:
    """DALI's dynamic mode: operators begin when they are called, so a batch is in work while another is waited for."""
    import nvidia.dali.experimental.dynamic as ndd

    ndd.set_num_threads(setup.cfg.data.workers)
    jobs = Jobs(setup)
    stream, size = iter(jobs), setup.cfg.optim.batch
    working: deque[Batch] = deque()
    while True:
        working.append(dali_views(jobs, list(itertools.islice(stream, size))))
        if len(working) > 1:
            working.popleft().torch()
            yield size

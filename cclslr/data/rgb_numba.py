"""RGB views on the CPU: libavcodec or libjpeg-turbo to YUV planes, one fused numba kernel from there to the batch.

A clip is one task of a thread pool. Each frame is decoded once, goes into the views that want it while it is in the
cache, and is written where it belongs in the batch; frames after the last that is wanted are not decoded. A clip is one
compiled call, without the GIL; where that is not possible, `decode_planes` gives its frames one by one.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from cclslr.buffers import Buffers
from cclslr.data import one_call, yuv
from cclslr.data.backend import BadVideo, EncodedClip
from cclslr.data.batch import ViewParams
from cclslr.data.planes import decode_planes
from cclslr.errors import UserError
from cclslr.shards.format import BadClip

_NO_MASKS = np.empty((0, 0, 0), np.uint8)


@dataclass
class _Job:
    """A batch in flight."""

    rgb_VBTHWC: np.ndarray
    rendering: list[Future[None]]


class NumbaBackend:
    """`RgbBackend` on CPU threads, for every codec.

    Args:
        size: pixels of the square view, a multiple of 4.
        frames: of a view.
        clips: most clips in a batch of this rank.
        views: of a clip: 2 in training, 1 in evaluation.
        threads: clips that are worked on side by side.
        pinned: put batches into page-locked memory, for a GPU.

    Raises:
        UserError: `size` is no multiple of 4.
    """

    def __init__(
        self, size: int, frames: int, clips: int, views: int = 2, threads: int = 2, pinned: bool = False
    ) -> None:
        if size % 4:
            raise UserError(f"views.size is {size}; data.backend=numba needs a multiple of 4")
        self._size = size
        shape = (views, clips, frames, size, size, 3)
        self._buffers = Buffers(lambda: torch.empty(shape, dtype=torch.uint8, pin_memory=pinned).numpy())
        self._threads = ThreadPoolExecutor(threads, "numba")
        self._jobs: deque[_Job] = deque()

    def submit(self, clips: Sequence[EncodedClip], params: ViewParams) -> None:
        """See `RgbBackend.submit`."""
        rgb_VBTHWC = self._buffers.take()
        rendering = [self._threads.submit(render_clip, clip, params, b, rgb_VBTHWC) for b, clip in enumerate(clips)]
        self._jobs.append(_Job(rgb_VBTHWC, rendering))

    def result(self) -> Tensor:
        """See `RgbBackend.result`. The memory is written again once no tensor shares it."""
        job = self._jobs.popleft()
        reasons: dict[int, str] = {}
        for b, future in enumerate(job.rendering):
            try:
                future.result()
            except BadClip as error:
                reasons[b] = str(error)
        if reasons:
            self._drop()
            raise BadVideo(reasons)
        return torch.from_numpy(job.rgb_VBTHWC)[:, : len(job.rendering)]

    def close(self) -> None:
        """See `RgbBackend.close`."""
        self._drop()
        self._threads.shutdown(cancel_futures=True)

    def _drop(self) -> None:
        for job in self._jobs:
            for future in job.rendering:
                future.cancel()
        self._jobs.clear()


def render_clip(clip: EncodedClip, params: ViewParams, b: int, rgb_VBTHWC: np.ndarray) -> None:
    """Decode clip `b` of a batch and write its views.

    Raises:
        BadClip: it does not decode.
    """
    index_VT = params.rgb_index_VBT[:, b]
    size = rgb_VBTHWC.shape[3]
    if clip.width > yuv.MAX_WIDTH:
        raise BadClip(f"{clip.name}: {clip.width} pixels wide, data.backend=numba takes {yuv.MAX_WIDTH}")
    tables = yuv.view_tables(params.crop_VB4[:, b], params.flip_VB[:, b], clip.width, clip.height, size)
    masked_V = params.masked_VB[:, b] if clip.masks_THW is not None else np.zeros(len(index_VT), bool)
    masks_THW = clip.masks_THW if masked_V.any() and clip.masks_THW is not None else _NO_MASKS

    def views(full_range: bool, bt709: bool) -> yuv.ClipViews:
        matrix_V34 = yuv.compose(params.colour_VB34[:, b], yuv.yuv_to_rgb(full_range, bt709))
        where = rgb_VBTHWC[:, b]
        return yuv.ClipViews(index_VT, tables, matrix_V34, masked_V, masks_THW, clip.width, clip.codec.triangle, where)

    wanted = np.unique(index_VT)
    if one_call.render(clip, wanted, views):
        return
    into: yuv.ClipViews | None = None
    for frame in decode_planes(clip, wanted):
        if into is None:
            into = views(frame.full_range, frame.bt709)
            one_call.meet(clip, frame)
        yuv.render_frame(frame.y_HW, frame.u_HW, frame.v_HW, frame.number, into)

"""RGB views by NVIDIA DALI: the same operators on CPU and GPU, fed with the bytes and draws of each batch.

DALI's readers are not used: they shuffle within a buffer, cannot be resumed where video is decoded, and one bad sample
ends them.
"""

from __future__ import annotations

import contextlib
import re
from collections import deque
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

import av
import numpy as np
import torch
from nvidia.dali import Pipeline
from torch import Tensor

from cclslr.buffers import Buffers
from cclslr.codecs import Codec
from cclslr.codecs.boxes import read_track
from cclslr.codecs.video import VideoCodec
from cclslr.data.backend import BadVideo, EncodedClip
from cclslr.data.batch import ViewParams
from cclslr.data.dali_graphs import clip_graph, clip_inputs, frame_graph, frame_inputs
from cclslr.data.jpeg import bad_frame
from cclslr.data.libav import decode_frames
from cclslr.errors import UserError
from cclslr.shards.format import BadClip


@dataclass
class _Job:
    """A batch in flight; it holds the memory that DALI reads."""

    clips: Sequence[EncodedClip]
    params: ViewParams
    decoding: list[Future[list[np.ndarray]]] = field(default_factory=list)
    bad: dict[int, str] = field(default_factory=dict)
    inputs: dict[str, Any] = field(default_factory=dict)

    def faults(self) -> dict[int, str]:
        """Why clips cannot be used, by position; waits for their decoding."""
        raised = {b: future.exception() for b, future in enumerate(self.decoding)}
        for b, error in raised.items():
            if isinstance(error, BadClip):
                self.bad[b] = str(error)
            elif error is not None:
                raise error
        return self.bad


class Gather:
    """Makes one array of frames that are alike, in memory that is used again."""

    def __init__(self, pinned: bool) -> None:
        self._pinned = pinned
        self._buffers: dict[tuple[int, ...], Buffers] = {}  # by shape of all frames

    def __call__(self, frames: list[np.ndarray]) -> np.ndarray:
        """(N, H, W, 3); in use as long as it is referred to."""
        shape = (len(frames), *frames[0].shape)
        if shape not in self._buffers:
            self._buffers.clear()  # a data set's frames are alike, but for the last batch of an evaluation
            self._buffers[shape] = Buffers(
                lambda: torch.empty(shape, dtype=torch.uint8, pin_memory=self._pinned).numpy()
            )
        frames_NHWC = self._buffers[shape].take()
        np.stack(frames, out=frames_NHWC)
        return frames_NHWC


class DaliBackend:
    """`RgbBackend` through DALI.

    Args:
        codec: of the shards.
        size: pixels of the square view.
        frames: of a view.
        clips: most clips in a batch of this rank.
        views: of a clip: 2 in training, 1 in evaluation.
        decode: dali, libav (threads on the CPU), or auto: DALI wherever it has a decoder.
        device: cpu | gpu, where DALI works.
        device_id: of the GPU.
        threads: CPU threads.
        depth: batches in flight at most.

    Raises:
        UserError: DALI has no decoder of this codec for the CPU.
    """

    def __init__(
        self,
        codec: Codec,
        size: int,
        frames: int,
        clips: int,
        views: int = 2,
        decode: str = "auto",
        device: str = "cpu",
        device_id: int = 0,
        threads: int = 2,
        depth: int = 2,
    ) -> None:
        decodes = codec.dali_gpu if device == "gpu" else codec.dali_cpu
        if decode == "auto":
            decode = "dali" if decodes else "libav"
        if decode == "dali" and not decodes:
            other = "on a GPU only; set data.decode=libav or data.device=gpu"
            raise UserError(
                f"DALI decodes {codec.name} {other if codec.dali_gpu else 'nowhere; set data.decode=libav'}"
            )
        self._reads_jpeg = decode == "dali" and codec.alone
        self._by_clip = decode == "dali" and not codec.alone
        # From where they were decoded, a GPU would get thousands of frames one by one.
        self._gather = Gather(pinned=True) if decode == "libav" and device == "gpu" else None
        self._views = views
        self._frames = frames
        self._threads = ThreadPoolExecutor(threads, "libav") if decode == "libav" else None
        graph = clip_graph if self._by_clip else frame_graph
        self._build = lambda: graph(
            batch_size=clips if self._by_clip else views * clips * frames,
            num_threads=threads,
            device_id=device_id if device == "gpu" else None,
            prefetch_queue_depth=depth,
            exec_dynamic=True,
            enable_conditionals=True,
            decode=decode == "dali",
            device=device,
            size=size,
            **({"views": views} if self._by_clip else {}),
        )
        self._pipeline: Pipeline | None = None
        self._waiting: deque[_Job] = deque()  # for libavcodec
        self._running: deque[_Job] = deque()  # in DALI

    def submit(self, clips: Sequence[EncodedClip], params: ViewParams) -> None:
        """See `RgbBackend.submit`."""
        job = _Job(clips, params)
        if self._threads is not None:
            job.decoding = [
                self._threads.submit(decode_frames, clip, np.unique(params.rgb_index_VBT[:, b]))
                for b, clip in enumerate(clips)
            ]
        if self._reads_jpeg:
            for b, clip in enumerate(clips):
                if reason := bad_frame(clip, np.unique(params.rgb_index_VBT[:, b])):
                    job.bad[b] = reason
        if self._by_clip:
            job.bad |= {b: reason for b, clip in enumerate(clips) if (reason := _bad_container(clip))}
        self._waiting.append(job)
        self._start_ready()

    def result(self) -> Tensor:
        """See `RgbBackend.result`. The tensor is DALI's own memory."""
        if not self._running:
            job = self._waiting.popleft()
            if faults := job.faults():
                self._drop()
                raise BadVideo(faults)
            self._start(job)
        assert self._pipeline is not None
        try:
            outputs = self._pipeline.outputs()
        except RuntimeError as error:
            raise self._blame(self._running.popleft(), error) from None
        job = self._running.popleft()
        self._start_ready()
        if self._by_clip:
            return torch.stack([torch.from_dlpack(view.as_tensor()) for view in outputs])
        rgb_NHWC = torch.from_dlpack(outputs[0].as_tensor())
        if self._gather is not None and rgb_NHWC.is_cuda:  # the copy from page-locked memory may still be under way
            torch.cuda.current_stream(rgb_NHWC.device).synchronize()
        return rgb_NHWC.view(self._views, len(job.clips), self._frames, *rgb_NHWC.shape[1:])

    def close(self) -> None:
        """See `RgbBackend.close`."""
        self._drop()
        if self._threads is not None:
            self._threads.shutdown(cancel_futures=True)

    def _start_ready(self) -> None:
        while self._waiting and all(future.done() for future in self._waiting[0].decoding):
            if self._waiting[0].faults():
                return  # reported when it is this batch's turn
            self._start(self._waiting.popleft())

    def _start(self, job: _Job) -> None:
        """Hand a batch to DALI."""
        if self._by_clip:
            job.inputs = clip_inputs(job.clips, job.params)
        else:
            decoded = [future.result() for future in job.decoding] if self._threads is not None else None
            job.inputs = frame_inputs(job.clips, job.params, decoded, self._gather)
        if self._pipeline is None:
            self._pipeline = self._build()
            self._pipeline.build()
            # Otherwise the first schedule_run would ask for as many batches as the queue is deep, and wait.
            self._pipeline._first_iter = False
        for name, values in job.inputs.items():
            self._pipeline.feed_input(name, values)
        self._pipeline.schedule_run()
        self._running.append(job)

    def _blame(self, job: _Job, error: RuntimeError) -> Exception:
        """Find the clips that fail on their own: DALI names no sample. Drops everything in flight.

        An error of the GPU is no clip's fault: after one, every clip fails.
        """
        self._drop()
        if _of_the_gpu(error):
            return error
        reasons = {}
        for b, clip in enumerate(job.clips):
            alone = _Job([clip], _only(job.params, b))
            try:
                if self._threads is not None:
                    alone.decoding = [job.decoding[b]]
                self._start(alone)
                assert self._pipeline is not None
                self._running.popleft()
                self._pipeline.outputs()
            except RuntimeError as cause:
                self._drop()
                if _of_the_gpu(cause):
                    return cause
                reasons[b] = f"{clip.name}: {clip.codec.name} does not decode: {_last_line(cause)}"
        return BadVideo(reasons) if reasons else error

    def _drop(self) -> None:
        if self._pipeline is not None:
            for _ in self._running:  # DALI may still be reading the memory of these
                with contextlib.suppress(RuntimeError):
                    self._pipeline.outputs()
        self._pipeline = None
        for job in self._waiting:
            for future in job.decoding:
                future.cancel()
        self._waiting.clear()
        self._running.clear()


def _only(params: ViewParams, b: int) -> ViewParams:
    return ViewParams(**{name: value[:, b : b + 1] for name, value in vars(params).items()})


def _bad_container(clip: EncodedClip) -> str | None:
    """Why DALI, which takes frames of any size, must not see an mp4; or None."""
    assert isinstance(clip.codec, VideoCodec)
    try:
        track = read_track(clip.video, clip.codec.sample_entries, clip.codec.parameters)
    except av.FFmpegError as error:
        return f"{clip.name}: {clip.codec.name} does not decode: {error}"
    if (track.width, track.height) != (clip.width, clip.height):
        return f"{clip.name}: {clip.codec.name} of {track.width}x{track.height}, expected {clip.width}x{clip.height}"
    return None


def _of_the_gpu(error: RuntimeError) -> bool:
    return re.search(r"\bCUDA\b|CUDA_ERROR|cudaError", str(error)) is not None


def _last_line(error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    told = [line for line in lines if not line.startswith(("Current pipeline", "Critical error"))]
    return (told or lines)[-1]

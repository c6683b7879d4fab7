"""RGB views by NVIDIA DALI: the same operators on CPU and GPU, fed with the bytes and draws of each batch.

A sample of the graph is one frame of one view where frames can be had one by one (jpeg, or decoded by libavcodec), so
that the output is the batch as it is wanted, without a copy. Where DALI decodes video, a sample is a clip.

DALI's readers are not used: they shuffle within a buffer, cannot be resumed where video is decoded, and one bad sample
ends them.
"""

from __future__ import annotations

import contextlib
from collections import deque
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from nvidia.dali import Pipeline, fn, pipeline_def, types
from torch import Tensor

from cclslr.data.backend import BadVideo, EncodedClip
from cclslr.data.batch import ViewParams
from cclslr.data.jpeg import bad_frame
from cclslr.data.libav import decode_frames
from cclslr.shards.format import MASK_SIZE, BadClip

_NO_MASK = np.ones((1, 1, 1), np.uint8)


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
        ValueError: DALI has no decoder of this codec for the CPU.
    """

    def __init__(
        self,
        codec: str,
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
        if decode == "auto":
            decode = "libav" if device == "cpu" and codec in ("h264", "hevc") else "dali"
        if decode == "dali" and device == "cpu" and codec in ("h264", "hevc"):
            raise ValueError(f"DALI decodes {codec} on a GPU only; set data.decode=libav or data.device=gpu")
        self._reads_jpeg = decode == "dali" and codec == "jpeg"
        self._by_clip = decode == "dali" and codec != "jpeg"
        self._views = views
        self._frames = frames
        self._threads = ThreadPoolExecutor(threads, "libav") if decode == "libav" else None
        graph = _clip_graph if self._by_clip else _frame_graph
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
        job.inputs = _clip_inputs(job) if self._by_clip else _frame_inputs(job)
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
        """Find the clips that fail on their own: DALI names no sample. Drops everything in flight."""
        self._drop()
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
                reasons[b] = f"{clip.name}: {clip.codec} does not decode: {_last_line(cause)}"
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


def _last_line(error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    told = [line for line in lines if not line.startswith(("Current pipeline", "Critical error"))]
    return (told or lines)[-1]


# ---------------------------------------------------------------------------------------------------------------------
# Inputs


def _roi(params: ViewParams) -> tuple[np.ndarray, np.ndarray]:
    """Start and end (y, x) of each view's crop, (V, B, 2); a flip swaps the ends in x, which `fn.resize` follows."""
    x0, y0, x1, y1 = np.moveaxis(params.crop_VB4, -1, 0)
    left, right = np.where(params.flip_VB, (x1, x0), (x0, x1))
    return np.stack([y0, left], -1), np.stack([y1, right], -1)


def _mask_scale(clips: Sequence[EncodedClip]) -> np.ndarray:
    """Mask pixels per frame pixel (y, x) of each clip, (B, 2)."""
    return np.array([(MASK_SIZE / clip.height, MASK_SIZE / clip.width) for clip in clips], np.float32)


def _frame_inputs(job: _Job) -> dict[str, Any]:
    """One sample a frame, in the order view, clip, frame."""
    decoded = [future.result() for future in job.decoding]
    params, clips = job.params, job.clips
    num_views, num_clips, num_frames = params.rgb_index_VBT.shape
    images: list[np.ndarray] = []
    masks: list[np.ndarray] = []
    masked_VB = np.zeros((num_views, num_clips), bool)
    buffers = [np.frombuffer(clip.video, np.uint8) for clip in clips]
    masks_of = {b: clip.masks_THW for b, clip in enumerate(clips) if params.masked_VB[:, b].any()}
    for v in range(num_views):
        for b, clip in enumerate(clips):
            index_T = params.rgb_index_VBT[v, b]
            if decoded:
                position_T = np.searchsorted(np.unique(params.rgb_index_VBT[:, b]), index_T)
                images += [decoded[b][position] for position in position_T]
            else:
                ends = clip.frame_offsets
                images += [buffers[b][ends[t] : ends[t + 1]] for t in index_T]
            masks_THW = masks_of.get(b) if params.masked_VB[v, b] else None
            masked_VB[v, b] = masks_THW is not None
            masks += [_NO_MASK] * num_frames if masks_THW is None else list(masks_THW[index_T][..., None])
    start_VB2, end_VB2 = _roi(params)
    scale_B2 = _mask_scale(clips)

    def per_frame(values_VB: np.ndarray) -> np.ndarray:
        return np.repeat(values_VB.reshape(num_views * num_clips, *values_VB.shape[2:]), num_frames, axis=0)

    return {
        "video": images,
        "start": per_frame(start_VB2),
        "end": per_frame(end_VB2),
        "matrix": per_frame(params.colour_VB34[..., :3]),
        "offset": per_frame(params.colour_VB34[..., 3]),
        "masked": per_frame(masked_VB),
        "mask": masks,
        "mask_start": per_frame(start_VB2 * scale_B2),
        "mask_end": per_frame(end_VB2 * scale_B2),
    }


def _clip_inputs(job: _Job) -> dict[str, Any]:
    """One sample a clip; what belongs to a view carries its number."""
    params, clips = job.params, job.clips
    wanted = [np.unique(params.rgb_index_VBT[:, b]).astype(np.int32) for b in range(len(clips))]
    inputs: dict[str, Any] = {
        "video": [np.frombuffer(clip.video, np.uint8) for clip in clips],
        "wanted": wanted,
    }
    start_VB2, end_VB2 = _roi(params)
    scale_B2 = _mask_scale(clips)
    for v in range(len(params.rgb_index_VBT)):
        masks_of = [clip.masks_THW if params.masked_VB[v, b] else None for b, clip in enumerate(clips)]
        index_BT = params.rgb_index_VBT[v]
        inputs |= {
            f"order{v}": [np.searchsorted(w, t).astype(np.int32) for w, t in zip(wanted, index_BT, strict=True)],
            f"start{v}": start_VB2[v],
            f"end{v}": end_VB2[v],
            f"matrix{v}": np.ascontiguousarray(params.colour_VB34[v, :, :, :3]),
            f"offset{v}": np.ascontiguousarray(params.colour_VB34[v, :, :, 3]),
            f"masked{v}": np.array([masks is not None for masks in masks_of]),
            f"mask{v}": [
                _NO_MASK[None] if masks_THW is None else masks_THW[index_T][..., None]
                for masks_THW, index_T in zip(masks_of, index_BT, strict=True)
            ],
            f"mask_start{v}": start_VB2[v] * scale_B2,
            f"mask_end{v}": end_VB2[v] * scale_B2,
        }
    return inputs


# ---------------------------------------------------------------------------------------------------------------------
# Graphs


def _source(name: str, device: str = "cpu", **options: Any) -> Any:
    node = fn.external_source(name=name, no_copy=True, **options)
    return node.gpu() if device == "gpu" else node


def _decoder(device: str) -> str:
    return "mixed" if device == "gpu" else "cpu"


def _augment(images: Any, device: str, size: int, view: str, layout: str) -> Any:
    """Crop, resize, flip, colour and mask one view; the arithmetic that `RgbBackend` describes."""
    images = fn.resize(
        images,
        size=[size, size],
        roi_start=_source("start" + view),
        roi_end=_source("end" + view),
        interp_type=types.DALIInterpType.INTERP_LINEAR,
        antialias=False,
    )
    images = fn.coord_transform(
        images, M=_source("matrix" + view), T=_source("offset" + view), dtype=types.DALIDataType.UINT8
    )
    masks = _source("mask" + view, device, layout=layout)
    masked = _source("masked" + view)
    mask_start, mask_end = _source("mask_start" + view), _source("mask_end" + view)
    if masked:
        out = images * fn.resize(
            masks, size=[size, size], roi_start=mask_start, roi_end=mask_end, interp_type=types.DALIInterpType.INTERP_NN
        )
    else:
        out = images
    return out


@pipeline_def
def _frame_graph(decode: bool, device: str, size: int) -> Any:
    if decode:
        # Chroma is interpolated as libjpeg does by default; without it colours differ by up to 20 at edges.
        images = fn.decoders.image(_source("video"), device=_decoder(device), jpeg_fancy_upsampling=True)
    else:
        images = _source("video", device, layout="HWC")
    return _augment(images, device, size, view="", layout="HWC")


@pipeline_def
def _clip_graph(decode: bool, device: str, size: int, views: int) -> Any:
    assert decode
    frames = fn.decoders.video(_source("video"), device=_decoder(device), frames=_source("wanted"), pad_mode="none")
    return tuple(
        _augment(fn.sequence_rearrange(frames, new_order=_source(f"order{v}")), device, size, str(v), "FHWC")
        for v in range(views)
    )

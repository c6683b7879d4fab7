"""DALI's graphs of RGB views, and what they are fed with: bytes or frames, and the draws of each view.

A sample is one frame of one view where frames can be had one by one (jpeg, or decoded by libavcodec), so that the
output is the batch as it is wanted, without a copy. Where DALI decodes video, a sample is a clip.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from nvidia.dali import fn, pipeline_def, types

from cclslr.data.backend import EncodedClip
from cclslr.data.batch import ViewParams
from cclslr.shards.format import MASK_SIZE

_NO_MASK = np.ones((1, 1, 1), np.uint8)


def _roi(params: ViewParams) -> tuple[np.ndarray, np.ndarray]:
    """Start and end (y, x) of each view's crop, (V, B, 2); a flip swaps the ends in x, which `fn.resize` follows."""
    x0, y0, x1, y1 = np.moveaxis(params.crop_VB4, -1, 0)
    left, right = np.where(params.flip_VB, (x1, x0), (x0, x1))
    return np.stack([y0, left], -1), np.stack([y1, right], -1)


def _mask_scale(clips: Sequence[EncodedClip]) -> np.ndarray:
    """Mask pixels per frame pixel (y, x) of each clip, (B, 2)."""
    return np.array([(MASK_SIZE / clip.height, MASK_SIZE / clip.width) for clip in clips], np.float32)


def frame_inputs(
    clips: Sequence[EncodedClip],
    params: ViewParams,
    decoded: list[list[np.ndarray]] | None,
    gather: Callable[[list[np.ndarray]], np.ndarray] | None = None,
) -> dict[str, Any]:
    """What `frame_graph` reads: one sample a frame, in the order view, clip, frame.

    One array is fed in a thirtieth of the time of a list of 4,096, in which the GIL is held.

    Args:
        clips: of the batch.
        params: of its views.
        decoded: the frames that any view wants of each clip; None where DALI decodes.
        gather: makes one array of decoded frames that are alike, in memory that a GPU likes to copy from; None leaves
            them where they are.
    """
    num_views, num_clips, num_frames = params.rgb_index_VBT.shape
    images: list[np.ndarray] = []
    masked_VB = np.zeros((num_views, num_clips), bool)
    buffers = [np.frombuffer(clip.video, np.uint8) for clip in clips]
    masks_of = {b: clip.masks_THW for b, clip in enumerate(clips) if params.masked_VB[:, b].any()}
    for v in range(num_views):
        for b, clip in enumerate(clips):
            index_T = params.rgb_index_VBT[v, b]
            if decoded is not None:
                position_T = np.searchsorted(np.unique(params.rgb_index_VBT[:, b]), index_T)
                images += [decoded[b][position] for position in position_T]
            else:
                ends = clip.frame_offsets
                images += [buffers[b][ends[t] : ends[t + 1]] for t in index_T]
            masked_VB[v, b] = params.masked_VB[v, b] and masks_of[b] is not None
    side = MASK_SIZE if masked_VB.any() else 1
    masks_VBTHWC = np.ones((num_views, num_clips, num_frames, side, side, 1), np.uint8)
    for v, b in np.argwhere(masked_VB):
        masks_THW = masks_of[b]
        assert masks_THW is not None
        masks_VBTHWC[v, b] = masks_THW[params.rgb_index_VBT[v, b], ..., None]
    alike = gather is not None and decoded is not None and len({image.shape for image in images}) == 1
    start_VB2, end_VB2 = _roi(params)
    scale_B2 = _mask_scale(clips)

    def per_frame(values_VB: np.ndarray) -> np.ndarray:
        return np.repeat(values_VB.reshape(num_views * num_clips, *values_VB.shape[2:]), num_frames, axis=0)

    return {
        "video": gather(images) if alike and gather is not None else images,
        "start": per_frame(start_VB2),
        "end": per_frame(end_VB2),
        "matrix": per_frame(params.colour_VB34[..., :3]),
        "offset": per_frame(params.colour_VB34[..., 3]),
        "masked": per_frame(masked_VB),
        "mask": masks_VBTHWC.reshape(-1, side, side, 1),
        "mask_start": per_frame(start_VB2 * scale_B2),
        "mask_end": per_frame(end_VB2 * scale_B2),
    }


def clip_inputs(clips: Sequence[EncodedClip], params: ViewParams) -> dict[str, Any]:
    """What `clip_graph` reads: one sample a clip; what belongs to a view carries its number."""
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
def frame_graph(decode: bool, device: str, size: int) -> Any:
    if decode:
        # Chroma is interpolated as libjpeg does by default; without it colours differ by up to 20 at edges.
        images = fn.decoders.image(_source("video"), device=_decoder(device), jpeg_fancy_upsampling=True)
    else:
        images = _source("video", device, layout="HWC")
    return _augment(images, device, size, view="", layout="HWC")


@pipeline_def
def clip_graph(decode: bool, device: str, size: int, views: int) -> Any:
    assert decode
    frames = fn.decoders.video(_source("video"), device=_decoder(device), frames=_source("wanted"), pad_mode="none")
    return tuple(
        _augment(fn.sequence_rearrange(frames, new_order=_source(f"order{v}")), device, size, str(v), "FHWC")
        for v in range(views)
    )

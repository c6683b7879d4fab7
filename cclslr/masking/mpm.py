"""Motion-preserving masking: from a clip's frames to its binary masks (CCL-SLR §3.3, Eq. 5).

Every frame goes through a normalising flow. Latent dimensions whose standard deviation over the clip says "static" are
zeroed, the rest is decoded to the motion-preserving video, and that video is binarised: one threshold a clip (Otsu) on
a map of each frame, blurred by 5x5. The paper does not say which map; `binarize` names it:

- `decoded_deviation`: standard deviation over time of the video's colours; the same mask for all frames of the clip;
- `decoded_motion`: distance of a frame's colours from their mean over time;
- `decoded_difference`: distance of a frame's gray from that of the decoded zero latent;
- `gray_otsu`: the frame's gray itself, not blurred: the paper to the letter.

The same functions serve the methods of cclslr/masking/methods that need no flow.

Shapes: T frames, H x W pixels, D latent dimensions, S the frame size of the flow; masks are MASK_SIZE x MASK_SIZE and
cover the whole frame.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from cclslr.masking.flow import Flow
from cclslr.masking.methods.base import MpmOptions, MpmReport
from cclslr.shards.format import MASK_SIZE

MIN_SHARE = 1e-3  # at least this share of the latents must be masked, and be kept
MIN_DIFFERENCE = 2 / 256  # of gray values in [0, 1]: below it nothing moves, and Otsu would split noise
GRAY = (0.299, 0.587, 0.114)


@torch.inference_mode()
def flow_masks(
    clips_TCHW: Sequence[Tensor], options: MpmOptions, flow: Flow, frames_per_pass: int | None = None
) -> list[tuple[np.ndarray, MpmReport]]:
    """The masks of several clips, given as `resize` returns them, with the flow run on frames of all clips together."""
    videos, keeps, reasons = motion_videos(clips_TCHW, options, flow, frames_per_pass)
    still_1CHW = decode_zero(flow) if options.binarize == "decoded_difference" else None
    results = []
    for video_TCHW, keep_D, reason in zip(videos, keeps, reasons):
        mask_THW = None
        if reason is None:
            mask_THW, reason = _binarize(video_TCHW, options.binarize, still_1CHW)
        if mask_THW is None:
            mask_THW = torch.ones(len(video_TCHW), MASK_SIZE, MASK_SIZE)
        results.append(finish(mask_THW, reason, 1.0 - float(keep_D.float().mean())))
    return results


@torch.inference_mode()
def motion_videos(
    clips_TCHW: Sequence[Tensor], options: MpmOptions, flow: Flow, frames_per_pass: int | None = None
) -> tuple[list[Tensor], list[Tensor], list[str | None]]:
    """The motion-preserving videos (T, 3, S, S), which latents each clip keeps (D,), and why a clip is degenerate.

    A degenerate clip's video is its input: nothing of it is decoded.
    """
    frames_per_pass = flow.frames_per_pass if frames_per_pass is None else frames_per_pass
    lengths = [len(clip) for clip in clips_TCHW]
    frames = torch.cat([to_unit(clip) for clip in clips_TCHW])
    passes = range(0, len(frames), frames_per_pass)
    latents = torch.cat([flow.encode(frames[i : i + frames_per_pass].to(flow.device))[0] for i in passes])
    keeps, reasons = [], []
    for latents_TD in latents.split(lengths):
        keep_D, reason = select_latents(latents_TD, options)
        keeps.append(keep_D)
        reasons.append("untrained flow" if flow.card.origin == "untrained" else reason)
    decode_N = torch.tensor([reason is None for reason in reasons]).repeat_interleave(torch.tensor(lengths))
    kept = torch.cat([z * keep for z, keep in zip(latents.split(lengths), keeps)])[decode_N]
    decoded = [flow.decode(kept[i : i + frames_per_pass]) for i in range(0, len(kept), frames_per_pass)]
    video = frames.to(flow.device)
    if decoded:
        video[decode_N] = torch.cat(decoded)
    return list(video.split(lengths)), keeps, reasons


def select_latents(latents_TD: Tensor, options: MpmOptions) -> tuple[Tensor, str | None]:
    """Which latent dimensions survive, (D,) bool, and why the clip is degenerate, if it is."""
    everything = torch.ones(latents_TD.shape[1], dtype=torch.bool, device=latents_TD.device)
    if len(latents_TD) < 2:
        return everything, "single frame"
    sigma_D = latents_TD.std(0)
    if not bool(torch.isfinite(sigma_D).all()):
        return everything, "non-finite latents"
    if options.threshold == "quantile":  # strictly above: where many latents do not move at all, they tie
        moving_D = sigma_D > float(np.quantile(sigma_D.cpu().numpy(), options.p))
    else:
        moving_D = sigma_D >= options.p
    keep_D = moving_D if options.keep == "high" else ~moving_D
    share = float(keep_D.float().mean())
    if share < MIN_SHARE:
        return keep_D, "everything static" if options.keep == "high" else "nothing static"
    if share > 1 - MIN_SHARE:
        return keep_D, "nothing static" if options.keep == "high" else "everything static"
    return keep_D, None


def resize(frames_THWC: np.ndarray, size: int) -> Tensor:
    """uint8 frames (T, H, W, 3) → uint8 (T, 3, size, size), anti-aliased; the aspect ratio is given up."""
    frames = torch.from_numpy(np.ascontiguousarray(frames_THWC)).permute(0, 3, 1, 2)  # channels last: the fast path
    return F.interpolate(frames, (size, size), mode="bilinear", antialias=True, align_corners=False)


def to_unit(frames: Tensor) -> Tensor:
    """uint8 → float32 in (0, 1), the middle of each value's bin: what a flow encodes."""
    return (frames.float() + 0.5) / 256


def decode_zero(flow: Flow) -> Tensor:
    """The frame of the zero latent (1, 3, S, S): what a motion-preserving video shows where everything is static."""
    return flow.decode(torch.zeros(1, flow.latent_dim, device=flow.device))


def otsu(values: Tensor, low: float, high: float) -> float:
    """Otsu's threshold of values in [low, high] from 256 bins: the bin edge of the largest between-class variance."""
    counts = torch.histc(values.float(), 256, low, high).double()
    centres = torch.arange(256, dtype=torch.float64, device=counts.device) + 0.5
    below, weighted = counts.cumsum(0), (counts * centres).cumsum(0)
    above = below[-1] - below
    mean_below, mean_above = weighted / below, (weighted[-1] - weighted) / above
    variance = torch.nan_to_num(below * above * (mean_below - mean_above) ** 2, nan=-1.0)
    return low + (high - low) * (int(variance.argmax()) + 1) / 256


def to_gray(frames_NCHW: Tensor) -> Tensor:
    weights = torch.tensor(GRAY, device=frames_NCHW.device).view(1, 3, 1, 1)
    return (frames_NCHW * weights).sum(1, keepdim=True)


def blurred(maps_N1HW: Tensor) -> Tensor:
    """The mean of each pixel's 5x5 neighbours, as many as there are."""
    return F.avg_pool2d(maps_N1HW, 5, stride=1, padding=2, count_include_pad=False)


def split_map(maps_N1HW: Tensor) -> tuple[Tensor | None, str | None]:
    """At the mask's size a 5x5 blur, one Otsu threshold over all maps; (N, 64, 64) bool, or why there is none."""
    maps = F.interpolate(maps_N1HW, (MASK_SIZE, MASK_SIZE), mode="bilinear", antialias=True, align_corners=False)
    maps = blurred(maps)[:, 0]
    high = float(maps.max())
    if not high >= MIN_DIFFERENCE:
        return None, "no motion"
    return maps > otsu(maps, 0.0, high), None


def _binarize(video_TCHW: Tensor, how: str, still_1CHW: Tensor | None) -> tuple[Tensor | None, str | None]:
    """The mask of a motion-preserving video; `still_1CHW` is the decoded zero latent, which one map compares with."""
    if not bool(torch.isfinite(video_TCHW).all()):
        return None, "non-finite frames"
    video_TCHW = video_TCHW.clamp(0, 1)
    if how == "gray_otsu":
        gray = F.interpolate(
            to_gray(video_TCHW), (MASK_SIZE, MASK_SIZE), mode="bilinear", antialias=True, align_corners=False
        )[:, 0]
        if float(gray.max() - gray.min()) < MIN_DIFFERENCE:
            return None, "no motion"
        return gray > otsu(gray, 0.0, 1.0), None
    if how == "decoded_difference":
        assert still_1CHW is not None
        return split_map((to_gray(video_TCHW) - to_gray(still_1CHW.clamp(0, 1))).abs())
    distance_T1HW = (video_TCHW - video_TCHW.mean(0)).square().sum(1, keepdim=True)
    if how == "decoded_motion":
        return split_map(distance_T1HW.sqrt())
    mask_1HW, reason = split_map(distance_T1HW.mean(0, keepdim=True).sqrt())
    return None if mask_1HW is None else mask_1HW.expand(len(video_TCHW), -1, -1), reason


def finish(mask_THW: Tensor, reason: str | None, masked: float | None = None) -> tuple[np.ndarray, MpmReport]:
    mask = mask_THW.to("cpu", torch.uint8).numpy()
    return mask, MpmReport(float(mask.mean()), masked, reason)

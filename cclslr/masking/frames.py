"""Frames for training a flow: a pool drawn once from packed clips, small enough to live in memory."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import torch
from torch import Tensor

from cclslr.console import progress_bar
from cclslr.errors import UserError
from cclslr.masking.mpm import resize
from cclslr.shards.format import BadClip
from cclslr.shards.reader import ShardSet


def held_out(num_clips: int, share: float, seed: int) -> np.ndarray:
    """Which clips are kept from training, (num_clips,) bool; at least one. Split by clip: a clip's frames are alike."""
    count = max(1, round(share * num_clips))
    chosen = np.random.Generator(np.random.Philox(seed)).permutation(num_clips)[:count]
    mask = np.zeros(num_clips, bool)
    mask[chosen] = True
    return mask


def draw_frames(
    shards: ShardSet, clip_ids: np.ndarray, size: int, frames_per_clip: int, seed: int, threads: int = 2
) -> tuple[Tensor, int]:
    """Up to `frames_per_clip` frames of each clip, evenly spread from a random start.

    Returns:
        uint8 (N, 3, size, size), and how many clips could not be decoded and are left out.

    Raises:
        UserError: no clip has video that decodes.
    """

    def load(clip_id: int) -> Tensor | None:
        try:
            clip = shards.read(clip_id, ("video",))
            if clip.video is None:
                return None
            frames_THWC = shards.codec(clip_id).decode(clip.video)
        except BadClip:
            return None
        start = np.random.Generator(np.random.Philox((seed, clip_id))).uniform()
        count = min(frames_per_clip, len(frames_THWC))
        index = ((np.arange(count) + start) * len(frames_THWC) / count).astype(int)
        return resize(frames_THWC[index], size)

    with ThreadPoolExecutor(threads) as pool, progress_bar() as bar:
        shown = bar.add_task("reading frames", total=len(clip_ids))
        drawn = []
        for frames in pool.map(load, map(int, clip_ids)):
            drawn.append(frames)
            bar.advance(shown)
    good = [frames for frames in drawn if frames is not None]
    if not good:
        raise UserError("no clip of these shards has video that decodes; a flow is trained on frames")
    return torch.cat(good), len(drawn) - len(good)

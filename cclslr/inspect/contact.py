"""A contact sheet: the training views of a few clips, RGB with keypoints and mask drawn in, the pose view below."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np

from cclslr.config import ViewConfig
from cclslr.data.backend import EncodedClip
from cclslr.data.batch import ViewParams
from cclslr.data.pose import pose_views
from cclslr.data.rgb_numba import render_clip
from cclslr.data.views import draw_views, to_view
from cclslr.files import atomic_write
from cclslr.inspect.films import COLOURS
from cclslr.keypoints import CONFIDENT, EDGES, LEFT_WRIST, NOSE, RIGHT_WRIST, SLICES, select
from cclslr.shards.reader import ClipData, ShardSet

ORIGIN = {"left_hand": LEFT_WRIST, "right_hand": RIGHT_WRIST, "face": NOSE, "mouth": NOSE}


def save_contact_sheet(
    path: str | Path, shards: ShardSet, clip_ids: list[int], cfg: ViewConfig, seed: int, frames: int = 6
) -> None:
    """Draw query and key of each clip as training would see them, and write a PNG.

    Lines are the packed keypoints, moved by the view's crop and flip: they must lie on the signer. What the mask would
    hide is darkened; a view that is masked in training says so. The third row is the pose view, its groups put back at
    wrists and nose.
    """
    cfg = replace(cfg, rgb_frames=frames, pose_frames=frames)
    figure, axes = plt.subplots(4 * len(clip_ids), frames, figsize=(1.6 * frames, 7.0 * len(clip_ids)), squeeze=False)
    for axis in axes.flat:
        axis.set_axis_off()
    for number, clip_id in enumerate(clip_ids):
        clip = shards.read(clip_id)
        row = clip.row
        sizes_B2 = np.array([[row.width, row.height]])
        params = draw_views(cfg, seed, 0, np.array([clip_id]), np.array([row.num_frames]), sizes_B2)
        rgb_VBTHWC = _rgb(shards, clip_id, clip, params, cfg.size)
        pose_VBTJC = None if clip.pose_TKC is None else pose_views([clip.pose_TKC], sizes_B2, params)
        for v, name in enumerate(("query", "key")):
            top, below = axes[4 * number + 2 * v], axes[4 * number + 2 * v + 1]
            for t in range(frames):
                top[t].imshow(rgb_VBTHWC[v, 0, t])
                top[t].set_title(f"frame {params.rgb_index_VBT[v, 0, t]}", fontsize=7, pad=2)
                if pose_VBTJC is not None:
                    assert clip.pose_TKC is not None
                    points_JC = select(clip.pose_TKC[params.rgb_index_VBT[v, 0, t]].astype(np.float64))
                    _skeleton(top[t], to_view(points_JC[:, :2], params, v, 0, cfg.size), points_JC[:, 2] > CONFIDENT)
                    top[t].set_xlim(-0.5, cfg.size - 0.5)  # what the crop cut off stays out of sight
                    top[t].set_ylim(cfg.size - 0.5, -0.5)
                    _pose_view(below[t], pose_VBTJC[v, 0, t])
            words = [name, row.key, "" if row.label < 0 else shards.classes[row.label]]
            words += ["flipped"] * bool(params.flip_VB[v, 0]) + ["masked"] * bool(params.masked_VB[v, 0])
            top[0].text(0, -0.03, "  ".join(words), transform=top[0].transAxes, fontsize=8, weight="bold", va="top")
    figure.subplots_adjust(left=0.01, right=0.99, bottom=0.01, top=0.98, wspace=0.04, hspace=0.22)
    with atomic_write(path) as file:
        figure.savefig(file, dpi=100, format="png")
    plt.close(figure)


def _rgb(shards: ShardSet, clip_id: int, clip: ClipData, params: ViewParams, size: int) -> np.ndarray:
    """The unmasked views, with what the mask hides at a third of its brightness."""
    row, masks_THW = clip.row, clip.masks_THW
    assert clip.video is not None, "a contact sheet shows video"
    encoded = EncodedClip(
        name=f"{shards.path(clip_id)}: clip {row.key}",
        video=clip.video,
        codec=shards.infos[shards.dataset_ids[clip_id]]["codec"],
        frame_offsets=row.frame_offsets,
        num_frames=row.num_frames,
        width=row.width,
        height=row.height,
        masks_THW=masks_THW,
    )

    def render(masked: bool) -> np.ndarray:
        rgb_VBTHWC = np.zeros((2, 1, params.rgb_index_VBT.shape[2], size, size, 3), np.uint8)
        render_clip(encoded, replace(params, masked_VB=np.full((2, 1), masked)), 0, rgb_VBTHWC)
        return rgb_VBTHWC

    plain = render(False)
    if masks_THW is None:
        return plain
    return plain // 3 + render(True) // 3 * 2


def _skeleton(axis: plt.Axes, xy_J2: np.ndarray, found_J: np.ndarray) -> None:
    for group, edges in EDGES.items():
        start = SLICES[group].start
        for a, b in edges:
            if found_J[start + a] and found_J[start + b]:
                ends = xy_J2[[start + a, start + b]]
                axis.plot(ends[:, 0], ends[:, 1], color=np.array(COLOURS[group]) / 255, linewidth=0.6)


def _pose_view(axis: plt.Axes, pose_JC: np.ndarray) -> None:
    xy_J2 = pose_JC[:, :2].astype(np.float64)
    found_J = pose_JC[:, 2] > 0
    for group, origin in ORIGIN.items():
        xy_J2[SLICES[group]] += xy_J2[origin]
        found_J[SLICES[group]] &= found_J[origin]  # nothing says where it would be
    _skeleton(axis, xy_J2, found_J)
    axis.set_xlim(-1.3, 1.3)
    axis.set_ylim(1.3, -1.3)
    axis.set_aspect("equal")

"""The pictures of one clip: every stage from the packed frames to the training views, as short films side by side."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageDraw

from cclslr.config import ViewConfig
from cclslr.data.backend import encoded_clip
from cclslr.data.batch import ViewParams
from cclslr.data.rgb_numba import render_clip
from cclslr.data.views import draw_views
from cclslr.inspect.contact import COLOURS
from cclslr.keypoints import CONFIDENT, EDGES, SLICES, select
from cclslr.masking.flow import Flow
from cclslr.masking.methods import MpmOptions, methods
from cclslr.masking.mpm import motion_videos, resize
from cclslr.shards.parts import ClipData
from cclslr.shards.reader import ShardSet

HEIGHT = 112  # pixels of a film


@dataclass
class Film:
    """One stage of a clip."""

    title: str
    caption: str
    frames_THWC: np.ndarray  # uint8 RGB


@dataclass
class ClipFilms:
    """Everything the page shows of a clip."""

    key: str
    label: str
    split: str
    signer: str
    meta: dict[str, Any]
    num_frames: int
    films: list[Film]

    @property
    def degenerate(self) -> str | None:
        """Why the mask hides nothing."""
        return self.meta.get("mask", {}).get("degenerate")


def films_of(
    shards: ShardSet, clip_id: int, flow: Flow | None, num_frames: int, views: ViewConfig, seed: int, epoch: int
) -> ClipFilms:
    """Read one clip and draw its films.

    Args:
        flow: the flow that made the masks, for the motion-preserving video; None leaves it out.
        num_frames: of every film.
        views: how training views are drawn; its size and frames are replaced by those of the films.
        seed, epoch: of the training views.

    Raises:
        BadClip: the clip is damaged or does not decode.
    """
    row, clip = shards.rows[clip_id], shards.read(clip_id)
    films: list[Film] = []
    if clip.video is not None:
        frames_THWC = shards.codec(clip_id).decode(clip.video)
        chosen = np.linspace(0, len(frames_THWC) - 1, num_frames).round().astype(int)
        films += _stages(clip, frames_THWC, chosen, flow)
        films += _views(shards, clip_id, clip, num_frames, views, seed, epoch)
    elif clip.pose_TKC is not None:
        chosen = np.linspace(0, len(clip.pose_TKC) - 1, num_frames).round().astype(int)
        low, high = clip.pose_TKC[..., :2].min((0, 1)), clip.pose_TKC[..., :2].max((0, 1))
        blank = np.zeros((num_frames, HEIGHT, HEIGHT, 3), np.uint8)
        scale = HEIGHT / max(float((high - low).max()), 1.0)
        films.append(Film("keypoints", "no video", _draw_pose(blank, clip.pose_TKC[chosen], scale, low)))
    label = "unlabelled" if row.label < 0 else shards.classes[row.label]
    return ClipFilms(row.key, label, row.split, row.signer, clip.meta, row.num_frames, films)


def _stages(clip: ClipData, frames_THWC: np.ndarray, chosen: np.ndarray, flow: Flow | None) -> list[Film]:
    small = np.stack([_thumbnail(frame) for frame in frames_THWC[chosen]])
    height, width = small.shape[1:3]
    films = [Film("frames", f"{frames_THWC.shape[2]} x {frames_THWC.shape[1]}", small)]
    if clip.pose_TKC is not None:
        scale = height / frames_THWC.shape[1]
        found = [_share_found(clip.pose_TKC, slice(91, 112)), _share_found(clip.pose_TKC, slice(112, 133))]
        drawn = _draw_pose(small, clip.pose_TKC[chosen], scale, np.zeros(2))
        films.append(Film("keypoints", f"hands found {found[0]:.0%}, {found[1]:.0%}", drawn))
    record = clip.meta.get("mask")
    if flow is not None and record is not None and methods()[record["options"]["method"]].needs_flow:
        videos, _, _ = motion_videos([resize(frames_THWC, flow.size)], MpmOptions(**record["options"]), flow)
        motion = videos[0][chosen].clamp(0, 1).mul(255).byte().permute(0, 2, 3, 1).numpy()
        scaled = np.stack([_resize(frame, width, height) for frame in motion])
        films.append(Film("motion preserved", f"{record['share_latents_masked']:.0%} of latents masked", scaled))
    masks_THW = clip.masks_THW
    if masks_THW is not None:
        nearest = np.stack([_resize(mask * 255, width, height, Image.Resampling.NEAREST) for mask in masks_THW[chosen]])
        films.append(Film("mask", f"{masks_THW.mean():.0%} kept", np.repeat(nearest[..., None], 3, -1)))
        films.append(Film("masked clip", "", np.where(nearest[..., None] > 0, small, 0).astype(np.uint8)))
    return films


def _views(
    shards: ShardSet,
    clip_id: int,
    clip: ClipData,
    num_frames: int,
    views: ViewConfig,
    seed: int,
    epoch: int,
) -> list[Film]:
    """Query and key as training would see them, by the same kernel."""
    row = clip.row
    cfg = ViewConfig(**{**vars(views), "rgb_frames": num_frames, "size": HEIGHT})
    sizes_B2 = np.array([[row.width, row.height]])
    params = draw_views(cfg, seed, epoch, np.array([clip_id]), np.array([row.num_frames]), sizes_B2)
    encoded = encoded_clip(shards, clip_id, clip, masked=True)
    rgb_VBTHWC = np.zeros((2, 1, num_frames, HEIGHT, HEIGHT, 3), np.uint8)
    render_clip(encoded, params, 0, rgb_VBTHWC)
    return [Film(("query", "key")[v], _describe(params, v), rgb_VBTHWC[v, 0]) for v in range(2)]


def _describe(params: ViewParams, v: int) -> str:
    index_T = params.rgb_index_VBT[v, 0]
    words = [f"frames {index_T[0]} to {index_T[-1]}"]
    words += ["flipped"] if params.flip_VB[v, 0] else []
    words += ["masked"] if params.masked_VB[v, 0] else []
    return ", ".join(words)


def _share_found(pose_TKC: np.ndarray, part: slice) -> float:
    return float((pose_TKC[:, part, 2] > CONFIDENT).any(1).mean())


def _draw_pose(small_THWC: np.ndarray, pose_TKC: np.ndarray, scale: float, origin_2: np.ndarray) -> np.ndarray:
    drawn = []
    for frame_HWC, points_KC in zip(small_THWC, pose_TKC.astype(np.float32)):
        image = Image.fromarray(frame_HWC // 2)
        canvas = ImageDraw.Draw(image)
        joints_JC = select(points_KC)
        xy = (joints_JC[:, :2] - origin_2 + 0.5) * scale
        for group, edges in EDGES.items():
            start = SLICES[group].start
            for a, b in edges:
                if joints_JC[start + a, 2] > CONFIDENT and joints_JC[start + b, 2] > CONFIDENT:
                    canvas.line([*xy[start + a], *xy[start + b]], fill=COLOURS[group])
        drawn.append(np.asarray(image))
    return np.stack(drawn)


def _thumbnail(frame_HWC: np.ndarray) -> np.ndarray:
    height, width = frame_HWC.shape[:2]
    return _resize(frame_HWC, max(1, round(width * HEIGHT / height)), HEIGHT)


def _resize(
    frame: np.ndarray, width: int, height: int, how: Image.Resampling = Image.Resampling.BILINEAR
) -> np.ndarray:
    return np.asarray(Image.fromarray(np.ascontiguousarray(frame)).resize((width, height), how))


def load_matching_flow(shards: ShardSet, flow: Flow) -> Flow | None:
    """`flow`, if it made the masks of these shards."""
    records = [info.get("masks") for info in shards.infos]
    made_by = {record["flow"]["sha256"] for record in records if isinstance(record, dict) and record.get("flow")}
    torch.set_num_threads(1)
    return flow if flow.card.sha256 in made_by else None

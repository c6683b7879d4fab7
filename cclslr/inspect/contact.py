"""A contact sheet: the training views of a few clips, RGB with keypoints drawn in, the pose view below."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from cclslr.config import ViewConfig
from cclslr.data.backend import encoded_clip
from cclslr.data.batch import Batch, ViewParams
from cclslr.data.plan import Slots
from cclslr.data.pose import pose_views
from cclslr.data.views import draw_views, to_view
from cclslr.files import atomic_write
from cclslr.keypoints import CONFIDENT, EDGES, LEFT_WRIST, NOSE, RIGHT_WRIST, SLICES, select
from cclslr.shards.format import BadClip
from cclslr.shards.parts import ClipData
from cclslr.shards.reader import ShardSet

COLOURS = {
    "body": (255, 190, 40),
    "left_hand": (80, 220, 120),
    "right_hand": (90, 170, 255),
    "face": (255, 120, 190),
    "mouth": (255, 70, 70),
}
ORIGIN = {"left_hand": LEFT_WRIST, "right_hand": RIGHT_WRIST, "face": NOSE, "mouth": NOSE}
TILE, GAP, CAPTION = 112, 2, 18  # pixels
VIEWS = ("query", "key")


@dataclass(frozen=True)
class ClipViews:
    """Some frames of both views of one clip."""

    title: str
    captions_V: tuple[str, ...]
    frames_VT: np.ndarray  # frame numbers in the packed clip
    rgb_VTHWC: np.ndarray | None  # uint8, square
    points_VTJC: np.ndarray | None  # keypoints in pixels of that square, and confidence
    pose_VTJC: np.ndarray | None  # what the pose branch sees


def save_contact_sheet(
    path: str | Path, shards: ShardSet, clip_ids: list[int], cfg: ViewConfig, seed: int, frames: int = 6
) -> None:
    """Draw query and key of each clip as training would see them, and write a PNG.

    Lines are the packed keypoints, moved by the view's crop and flip: they must lie on the signer. What the mask would
    hide is darkened; a view that is masked in training says so. The second row is the pose view, its groups put back at
    wrists and nose.
    """
    save_png(path, draw_sheet([_packed_views(shards, clip, cfg, seed, frames) for clip in clip_ids]))


def batch_sheet(
    batch: Batch,
    slots: Slots,
    epoch: int,
    shards: ShardSet,
    cfg: ViewConfig,
    seed: int,
    clips: int = 4,
    frames: int = 6,
) -> np.ndarray:
    """The sheet of a training batch, uint8 (H, W, 3): its own views, with the keypoints where they must lie.

    Args:
        batch: of this rank.
        slots: where it stands in the plan.
        epoch: 0-based.
        shards: what the batch was read from.
        cfg, seed: of the views; the draws are made again, nothing random is used up.
        clips: the first so many of the batch.
        frames: of each view, evenly spread.
    """
    return draw_sheet(list(_batch_views(batch, slots, epoch, shards, cfg, seed, clips, frames)))


def save_png(path: str | Path, sheet_HWC: np.ndarray) -> None:
    """Write a picture."""
    with atomic_write(path) as file:
        Image.fromarray(sheet_HWC).save(file, "PNG", compress_level=2)


def draw_sheet(clips: list[ClipViews]) -> np.ndarray:
    """One clip below the other, query to the left and key to the right: uint8 (H, W, 3)."""
    frames = clips[0].frames_VT.shape[1]
    rows = (clips[0].rgb_VTHWC is not None) + (clips[0].pose_VTJC is not None)
    step, gutter = TILE + GAP, 4 * GAP
    block = 2 * CAPTION + rows * step + gutter
    sheet = Image.new("RGB", (2 * frames * step + gutter, block * len(clips)), "white")
    draw, font = ImageDraw.Draw(sheet), ImageFont.load_default(11)
    for number, clip in enumerate(clips):
        top = number * block
        draw.text((GAP, top + GAP), clip.title, "black", font)
        for v in range(2):
            left = v * (frames * step + gutter)
            draw.text((left + GAP, top + CAPTION), clip.captions_V[v], "black", font)
            for t in range(frames):
                x, y = left + t * step, top + 2 * CAPTION
                if clip.rgb_VTHWC is not None:
                    points_JC = None if clip.points_VTJC is None else clip.points_VTJC[v, t]
                    sheet.paste(_rgb_tile(clip.rgb_VTHWC[v, t], points_JC, f"{clip.frames_VT[v, t]}"), (x, y))
                    y += step
                if clip.pose_VTJC is not None:
                    sheet.paste(_pose_tile(clip.pose_VTJC[v, t]), (x, y))
    return np.asarray(sheet)


def _packed_views(shards: ShardSet, clip_id: int, cfg: ViewConfig, seed: int, frames: int) -> ClipViews:
    """The views of a clip in epoch 0; masked and unmasked laid over each other."""
    cfg = replace(cfg, rgb_frames=frames, pose_frames=frames)
    clip = shards.read(clip_id)
    row = clip.row
    sizes_B2 = np.array([[row.width, row.height]])
    params = draw_views(cfg, seed, 0, np.array([clip_id]), np.array([row.num_frames]), sizes_B2)
    return ClipViews(
        _title(shards, clip),
        _captions(params, 0),
        params.rgb_index_VBT[:, 0],
        _rgb(shards, clip_id, clip, params, cfg.size),
        None if clip.pose_TKC is None else _points(clip.pose_TKC, params, 0, range(frames), cfg.size),
        None if clip.pose_TKC is None else pose_views([clip.pose_TKC], sizes_B2, params)[:, 0],
    )


def _batch_views(
    batch: Batch, slots: Slots, epoch: int, shards: ShardSet, cfg: ViewConfig, seed: int, clips: int, frames: int
) -> Iterator[ClipViews]:
    clip_ids = batch.clip_ids_B.tolist()
    rows = [shards.rows[clip_id] for clip_id in clip_ids]
    params = draw_views(
        cfg,
        seed,
        epoch,
        slots.keys_B,
        np.array([row.num_frames for row in rows]),
        np.array([(row.width, row.height) for row in rows]),
    )
    rgb_T, pose_T = (np.linspace(0, num - 1, frames).round().astype(int) for num in (cfg.rgb_frames, cfg.pose_frames))
    for b, clip_id in enumerate(clip_ids[:clips]):
        clip = _read_pose(shards, clip_id)
        seen = clip.pose_TKC if batch.rgb_VBTHWC is not None else None
        yield ClipViews(
            _title(shards, clip),
            _captions(params, b),
            params.rgb_index_VBT[:, b, rgb_T],
            None if batch.rgb_VBTHWC is None else batch.rgb_VBTHWC[:, b][:, rgb_T].cpu().numpy(),
            None if seen is None else _points(seen, params, b, rgb_T, cfg.size),
            None if batch.pose_VBTJC is None else batch.pose_VBTJC[:, b][:, pose_T].cpu().numpy(),
        )


def _read_pose(shards: ShardSet, clip_id: int) -> ClipData:
    try:
        return shards.read(clip_id, ("pose",))
    except BadClip:  # training on RGB alone does not mind a damaged pose
        return ClipData(shards.rows[clip_id], None, None, None, None)


def _title(shards: ShardSet, clip: ClipData) -> str:
    gloss = "" if clip.row.label < 0 else shards.classes[clip.row.label]
    return GAP * " " + clip.row.key + (f"  {gloss}" if gloss else "")


def _captions(params: ViewParams, b: int) -> tuple[str, ...]:
    return tuple(
        "  ".join([name, *["flipped"] * bool(params.flip_VB[v, b]), *["masked"] * bool(params.masked_VB[v, b])])
        for v, name in enumerate(VIEWS)
    )


def _points(pose_TKC: np.ndarray, params: ViewParams, b: int, chosen_T: range | np.ndarray, size: int) -> np.ndarray:
    """The packed keypoints where the view shows them: (2, len(chosen_T), 75, 3)."""
    points_VTJC = np.zeros((2, len(chosen_T), *select(pose_TKC[:1]).shape[1:]))
    for v in range(2):
        for number, t in enumerate(chosen_T):
            points_JC = select(pose_TKC[params.rgb_index_VBT[v, b, t]].astype(np.float64))
            points_VTJC[v, number] = points_JC
            points_VTJC[v, number, :, :2] = to_view(points_JC[:, :2], params, v, b, size)
    return points_VTJC


def _rgb(shards: ShardSet, clip_id: int, clip: ClipData, params: ViewParams, size: int) -> np.ndarray:
    """The unmasked views (2, T, size, size, 3), with what the mask hides at a third of its brightness."""
    from cclslr.data.rgb_numba import render_clip  # compiled when it is imported first; a batch's sheet does without

    assert clip.video is not None, "a contact sheet shows video"
    encoded = encoded_clip(shards, clip_id, clip, masked=True)

    def render(masked: bool) -> np.ndarray:
        rgb_VBTHWC = np.zeros((2, 1, params.rgb_index_VBT.shape[2], size, size, 3), np.uint8)
        render_clip(encoded, replace(params, masked_VB=np.full((2, 1), masked)), 0, rgb_VBTHWC)
        return rgb_VBTHWC[:, 0]

    plain = render(False)
    if encoded.masks_THW is None:
        return plain
    return plain // 3 + render(True) // 3 * 2


def _rgb_tile(rgb_HWC: np.ndarray, points_JC: np.ndarray | None, frame: str) -> Image.Image:
    tile = Image.fromarray(rgb_HWC).resize((TILE, TILE), Image.Resampling.BILINEAR)
    draw = ImageDraw.Draw(tile)
    if points_JC is not None:
        _skeleton(draw, points_JC[:, :2] * (TILE / len(rgb_HWC)), points_JC[:, 2] > CONFIDENT)
    draw.text((2, 1), frame, "white", ImageFont.load_default(9), stroke_width=1, stroke_fill="black")
    return tile


def _pose_tile(pose_JC: np.ndarray) -> Image.Image:
    """The groups put back at wrists and nose; x and y from -1.3 to 1.3."""
    tile = Image.new("RGB", (TILE, TILE), (24, 24, 28))
    xy_J2 = pose_JC[:, :2].astype(np.float64)
    found_J = pose_JC[:, 2] > 0
    for group, origin in ORIGIN.items():
        xy_J2[SLICES[group]] += xy_J2[origin]
        found_J[SLICES[group]] &= found_J[origin]  # nothing says where it would be
    _skeleton(ImageDraw.Draw(tile), (xy_J2 + 1.3) / 2.6 * TILE, found_J)
    return tile


def _skeleton(draw: ImageDraw.ImageDraw, xy_J2: np.ndarray, found_J: np.ndarray) -> None:
    for group, edges in EDGES.items():
        start = SLICES[group].start
        for a, b in edges:
            if found_J[start + a] and found_J[start + b]:
                draw.line([*xy_J2[start + a], *xy_J2[start + b]], fill=COLOURS[group])

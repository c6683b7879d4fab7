"""Frame, mask and keypoints stay together: dots painted at the keypoints lie under them in every view."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cache

import numpy as np
import pytest
import torch

from cclslr.config import DataConfig, ViewConfig
from cclslr.data.loader import Loader
from cclslr.data.plan import Plan
from cclslr.data.views import draw_views, to_view
from cclslr.distributed import Process
from cclslr.keypoints import FLIP, SELECTED, SLICES
from cclslr.shards.clip import PackOptions
from cclslr.shards.format import ManifestRow, RawClip
from cclslr.shards.pack import pack
from cclslr.shards.parts import ClipData, encode_masks
from cclslr.shards.reader import PARTS, ShardSet

WIDTH, HEIGHT, RADIUS, SIZE, CLIPS = 320, 256, 9, 160, 6
WHOLE = np.array(SELECTED)[SLICES["body"]]
COLOURS = np.array([(255, 40, 40), (40, 255, 40), (60, 60, 255), (255, 255, 40), (255, 40, 255), (40, 255, 255),
                    (255, 255, 255)])  # fmt: skip
CFG = ViewConfig(rgb_frames=6, pose_frames=6, size=SIZE, brightness=0, contrast=0, saturation=0, hue=0, mask_alpha=0,
                 rotation=0, scale=(1, 1), masked_joints=0, min_length=0.3)  # fmt: skip


@dataclass(frozen=True)
class DotsClip:
    """Seven body points, far from each other, that move; a dot of its own colour at each."""

    seed: int

    def load(self) -> RawClip:
        rng = np.random.default_rng(self.seed)
        frames = np.full((14, HEIGHT, WIDTH, 3), 20, np.uint8)
        points = np.full((14, 133, 3), (WIDTH / 2, HEIGHT / 2, 1), np.float32)
        cells = np.array([(x, y) for y in (60, 130, 200) for x in (50, 125, 200, 275)])
        home = cells[rng.permutation(len(cells))[:7]]
        y, x = np.mgrid[:HEIGHT, :WIDTH] + 0.5
        for t in range(14):
            at = home + 14 * np.sin(0.5 * t + rng.uniform(0, 0.01, (7, 2)) + np.arange(7)[:, None])
            points[t, WHOLE, :2] = at
            for (cx, cy), colour in zip(at, COLOURS, strict=True):
                frames[t][(x - cx) ** 2 + (y - cy) ** 2 <= RADIUS**2] = colour
        return RawClip(frames, points, 25.0)


def _mask_around_the_nose(keypoints_TKC: np.ndarray) -> np.ndarray:
    y, x = np.mgrid[:64, :64] + 0.5
    at = keypoints_TKC[:, WHOLE[0], :2] * (64 / WIDTH, 64 / HEIGHT)
    return np.array([((x - cx) ** 2 + (y - cy) ** 2 <= 7**2) for cx, cy in at]).astype(np.uint8)


class Masked(ShardSet):
    """Clips with a mask around the nose."""

    def read(self, clip_id: int, parts: tuple[str, ...] = PARTS, least: float = math.inf) -> ClipData:
        clip = super().read(clip_id, parts, least)
        if "mask" in parts and clip.pose_TKC is not None:
            clip.mask_png = encode_masks(_mask_around_the_nose(clip.pose_TKC.astype(float)))
        return clip


@pytest.fixture(scope="module")
def packed(tmp_path_factory: pytest.TempPathFactory):
    @cache
    def folder(codec: str) -> str:
        out = tmp_path_factory.mktemp("dots") / codec
        rows = [ManifestRow(f"dots{seed}", DotsClip(seed), 0, "dots", "train", None) for seed in range(CLIPS)]
        pack(rows, out, PackOptions(codec=codec, size=HEIGHT, crop="none"))
        return str(out)

    return folder


def _batch(folder: str, cfg: ViewConfig, backend: str, decode: str):
    """One batch of all clips, and the same draws made again from outside."""
    data = DataConfig(shards=[folder], backend=backend, decode=decode)
    shards = Masked(data.shards, "train")
    plan = Plan.for_training(shards, data, CLIPS, seed=0)
    process = Process(0, 1, torch.device("cpu"))
    with Loader(data, cfg, shards, plan, process, ("rgb", "pose"), seed=2).start(0) as loader:
        batch = next(loader)
    ids = plan.batch(0, 0)
    rows = [shards.rows[i] for i in ids]
    sizes = np.array([(row.width, row.height) for row in rows])
    params = draw_views(cfg, 2, 0, ids, np.array([row.num_frames for row in rows]), sizes)
    poses = [shards.read(int(i)).pose_TKC for i in ids]
    return batch.rgb_VBTHWC.numpy(), batch.pose_VBTJC.numpy(), params, poses


PATHS = [
    ("jpeg", "dali", "auto"),
    ("vp9", "dali", "dali"),
    ("h264", "dali", "libav"),
    ("jpeg", "numba", "auto"),
    ("vp9", "numba", "auto"),
    ("h264", "numba", "auto"),
    ("hevc", "numba", "auto"),
]


@pytest.mark.parametrize(("codec", "backend", "decode"), PATHS)
def test_dots_lie_under_their_keypoints_in_both_branches(packed, codec: str, backend: str, decode: str) -> None:
    rgb, pose, params, keypoints = _batch(packed(codec), CFG, backend, decode)
    assert params.flip_VB.any() and not params.flip_VB.all()  # noqa: PT018
    seen, worst = 0, 0.0
    for v, b in np.ndindex(2, CLIPS):
        source = np.array(SELECTED)[FLIP if params.flip_VB[v, b] else np.arange(75)][SLICES["body"]]
        for i, t in enumerate(params.rgb_index_VBT[v, b]):
            at = to_view(keypoints[b][t, source, :2], params, v, b, SIZE)
            for joint, (x, y) in enumerate(at):
                if not (16 <= x < SIZE - 16 and 16 <= y < SIZE - 16):
                    continue
                colour = COLOURS[list(WHOLE).index(source[joint])]
                patch = rgb[v, b, i, int(y) - 15 : int(y) + 16, int(x) - 15 : int(x) + 16].astype(int)
                dot = np.abs(patch - colour).max(axis=-1) < 70
                assert dot[15, 15], "another colour lies under the keypoint"
                rows, columns = np.nonzero(dot)
                middle = columns.mean() + int(x) - 15 + 0.5, rows.mean() + int(y) - 15 + 0.5
                worst = max(worst, np.hypot(middle[0] - x, middle[1] - y))
                seen += 1
        # The pose view of the same frames is the same picture, up to the scale and shift of its normalisation.
        np.testing.assert_array_equal(params.rgb_index_VBT[v, b], params.pose_index_VBT[v, b])
        pixels = np.concatenate(
            [to_view(keypoints[b][t, source, :2], params, v, b, SIZE) for t in params.rgb_index_VBT[v, b]]
        )
        body = pose[v, b][:, SLICES["body"], :2].reshape(-1, 2)
        for axis in range(2):
            slope, shift = np.polyfit(body[:, axis], pixels[:, axis], 1)
            assert slope > 0
            np.testing.assert_allclose(slope * body[:, axis] + shift, pixels[:, axis], atol=0.1)
    assert seen > 150
    assert worst < 1.5  # pixels of the view


@pytest.mark.parametrize(("codec", "backend", "decode"), [PATHS[0], PATHS[1], PATHS[3], PATHS[5]])
def test_masks_move_with_their_frames(packed, codec: str, backend: str, decode: str) -> None:
    """The mask is a disc around one keypoint: within it the frame shows, elsewhere nothing does."""
    masked = ViewConfig(**{**vars(CFG), "mask_alpha": 1.0})
    rgb, _, params, keypoints = _batch(packed(codec), masked, backend, decode)
    checked = 0
    y, x = np.mgrid[:SIZE, :SIZE] + 0.5
    for v, b in np.ndindex(2, CLIPS):
        x0, y0, x1, y1 = params.crop_VB4[v, b]
        across, down = WIDTH / 64 * SIZE / (x1 - x0), HEIGHT / 64 * SIZE / (y1 - y0)  # view pixels of a mask's pixel
        for i, t in enumerate(params.rgb_index_VBT[v, b]):
            cx, cy = to_view(keypoints[b][t, WHOLE[0], :2], params, v, b, SIZE)
            away = np.hypot((x - cx) / across, (y - cy) / down)
            assert (rgb[v, b, i][away > 8.1] == 0).all()
            inside = rgb[v, b, i][away < 6]
            if len(inside):
                assert (inside.max(axis=-1) > 5).all()
                checked += 1
    assert checked > 40

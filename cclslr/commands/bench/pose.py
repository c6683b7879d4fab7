"""Pose views on one core: numba beside NumPy and torch.

The kernels beside the same arithmetic in vectorised NumPy and torch. A clip is 75 frames of 133 float16 keypoints, as
the reader gives it; its two views have 64 frames of 75 joints. `numba` is the call that the loader makes; `numba and
draw` also draws what is random about the views, which RGB shares. All are checked to agree before they are timed, on
one thread, in turns. Rates are per second of that thread's CPU time.
"""

from __future__ import annotations

import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch

from cclslr.cli import command_parser
from cclslr.config import ViewConfig
from cclslr.console import console
from cclslr.data.batch import ViewParams
from cclslr.data.pose import pose_views
from cclslr.data.views import draw_views
from cclslr.environment import describe
from cclslr.files import write_json
from cclslr.keypoints import CONFIDENT, FLIP, NUM_JOINTS, SELECTED, SLICES

FRAMES, SIZE = 75, 256
ORIGINS = {"left_hand": 91, "right_hand": 112, "face": 53, "mouth": 53}
EXAMPLES = """examples:
  cclslr bench pose
  cclslr bench pose --clips 256 --out docs/results/pose/bench.json"""


def numpy_views(keypoints: list[np.ndarray], params: ViewParams) -> np.ndarray:
    """What one writes in NumPy, vectorised within a clip; for clips whose reference points are confident."""
    views = np.empty((*params.pose_index_VBT.shape, NUM_JOINTS, 3), np.float32)
    for b, keypoints_TKC in enumerate(keypoints):
        joints = keypoints_TKC[:, list(SELECTED)].astype(np.float32)
        sure_TJ = joints[..., 2] > CONFIDENT
        body = joints[:, SLICES["body"], :2][sure_TJ[:, SLICES["body"]]]
        low, high = body.min(axis=0), body.max(axis=0)
        joints[:, SLICES["body"], :2] -= (low + high) / 2
        for group, origin in ORIGINS.items():
            joints[:, SLICES[group], :2] -= keypoints_TKC[:, None, origin, :2].astype(np.float32)
        joints[..., :2] = np.clip(joints[..., :2] * (2 / (high - low).max()), -1, 1)
        joints[~sure_TJ] = 0
        for v in range(len(views)):
            view = joints[params.pose_index_VBT[v, b]]
            if params.flip_VB[v, b]:
                view = view[:, FLIP] * np.array([-1, 1, 1], np.float32)
            cos, sin = np.cos(params.rotation_VB[v, b]), np.sin(params.rotation_VB[v, b])
            turn = params.scale_VB[v, b] * np.array([[cos, sin], [-sin, cos]], np.float32)
            view[..., :2] = view[..., :2] @ turn
            view[:, params.hidden_VBJ[v, b]] = 0
            views[v, b] = view
    return views


def torch_views(keypoints: list[np.ndarray], params: ViewParams) -> np.ndarray:
    """What one writes in torch, vectorised over the batch; clips must be equally long."""
    clips = torch.from_numpy(np.stack(keypoints)).float()
    joints = clips[:, :, list(SELECTED)]
    sure_BTJ = joints[..., 2] > CONFIDENT
    body, known = joints[:, :, SLICES["body"], :2], sure_BTJ[:, :, SLICES["body"], None]
    low = body.masked_fill(~known, torch.inf).amin(dim=(1, 2))
    high = body.masked_fill(~known, -torch.inf).amax(dim=(1, 2))
    joints[:, :, SLICES["body"], :2] -= ((low + high) / 2)[:, None, None]
    for group, origin in ORIGINS.items():
        joints[:, :, SLICES[group], :2] -= clips[:, :, None, origin, :2]
    joints[..., :2] = (joints[..., :2] * (2 / (high - low).amax(dim=1))[:, None, None, None]).clamp(-1, 1)
    joints *= sure_BTJ[..., None]
    views = []
    for v in range(len(params.pose_index_VBT)):
        index_BT = torch.from_numpy(params.pose_index_VBT[v]).long()
        view = joints[torch.arange(len(joints))[:, None], index_BT]
        flip_B = torch.from_numpy(params.flip_VB[v])[:, None, None, None]
        view = torch.where(flip_B, view[:, :, torch.from_numpy(FLIP)] * torch.tensor([-1.0, 1, 1]), view)
        angle, scale = torch.from_numpy(params.rotation_VB[v]), torch.from_numpy(params.scale_VB[v])
        cos, sin = (angle.cos() * scale)[:, None, None], (angle.sin() * scale)[:, None, None]
        x, y, confidence = view.unbind(-1)
        view = torch.stack([cos * x - sin * y, sin * x + cos * y, confidence], dim=-1)
        views.append(view * ~torch.from_numpy(params.hidden_VBJ[v])[:, None, :, None])
    return torch.stack(views).numpy()


def main(argv: list[str] | None = None) -> None:
    parser = command_parser(__name__, __doc__, EXAMPLES)
    parser.add_argument("--clips", type=int, default=64, help="of a batch (default 64)")
    parser.add_argument("--repeats", type=int, default=51, help="timed batches of each (default 51)")
    parser.add_argument("--out", type=Path, metavar="JSON", help="write every single time")
    args = parser.parse_args(argv)
    torch.set_num_threads(1)

    rng = np.random.default_rng(0)
    keypoints = []
    for _ in range(args.clips):
        points = rng.normal(0.5, 0.2, (FRAMES, 133, 3)) * SIZE
        points[..., 2] = rng.uniform(0.1, 1, (FRAMES, 133))
        points[:, list(ORIGINS.values()), 2] = 0.9
        keypoints.append(points.astype(np.float16))
    sizes_B2 = np.full((args.clips, 2), SIZE)
    num_frames_B = np.full(args.clips, FRAMES)

    def draw() -> ViewParams:
        return draw_views(ViewConfig(), 0, 0, np.arange(args.clips), num_frames_B, sizes_B2)

    params = draw()

    ways: dict[str, Callable[[], np.ndarray]] = {
        "numba": lambda: pose_views(keypoints, sizes_B2, params),
        "numba and draw": lambda: pose_views(keypoints, sizes_B2, draw()),
        "numpy": lambda: numpy_views(keypoints, params),
        "torch": lambda: torch_views(keypoints, params),
    }
    expected = ways["numba"]()
    for name, way in ways.items():
        np.testing.assert_allclose(way(), expected, atol=1e-4, err_msg=name)
    rates: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(args.repeats):
        for name, way in ways.items():
            started = time.thread_time()
            way()
            rates[name].append(args.clips / (time.thread_time() - started))
    for name, clips_per_second in rates.items():
        low, middle, high = statistics.quantiles(clips_per_second, n=4)
        console.print(f"{name}: {middle:,.0f} clips/s (quartiles {low:,.0f} to {high:,.0f}, n={args.repeats})")
    if args.out is not None:
        write_json(
            args.out,
            {
                "command": " ".join(["cclslr bench pose", *(sys.argv[1:] if argv is None else argv)]),
                "environment": describe(),
                "threads": 1,
                "clock": "thread_time",
                "clips": args.clips,
                "frames": FRAMES,
                "view_frames": ViewConfig().pose_frames,
                "median_clips_per_second": {name: statistics.median(values) for name, values in rates.items()},
                "clips_per_second": rates,
            },
        )

"""Where a clip's time goes on the CPU, stage by stage.

Milliseconds of one core for each stage of the loader, without the loader.

read      the clip's bytes from its shard, checksums included
decode    the frames that a view wants, as YUV planes
kernel    those planes, kept in memory, to both RGB views
frames    both, frame by frame
rgb       both as a thread of the loader does it: a clip in one call where that is possible
draw      what is random about the views, both modalities
pose      two pose views
bare      libavcodec alone: every frame decoded and dropped (not for JPEG)

CPU time of one thread, a pass over all clips at a time, stages in turns; the first pass is warm-up.
"""

from __future__ import annotations

import io
import statistics
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from unittest import mock

import av
import numpy as np
from rich.table import Table

from cclslr.cli import command_parser
from cclslr.config import PretrainConfig, ViewConfig, load_config, to_dict
from cclslr.console import console
from cclslr.data import one_call, rgb_numba
from cclslr.data.backend import EncodedClip, encoded_clip
from cclslr.data.batch import ViewParams
from cclslr.data.planes import Planes, decode_planes
from cclslr.data.pose import pose_views
from cclslr.data.views import draw_views
from cclslr.environment import describe
from cclslr.errors import UserError
from cclslr.files import write_json
from cclslr.shards.parts import ClipData
from cclslr.shards.reader import ShardSet

EXAMPLES = """examples:
  cclslr bench stages shards/wlasl300 --clips 32
  cclslr bench stages shards/small views.size=112 views.rgb_frames=16
  taskset -c 1 cclslr bench stages shards/real --out stages.json         on one core, kept for it"""


@dataclass
class Clips:
    """The clips of a pass."""

    shards: ShardSet
    read: list[ClipData]
    encoded: list[EncodedClip]
    num_frames_B: np.ndarray
    sizes_B2: np.ndarray
    rgb_VBTHWC: np.ndarray  # where their views go


def open_clips(shards: ShardSet, num: int, cfg: ViewConfig) -> Clips:
    read = [shards.read(clip_id, ("video", "pose")) for clip_id in range(min(num, len(shards)))]
    encoded: list[EncodedClip] = []
    for clip in read:
        row = clip.row
        if clip.video is None or clip.pose_TKC is None:
            raise UserError(f"clip {row.key} lacks video or pose; pack the data set with both")
        encoded.append(encoded_clip(shards, len(encoded), clip, masked=False))
    return Clips(
        shards,
        read,
        encoded,
        np.array([clip.num_frames for clip in encoded]),
        np.array([(clip.width, clip.height) for clip in encoded]),
        np.zeros((2, len(encoded), cfg.rgb_frames, cfg.size, cfg.size, 3), np.uint8),
    )


def stages(clips: Clips, cfg: ViewConfig, epoch: int) -> dict[str, Callable[[], object]]:
    """What is timed, for one draw of the views."""
    numbers_B = range(len(clips.encoded))

    def draw() -> ViewParams:
        return draw_views(cfg, 0, epoch, np.array(numbers_B), clips.num_frames_B, clips.sizes_B2)

    params = draw()
    wanted = {clip.name: np.unique(params.rgb_index_VBT[:, b]) for b, clip in enumerate(clips.encoded)}
    kept = {clip.name: [_copy(frame) for frame in decode_planes(clip, wanted[clip.name])] for clip in clips.encoded}

    def decode() -> None:
        for clip in clips.encoded:
            deque(decode_planes(clip, wanted[clip.name]), maxlen=0)

    def render() -> None:
        for b, clip in enumerate(clips.encoded):
            rgb_numba.render_clip(clip, params, b, clips.rgb_VBTHWC)

    def frames() -> None:
        with mock.patch.object(one_call, "render", return_value=False):
            render()

    def kernel() -> None:
        with mock.patch.object(rgb_numba, "decode_planes", lambda clip, _: kept[clip.name]):
            frames()

    timed: dict[str, Callable[[], object]] = {
        "read": lambda: [clips.shards.read(b, ("video", "pose")) for b in numbers_B],
        "decode": decode,
        "kernel": kernel,
        "frames": frames,
        "rgb": render,
        "draw": draw,
        "pose": lambda: pose_views([c.pose_TKC for c in clips.read if c.pose_TKC is not None], clips.sizes_B2, params),
    }
    if not clips.encoded[0].codec.alone:
        timed["bare"] = lambda: _bare(clips.encoded)
    return timed


def _copy(frame: Planes) -> Planes:
    return replace(frame, y_HW=frame.y_HW.copy(), u_HW=frame.u_HW.copy(), v_HW=frame.v_HW.copy())


def _bare(encoded: list[EncodedClip]) -> None:
    for clip in encoded:
        with av.open(io.BytesIO(clip.video), "r") as container:
            container.streams.video[0].codec_context.thread_count = 1
            deque(container.decode(video=0), maxlen=0)


def main(argv: list[str] | None = None) -> None:
    parser = command_parser(__name__, __doc__, EXAMPLES)
    parser.add_argument("shards", help="packed data set with video and poses")
    parser.add_argument("--clips", type=int, default=8, help="of a pass, the first of the data set (default 8)")
    parser.add_argument("--repeats", type=int, default=15, help="counted passes, each with other views (default 15)")
    parser.add_argument("--out", type=Path, metavar="JSON", help="write every single time")
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="of the pre-training config")
    args = parser.parse_intermixed_args(argv)

    cfg = load_config(PretrainConfig, None, args.overrides).views
    clips = open_clips(ShardSet([args.shards]), args.clips, cfg)
    times: dict[str, list[float]] = {}
    for turn in range(args.repeats + 1):
        for name, stage in stages(clips, cfg, turn).items():
            began = time.thread_time()
            stage()
            if turn:
                times.setdefault(name, []).append(1e3 * (time.thread_time() - began) / len(clips.encoded))
    table = Table(
        "stage", "ms of a core a clip, median", "min", "max", title=f"{args.shards}, {len(clips.encoded)} clips"
    )
    for name, values in times.items():
        table.add_row(name, *(f"{value:.2f}" for value in (statistics.median(values), min(values), max(values))))
    console.print(table)
    if args.out is not None:
        medians = {name: statistics.median(values) for name, values in times.items()}
        settings = {
            "shards": args.shards,
            "codec": clips.encoded[0].codec.name,
            "clips": len(clips.encoded),
            "views": to_dict(cfg),
        }
        write_json(args.out, {"environment": describe(), **settings, "median_ms": medians, "ms": times})

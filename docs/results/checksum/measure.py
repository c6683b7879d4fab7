"""What checksums take of the loader's CPU time, with zlib and with ISA-L: `python measure.py CLIPS FOLDER out.json`.

CLIPS holds videos with a .npz of keypoints beside each; FOLDER gets the packed sets. CPU time, not wall time.
"""

from __future__ import annotations

import statistics
import sys
import time
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest import mock

import torch
from isal import isal_zlib

from cclslr.config import DataConfig, ViewConfig
from cclslr.data.loader import Loader
from cclslr.data.plan import Plan
from cclslr.datasets.base import VideoFile
from cclslr.distributed import Process
from cclslr.files import write_json
from cclslr.shards import reader
from cclslr.shards.clip import PackOptions
from cclslr.shards.format import ManifestRow
from cclslr.shards.pack import pack
from cclslr.shards.reader import ShardSet

BATCH, BATCHES, BLOCKS = 10, 4, 5
ALONE = Process(0, 1, torch.device("cpu"))


def measure(folder: str, size: int, frames: int, crc32: Callable[..., int]) -> dict[str, Any]:
    """CPU milliseconds of a clip, and those of its checksums."""
    shards, spent = ShardSet([folder]), 0.0

    def timed(data: memoryview) -> int:
        nonlocal spent
        began = time.thread_time()
        crc = crc32(data)
        spent += time.thread_time() - began
        return crc

    views = ViewConfig(rgb_frames=frames, size=size, pose_frames=2 * frames, mask_alpha=0)
    cfg = DataConfig(shards=[folder], backend="numba", device="cpu", workers=1)
    plan = Plan(len(shards), BATCH, 0)
    loader = Loader(cfg, views, shards, plan, ALONE, ["rgb", "pose"], 0)
    with mock.patch.object(reader, "crc32", timed), loader:
        loader.start(0)
        for _ in range(BATCHES):
            next(loader)
        spent, blocks = 0.0, []
        for _ in range(BLOCKS):
            began = time.process_time()
            for _ in range(BATCHES):
                next(loader)
            blocks.append(1e3 * (time.process_time() - began) / BATCH / BATCHES)
    return {
        "ms_a_clip": round(statistics.median(blocks), 3),
        "spread": [round(min(blocks), 3), round(max(blocks), 3)],
        "crc_ms_a_clip": round(1e3 * spent / BATCH / BATCHES / BLOCKS, 4),
    }


def main(clips: str, out: str, result: str) -> None:
    videos = sorted(Path(clips).glob("*.mp4"))
    sources = [VideoFile(str(video), str(video.with_suffix(".npz"))) for video in videos]
    rows = []
    for codec in ("jpeg", "h264"):
        for packed in (128, 256):
            folder = f"{out}/{codec}{packed}"
            named = [(f"{video.stem}-{turn}", source) for turn in range(4) for video, source in zip(videos, sources)]
            manifest = [ManifestRow(key, source, 0, "any", "train", None) for key, source in named]
            pack(manifest, folder, PackOptions(codec=codec, size=packed), workers=0)
            for frames, size in ((16, 112), (8, 64), (32, 224)):
                for name, crc32 in (("zlib", zlib.crc32), ("isal", isal_zlib.crc32)):
                    if size <= packed:
                        row = {"codec": codec, "packed": packed, "view": f"{frames}x{size}", "crc": name}
                        rows.append(row | measure(folder, size, frames, crc32))
                        print(rows[-1], flush=True)
    write_json(result, {"n": BLOCKS, "clips_of_a_block": BATCH * BATCHES, "rows": rows})


if __name__ == "__main__":
    main(*sys.argv[1:])

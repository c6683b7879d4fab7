"""How many clips a second a loader gives, ours and what a user would pick instead: same clips, views and cores."""

from __future__ import annotations

import argparse
import os
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import torch
from peers import PEERS, Job
from rich.table import Table

from cclslr.bench.machine import describe
from cclslr.config import DataConfig, PretrainConfig, load_config
from cclslr.console import console, run_tool
from cclslr.data.loader import Loader
from cclslr.data.plan import Plan
from cclslr.data.views import draw_views
from cclslr.files import write_json
from cclslr.shards.reader import ShardSet
from cclslr.training.distributed import Ranks

OURS = ("cclslr-numba", "cclslr-dali", "cclslr-ffcv")
EXAMPLES = """examples:
  bench_loader.py shards/wlasl300 --loaders all --json out.json
  bench_loader.py shards/wlasl300 --loaders cclslr data.workers=16            ours, on a GPU where there is one
  bench_loader.py shards/real --loaders cclslr-numba,spdl-ffmpeg --clips 64 --repeats 5

Loaders: cclslr (ours, every backend that can read these shards), all, or names: NAMES.
Loaders take turns, `--repeats` rounds; the first round of each is warm-up and is left out."""


def our_loader(backend: str, shards: ShardSet, cfg: PretrainConfig, device: torch.device) -> Callable[[int], float]:
    """A measurement of our loader: clips → clips a second, start-up left out."""
    data = DataConfig(**{**vars(cfg.data), "backend": backend})
    batch = cfg.optim.batch

    def measure(clips: int) -> float:
        plan = Plan(len(shards), min(batch, len(shards)), cfg.run.seed)
        ranks = Ranks(0, 1, device)
        with Loader(data, cfg.views, shards, plan, ranks, cfg.model.modalities, cfg.run.seed).start() as loader:
            for _ in range(cfg.data.prefetch + 1):
                next(loader)
            began, taken = time.perf_counter(), 0
            while taken < clips:
                taken += len(next(loader).clip_ids_B)
            return taken / (time.perf_counter() - began)

    return measure


def peer_loader(name: str, shards: ShardSet, cfg: PretrainConfig) -> Callable[[int], float]:
    """A measurement of a peer on the same clips and views; the first batch is start-up and left out."""
    rows = shards.rows
    num_frames, sizes = np.array([r.num_frames for r in rows]), np.array([(r.width, r.height) for r in rows])
    videos = [shards.read(clip_id, ("video",)).video for clip_id in range(len(shards))]

    def measure(clips: int) -> float:
        jobs = []
        for epoch in range(-(-(clips + cfg.optim.batch) // len(rows))):
            params = draw_views(cfg.views, cfg.run.seed, epoch, np.arange(len(rows)), num_frames, sizes)
            jobs += [Job(video, params, b, cfg.views.size) for b, video in enumerate(videos) if video is not None]
        batches = PEERS[name](jobs[: clips + cfg.optim.batch], cfg.optim.batch, cfg.data.workers)
        next(batches)
        began = time.perf_counter()
        taken = sum(batches)
        return taken / (time.perf_counter() - began)

    return measure


def main() -> None:
    known = [*OURS, *PEERS]
    parser = argparse.ArgumentParser(
        description=__doc__,
        epilog=EXAMPLES.replace("NAMES", ", ".join(known)),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("shards", help="packed data set with video")
    parser.add_argument("--loaders", default="all", help="default all")
    parser.add_argument("--clips", type=int, default=64, help="a measurement (default 64)")
    parser.add_argument("--repeats", type=int, default=3, help="counted measurements of each loader (default 3)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write rows and environment")
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="of the pre-training config")
    args = parser.parse_intermixed_args()
    cfg = load_config(PretrainConfig, None, ["optim.batch=8", "views.mask_alpha=0", *args.overrides])
    names = {"all": known, "cclslr": list(OURS)}.get(args.loaders, args.loaders.split(","))
    if unknown := set(names) - set(known):
        raise ValueError(f"unknown loader {sorted(unknown)[0]!r}; choose of {', '.join(known)}, or cclslr, or all")

    shards = ShardSet([args.shards])
    codec = shards.info["codec"]
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    place = {"auto": "gpu" if device.type == "cuda" else "cpu"}.get(cfg.data.device, cfg.data.device)
    measures: dict[str, Callable[[int], float]] = {}
    absent: dict[str, str] = {}
    for name in names:
        ours = name.removeprefix("cclslr-") if name in OURS else None
        measures[name] = our_loader(ours, shards, cfg, device) if ours else peer_loader(name, shards, cfg)
    rates: dict[str, list[float]] = {name: [] for name in names}
    process, rss = psutil.Process(os.getpid()), dict.fromkeys(names, 0.0)
    for turn in range(args.repeats + 1):
        for name in [name for name in names if name not in absent]:
            try:
                rate = measures[name](args.clips)
            except (ImportError, ValueError) as error:  # a backend or peer that is not here, or shards it cannot read
                absent[name] = str(error).splitlines()[0]
                continue
            rss[name] = process.memory_info().rss / 1e6
            rates[name] += [rate] if turn else []

    rows: list[dict[str, Any]] = []
    table = Table(
        "loader", "device", "codec", "clips/s, median", "min", "max", title=f"{args.shards}, {args.clips} clips"
    )
    for name in [name for name in names if rates[name]]:
        where = place if name in ("cclslr-dali",) else "cpu"
        middle, low, high = statistics.median(rates[name]), min(rates[name]), max(rates[name])
        rows.append(
            {
                "loader": name, "device": where, "codec": codec, "clips_per_second": middle, "min": low, "max": high,
                "n": len(rates[name]), "rss_mb": round(rss[name], 1), "all": rates[name],
            }
        )  # fmt: skip
        table.add_row(name, where, codec, f"{middle:.1f}", f"{low:.1f}", f"{high:.1f}")
    console.print(table)
    for name, reason in absent.items():
        console.print(f"{name} left out: {reason}", markup=False)
    if args.json:
        settings = {
            "clips": args.clips,
            "batch": cfg.optim.batch,
            "workers": cfg.data.workers,
            "views": vars(cfg.views),
        }
        write_json(args.json, {"rows": rows, "absent": absent, "settings": settings, "environment": describe()})


if __name__ == "__main__":
    run_tool(main)

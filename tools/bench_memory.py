"""Does the loader's memory stay bounded? Thousands of batches, and a line through the process's resident memory."""

from __future__ import annotations

import argparse
import dataclasses
import time
from pathlib import Path

import numpy as np
import psutil
import torch
from rich.table import Table

from cclslr.bench.growth import Growth, growth
from cclslr.bench.machine import describe
from cclslr.config import PretrainConfig, load_config
from cclslr.console import console, progress_bar, run_tool
from cclslr.data.loader import Loader
from cclslr.data.plan import Plan
from cclslr.files import write_json
from cclslr.shards.reader import ShardSet
from cclslr.training.distributed import Ranks

EXAMPLES = """examples:
  bench_memory.py shards/real_jpeg shards/real_h264 --json out.json          every data set in turn
  bench_memory.py shards/mine --batches 500 data.backend=dali                 a quick look at another backend

Views are small by default (2 clips a batch, 16 frames of 112 pixels), so that 5,000 batches take minutes: leaks are
counted in batches and clips, not in pixels. Exits with 1 where memory grew."""
DEFAULTS = ["optim.batch=2", "views.rgb_frames=16", "views.size=112", "views.mask_alpha=0"]


def one_set(source: str, cfg: PretrainConfig, batches: int, samples: int) -> tuple[Growth, list[tuple[int, float]]]:
    """Load `batches` batches; (batch, MB of resident memory), `samples` times along the way."""
    shards = ShardSet([source])
    plan = Plan(len(shards), min(cfg.optim.batch, len(shards)), cfg.run.seed)
    ranks = Ranks(0, 1, torch.device("cuda" if torch.cuda.is_available() else "cpu"))
    process, every, seen = psutil.Process(), max(1, batches // samples), []
    loader = Loader(cfg.data, cfg.views, shards, plan, ranks, cfg.model.modalities, cfg.run.seed)
    with loader.start(), progress_bar("batches") as bar:
        for done in bar.track(range(1, batches + 1), description=source):
            next(loader)
            if done % every == 0:
                seen.append((done, process.memory_info().rss / 1e6))
    batches_N, rss_mb_N = np.array(seen).T
    return growth(batches_N, rss_mb_N), seen


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, epilog=EXAMPLES, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("shards", nargs="+", help="packed data sets; key=value overrides may follow")
    parser.add_argument("--batches", type=int, default=5000, help="default 5000")
    parser.add_argument("--samples", type=int, default=200, help="of memory along the way (default 200)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write samples, fits and environment")
    args = parser.parse_intermixed_args()
    overrides = [word for word in args.shards if "=" in word]
    cfg = load_config(PretrainConfig, None, [*DEFAULTS, *overrides])
    rows, table = [], Table("data set", "codec", "peak MB", "MB in 1,000 batches", "gained, last half", "scatter")
    for source in [word for word in args.shards if "=" not in word]:
        began = time.perf_counter()
        fit, seen = one_set(source, cfg, args.batches, args.samples)
        codec = ShardSet([source]).info["codec"]
        rows.append(
            {"shards": source, "codec": codec, "grows": fit.grows, **dataclasses.asdict(fit)}
            | {"seconds": round(time.perf_counter() - began, 1), "rss_mb": [[n, round(mb, 1)] for n, mb in seen]}
        )
        table.add_row(
            source, codec, f"{fit.peak_mb:.0f}", f"{fit.mb_per_1000:+.2f}", f"{fit.gained_mb:+.2f}",
            f"{fit.noise_mb:.2f}", style="red" if fit.grows else None,
        )  # fmt: skip
    console.print(table)
    if args.json:
        settings = {"batches": args.batches, "overrides": [*DEFAULTS, *overrides]}
        write_json(args.json, {"rows": rows, "settings": settings, "environment": describe()})
    return int(any(row["grows"] for row in rows))


if __name__ == "__main__":
    run_tool(main)

"""Does the loader's memory grow? Take many batches, watch the resident memory, fit a line to the last half.

Growth comes a batch or a clip at a time, so batches and views are small here: two clips of 8 frames of 64x64 pixels.
5,000 batches take one to four minutes on two cores. The verdict is "grows" where the slope of the last half exceeds
three of its standard errors (of means of ten blocks of samples).
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import psutil
import torch

from cclslr.bench.machine import describe
from cclslr.bench.memory import SURE, growth
from cclslr.bench.pretrain import open_loader
from cclslr.config import PretrainConfig, load_config, to_dict
from cclslr.console import console, progress_bar, run_tool
from cclslr.files import write_json
from cclslr.shards.reader import ShardSet
from cclslr.training.distributed import Ranks

SAMPLES = 200
SMALL = ["optim.batch=2", "views.rgb_frames=8", "views.size=64"]
EXAMPLES = """examples:
  bench_memory.py shards/wlasl300 --json memory.json
  bench_memory.py shards/wlasl300 data.backend=dali data.decode=libav
  bench_memory.py shards/wlasl300 --batches 500 optim.batch=64 views.rgb_frames=32 views.size=224     at full size
  for codec in jpeg vp9 h264 hevc; do bench_memory.py shards/$codec --json $codec.json; done"""


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, epilog=EXAMPLES, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("shards", help="packed data set")
    parser.add_argument("--batches", type=int, default=5000, help="default 5000")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write samples, slope and environment")
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="of the pre-training config")
    args = parser.parse_intermixed_args(argv)
    if args.batches < SAMPLES:
        raise ValueError(f"--batches {args.batches}: a slope takes at least {SAMPLES}")
    cfg = load_config(PretrainConfig, None, [*SMALL, f"data.shards=[{args.shards}]", *args.overrides])
    codec = ShardSet(cfg.data.shards).info["codec"]
    ranks = Ranks(0, 1, torch.device("cuda" if torch.cuda.is_available() else "cpu"))

    process, every = psutil.Process(), args.batches // SAMPLES
    taken: list[int] = []
    rss_mb: list[float] = []
    began = time.perf_counter()
    with open_loader(cfg, ranks).start() as loader, progress_bar("batches") as bar:
        for number in bar.track(range(1, args.batches + 1), description=f"{codec}"):
            next(loader)
            if number % every == 0:
                taken.append(number)
                rss_mb.append(process.memory_info().rss / 1e6)
    seconds = time.perf_counter() - began

    half = len(taken) // 2
    result = growth(taken[half:], rss_mb[half:])
    verdict = "no growth" if result.is_noise else "grows"
    slope, error = 1000 * result.slope, 1000 * result.standard_error
    console.print(
        f"{args.shards}, {codec}: {verdict}. Last half of {args.batches} batches: {slope:+.2f} ± {error:.2f} MB"
        f" per 1,000 batches, {rss_mb[half]:.0f} MB → {rss_mb[-1]:.0f} MB; {seconds:.0f} s",
        soft_wrap=True,
    )
    if args.json:
        settings = {"batches": args.batches, "sure_standard_errors": SURE, "config": to_dict(cfg)}
        row = {
            "codec": codec, "mb_per_1000_batches": slope, "standard_error": error, "verdict": verdict,
            "rss_mb_half": rss_mb[half], "rss_mb_end": rss_mb[-1], "seconds": round(seconds, 1),
        }  # fmt: skip
        samples = {"batches": taken, "rss_mb": [round(value, 3) for value in rss_mb]}
        write_json(args.json, row | {"samples": samples, "settings": settings, "environment": describe()})


if __name__ == "__main__":
    run_tool(main)

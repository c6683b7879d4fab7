"""Does the loader's memory grow?

Take many batches, watch resident memory and heap, fit a line to the last half. Growth comes a batch or a clip at a
time, so batches and views are small here: two clips of 8 frames of 64x64 pixels. 5,000 batches take one to four minutes
on two cores. The verdict is "grows" where the slope of the last half exceeds three of its standard errors, which count
both ways in which memory moves: about its level, with what is in flight, and to a new level, seldom and for good; and
where it rose in all by more than what is allocated and not freed on the heap goes up and down. The slope of that stands
beside it.
"""

from __future__ import annotations

import gc
import time
from pathlib import Path

import numpy as np
import psutil

from cclslr.bench.memory import SURE, growth, heap_bytes, within_swing
from cclslr.bench.pretrain import open_loader
from cclslr.cli import command_parser
from cclslr.config import PretrainConfig, load_config, to_dict
from cclslr.console import console, progress_bar
from cclslr.distributed import process_group
from cclslr.environment import describe
from cclslr.errors import UserError
from cclslr.files import write_json
from cclslr.shards.reader import ShardSet

SAMPLES = 200
SMALL = ["optim.batch=2", "views.rgb_frames=8", "views.size=64"]
EXAMPLES = """examples:
  cclslr bench memory shards/wlasl300 --json memory.json
  cclslr bench memory shards/wlasl300 data.backend=dali data.decode=libav
  cclslr bench memory shards/wlasl300 --batches 500 optim.batch=64 views.rgb_frames=32 views.size=224     at full size
  for codec in jpeg vp9 h264 hevc; do cclslr bench memory shards/$codec --json $codec.json; done"""


def main(argv: list[str] | None = None) -> None:
    parser = command_parser(__name__, __doc__, EXAMPLES)
    parser.add_argument("shards", help="packed data set")
    parser.add_argument("--batches", type=int, default=5000, help="default 5000")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write samples, slope and environment")
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="of the pre-training config")
    args = parser.parse_intermixed_args(argv)
    if args.batches < SAMPLES:
        raise UserError(f"--batches {args.batches}: a slope takes at least {SAMPLES}")
    cfg = load_config(PretrainConfig, None, [*SMALL, f"data.shards=[{args.shards}]", *args.overrides])
    codec = ShardSet(cfg.data.shards).info["codec"]

    process, every = psutil.Process(), args.batches // SAMPLES
    measured_S3 = np.ones((args.batches // every, 3))  # batches, resident, heap; its pages are there from the start
    began = time.perf_counter()
    with (
        process_group(cfg.run.device) as alone,
        open_loader(cfg, alone).start() as loader,
        progress_bar("batches") as bar,
    ):
        shown = bar.add_task(codec, total=args.batches)
        for number in range(1, args.batches + 1):
            next(loader)
            if number % every == 0:
                gc.collect()  # what waits for it is no leak
                heap = heap_bytes() or 0  # 0: the C library does not tell
                measured_S3[number // every - 1] = number, process.memory_info().rss / 1e6, heap / 1e6
                bar.advance(shown, every)  # seldom: for its speed, a bar keeps a thousand times that it moved
    seconds = time.perf_counter() - began

    half = len(measured_S3) // 2
    taken, rss_mb, heap_mb = measured_S3.T.tolist()
    resident, allocated = growth(taken[half:], rss_mb[half:]), growth(taken[half:], heap_mb[half:])
    settled = resident.is_noise and within_swing(rss_mb[half:], heap_mb[half:])
    verdict = "no growth" if settled else "grows"
    text = [
        f"{name} {1000 * of.slope:+.2f} ± {1000 * of.standard_error:.2f} MB per 1,000"
        for name, of in (("resident", resident), ("heap", allocated))
    ]
    console.print(
        f"{args.shards}, {codec}: {verdict}. Last half of {args.batches} batches: {', '.join(text)},"
        f" {rss_mb[half]:.2f} MB → {rss_mb[-1]:.2f} MB; {seconds:.0f} s",
        soft_wrap=True,
    )
    if args.json:
        settings = {"batches": args.batches, "sure_standard_errors": SURE, "config": to_dict(cfg)}
        row = {
            "codec": codec, "verdict": verdict,
            "rss_mb_per_1000_batches": 1000 * resident.slope, "rss_standard_error": 1000 * resident.standard_error,
            "heap_mb_per_1000_batches": 1000 * allocated.slope, "heap_standard_error": 1000 * allocated.standard_error,
            "rss_mb_half": rss_mb[half], "rss_mb_end": rss_mb[-1], "seconds": round(seconds, 1),
        }  # fmt: skip
        samples = {
            "batches": [int(number) for number in taken],
            "rss_mb": [round(value, 3) for value in rss_mb],
            "heap_mb": [round(value, 3) for value in heap_mb],
        }
        write_json(args.json, row | {"samples": samples, "settings": settings, "environment": describe()})

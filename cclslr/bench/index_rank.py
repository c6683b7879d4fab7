"""One rank of `cclslr bench index`: opens a data set, plans, takes a batch; says what that took. Runs in any checkout.

    python -P index_rank.py FOLDER BATCH RANK WORLD

It prints "ready", waits for a line so that all ranks begin together, and prints one line of JSON: seconds ("cpu": of a
processor, by all threads of this process; where cores are busy, the rest of a time is waiting for one), and bytes of
memory that belong to this process alone ("anonymous": at rest and at its peak) or are mapped from the index ("mapped":
what it has touched; "share": its proportional share of that among all who have).
"""

from __future__ import annotations

import json
import re
import sys
import threading
import time
from pathlib import Path

import numpy as np
import torch

from cclslr.config import DataConfig, ViewConfig
from cclslr.data.loader import Loader
from cclslr.data.plan import Plan
from cclslr.data.pose import pose_views
from cclslr.data.views import draw_views
from cclslr.distributed import Process
from cclslr.shards.reader import ShardSet


def anonymous() -> int:
    """Bytes of memory that no file stands behind."""
    found = re.search(r"RssAnon:\s+(\d+) kB", Path("/proc/self/status").read_text())
    assert found is not None
    return int(found[1]) * 1024


def of_index() -> tuple[int, int]:
    """(mapped, share) in bytes of the mapped index."""
    mapped = share = 0
    inside = False
    for line in Path("/proc/self/smaps").read_text().splitlines():
        if re.match(r"[0-9a-f]+-[0-9a-f]+ ", line):
            inside = line.endswith("index.columns")
        elif inside and line.startswith("Rss:"):
            mapped += int(line.split()[1]) * 1024
        elif inside and line.startswith("Pss:"):
            share += int(line.split()[1]) * 1024
    return mapped, share


class Peak:
    """The most anonymous memory, looked at every two milliseconds."""

    def __init__(self) -> None:
        self.bytes, self._end = anonymous(), threading.Event()
        threading.Thread(target=self._watch, daemon=True).start()

    def _watch(self) -> None:
        while not self._end.wait(0.002):
            self.bytes = max(self.bytes, anonymous())


def main(folder: str, batch: int, rank: int, world: int) -> None:
    """Measure and say."""
    torch.set_num_threads(1)
    cfg = DataConfig(shards=[folder], workers=1, prefetch=1)
    process = Process(rank, world, torch.device("cpu"))
    sizes_B2 = np.full((1, 2), 64)
    views = draw_views(ViewConfig(), 0, 0, np.zeros(1, np.int64), np.full(1, 8), sizes_B2)
    pose_views([np.ones((8, 133, 3), np.float16)], sizes_B2, views)  # its kernels are there before, at any size of set
    print("ready", flush=True)
    sys.stdin.readline()
    peak, begin, cpu = Peak(), time.perf_counter(), [time.process_time()]
    base = anonymous()
    shards = ShardSet([folder], "train")
    opened = time.perf_counter()
    cpu.append(time.process_time())
    held_open = anonymous()
    plan = Plan.for_training(shards, cfg, batch * world, 0)
    first = plan.rank_batch(0, 0, rank, world)
    planned = time.perf_counter()
    cpu.append(time.process_time())
    with Loader(cfg, ViewConfig(), shards, plan, process, ["pose"], 0).start(0) as loader:
        taken = next(loader)
        loaded = time.perf_counter()
        cpu.append(time.process_time())
        assert taken.clip_ids_B.tolist() == first.clip_ids_B.tolist()
    mapped, share = of_index()
    found = {
        "open_s": opened - begin,
        "plan_s": planned - opened,
        "batch_s": loaded - planned,
        **dict(zip(("open_cpu_s", "plan_cpu_s", "batch_cpu_s"), np.diff(cpu).tolist(), strict=True)),
        "base": base,
        "anonymous_open": held_open - base,
        "anonymous_end": anonymous() - base,
        "anonymous_peak": peak.bytes - base,
        "mapped": mapped,
        "share": share,
        "clips": len(shards),
    }
    print(json.dumps(found), flush=True)
    sys.stdin.readline()  # the mapping stays until all have looked


if __name__ == "__main__":
    main(sys.argv[1], *map(int, sys.argv[2:5]))

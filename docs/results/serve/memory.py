"""Where the memory of a page goes, request by request: resident memory, Python's objects, open files, malloc's rest.

python docs/results/serve/memory.py CHECKPOINT REQUESTS [--trace]

The page runs in this process, with keypoints that are known. `--trace` lists the lines that hold more than before.
"""

from __future__ import annotations

import argparse
import ctypes
import gc
import sys
import tempfile
import time
import tracemalloc
from pathlib import Path

import psutil
import torch

import cclslr
from cclslr.serve.answer import Answerer

sys.path.insert(0, str(Path(__file__).parents[3] / "tests"))
from served import Stub, rendered, serve, write_video

WARM, STEPS = 20, 10


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkpoint")
    parser.add_argument("requests", type=int)
    parser.add_argument("--trace", action="store_true")
    args = parser.parse_args()
    torch.set_num_threads(1)
    frames_THWC, keypoints_TKC = rendered(96)
    with tempfile.TemporaryDirectory() as folder:
        body = write_video(Path(folder) / "clip.mp4", frames_THWC[:24]).read_bytes()
    model, process, libc = cclslr.load(args.checkpoint, "cpu"), psutil.Process(), ctypes.CDLL("libc.so.6")
    with serve(Answerer(model, Stub(keypoints_TKC, 96))) as served:

        def ask(times: int) -> None:
            for _ in range(times):
                assert served.clip(body)[0] == 200

        ask(WARM)
        if args.trace:
            tracemalloc.start()
            first = tracemalloc.take_snapshot()
        resident, began = process.memory_info().rss, time.time()

        def grown() -> str:
            return f"{(process.memory_info().rss - resident) / 1e6:+.2f} MB"

        for step in range(1, STEPS + 1):
            ask(args.requests // STEPS)
            gc.collect()
            head = f"{step * args.requests // STEPS} rss {grown()} objects {len(gc.get_objects())}"
            print(head, f"threads {process.num_threads()} fds {process.num_fds()} {time.time() - began:.0f} s")
            if not args.trace:
                libc.malloc_trim(0)
                print(f"  trimmed: {grown()}", flush=True)
        if args.trace:
            for line in tracemalloc.take_snapshot().compare_to(first, "lineno")[:15]:
                print(line)


if __name__ == "__main__":
    main()

"""How fast packing is against its bare work: rendering and encoding the same clips in a plain loop.

Wall time says what a user waits for; processor time a clip is what can be compared on a machine that does other work.
Both include everything: starting the processes, tars, checksums, flushing to disk, the index. The bare loop has none of
it, and is timed after its imports.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import multiprocessing
import os
import platform
import resource
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from rich.table import Table

from cclslr.console import console, run_tool
from cclslr.datasets.synthetic import SynthOptions, manifest
from cclslr.files import write_json
from cclslr.shards import video
from cclslr.shards.crop import crop_and_resize
from cclslr.shards.format import ManifestRow
from cclslr.shards.pack import PackOptions, pack

EXAMPLES = """\
examples:
  bench_pack.py bare1 pack1 bare2 pack2 dask2 --clips 5000 --out docs/results/packing/results.json
  bench_pack.py bare1 pack1 --clips 500 --size 256 --frames 64 --codec jpeg
"""


def rows_of(args: argparse.Namespace) -> list[ManifestRow]:
    """The first clips of SynthSign."""
    classes = 20
    options = SynthOptions(
        classes=classes,
        clips_per_class=(-(-args.clips // classes), 0, 0),
        size=args.size,
        frames=(args.frames, args.frames),
    )
    return manifest(options)[: args.clips]


def bare_loop(args: argparse.Namespace, part: int, parts: int, times: Any) -> None:
    """Render and encode every `parts`-th clip; what packing cannot do without."""
    rows = rows_of(args)[part::parts]
    rows[0].source.load()
    began, began_cpu = time.perf_counter(), time.process_time()
    for row in rows:
        clip = crop_and_resize(row.source.load(), args.size, "none")
        assert clip.frames_THWC is not None
        video.encode(clip.frames_THWC, args.codec, clip.fps)
    times.put((time.perf_counter() - began, time.process_time() - began_cpu))


def measure_bare(args: argparse.Namespace, processes: int) -> tuple[float, float]:
    """Wall and processor seconds of the slowest loop, and of all."""
    context = multiprocessing.get_context("spawn")
    times = context.Queue()
    loops = [context.Process(target=bare_loop, args=(args, part, processes, times)) for part in range(processes)]
    for loop in loops:
        loop.start()
    results = [times.get() for _ in loops]
    for loop in loops:
        loop.join()
    return max(wall for wall, _ in results), sum(cpu for _, cpu in results)


def measure_pack(args: argparse.Namespace, workers: int, cluster: bool) -> tuple[float, float, str]:
    """Wall and processor seconds, and the content hash."""
    out = Path(args.scratch) / "packed"
    shutil.rmtree(out, ignore_errors=True)
    options = PackOptions(args.codec, args.size, "none", clips_per_shard=args.clips_per_shard)
    cpu = _processor_seconds()
    with dask_cluster(workers) if cluster else contextlib.nullcontext() as scheduler:
        began = time.perf_counter()
        report = pack(rows_of(args), out, options, workers=workers, scheduler=scheduler)
        wall = time.perf_counter() - began
    assert report.clips == args.clips
    shutil.rmtree(out)
    return wall, _processor_seconds() - cpu, report.info["content_hash"]


def _processor_seconds() -> float:
    """Of this process and of those that it started and that have ended."""
    usages = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(usage.ru_utime + usage.ru_stime for usage in usages)


@contextlib.contextmanager
def dask_cluster(workers: int) -> Iterator[str]:
    """A scheduler and its workers, started as a user starts them."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        address = f"tcp://127.0.0.1:{probe.getsockname()[1]}"
    run = [sys.executable, "-m"]
    quiet: dict[str, Any] = {
        "stdout": subprocess.DEVNULL,
        "stderr": subprocess.DEVNULL,
        "env": {**os.environ, "PYTHONPATH": str(Path(__file__).parents[1])},
    }
    worker = [*run, "distributed.cli.dask_worker", address, "--nthreads", "1", "--no-dashboard", "--no-nanny"]
    processes = [
        subprocess.Popen([*run, "distributed.cli.dask_scheduler", "--host", address, "--no-dashboard"], **quiet)
    ]
    processes += [subprocess.Popen(worker, **quiet) for _ in range(workers)]
    try:
        from distributed import Client

        with Client(address, timeout=60) as client:
            client.wait_for_workers(workers)
        yield address
    finally:
        for process in reversed(processes):
            process.terminate()
            process.wait()


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, epilog=EXAMPLES, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("what", nargs="+", choices=("bare1", "bare2", "pack1", "pack2", "dask2"), help="in this order")
    parser.add_argument("--clips", type=int, default=5000)
    parser.add_argument("--size", type=int, default=96)
    parser.add_argument("--frames", type=int, default=24)
    parser.add_argument("--codec", default="h264")
    parser.add_argument("--clips-per-shard", type=int, default=256)
    parser.add_argument("--scratch", default="/tmp/bench_pack", metavar="DIR")
    parser.add_argument("--out", type=Path, metavar="FILE", help="append the results to this JSON list")
    args = parser.parse_args()
    rows_of(args)[0].source.load()  # numba compiles, or reads what it compiled before

    results = json.loads(args.out.read_text()) if args.out and args.out.exists() else []
    table = Table("what", "clips/s", "processor ms/clip", "content hash")
    for what in args.what:
        kind, processes = what[:4], int(what[4:])
        content_hash = ""
        if kind == "bare":
            wall, cpu = measure_bare(args, processes)
        else:
            wall, cpu, content_hash = measure_pack(args, processes, kind == "dask")
        result = {
            "what": what,
            "clips": args.clips,
            "size": args.size,
            "frames": args.frames,
            "codec": args.codec,
            "wall_seconds": round(wall, 2),
            "processor_seconds": round(cpu, 2),
            "clips_per_second": round(args.clips / wall, 2),
            "processor_ms_per_clip": round(1e3 * cpu / args.clips, 2),
            "content_hash": content_hash,
            "load_before": [round(value, 1) for value in os.getloadavg()],
            "cores": os.cpu_count(),
            "python": platform.python_version(),
        }
        results.append(result)
        table.add_row(what, f"{args.clips / wall:.1f}", f"{1e3 * cpu / args.clips:.1f}", content_hash[:12])
        if args.out:
            write_json(args.out, results)
    console.print(table)


if __name__ == "__main__":
    run_tool(main)

"""How fast packing is, and whether it survives being killed.

bare1, bare2     render and encode the clips in one plain loop, or in two processes, and keep nothing
pack1, pack2     pack them with one worker, or with two
dask2            pack them on a dask cluster of two worker processes
...-worker-killed, pack2-tool-killed   SIGKILL to a worker, or to the tool, once half of the shards are there; then the
                 tool goes on by itself, or is started again

All content hashes must be equal, else the exit code is 1. Wall time says what a user waits for; processor time a clip
is what can be compared on a machine that does other work. Both include starting the workers, tars, checksums, flushing
to disk and the index; the bare loops have none of it, and are timed after their imports. Rendering is part of both
sides: the last column leaves it out of both, by the processor time that it took in the bare loop.
"""

from __future__ import annotations

import argparse
import contextlib
import multiprocessing
import os
import resource
import shutil
import signal
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from rich.table import Table

from cclslr.cli import command_parser
from cclslr.codecs import codec_named, codecs
from cclslr.console import console
from cclslr.datasets.synthetic import SynthOptions, manifest
from cclslr.environment import describe
from cclslr.errors import UserError
from cclslr.files import write_json
from cclslr.shards.crop import crop_and_resize
from cclslr.shards.format import ManifestRow
from cclslr.shards.pack import PackOptions, PackReport, pack

WHAT = (
    "bare1", "bare2", "pack1", "pack2", "dask2", "pack2-worker-killed", "dask2-worker-killed", "pack2-tool-killed",
)  # fmt: skip

EXAMPLES = """\
examples:
  cclslr bench pack --out docs/results/packing/results.json                    everything, 5,000 clips: see the docs
  cclslr bench pack bare1 pack1 --clips 500 --size 256 --frames 64 --codec jpeg
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
    began, began_cpu, rendering = time.perf_counter(), time.process_time(), 0.0
    for row in rows:
        began_rendering = time.process_time()
        raw = row.source.load()
        rendering += time.process_time() - began_rendering
        clip = crop_and_resize(raw, args.size, "none")
        assert clip.frames_THWC is not None
        codec_named(args.codec).encode(clip.frames_THWC, clip.fps)
    times.put((time.perf_counter() - began, time.process_time() - began_cpu, rendering))


def measure_bare(args: argparse.Namespace, processes: int) -> dict[str, Any]:
    """Wall seconds of the slowest loop, processor seconds of all."""
    context = multiprocessing.get_context("spawn")
    times = context.Queue()
    loops = [context.Process(target=bare_loop, args=(args, part, processes, times)) for part in range(processes)]
    for loop in loops:
        loop.start()
    results = [times.get() for _ in loops]
    for loop in loops:
        loop.join()
    walls, processor, rendering = zip(*results)
    return {"wall_seconds": max(walls), "processor_seconds": sum(processor), "rendering_seconds": sum(rendering)}


def pack_clips(args: argparse.Namespace, workers: int, scheduler: str | None) -> PackReport:
    """What cclslr pack does after its report."""
    options = PackOptions(args.codec, args.size, "none", clips_per_shard=args.clips_per_shard)
    return pack(rows_of(args), packed(args), options, workers=workers, scheduler=scheduler)


def packed(args: argparse.Namespace) -> Path:
    return Path(args.scratch) / "packed"


def measure_pack(args: argparse.Namespace, kind: str, workers: int, victim: str) -> dict[str, Any]:
    """Wall and processor seconds, and the content hash."""
    shutil.rmtree(packed(args), ignore_errors=True)
    cpu = _processor_seconds()
    with dask_cluster(workers) if kind == "dask" else contextlib.nullcontext((None, worker_pids)) as (scheduler, pids):
        began = time.perf_counter()
        if victim == "tool":
            tool = multiprocessing.get_context("spawn").Process(target=pack_clips, args=(args, workers, scheduler))
            tool.start()
            with killing(args, lambda: [tool.pid or 0]):
                tool.join()
        with killing(args, pids) if victim == "worker" else contextlib.nullcontext():
            report = pack_clips(args, workers, scheduler)
        wall = time.perf_counter() - began
    assert report.clips == args.clips
    result = {"wall_seconds": wall, "content_hash": report.info["content_hash"]}
    # What killed processes had used is not known in full.
    return result if victim else {**result, "processor_seconds": _processor_seconds() - cpu}


def worker_pids() -> list[int]:
    """The processes of the pool that `pack` has opened."""
    return [process.pid or 0 for process in multiprocessing.active_children()]


@contextlib.contextmanager
def dask_cluster(workers: int) -> Iterator[tuple[str, Callable[[], list[int]]]]:
    """A scheduler's address, and a function for the worker processes' numbers; a killed one is replaced."""
    from distributed import LocalCluster

    with LocalCluster(n_workers=workers, threads_per_worker=1, processes=True, dashboard_address=None) as cluster:
        yield cluster.scheduler_address, lambda: [worker.pid for worker in cluster.workers.values()]


@contextlib.contextmanager
def killing(args: argparse.Namespace, pids: Callable[[], list[int]]) -> Iterator[None]:
    """Kill the first of the processes once half of the shards are there."""
    shards = -(-args.clips // args.clips_per_shard)

    def watch() -> None:
        while len(list(packed(args).glob("shard-*.tar"))) < shards // 2:
            time.sleep(0.01)
        os.kill(pids()[0], signal.SIGKILL)

    thread = threading.Thread(target=watch, daemon=True)
    thread.start()
    yield
    thread.join()


def _processor_seconds() -> float:
    """Of this process and of those that it started and that have ended."""
    usages = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(usage.ru_utime + usage.ru_stime for usage in usages)


def parse(argv: list[str] | None) -> argparse.Namespace:
    parser = command_parser(__name__, __doc__, EXAMPLES)
    parser.add_argument("what", nargs="*", metavar="WHAT", default=WHAT, help="in this order (default: all)")
    parser.add_argument("--clips", type=int, default=5000, help="default 5000")
    parser.add_argument("--size", type=int, default=64, help="pixels of a side (default 64)")
    parser.add_argument("--frames", type=int, default=20, help="of each clip (default 20)")
    parser.add_argument("--codec", choices=codecs(), default="h264", help="default h264")
    parser.add_argument("--clips-per-shard", type=int, default=128, help="default 128")
    parser.add_argument("--scratch", default="/tmp/bench_pack", metavar="DIR", help="default /tmp/bench_pack")
    parser.add_argument("--out", type=Path, metavar="FILE", help="the results as JSON")
    args = parser.parse_args(argv)
    unknown = [what for what in args.what if what not in WHAT]
    if unknown:
        raise UserError(f"{unknown[0]} is nothing to measure; choose from {', '.join(WHAT)}")
    return args


def main(argv: list[str] | None = None) -> int:
    args = parse(argv)
    rows_of(args)[0].source.load()  # numba compiles, or reads what it compiled before
    results: dict[str, dict[str, Any]] = {}
    for what in args.what:
        load = [round(value, 1) for value in os.getloadavg()]
        name, _, victim = what.removesuffix("-killed").partition("-")
        kind, processes = name[:4], int(name[4:])
        result = measure_bare(args, processes) if kind == "bare" else measure_pack(args, kind, processes, victim)
        result["clips_per_second"] = args.clips / result["wall_seconds"]
        result["load_before"] = load
        bare = results.get(f"bare{processes}")
        if kind != "bare" and bare is not None:
            result["of_bare"] = result["clips_per_second"] / bare["clips_per_second"]
            if not victim:
                rendering, processor = bare["rendering_seconds"], result["processor_seconds"]
                result["of_bare_processor"] = bare["processor_seconds"] / processor
                result["of_bare_processor_without_rendering"] = (bare["processor_seconds"] - rendering) / (
                    processor - rendering
                )
        results[what] = result
    shutil.rmtree(args.scratch, ignore_errors=True)
    console.print(table_of(results, args.clips))
    hashes = {result["content_hash"] for result in results.values() if "content_hash" in result}
    if args.out:
        settings = {name: getattr(args, name) for name in ("clips", "size", "frames", "codec", "clips_per_shard")}
        write_json(
            args.out, {**settings, "environment": describe(), "same_content": len(hashes) <= 1, "results": results}
        )
    if len(hashes) > 1:
        console.print("the content hashes differ", style="bold red")
    return int(len(hashes) > 1)


def table_of(results: dict[str, dict[str, Any]], clips: int) -> Table:
    """What is shown at the end."""
    table = Table("what", "clips/s", "of bare", "processor ms/clip", "of bare", "without rendering", "content hash")
    for what, result in results.items():
        shares = ("of_bare", "of_bare_processor", "of_bare_processor_without_rendering")
        wall, processor, without = (f"{result[name]:.2f}" if name in result else "" for name in shares)
        each = f"{1e3 * result['processor_seconds'] / clips:.1f}" if "processor_seconds" in result else ""
        digest = result.get("content_hash", "")[:12]
        table.add_row(what, f"{result['clips_per_second']:.1f}", wall, each, processor, without, digest)
    return table

"""Clips a second of the loader, and of what else a user would pick.

Same clips, views and cores. Each loader lives in a process of its own, and they take turns: `--repeats` rounds after
one of warm-up. A measurement drops what the loader had made ahead and then times the next `--clips` clips. Written down
are clips a second (median, smallest, largest), the share of the cores that the loader kept busy, and its memory at the
peak; CPU and memory are those of the process and its children, where memory that they share counts for each.

Ours read, check sums and make two pose views as well; the others make the two RGB views alone. One that is not
installed, or cannot read these clips, is left out and named with the reason. To install the others:
  pip install -c constraints.txt -e '.[bench]'       SPDL and torchcodec also need FFmpeg: apt-get install ffmpeg
"""

from __future__ import annotations

import argparse
import contextlib
import statistics
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from rich.table import Table

from cclslr.bench.jobs import Setup
from cclslr.bench.peers import PEERS
from cclslr.bench.process import LoaderFailed, LoaderProcess, Measurement, drop_from_cache
from cclslr.cli import command_parser
from cclslr.config import DataConfig, PretrainConfig, load_config, to_dict
from cclslr.console import console, progress_bar
from cclslr.data.loader import Loader
from cclslr.data.plan import Plan
from cclslr.distributed import process_group
from cclslr.environment import describe
from cclslr.errors import UserError
from cclslr.files import write_json
from cclslr.shards.reader import ShardSet

OURS = ("cclslr-numba", "cclslr-dali", "cclslr-ffcv")
EXAMPLES = """examples:
  cclslr bench loader shards/wlasl300 --loaders all --json out.json
  cclslr bench loader shards/wlasl300 --loaders cclslr data.workers=16            ours, on a GPU where there is one
  cclslr bench loader shards/real --loaders cclslr-numba,spdl-ffmpeg --clips 64 --repeats 5
  cclslr bench loader shards/wlasl300 --cache cold          from the disk; every clip is read at most once a measurement

Loaders: cclslr (ours, every backend that can read these shards), all, or names: NAMES."""


def our_loader(backend: str, setup: Setup) -> Iterator[int]:
    """Ours, as a training run opens it; yields the clips of each batch."""
    cfg = setup.cfg
    shards = ShardSet([setup.folder])
    plan = Plan(len(shards), min(cfg.optim.batch, len(shards)), cfg.run.seed)
    data = DataConfig(**{**vars(cfg.data), "backend": backend})
    with (
        process_group("auto") as alone,
        Loader(data, cfg.views, shards, plan, alone, cfg.model.modalities, cfg.run.seed).start() as loader,
    ):
        for batch in loader:
            yield len(batch.clip_ids_B)


def parse(argv: list[str] | None) -> argparse.Namespace:
    known = ", ".join([*OURS, *PEERS])
    parser = command_parser(__name__, __doc__, EXAMPLES.replace("NAMES", known))
    parser.add_argument("shards", help="packed data set with video, in a folder")
    parser.add_argument("--loaders", default="all", help="default all")
    parser.add_argument("--clips", type=int, default=64, help="of a measurement (default 64)")
    parser.add_argument("--repeats", type=int, default=3, help="counted measurements of each loader (default 3)")
    parser.add_argument(
        "--cache",
        choices=("warm", "cold"),
        default="warm",
        help="warm: the first round leaves the clips in the page cache; cold: before each measurement the clips are"
        " dropped from it, and the loader begins anew (default warm)",
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="write rows and environment")
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="of the pre-training config")
    return parser.parse_intermixed_args(argv)


def chosen(text: str) -> list[str]:
    """Names of the loaders asked for."""
    known = [*OURS, *PEERS]
    names = {"all": known, "cclslr": list(OURS)}.get(text, text.split(","))
    if unknown := [name for name in names if name not in known]:
        raise UserError(f"unknown loader {unknown[0]!r}; choose of {', '.join(known)}, or cclslr, or all")
    return names


class Contest:
    """The loaders that take part, and what was measured of each."""

    def __init__(self, names: list[str], setup: Setup, clips: int, cold: bool) -> None:
        self.setup, self.clips, self.cold = setup, clips, cold
        self.warmup = 2 * setup.cfg.data.workers + 6  # batches; no loader here makes more ahead
        self.measured: dict[str, list[Measurement]] = {name: [] for name in names}
        self.absent: dict[str, str] = {}
        self._open: dict[str, LoaderProcess] = {}
        self._processes = contextlib.ExitStack()
        if cold:
            self._check_cold()

    def _check_cold(self) -> None:
        num_clips, needed = len(ShardSet([self.setup.folder])), self.warmup * self.setup.cfg.optim.batch + self.clips
        if needed > num_clips:
            raise UserError(
                f"--cache cold reads a clip at most once, but a measurement with its warm-up takes {needed} of"
                f" {num_clips} clips: lower --clips, optim.batch or data.workers, or pack more"
            )
        if "cclslr-ffcv" in self.measured:
            self.absent["cclslr-ffcv"] = "opening a .beton reads pages all over it, so it is not cold"

    def round(self) -> None:
        """One measurement of every loader."""
        for name in [name for name in self.measured if name not in self.absent]:
            try:
                self.measured[name].append(self._measure(name))
            except LoaderFailed as failure:
                self.absent[name] = str(failure)

    def _measure(self, name: str) -> Measurement:
        if not self.cold:
            if name not in self._open:
                self._open[name] = self._processes.enter_context(self._start(name))
            return self._open[name].measure(self.clips)
        for path in [*Path(self.setup.folder).glob("*.tar"), *self.setup.scratch.iterdir()]:
            drop_from_cache(path)
        with self._start(name) as process:
            return process.measure(self.clips)

    def _start(self, name: str) -> LoaderProcess:
        if name in OURS:
            return LoaderProcess(our_loader, name.removeprefix("cclslr-"), self.setup, warmup=self.warmup)
        return LoaderProcess(PEERS[name], self.setup, warmup=self.warmup)

    def __enter__(self) -> Contest:
        return self

    def __exit__(self, *exception: object) -> None:
        self._processes.close()


def row(name: str, device: str, codec: str, counted: list[Measurement]) -> dict[str, Any]:
    """One line of the result."""
    rates = [measurement.rate for measurement in counted]
    return {
        "loader": name,
        "device": device,
        "codec": codec,
        "clips_per_second": statistics.median(rates),
        "min": min(rates),
        "max": max(rates),
        "n": len(rates),
        "rss_mb": round(max(measurement.peak_rss for measurement in counted) / 1e6, 1),
        "cpu_share": round(statistics.median(measurement.cpu_share for measurement in counted), 3),
        "all": rates,
    }


def main(argv: list[str] | None = None) -> None:
    args = parse(argv)
    cfg = load_config(PretrainConfig, None, ["optim.batch=8", "views.mask_alpha=0", *args.overrides])
    names = chosen(args.loaders)
    codec = str(ShardSet([args.shards]).info["codec"])
    gpu = cfg.data.device == "gpu" or (cfg.data.device == "auto" and torch.cuda.is_available())

    about = {"settings": {"clips": args.clips, "cache": args.cache, "config": to_dict(cfg)}, "environment": describe()}
    with tempfile.TemporaryDirectory() as scratch:
        setup = Setup(args.shards, cfg, Path(scratch))
        with Contest(names, setup, args.clips, args.cache == "cold") as contest, progress_bar("rounds") as bar:
            about["settings"]["warmup_batches"] = contest.warmup
            for number in bar.track(range(args.repeats + 1), description="measuring"):
                contest.round()
                rows = [
                    row(name, "gpu" if gpu and name == "cclslr-dali" else "cpu", codec, measured[1:])
                    for name, measured in contest.measured.items()
                    if number and name not in contest.absent
                ]
                if args.json:  # after every round: the tool may be killed before it ends
                    write_json(args.json, {"rows": rows, "absent": contest.absent} | about)

    title = f"{args.shards}, {codec}, {args.clips} clips, {args.cache} cache"
    table = Table("loader", "device", "clips/s", "min", "max", "CPU", "memory", title=title)
    for line in rows:
        rates = [f"{line[key]:.1f}" for key in ("clips_per_second", "min", "max")]
        cost = [f"{line['cpu_share']:.0%}", f"{line['rss_mb']:.0f} MB"]
        table.add_row(line["loader"], line["device"], *rates, *cost)
    console.print(table)
    for name, reason in contest.absent.items():
        console.print(f"{name} left out: {reason}")
    if not rows:
        raise UserError("no loader could be measured")

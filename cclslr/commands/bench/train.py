"""Measure pre-training: compute alone, data alone, both together.

And where the time of a step goes.

replay    one cached batch again and again: what the device can do when it never waits
supply    the loader alone: what the data side can deliver            (with data.shards)
real      the loader feeds the trainer: what a run gets               (with data.shards)
plain     replay of the same algorithm written plainly                (--plain)

stall_share = 1 - real/replay. MFU counts 2 operations a multiply-accumulate of the encoders' query forward, query
backward and key forward passes, over the fastest large matrix product of the same arithmetic type on this device.
Blocks of the modes take turns; figures are medians over blocks, with the fastest and the slowest one.
"""

from __future__ import annotations

import argparse
import contextlib
import itertools
import os
import shlex
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from rich.table import Table

from cclslr import train
from cclslr.bench import pretrain, sweep
from cclslr.bench.machine import matrix_peak, peak_memory, synchronize
from cclslr.cli import command_parser
from cclslr.config import PretrainConfig, load_config, to_dict
from cclslr.console import console
from cclslr.data.batch import Batch
from cclslr.distributed import Process, process_group
from cclslr.environment import describe
from cclslr.errors import UserError
from cclslr.files import read_json, write_json
from cclslr.models.flops import flops_per_clip
from cclslr.training.optimise import check_batch

Keep = Callable[[dict[str, Any]], None]

EXAMPLES = """examples:
  cclslr bench train --config configs/pretrain.yaml data.shards=[shards/wlasl2000] --plain --tricks all
  cclslr bench train --config configs/pretrain_small.yaml                  compute only, needs no data
  torchrun --nproc-per-node 8 -m cclslr bench train --config configs/pretrain.yaml data.shards=[shards/all]
  cclslr bench train --config configs/pretrain.yaml --ranks 1,2,4,8       scaling, batch grows with the ranks
  cclslr bench train --config configs/pretrain.yaml --sweep data.shards=[shards/jpeg,shards/h264]
                                  (a sweep takes each of the shards as an alternative, not together)
  cclslr bench train --config configs/pretrain.yaml --trace trace.json    open in https://ui.perfetto.dev
"""


def parse(argv: list[str] | None) -> argparse.Namespace:
    parser = command_parser(__name__, __doc__, EXAMPLES)
    names = ", ".join(trick.name for trick in pretrain.TRICKS)
    parser.add_argument("--config", metavar="FILE", help="YAML file of a pre-training run, see configs/")
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="override one key, e.g. optim.batch=8")
    parser.add_argument("--steps", type=int, default=20, help="timed steps of a block (default 20)")
    parser.add_argument("--warmup", type=int, default=3, help="steps before them (default 3)")
    parser.add_argument("--repeats", type=int, default=3, help="blocks of each mode, at least 3 (default 3)")
    parser.add_argument("--plain", action="store_true", help="also replay the plainly written reference (one rank)")
    parser.add_argument("--tricks", metavar="NAMES", help=f"what each trick is worth: 'all' or some of {names}")
    parser.add_argument("--sweep", action="store_true", help="find micro-batch, placement, workers and prefetch")
    parser.add_argument("--ranks", metavar="N,N,…", help="repeat under torchrun with so many ranks; prints the scaling")
    parser.add_argument("--trace", type=Path, metavar="FILE", help="write a profiler trace of one step")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write everything measured, after every block")
    args = parser.parse_intermixed_args(argv)
    if args.repeats < 3:
        raise UserError(f"--repeats {args.repeats}: a median and a spread take at least 3")
    return args


def chosen_tricks(text: str | None, cfg: PretrainConfig, mine: Process) -> list[pretrain.Trick]:
    by_name = {trick.name: trick for trick in pretrain.TRICKS}
    wanted = [] if text is None else list(by_name) if text == "all" else text.split(",")
    unknown = [name for name in wanted if name not in by_name]
    if unknown:
        raise UserError(f"--tricks {unknown[0]}: choose from {', '.join(by_name)}")
    return [by_name[name] for name in wanted if by_name[name].applies(cfg, mine)]


def measure(args: argparse.Namespace, cfg: PretrainConfig, mine: Process, keep: Keep) -> dict[str, Any]:
    """All modes, and the tricks, on the ranks there are; `keep` gets what there is after every block."""
    check_batch(cfg.optim, mine.world)
    tricks = chosen_tricks(args.tricks, cfg, mine)
    learner = train.build_learner(cfg, mine)
    batch = pretrain.random_batch(cfg, mine)
    step = pretrain.lean_step(learner, cfg, mine)
    replay = pretrain.Replay(lambda number: step(batch, number), mine)
    modes: dict[str, pretrain.Mode] = {"replay": replay}
    if args.plain and mine.world == 1:
        modes["plain"] = pretrain.plain_replay(cfg, mine, batch)
    if cfg.data.shards:
        modes["supply"] = pretrain.Supply(cfg, mine, None)
        modes["real"] = pretrain.Supply(cfg, mine, step)
    result: dict[str, Any] = {
        "world": mine.world,
        "batch": cfg.optim.batch,
        "arithmetic": learner.amp.name,
        "flops_per_clip": flops_per_clip(cfg),
        "peak_flops": matrix_peak(mine.device, learner.amp.dtype),
        "parameters": sum(p.numel() for p in learner.query.parameters()),
        "tricks": [],
    }

    def so_far(samples: pretrain.Samples) -> None:
        result["memory"] = peak_memory(mine.device)
        keep(result | compared(samples, result, cfg))

    samples = pretrain.take_turns(modes, args.warmup, args.steps, args.repeats, so_far)
    result |= compared(samples, result, cfg)
    modes.pop("plain", None)
    for trick in tricks:
        flipped = pretrain.Flipped(trick, cfg, mine, batch)
        pair = pretrain.take_turns({"flipped": flipped, "usual": replay}, args.warmup, args.steps, args.repeats)
        result["tricks"].append(pretrain.worth(trick, pair["flipped"], pair["usual"], cfg.optim.batch))
        keep(result)
    if args.trace is not None:
        trace(args.trace, step, batch, cfg, mine)
    return result


def compared(samples: pretrain.Samples, result: dict[str, Any], cfg: PretrainConfig) -> dict[str, Any]:
    """What the blocks say so far: rates of the modes, and what follows from two of them."""
    rates = {name: pretrain.summary(of, cfg.optim.batch) for name, of in samples.items()}
    fastest = rates["replay"]["clips_per_second"]
    mfu = fastest / result["world"] * sum(result["flops_per_clip"].values()) / result["peak_flops"]
    found: dict[str, Any] = {"modes": rates, "mfu": mfu}
    if "plain" in samples:
        found["lean_over_plain"] = statistics.median(
            slow.seconds / lean.seconds for slow, lean in zip(samples["plain"], samples["replay"])
        )
    if "supply" in samples:
        found["supply_over_replay"] = rates["supply"]["clips_per_second"] / fastest
    if "real" in samples:
        found["stall_share"] = 1 - rates["real"]["clips_per_second"] / fastest
    return found


def trace(path: Path, step: Any, batch: Batch, cfg: PretrainConfig, mine: Process) -> None:
    """Profile one step of a run, or of the replay where there is no data, after two that warm up; rank 0 writes it.

    One, since a step of the paper's networks is megabytes of trace.
    """
    with contextlib.ExitStack() as stack:
        batches: Iterator[Batch] = itertools.repeat(batch)
        if cfg.data.shards:
            batches = stack.enter_context(pretrain.open_loader(cfg, mine).start())
        for number in range(2):
            step(next(batches), number)
        synchronize(mine.device)
        with torch.profiler.profile() as profiler:
            step(next(batches), 2)
            synchronize(mine.device)
    if mine.main:
        path.parent.mkdir(parents=True, exist_ok=True)
        profiler.export_chrome_trace(str(path))


def scaling(args: argparse.Namespace, cfg: PretrainConfig, keep: Keep) -> list[dict[str, Any]]:
    """The same measurement under torchrun for several numbers of ranks, with the same batch a rank."""
    results: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as folder:
        for world in map(int, args.ranks.split(",")):
            out = Path(folder) / f"{world}.json"
            command = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={world}"]
            command += [
                "-m",
                "cclslr",
                "bench",
                "train",
                *(["--config", args.config] if args.config else []),
                *args.overrides,
            ]
            command += [f"optim.batch={world * cfg.optim.batch}", "--json", str(out)]
            command += ["--steps", str(args.steps), "--warmup", str(args.warmup), "--repeats", str(args.repeats)]
            console.print(f"$ {shlex.join(command)}", style="dim", soft_wrap=True)
            answer = subprocess.run(command, capture_output=True, text=True, check=False)
            if answer.returncode:
                lines = answer.stderr.splitlines()  # torchrun ends with a banner that does not say what happened
                errors = [line for line in lines if "error" in line.lower() and "ChildFailed" not in line]
                raise UserError(f"{world} ranks failed: {(errors or ['no message'])[-1]}")
            result = read_json(out)
            rates = [run["modes"]["replay"]["clips_per_second"] / run["world"] for run in (*results, result)]
            results.append(result | {"efficiency": rates[-1] / rates[0]})
            keep({"scaling": results})
    return results


def search(args: argparse.Namespace, cfg: PretrainConfig, mine: Process, keep: Keep) -> dict[str, Any]:
    """The sweep, and the config lines that it ends with."""
    counts = (args.warmup, args.steps, args.repeats)
    result: dict[str, Any] = {"micro_batch": sweep.micro_batches(cfg, mine, *counts), "loader": []}
    keep(result)
    winner = sweep.best(result["micro_batch"])
    lines = [] if winner is None else list(winner["overrides"])
    if cfg.data.shards:
        result["loader"] = sweep.loader_settings(pretrain.changed(cfg, *lines), mine, cfg.data.shards, *counts)
        winner = sweep.best(result["loader"][-1])
        lines += [] if winner is None else winner["overrides"]
    result["use"] = lines
    return result


def show(result: dict[str, Any]) -> None:
    """Tables of what `measure` returned."""
    modes = Table("mode", "clips/s", "min", "max", "n", "step", "fetch", "decode", "copy", title="Pre-training")
    for name, mode in result["modes"].items():
        waits = [f"{mode[key]:.1f} ms" if (key := f"wait_{w}_ms") in mode else "" for w in ("fetch", "decode", "copy")]
        rates = [f"{mode[key]:.1f}" for key in ("clips_per_second", "min", "max")]
        modes.add_row(name, *rates, str(mode["n"]), f"{mode['step_ms']:.1f} ms", *waits)
    console.print(modes)
    gflop, peak = sum(result["flops_per_clip"].values()) / 1e9, result["peak_flops"] / 1e12
    text = f"MFU {result['mfu']:.1%} ({gflop:.1f} GFLOP a clip, peak {peak:.3g} TFLOP/s in {result['arithmetic']})"
    text += f"  memory {result['memory']}"
    if "stall_share" in result:
        text += f"  stall {result['stall_share']:.1%}  supply/replay {result['supply_over_replay']:.2f}"
    if "lean_over_plain" in result:
        text += f"  lean/plain {result['lean_over_plain']:.2f}"
    console.print(text, soft_wrap=True)
    if result["tricks"]:
        tricks = Table("trick", "default", "on clips/s", "off clips/s", "on/off", "min", "max", "n", title="Tricks")
        for row in result["tricks"]:
            ratios = [f"{row[key]:.3f}" for key in ("speed_up", "min", "max")]
            rates = [f"{row[key]:.1f}" for key in ("on_clips_per_second", "off_clips_per_second")]
            tricks.add_row(row["trick"], "on" if row["on_by_default"] else "off", *rates, *ratios, str(row["n"]))
        console.print(tricks)


def show_sweep(result: dict[str, Any]) -> None:
    for title, rows in (("Micro-batch", result["micro_batch"]), *(("Loader", rows) for rows in result["loader"])):
        table = Table("setting", "training clips/s", "loader alone clips/s", "", title=title)
        for row in rows:
            real, supply = row.get("real", row).get("clips_per_second"), row.get("supply", {}).get("clips_per_second")
            cells = ["" if value is None else f"{value:.1f}" for value in (real, supply)]
            table.add_row(" ".join(row["overrides"]), *cells, row.get("error", ""))
        console.print(table)
    console.print("use:", *result["use"], soft_wrap=True)


def main(argv: list[str] | None = None) -> None:
    args = parse(argv)
    cfg = load_config(PretrainConfig, args.config, args.overrides)
    about = {
        "tool": "bench_train",
        "command": shlex.join(["cclslr", "bench", "train", *(sys.argv[1:] if argv is None else argv)]),
        "environment": describe(),
    }

    def keep(result: dict[str, Any], complete: bool = False) -> None:
        """Write what there is: the tool may be killed before it ends."""
        if args.json is not None and int(os.environ.get("RANK", 0)) == 0:
            write_json(args.json, about | {"config": to_dict(cfg), "complete": complete} | result)

    torch.backends.cudnn.benchmark = True
    if args.ranks is not None:
        runs = scaling(args, cfg, keep)
        table = Table("ranks", "replay clips/s", "real clips/s", "efficiency", title="Scaling, same batch a rank")
        for run in runs:
            real = run["modes"].get("real", {}).get("clips_per_second")
            rate = run["modes"]["replay"]["clips_per_second"]
            cells = [f"{rate:.1f}", "" if real is None else f"{real:.1f}", f"{run['efficiency']:.1%}"]
            table.add_row(str(run["world"]), *cells)
        console.print(table)
        result: dict[str, Any] = {"scaling": runs}
    else:
        with process_group(cfg.run.device) as mine:
            result = (search if args.sweep else measure)(args, cfg, mine, keep)
            if not mine.main:
                return
        (show_sweep if args.sweep else show)(result)
    keep(result, complete=True)

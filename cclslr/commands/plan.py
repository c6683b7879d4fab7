"""Forecast a pre-training run on given hardware.

Clips a second, epoch time, the bottleneck, and what to change. Storage, CPU, PCIe, decoding on the GPU and the training
step work at the same time; the slowest sets the rate. Rates come from measurements (--train, --loader) or are assumed;
the first table says which is which. With --config it counts the arithmetic of each phase of that run, the clips a
second that its loader must make, and the time; with --config or --finetune also what it takes of a GPU's memory.
docs/scaling.md explains the model and its limits.
"""

from __future__ import annotations

import argparse
import dataclasses
import math
from pathlib import Path
from typing import Any

from rich import box
from rich.table import Table

from cclslr.bench.capacity import Corpus, Forecast, Hardware, Work, advice, forecast
from cclslr.bench.footprint import ROOM, Footprint, footprint
from cclslr.bench.phases import ASSUMED, Decoding, phase_costs, phase_json, phase_table
from cclslr.cli import command_parser
from cclslr.codecs import codec_named, codecs
from cclslr.config import FinetuneConfig, PretrainConfig, load_config
from cclslr.console import console, roughly
from cclslr.errors import UserError
from cclslr.files import read_json, write_json
from cclslr.schedule import phases
from cclslr.training.optimise import check_batch

GROUP, PLACE = "training", 2

NODES = {
    "8x3090": Hardware(8, 8, 64, 256, 3.0, 3500, 25, 12, 3.1),
    "8xh100": Hardware(8, 8, 112, 2000, 20, 25000, 50, 400, 50),
    "1x3090": Hardware(1, 1, 16, 64, 3.0, 1000, 25, 12, 1.25),
}
GPUS = {"8x3090": 49.0, "1x3090": 49.0, "8xh100": 400.0}  # clips/s of a GPU at 40 % MFU (CCL-SLR §7), an assumption

VIEW_BYTES = 32 * 224 * 224 * 3
FRAME_BYTES = 256 * 256
PLACEMENTS = {
    # where decoding and augmentation happen: bytes of a clip that cross PCIe, assumed core-ms on the CPU
    "gpu": ("decode and augment on the GPU", None, 0.5),
    "libav": ("decode on CPU threads, augment on the GPU", 58 * FRAME_BYTES * 1.5, 7.0),
    "cpu": ("decode and augment on the CPU", 2 * VIEW_BYTES, 12.0),
}
CARDS_GB = (24, 80)  # RTX 3090 and 4090; A100 and H100

EXAMPLES = """examples:
  cclslr plan                                                 8 x 3090, the paper's four data sets
  cclslr plan --train train.json --loader loader.json         measured rates (bench_train, bench_loader)
  cclslr plan --config configs/pretrain.yaml                  and what this run takes of a GPU's memory
  cclslr plan --config configs/pretrain_progressive.yaml      each phase: operations, clips/s and cores, time
  cclslr plan --config configs/pretrain_progressive.yaml --smaller 128    the same, of shards in two sizes
  cclslr plan --node 8xh100 --table                           1 to 512 GPUs
  cclslr plan --node 8xh100 --gpus 512 --clips 100000000 --remote --store-gb-s 100 --codec h264
"""


def parse(argv: list[str] | None) -> argparse.Namespace:
    parser = command_parser(__name__, __doc__, EXAMPLES)
    parser.add_argument("--node", choices=NODES, default="8x3090", help="what a node is like (default 8x3090)")
    parser.add_argument("--gpus", type=int, help="GPUs over all nodes (default: one node)")
    for field, text in (
        ("cores", "of a node"),
        ("memory-gb", "of a node"),
        ("disk-gb-s", "GB/s that a node's disks read"),
        ("disk-gb", "GB of a node's disks for the cache of remote shards"),
        ("bus-gb-s", "GB/s from host to one GPU"),
        ("link-gb-s", "GB/s from one GPU of a node to another"),
        ("network-gb-s", "GB/s of a node's network"),
        ("store-gb-s", "GB/s of the object storage, over all nodes"),
    ):
        parser.add_argument(f"--{field}", type=float, help=text + " (default: as --node)")
    parser.add_argument("--train", type=Path, metavar="FILE", help="JSON of cclslr bench train on one such GPU")
    parser.add_argument("--loader", type=Path, metavar="FILE", help="JSON of cclslr bench loader on such a machine")
    parser.add_argument("--compute", type=float, help="clips/s of one GPU that never waits, instead of --train")
    parser.add_argument("--placement", choices=PLACEMENTS, default="gpu", help="who decodes (default gpu)")
    parser.add_argument("--codec", choices=codecs(), default="jpeg", help="of the shards (default jpeg)")
    parser.add_argument(
        "--smaller",
        type=int,
        nargs="+",
        default=[],
        metavar="PIXELS",
        help="sizes that the shards hold besides 256, as cclslr pack --smaller: a phase of --config with small views "
        "reads and decodes the smallest that serves it",
    )
    parser.add_argument("--clip-kb", type=float, help="kB a clip, as packed (default: by codec)")
    parser.add_argument("--core-ms", type=float, help="CPU milliseconds a clip (default: by placement)")
    parser.add_argument("--gpu-loader", type=float, help="clips/s of one GPU that only decodes and augments")
    parser.add_argument("--clips", type=int, default=145_951, help="of the data set (default: the paper's four)")
    parser.add_argument("--remote", action="store_true", help="shards in object storage, with a cache on each node")
    parser.add_argument("--batch", type=int, default=8, help="clips a GPU and step (default 8)")
    parser.add_argument("--micro-batch", type=int, default=8, help="clips that pass together (default 8)")
    parser.add_argument("--parameters", type=float, default=128.8, help="millions, of both branches (default 128.8)")
    parser.add_argument("--compressed", action="store_true", help="gradients travel in two bytes instead of four")
    parser.add_argument("--no-shuffle-bn", action="store_true", help="objective.shuffle_bn=false")
    parser.add_argument("--epochs", type=int, default=140, help="(default 140)")
    runs = parser.add_mutually_exclusive_group()
    runs.add_argument("--config", metavar="FILE", help="a pre-training run: show its phases, and the memory it takes")
    runs.add_argument("--finetune", metavar="FILE", help="a fine-tuning run: likewise")
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="override one key of that config")
    parser.add_argument("--table", action="store_true", help="1 to 512 GPUs instead of one size")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the forecast")
    return parser.parse_intermixed_args(argv)


@dataclasses.dataclass(frozen=True)
class Given:
    """A number and where it comes from."""

    value: float
    source: str  # "measured: …" or "assumed: …"


def from_train(path: Path) -> dict[str, Given]:
    """Rate, batch and size of a `bench_train` file.

    Raises:
        UserError: not such a file.
    """
    result = read_json(path)
    try:
        gpu = (result["environment"]["gpus"] or [result["environment"]["cpu"]])[0]
        source = f"measured: {path.name}, {gpu}"
        return {
            "compute": Given(result["modes"]["replay"]["clips_per_second"] / result["world"], source),
            "batch": Given(result["batch"] // result["world"], source),
            "micro_batch": Given(result["config"]["optim"]["micro_batch"], source),
            "parameters": Given(result["parameters"], source),
        }
    except (KeyError, TypeError, IndexError) as error:
        raise UserError(f"{path}: not written by cclslr bench train (no {error})") from error


def from_loader(path: Path, placement: str, codec: str) -> dict[str, Given]:
    """Core-milliseconds a clip, or the rate of one GPU, from the row of a `bench_loader` file that fits best.

    Raises:
        UserError: no such file or no such row.
    """
    result = read_json(path)
    rows = result.get("rows") if isinstance(result, dict) else None
    cores = result.get("environment", {}).get("cores") if isinstance(result, dict) else None
    if not isinstance(rows, list) or not cores:
        raise UserError(f"{path}: not written by cclslr bench loader (rows and environment.cores expected)")
    device = "cpu" if placement == "cpu" else "gpu"
    rows = [
        row
        for row in rows
        if row["loader"].startswith("cclslr") and row["device"] == device and row["codec"] == codec
        if device == "cpu" or ("libav" in row["loader"]) == (placement == "libav")
    ]
    if not rows:
        raise UserError(f"{path}: no row of cclslr with device {device}, codec {codec} and decoding by {placement}")
    row = max(rows, key=lambda row: row["clips_per_second"])
    source = f"measured: {path.name}, {row['loader']}"
    if device == "cpu":
        return {"core_ms": Given(1e3 * cores / row["clips_per_second"], source)}
    return {"gpu_loader": Given(row["clips_per_second"], source)}


def gather(args: argparse.Namespace) -> tuple[Work, dict[str, Given]]:
    """The work of a clip and a step; measured where there is a measurement, else given, else assumed."""
    _, bus_bytes, core_ms = PLACEMENTS[args.placement]
    clip_bytes = 1e3 * (args.clip_kb or codec_named(args.codec).clip_kb)
    given = {
        "compute": Given(args.compute, "assumed: --compute")
        if args.compute
        else Given(GPUS[args.node], "assumed: 40 % MFU"),
        "batch": Given(args.batch, "assumed: --batch"),
        "micro_batch": Given(args.micro_batch, "assumed: --micro-batch"),
        "core_ms": Given(core_ms, f"assumed: {args.placement}"),
        "gpu_loader": Given(math.inf, "assumed: no limit; measure it with cclslr bench loader"),
        "parameters": Given(1e6 * args.parameters, "assumed: r3d50 and the paper's pose encoder, with heads"),
        "clip_bytes": Given(clip_bytes, f"assumed: {args.codec} at 256 x 256"),
    }
    if args.train is not None:
        given |= from_train(args.train)
    if args.loader is not None:
        given |= from_loader(args.loader, args.placement, args.codec)
    for name in ("core_ms", "gpu_loader"):
        if getattr(args, name) is not None:
            given[name] = Given(getattr(args, name), f"assumed: --{name.replace('_', '-')}")
    if args.clip_kb:
        given["clip_bytes"] = Given(clip_bytes, "assumed: --clip-kb")
    number = {name: item.value for name, item in given.items()}
    work = Work(
        compute=number["compute"],
        batch=int(number["batch"]),
        micro_batches=max(1, int(number["batch"] // number["micro_batch"])),
        core_ms=number["core_ms"],
        gpu_loader=number["gpu_loader"],
        clip_bytes=number["clip_bytes"],
        bus_bytes=clip_bytes if bus_bytes is None else bus_bytes,
        view_bytes=0 if args.no_shuffle_bn else VIEW_BYTES,
        gradient_bytes=number["parameters"] * (2 if args.compressed else 4),
        same_cores=args.train is not None and not read_json(args.train)["environment"]["gpus"],
    )
    return work, given


def hardware(args: argparse.Namespace, gpus: int) -> Hardware:
    """The chosen node with what the command line changes."""
    names = ("cores", "memory_gb", "disk_gb_s", "disk_gb", "bus_gb_s", "link_gb_s", "network_gb_s", "store_gb_s")
    changes = {name: getattr(args, name) for name in names if getattr(args, name) is not None}
    return dataclasses.replace(NODES[args.node], gpus=gpus, **changes)


def as_json(result: Forecast, text: str) -> dict[str, Any]:
    finite = lambda value: value if math.isfinite(value) else None  # noqa: E731
    return {
        "clips_per_second": result.clips_per_second,
        "epoch_seconds": result.epoch_seconds,
        "first_epoch_seconds": result.first_epoch_seconds,
        "bottleneck": result.bottleneck.name,
        "advice": text,
        "global_batch": result.global_batch,
        "step_efficiency": result.efficiency,
        "supply_over_consumption": finite(result.headroom),
        "stages": {stage.name: finite(stage.clips_per_second) for stage in result.stages},
    }


def named_run(args: argparse.Namespace) -> PretrainConfig | FinetuneConfig | None:
    """The run that the command line names; None if it names none.

    Raises:
        UserError: its batches do not split into these GPUs.
    """
    if args.config is None and args.finetune is None:
        if args.overrides:
            raise UserError(f"{args.overrides[0]} overrides a key of no config; name one with --config or --finetune")
        return None
    cfg: PretrainConfig | FinetuneConfig
    if args.finetune is None:
        cfg = load_config(PretrainConfig, args.config, args.overrides)
    else:
        cfg = load_config(FinetuneConfig, args.finetune, args.overrides)
    for phase in phases(cfg):
        check_batch(phase.cfg.optim, args.gpus or NODES[args.node].gpus)
    return cfg


def show_phases(cfg: PretrainConfig, args: argparse.Namespace, work: Work) -> list[dict[str, Any]]:
    """Print the phases of a run, and what it would be without its schedule; returns them for a file."""
    machine, corpus = hardware(args, args.gpus or NODES[args.node].gpus), Corpus(args.clips, args.remote)
    decoding = Decoding(args.placement, not codec_named(args.codec).alone, tuple(args.smaller))
    plain = dataclasses.replace(cfg, schedule=[])
    costs, (whole,) = (phase_costs(one, work, machine, corpus, decoding) for one in (cfg, plain))
    console.print(phase_table(costs, machine.nodes, f"Phases of {args.config}"))
    console.print("operations are counted on shapes; assumed: " + "; ".join(ASSUMED), soft_wrap=True)
    if cfg.schedule:
        share = sum(cost.total_flops for cost in costs) / whole.total_flops
        told = f"{whole.total_flops / 1e18:.3g} EFLOP and {roughly(whole.seconds)}"
        less = sum(cost.seconds for cost in costs) / whole.seconds
        console.print(
            f"without the schedule the same epochs take {told}; with it {share:.2f} of these operations and {less:.2f} "
            "of this time",
            soft_wrap=True,
        )
    return [phase_json(cost, machine.nodes) for cost in costs]


def memory_table(taken: Footprint, title: str) -> Table:
    """Where the bytes go, and which cards hold them."""
    table = Table("GB of a GPU", "training", "evaluation", title=title, box=box.SIMPLE_HEAD)
    for name in ("weights", "gradients", "optimiser", "banks", "batches"):
        table.add_row(name, *[f"{getattr(taken, name) / 1e9:.2f}"] * 2)
    table.add_row("activations", *(f"{x / 1e9:.2f}" for x in (taken.activations, taken.eval_activations)))
    table.add_row("its own batches", "", f"{taken.eval_batches / 1e9:.2f}")
    table.add_row("total", *(f"{x / 1e9:.2f}" for x in (taken.training, taken.evaluation)), end_section=True)
    for card in CARDS_GB:
        table.add_row(f"fits {card} GB, with {ROOM / 1e9:g} GB of room", "yes" if taken.fits(card) else "NO", "")
    return table


def main(argv: list[str] | None = None) -> None:
    args = parse(argv)
    run = named_run(args)
    taken = None if run is None else footprint(run, args.gpus or NODES[args.node].gpus)
    work, given = gather(args)
    corpus = Corpus(args.clips, args.remote)
    inputs = Table("input", "value", "source", title="What the forecast rests on")
    for name, item in given.items():
        inputs.add_row(name, f"{item.value:,.4g}", item.source)
    for name, value in dataclasses.asdict(hardware(args, args.gpus or NODES[args.node].gpus)).items():
        source = f"--{name.replace('_', '-')}" if getattr(args, name, None) is not None else f"--node {args.node}"
        inputs.add_row(name, f"{value:,.4g}", f"assumed: {source}")
    console.print(inputs)

    sizes = [2**i for i in range(10)] if args.table else [args.gpus or NODES[args.node].gpus]
    titles = ("GPUs", "clips/s", "epoch", "first epoch", f"{args.epochs} epochs", "batch", "step efficiency", "limit")
    table = Table(*titles, title="Forecast", box=box.SIMPLE_HEAD)
    rows = []
    for gpus in sizes:
        machine = hardware(args, gpus)
        result = forecast(work, machine, corpus)
        rows.append({"gpus": gpus} | as_json(result, advice(result, work, machine)))
        total = result.first_epoch_seconds + (args.epochs - 1) * result.epoch_seconds
        times = [roughly(seconds) for seconds in (result.epoch_seconds, result.first_epoch_seconds, total)]
        cells = [str(gpus), f"{result.clips_per_second:,.0f}", *times, str(result.global_batch)]
        table.add_row(*cells, f"{result.efficiency:.0%}", result.bottleneck.name)
    console.print(table)
    for row in rows if not args.table else rows[-1:]:
        console.print(f"{row['gpus']} GPUs: {row['advice']}", soft_wrap=True)
    if math.isinf(work.gpu_loader) and args.placement != "cpu":
        console.print("How fast a GPU decodes and augments is not known here, and left out: give --loader.")
    in_phases = show_phases(run, args, work) if isinstance(run, PretrainConfig) else []
    if taken is not None:
        console.print(memory_table(taken, f"Memory of {args.config or args.finetune}, counted on shapes"))
    if args.json is not None:
        sources = {name: {"value": item.value if math.isfinite(item.value) else None, "source": item.source}
                   for name, item in given.items()}  # fmt: skip
        bytes_of_a_gpu = None if taken is None else dataclasses.asdict(taken) | {"total": taken.total}
        written: dict[str, Any] = {
            "tool": "plan_run",
            "inputs": sources,
            "forecasts": rows,
            "memory_bytes": bytes_of_a_gpu,
        }
        if in_phases:
            written |= {"phases": in_phases, "assumed_of_phases": ASSUMED}
        write_json(args.json, written)

"""What motion-preserving masks cost against matrix speed.

Flows alone and the whole of masking, against the machine's matrix speed.
"""

from __future__ import annotations

import argparse
import dataclasses
import statistics
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import torch
from rich.table import Table
from torch.utils.flop_counter import FlopCounterMode

from cclslr.bench.machine import matrix_peak, synchronize
from cclslr.cli import command_parser
from cclslr.console import console
from cclslr.environment import describe
from cclslr.files import write_json
from cclslr.masking.architecture import PRESETS, SIZES, flow_config
from cclslr.masking.flow import Flow, FlowCard, load_flow
from cclslr.masking.methods import MpmOptions, motion_alone
from cclslr.masking.mpm import flow_masks, resize, select_latents, to_unit
from cclslr.masking.options import subnet_dtype

EXAMPLES = """examples:
  cclslr bench masks --preset advflow --size 64 --out docs/results/masking/cost_advflow64.json
  cclslr bench masks --flow flows/tiny.safetensors --out cost.json

The plain loop encodes and decodes frame by frame through the same flow in fp32 and leaves the mask itself out. Both
run on --threads threads, one by default: cclslr masks starts a process of one thread for each core. All works take
turns in every round, so that a speed-up compares what ran side by side. The share of the matrix speed counts two
operations a multiply-add, against the faster of a matrix product and a convolution."""

DATA_SET_CLIPS, CLIP_FRAMES = 145_951, 75  # the paper's pre-training set; frames of a typical clip
GPUS, GPU_FLOPS, GPU_SHARE = 8, 71e12, 0.4  # RTX 3090, fp16 with fp32 accumulation, of which this share is reached


@dataclasses.dataclass
class Cost:
    """Frames a second: the median round, the slowest and the fastest."""

    name: str
    dtype: str
    frames_per_second: float
    spread: tuple[float, float]
    share_of_matrix_speed: float


def timed(work: Callable[[], object], device: torch.device) -> float:
    """Seconds that one call takes."""
    synchronize(device)
    began = time.perf_counter()
    work()
    synchronize(device)
    return time.perf_counter() - began


def matrix_speed(dtype: torch.dtype, device: torch.device) -> float:
    """Floating-point operations a second of the fastest of a matrix product and a convolution like the flow's."""
    x = torch.randn(8, 128, 64, 64, device=device, dtype=dtype).contiguous(memory_format=torch.channels_last)
    weight = torch.randn(128, 128, 3, 3, device=device, dtype=dtype).contiguous(memory_format=torch.channels_last)
    with torch.inference_mode():
        seconds = min(timed(lambda: torch.nn.functional.conv2d(x, weight, padding=1), device) for _ in range(10))
    return max(matrix_peak(device, dtype), 2 * 128 * 128 * 9 * 64 * 64 * 8 / seconds)


def plain_masks(clip_TCHW: torch.Tensor, options: MpmOptions, flow: Flow) -> torch.Tensor:
    """Motion-preserving video frame by frame, the way one would write it first."""
    with torch.no_grad():
        latents = torch.cat([flow.encode(to_unit(frame[None]).to(flow.device))[0] for frame in clip_TCHW])
        keep_D, _ = select_latents(latents, options)
        return torch.cat([flow.decode(z[None] * keep_D) for z in latents])


def moving_clip(frames: int, size: int) -> torch.Tensor:
    """Smooth noise that drifts: uint8 (T, 3, size, size)."""
    rng = np.random.default_rng(0)
    wide = torch.from_numpy(rng.random((1, 3, 6, 12))).float()
    wide = torch.nn.functional.interpolate(wide, (2 * size, 4 * size), mode="bicubic")[0].clamp(0, 1) * 255
    clip = torch.stack([wide[:, :size, t : t + size] for t in range(frames)]).byte()
    clip[:, :, size // 2 :] = clip[:1, :, size // 2 :]
    return resize(clip.permute(0, 2, 3, 1).numpy(), size)


def works(flow: Flow, clip: torch.Tensor, device: torch.device) -> dict[tuple[str, str], Callable[[], object]]:
    """What is measured, by name and type of the subnets."""
    # Half of the latents are static, so that decoding is not skipped.
    options = motion_alone(threshold="quantile")
    frames = to_unit(clip).to(device)

    def loop() -> None:
        plain_masks(clip, options, flow.set_dtype(torch.float32))

    def one_way(dtype: torch.dtype, decode: bool) -> Callable[[], None]:
        with torch.inference_mode():
            latents = flow.set_dtype(dtype).encode(frames)[0]

        def work() -> None:
            flow.set_dtype(dtype)
            with torch.inference_mode():
                for part in (latents if decode else frames).split(flow.frames_per_pass):
                    flow.decode(part) if decode else flow.encode(part)

        return work

    def whole(dtype: torch.dtype) -> Callable[[], None]:
        def work() -> None:
            _, report = flow_masks([clip], options, flow.set_dtype(dtype))[0]
            assert report.degenerate is None, report.degenerate

        return work

    listed: dict[tuple[str, str], Callable[[], object]] = {("plain loop", "float32"): loop}
    for dtype in (torch.float32, torch.bfloat16):
        name = str(dtype).removeprefix("torch.")
        listed["encode", name] = one_way(dtype, decode=False)
        listed["decode", name] = one_way(dtype, decode=True)
        listed["masks", name] = whole(dtype)
    return listed


Figures = tuple[list[Cost], dict[str, float | str]]


def measure(flow: Flow, clip: torch.Tensor, rounds: int, device: torch.device) -> Iterator[Figures]:
    """All works in turns; what is known after each round but the first, which warms up."""
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        flow.encode(to_unit(clip[:1]).to(device))
    operations = counter.get_total_flops()  # of one frame, one way; the other way is the same network
    speeds = {name: matrix_speed(getattr(torch, name), device) for name in ("float32", "bfloat16")}
    listed = works(flow, clip, device)
    seconds: dict[tuple[str, str], list[float]] = {key: [] for key in listed}
    for number in range(rounds + 1):
        for key, work in listed.items():
            seconds[key].append(timed(work, device))
        if number:
            yield figures(flow, clip, operations, speeds, seconds, device)


def figures(
    flow: Flow,
    clip: torch.Tensor,
    operations: int,
    speeds: dict[str, float],
    seconds: dict[tuple[str, str], list[float]],
    device: torch.device,
) -> Figures:
    """What the rounds say; the first one is left out."""
    costs = []
    for (name, dtype), each in seconds.items():
        rates = sorted(len(clip) / s for s in each[1:])
        rate = statistics.median(rates)
        ways = 1 if name in ("encode", "decode") else 2
        share = rate * ways * operations / speeds[dtype]
        costs.append(Cost(name, dtype, rate, (rates[0], rates[-1]), share))

    def speedup(dtype: str) -> float:
        return statistics.median(
            a / b for a, b in zip(seconds["plain loop", "float32"][1:], seconds["masks", dtype][1:])
        )

    default = subnet_dtype("auto", device)
    hours = 2 * operations * DATA_SET_CLIPS * CLIP_FRAMES / (GPUS * GPU_FLOPS * GPU_SHARE) / 3600
    rate = next(cost.frames_per_second for cost in costs if (cost.name, cost.dtype) == ("masks", default))
    facts: dict[str, float | str] = {
        "gflop_encode": operations / 1e9,
        "matrix_gflops_float32": speeds["float32"] / 1e9,
        "matrix_gflops_bfloat16": speeds["bfloat16"] / 1e9,
        "frames_per_pass": flow.frames_per_pass,
        "default_dtype": default,
        "speedup_default": speedup(default),
        "speedup_float32": speedup("float32"),
        "hours_on_8_rtx3090_estimated": hours,
        "core_hours_measured_rate": DATA_SET_CLIPS * CLIP_FRAMES / rate / 3600,
    }
    return costs, facts


def parse(argv: list[str] | None) -> argparse.Namespace:
    parser = command_parser(__name__, __doc__, EXAMPLES)
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument("--preset", choices=PRESETS, help="an architecture, with random weights")
    source.add_argument("--flow", type=Path, help="a trained flow")
    parser.add_argument("--size", type=int, choices=SIZES, default=64, help="with --preset (default: 64)")
    parser.add_argument("--frames", type=int, default=32, help="of the clip (default: 32)")
    parser.add_argument("--rounds", type=int, default=5, help="after one to warm up (default: 5)")
    parser.add_argument("--threads", type=int, default=1, help="CPU threads (default: 1)")
    parser.add_argument("--device", choices=("auto", "cpu", "cuda"), default="auto")
    parser.add_argument("--out", type=Path, required=True, help="the figures as JSON")
    return parser.parse_args(argv)


def main(argv: list[str] | None = None) -> None:
    args = parse(argv)
    device = torch.device("cuda" if args.device != "cpu" and torch.cuda.is_available() else "cpu")
    torch.set_num_threads(args.threads)
    if args.flow is not None:
        flow = load_flow(args.flow, device)
    else:
        torch.manual_seed(0)
        flow = Flow(flow_config(args.preset, args.size), FlowCard("trained")).to(device)
        flow.normalise_to(to_unit(moving_clip(32, args.size)).to(device))
        flow.requires_grad_(False).eval()
    about = {
        "flow": dataclasses.asdict(flow.config),
        "frames": args.frames,
        "rounds": args.rounds,
        "threads": args.threads,
        "environment": describe(),
    }
    for costs, facts in measure(flow, moving_clip(args.frames, flow.size), args.rounds, device):
        write_json(args.out, about | {"costs": [dataclasses.asdict(cost) for cost in costs], **facts})
    table = Table("work", "type", "frames/s", "spread", "of matrix speed", title=f"{flow.config.preset} {flow.size}")
    for cost in costs:
        low, high = cost.spread
        share = f"{100 * cost.share_of_matrix_speed:.0f} %"
        table.add_row(cost.name, cost.dtype, f"{cost.frames_per_second:.1f}", f"{low:.1f} to {high:.1f}", share)
    console.print(table)
    for name, value in facts.items():
        console.print(f"{name}: {value if isinstance(value, str) else f'{value:.4g}'}")

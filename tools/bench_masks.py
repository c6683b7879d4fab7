"""Measure what motion-preserving masks cost: flows and the whole of masking against the machine's matrix speed."""

from __future__ import annotations

import argparse
import dataclasses
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from rich.table import Table
from torch.utils.flop_counter import FlopCounterMode

from cclslr.bench.machine import describe, matrix_peak, synchronize
from cclslr.console import console, run_tool
from cclslr.files import write_json
from cclslr.masking.architecture import PRESETS, SIZES, flow_config
from cclslr.masking.flow import Flow, FlowCard, load_flow
from cclslr.masking.mpm import MpmOptions, flow_masks, resize, select_latents, to_unit

EXAMPLES = """examples:
  python tools/bench_masks.py --preset advflow --size 64 --out docs/results/masking/cost_advflow64.json
  python tools/bench_masks.py --flow flows/tiny.safetensors --out cost.json

The plain loop encodes and decodes frame by frame through the same flow in fp32 and leaves the mask itself out. The
share of the matrix speed counts two operations a multiply-add, against the faster of a matrix product and a
convolution."""

DATA_SET_CLIPS, CLIP_FRAMES = 145_951, 75  # the paper's pre-training set; frames of a typical clip
GPUS, GPU_FLOPS, GPU_SHARE = 8, 71e12, 0.4  # RTX 3090, fp16 with fp32 accumulation, of which this share is reached


@dataclasses.dataclass
class Cost:
    """Frames a second, of several repetitions."""

    name: str
    dtype: str
    frames_per_second: float
    spread: tuple[float, float]
    share_of_matrix_speed: float | None


def repeat(work: Callable[[], object], repeats: int, device: torch.device) -> list[float]:
    """Seconds of each repetition, after one to warm up."""
    seconds = []
    for _ in range(repeats + 1):
        began = time.perf_counter()
        work()
        synchronize(device)
        seconds.append(time.perf_counter() - began)
    return seconds[1:]


def matrix_speed(dtype: torch.dtype, device: torch.device, repeats: int) -> float:
    """Floating-point operations a second of the fastest of a matrix product and a convolution like the flow's."""
    x = torch.randn(8, 128, 64, 64, device=device, dtype=dtype).contiguous(memory_format=torch.channels_last)
    weight = torch.randn(128, 128, 3, 3, device=device, dtype=dtype).contiguous(memory_format=torch.channels_last)
    with torch.inference_mode():
        seconds = min(repeat(lambda: torch.nn.functional.conv2d(x, weight, padding=1), repeats, device))
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


def measure(flow: Flow, clip: torch.Tensor, repeats: int, device: torch.device) -> tuple[list[Cost], dict[str, float]]:
    options = MpmOptions(threshold="quantile")  # half of the latents are static, so that decoding is not skipped
    frames = len(clip)
    x = to_unit(clip).to(device)
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        latents = flow.encode(x[:1])[0]
    operations = counter.get_total_flops()  # of one frame, one way; the other way is the same network
    costs, facts = [], {"gflop_encode": operations / 1e9}
    speeds = {dtype: matrix_speed(dtype, device, repeats) for dtype in (torch.float32, torch.bfloat16)}
    masks = {}

    def add(name: str, dtype: torch.dtype, work: Callable[[], object], ways: int) -> None:
        rates = sorted(frames / s for s in repeat(work, repeats, device))
        rate = statistics.median(rates)
        share = rate * ways * operations / speeds[dtype]
        costs.append(Cost(name, str(dtype).removeprefix("torch."), rate, (rates[0], rates[-1]), share))

    add("plain loop, whole", torch.float32, lambda: plain_masks(clip, options, flow), 2)
    for dtype in (torch.float32, torch.bfloat16):
        flow.set_dtype(dtype)
        with torch.inference_mode():
            latents = flow.encode(x)[0]
            add("encode", dtype, lambda: flow.encode(x), 1)
            add("decode", dtype, lambda z=latents: flow.decode(z), 1)  # type: ignore[misc]
        add("masks, whole", dtype, lambda: flow_masks([clip], options, flow), 2)
        masks[dtype], report = flow_masks([clip], options, flow)[0]
        assert report.degenerate is None, report.degenerate
    flow.set_dtype(torch.float32)
    facts["matrix_gflops_fp32"] = speeds[torch.float32] / 1e9
    facts["matrix_gflops_bf16"] = speeds[torch.bfloat16] / 1e9
    facts["mask_pixels_changed_by_bf16"] = float((masks[torch.float32] != masks[torch.bfloat16]).mean())
    whole = {cost.dtype: cost.frames_per_second for cost in costs if cost.name == "masks, whole"}
    facts["speedup_fp32"] = whole["float32"] / costs[0].frames_per_second
    facts["speedup_bf16"] = whole["bfloat16"] / costs[0].frames_per_second
    work = 2 * operations * DATA_SET_CLIPS * CLIP_FRAMES
    facts["hours_on_8_rtx3090_estimated"] = work / (GPUS * GPU_FLOPS * GPU_SHARE) / 3600
    facts["hours_on_this_machine"] = DATA_SET_CLIPS * CLIP_FRAMES / max(whole.values()) / 3600
    return costs, facts


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, epilog=EXAMPLES, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument("--preset", choices=PRESETS, help="an architecture, with random weights")
    source.add_argument("--flow", type=Path, help="a trained flow")
    parser.add_argument("--size", type=int, choices=SIZES, default=64, help="with --preset (default: 64)")
    parser.add_argument("--frames", type=int, default=32, help="of the clip (default: 32)")
    parser.add_argument("--repeats", type=int, default=3, help="of every measurement (default: 3)")
    parser.add_argument("--threads", type=int, help="CPU threads (default: all cores)")
    parser.add_argument("--device", choices=("auto", "cpu", "cuda"), default="auto")
    parser.add_argument("--out", type=Path, required=True, help="the figures as JSON")
    return parser.parse_args()


def main() -> None:
    args = parse()
    device = torch.device("cuda" if args.device != "cpu" and torch.cuda.is_available() else "cpu")
    if args.threads:
        torch.set_num_threads(args.threads)
    if args.flow is not None:
        flow = load_flow(args.flow, device)
    else:
        torch.manual_seed(0)
        flow = Flow(flow_config(args.preset, args.size), FlowCard("trained")).to(device)
        flow.normalise_to(to_unit(moving_clip(32, args.size)).to(device))
        flow.requires_grad_(False).eval()
    costs, facts = measure(flow, moving_clip(args.frames, flow.size), args.repeats, device)
    table = Table("work", "type", "frames/s", "spread", "of matrix speed", title=f"{flow.config.preset} {flow.size}")
    for cost in costs:
        share = "" if cost.share_of_matrix_speed is None else f"{100 * cost.share_of_matrix_speed:.0f} %"
        low, high = cost.spread
        table.add_row(cost.name, cost.dtype, f"{cost.frames_per_second:.1f}", f"{low:.1f} to {high:.1f}", share)
    console.print(table)
    for name, value in facts.items():
        console.print(f"{name}: {value:.4g}")
    write_json(
        args.out,
        {
            "flow": dataclasses.asdict(flow.config),
            "frames": args.frames,
            "repeats": args.repeats,
            "threads": torch.get_num_threads(),
            "machine": describe(),
            "costs": [dataclasses.asdict(cost) for cost in costs],
            **facts,
        },
    )


if __name__ == "__main__":
    run_tool(main)

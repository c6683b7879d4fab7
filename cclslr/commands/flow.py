"""Train the normalising flow that motion-preserving masks need.

It learns from frames of packed clips.
"""

from __future__ import annotations

import argparse
import dataclasses
import os
from pathlib import Path

import matplotlib
import numpy as np
import torch
from torch import Tensor

from cclslr.cli import command_parser
from cclslr.console import console, progress_bar
from cclslr.distributed import process_group
from cclslr.errors import UserError
from cclslr.files import atomic_write
from cclslr.masking.advflow import import_advflow
from cclslr.masking.architecture import PRESETS, SIZES, flow_config
from cclslr.masking.flow import Flow, FlowCard, save_flow
from cclslr.masking.frames import draw_frames, held_out
from cclslr.masking.mpm import to_unit
from cclslr.masking.training import CALIBRATED, FlowQuality, TrainOptions, measure, train_flow
from cclslr.shards.reader import ShardSet

GROUP, PLACE = "data", 3

matplotlib.use("Agg")

EXAMPLES = """examples:
  # the paper's architecture, on four GPUs
  torchrun --nproc-per-node 4 -m cclslr flow --shards shards/wlasl shards/msasl --preset advflow --out flows/sl.safetensors

  # a flow for a first look, minutes on a CPU
  cclslr flow --shards shards/synth --preset tiny --size 64 --steps 1500 --out flows/tiny.safetensors

  # AdvFlow's published weights instead of training
  cclslr flow --import-advflow ImageNet_6_blocks_Simple_Gaussian.pt --out flows/advflow.safetensors

A run that was stopped continues when the same command is given again. Beside OUT lie OUT's .state.pt (removed at the
end) and a picture: held-out frames, their reconstructions, samples at temperatures 0.7 and 1.
Then: cclslr masks shards/NAME --flow OUT"""  # noqa: E501


def parse(argv: list[str] | None) -> argparse.Namespace:
    parser = command_parser(__name__, __doc__, EXAMPLES)
    parser.add_argument("--out", type=Path, required=True, help="the flow's weights (.safetensors)")
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument("--shards", nargs="+", help="folders of packed clips")
    source.add_argument("--import-advflow", type=Path, metavar="FILE", help="convert a checkpoint of AdvFlow")
    parser.add_argument("--split", default="train", help="clips of this split (default: train)")
    parser.add_argument("--preset", choices=PRESETS, default="advflow", help="architecture (default: advflow)")
    parser.add_argument("--size", type=int, choices=SIZES, default=64, help="frames are SIZE x SIZE (default: 64)")
    parser.add_argument("--steps", type=int, default=20_000, help="optimiser steps (default: 20000)")
    parser.add_argument("--batch", type=int, default=64, help="frames a step over all ranks (default: 64)")
    parser.add_argument("--lr", type=float, help="peak learning rate (default: 1e-4 for advflow, else 1e-3)")
    parser.add_argument("--warmup", type=int, default=200, help="steps of warm-up (default: 200)")
    parser.add_argument("--clip", type=float, default=50.0, help="bound on the gradient norm (default: 50)")
    parser.add_argument("--noise", type=float, default=0.02, help="std of noise on frames in [0, 1] (default: 0.02)")
    parser.add_argument("--frames-per-clip", type=int, default=8, help="frames drawn from each clip (default: 8)")
    parser.add_argument("--max-clips", type=int, help="use at most so many clips")
    parser.add_argument("--held-out", type=float, default=0.05, help="share of clips for the report (default: 0.05)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--device", choices=("auto", "cpu", "cuda"), default="auto")
    parser.add_argument(
        "--amp",
        choices=("auto", "fp32", "bf16"),
        default="auto",
        help="type of the coupling subnets in training; the couplings stay in fp32 (default: bf16 on a GPU, else fp32)",
    )
    parser.add_argument("--max-minutes", type=float, default=float("inf"), help="stop early after this time")
    return parser.parse_args(argv)


def main(argv: list[str] | None = None) -> None:
    args = parse(argv)
    if args.import_advflow is not None:
        flow = import_advflow(args.import_advflow)
        save_flow(flow, args.out)
        console.print(f"{args.out}: AdvFlow's flow for {flow.size}x{flow.size} frames, weights {flow.card.sha256[:12]}")
        return
    with process_group(args.device) as world:
        bf16 = args.amp == "bf16" or (args.amp == "auto" and world.device.type == "cuda")
        options = TrainOptions(
            steps=args.steps,
            batch=args.batch,
            lr=args.lr or (1e-4 if args.preset == "advflow" else 1e-3),
            warmup=args.warmup,
            clip=args.clip,
            noise=args.noise,
            seed=args.seed,
            dtype="bfloat16" if bf16 else "float32",
        )
        torch.manual_seed(args.seed)  # the same fresh weights on every rank
        flow = Flow(flow_config(args.preset, args.size)).to(world.device)
        shards = ShardSet(args.shards, args.split)
        clip_ids = np.random.Generator(np.random.Philox(args.seed)).permutation(len(shards))[: args.max_clips]
        if len(clip_ids) < 2 * world.world:
            raise UserError(f"{len(clip_ids)} clips are too few for training, report and {world.world} ranks")
        tested = held_out(len(clip_ids), args.held_out, args.seed)
        own_ids = clip_ids[~tested][world.rank :: world.world]
        threads = max(1, (os.cpu_count() or 1) // world.world)
        frames, undecodable = draw_frames(shards, own_ids, args.size, args.frames_per_clip, args.seed, threads)
        with progress_bar("steps") as bar:
            shown = bar.add_task("training", total=args.steps)

            def on_step(step: int, loss: float) -> None:
                bar.update(shown, completed=step, description=f"training, {loss:.3f} bits/dim")

            state_path = args.out.with_suffix(".state.pt")
            result = train_flow(flow, frames, options, world, state_path, on_step, max_seconds=60 * args.max_minutes)
        if not world.main:
            return
        test_frames, _ = draw_frames(shards, clip_ids[tested], args.size, args.frames_per_clip, args.seed, threads)
        quality = measure(flow, test_frames, options)
        flow.card = FlowCard(
            "trained",
            training={
                **dataclasses.asdict(options),
                **result,
                "ranks": world.world,
                "shards": {Path(p).name: i["content_hash"] for p, i in zip(args.shards, shards.infos)},
                "clips": len(clip_ids) - int(tested.sum()),
                "frames": len(frames) * world.world,
                "undecodable_clips": undecodable,
                "held_out_clips": int(tested.sum()),
                **dataclasses.asdict(quality),
            },
        )
        save_flow(flow, args.out)
        picture(flow, test_frames, args.out.with_suffix(".png"))
        state_path.unlink(missing_ok=True)
        report(flow, quality, args.out)


def report(flow: Flow, quality: FlowQuality, out: Path) -> None:
    training = flow.card.training
    console.print(
        f"{out}: {flow.config.preset} {flow.size}x{flow.size}, {training['steps']} steps in"
        f" {training['seconds']:.0f} s, {training['skipped_steps']} skipped\n"
        f"held-out clips: {quality.bits_per_dim:.3f} bits/dim ({quality.bits_per_dim_noisy:.3f} with training noise),"
        f" round-trip error {quality.round_trip_error:.1e}, latent std {quality.latent_std:.2f}"
    )
    if not quality.calibrated:
        console.print(
            f"the latents' std is {quality.latent_std:.2f}, outside {CALIBRATED[0]} to {CALIBRATED[1]}: an"
            " absolute threshold of 0.5 means little; train longer, or make masks with --threshold quantile",
            style="yellow",
        )
    if quality.round_trip_error > 1e-2:
        console.print("decoding does not give back what was encoded: do not use this flow", style="yellow")


@torch.inference_mode()
def picture(flow: Flow, frames_NCHW: Tensor, path: Path, columns: int = 8) -> None:
    """Held-out frames, their reconstructions, and samples, as a PNG."""
    from matplotlib import pyplot

    x = to_unit(frames_NCHW[torch.linspace(0, len(frames_NCHW) - 1, columns).long()]).to(flow.device)
    noise = torch.randn(columns, flow.latent_dim, generator=torch.Generator().manual_seed(0)).to(flow.device)
    rows = {
        "held-out frames": x,
        "encoded, decoded": flow.decode(flow.encode(x)[0]),
        "samples, T = 0.7": flow.decode(0.7 * noise),
        "samples, T = 1": flow.decode(noise),
    }
    figure, axes = pyplot.subplots(len(rows), 1, figsize=(columns * 1.2, len(rows) * 1.4))
    for axis, (title, images) in zip(axes, rows.items()):
        axis.imshow(torch.cat(list(images), 2).permute(1, 2, 0).clamp(0, 1).cpu().numpy())
        axis.set_title(title, fontsize=9)
        axis.axis("off")
    figure.tight_layout()
    with atomic_write(path) as file:
        figure.savefig(file, format="png", dpi=110)
    pyplot.close(figure)

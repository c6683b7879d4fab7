"""Score motion-preserving masks where the truth is known.

On rendered signers, whose moving arms and hands are exact.
"""

from __future__ import annotations

import argparse
import dataclasses
import hashlib
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.table import Table

from cclslr.cli import command_parser
from cclslr.console import console, progress_bar
from cclslr.datasets.synthetic import SynthClip, SynthOptions, manifest, moving_region
from cclslr.environment import describe
from cclslr.files import write_json
from cclslr.masking.flow import Flow, load_flow
from cclslr.masking.methods import CHOICES, MpmOptions, methods, motion_alone, motion_mask
from cclslr.shards.format import MASK_SIZE

EXAMPLES = """examples:
  cclslr study masks --flow flows/tiny.safetensors --clips 120 --seed 2000 --out masks.json

Precision: share of the kept pixels that the moving forearms and hands sweep during the clip. Recall: share of the
moving pixels of each frame that are kept. Both are means over clips; F1 is that of the two means. `p` of quantile
thresholds is the share of latents masked. The default options are also run with bfloat16 subnets; the share of pixels
that this changes is set beside what noise of half a gray level in the video changes."""

NOISE = 0.5  # standard deviation, of 256 gray values


@dataclasses.dataclass
class Score:
    """One method over all clips."""

    flow: str
    method: str
    precision: float
    recall: float
    f1: float
    f1_std: float  # over clips, of each clip's own F1
    kept: float
    latents_masked: float | None
    degenerate: int
    clips: int


@dataclasses.dataclass(frozen=True)
class Variant:
    """A method with its options."""

    flow: str  # its name; none for methods without one
    options: MpmOptions
    dtype: torch.dtype = torch.float32

    def __str__(self) -> str:
        options = self.options
        if not self.flow:
            return options.method
        pose = "" if options.method == "flow" else f"{options.method}, "
        half = " bf16" if self.dtype == torch.bfloat16 else ""
        return f"{pose}{options.keep} {options.threshold} p={options.p:g} {options.binarize}{half}"


def variants(flows: dict[str, Flow]) -> list[Variant]:
    """Everything that is compared."""
    listed = [Variant("", MpmOptions(method=name)) for name, method in methods().items() if not method.needs_flow]
    for name in flows:
        changes: list[dict[str, Any]] = [
            {"keep": keep, "binarize": how} for how in CHOICES["binarize"] for keep in ("high", "low")
        ]
        changes += [{"p": p} for p in (0.25, 0.75)]
        changes += [{"threshold": "quantile", "p": p} for p in (0.5, 0.7, 0.8, 0.9)]
        changes.append({"threshold": "quantile", "binarize": "decoded_motion"})
        listed += [Variant(name, motion_alone(**change)) for change in changes]
        listed.append(Variant(name, MpmOptions()))
        listed.append(Variant(name, MpmOptions(), torch.bfloat16))
    return listed


def truth(clip: SynthClip) -> np.ndarray:
    """Where something moves, in the mask's grid: (T, 64, 64) bool."""
    region = torch.from_numpy(moving_region(clip)).float()[:, None]
    return torch.nn.functional.interpolate(region, (MASK_SIZE, MASK_SIZE), mode="area")[:, 0].numpy() > 0.5


def evaluate(clips: list[SynthClip], flows: dict[str, Flow]) -> tuple[list[Score], dict[str, dict[str, float]]]:
    """The scores, best first; and by flow and cause, which share of the default masks' pixels changes."""
    listed = variants(flows)
    changed: dict[str, list[float]] = {f"{name}, {cause}": [] for name in flows for cause in ("bf16", "noise")}
    rng = np.random.default_rng(0)
    values = np.zeros((len(listed), len(clips), 4))  # precision, recall, kept, latents masked
    degenerate = np.zeros(len(listed), int)
    with progress_bar() as bar:
        shown = bar.add_task("scoring", total=len(clips))
        for i, clip in enumerate(clips):
            raw, moving_THW = clip.load(), truth(clip)
            assert raw.frames_THWC is not None
            swept_HW = moving_THW.any(0)
            exact = {}
            for j, variant in enumerate(listed):
                flow = flows[variant.flow].set_dtype(variant.dtype) if variant.flow else None
                mask_THW, report = motion_mask(raw.frames_THWC, variant.options, flow, raw.keypoints_TKC)
                if variant.flow and variant == Variant(variant.flow, MpmOptions()):
                    exact[variant.flow] = mask_THW
                    noisy = raw.frames_THWC + rng.normal(0, NOISE, raw.frames_THWC.shape)
                    noisy_THWC = noisy.round().clip(0, 255).astype(np.uint8)
                    noisy_THW, _ = motion_mask(noisy_THWC, variant.options, flow, raw.keypoints_TKC)
                    changed[f"{variant.flow}, noise"].append(float((noisy_THW != mask_THW).mean()))
                elif variant.dtype == torch.bfloat16:
                    changed[f"{variant.flow}, bf16"].append(float((mask_THW != exact[variant.flow]).mean()))
                kept = mask_THW.astype(bool)
                precision = (kept & swept_HW).sum() / max(1, kept.sum())
                recall = (kept & moving_THW).sum() / max(1, moving_THW.sum())
                values[j, i] = precision, recall, report.share_kept, report.share_latents_masked or 0.0
                degenerate[j] += report.degenerate is not None
            bar.advance(shown)
    scores = []
    for variant, rows, bad in zip(listed, values, degenerate):
        precision, recall, kept, masked = rows.mean(0)
        each = 2 * rows[:, 0] * rows[:, 1] / np.maximum(rows[:, 0] + rows[:, 1], 1e-9)
        scores.append(
            Score(
                flow=variant.flow,
                method=str(variant),
                precision=precision,
                recall=recall,
                f1=2 * precision * recall / max(precision + recall, 1e-9),
                f1_std=float(each.std()),
                kept=kept,
                latents_masked=masked if variant.flow else None,
                degenerate=int(bad),
                clips=len(clips),
            )
        )
    shares = {name: {"mean": float(np.mean(each)), "worst_clip": max(each)} for name, each in changed.items()}
    return sorted(scores, key=lambda score: -score.f1), shares


def parse(argv: list[str] | None) -> argparse.Namespace:
    parser = command_parser(__name__, __doc__, EXAMPLES)
    parser.add_argument("--flow", type=Path, nargs="*", default=[], help="flows to compare (.safetensors)")
    parser.add_argument("--clips", type=int, default=120, help="rendered clips (default: 120)")
    parser.add_argument("--size", type=int, default=96, help="pixels of a side (default: 96)")
    parser.add_argument("--camera", type=float, default=1.0, help="factor on the camera's movement (default: 1)")
    parser.add_argument("--seed", type=int, default=1000, help="of the rendered clips; not that of the flow's training")
    parser.add_argument("--out", type=Path, required=True, help="the scores as JSON")
    return parser.parse_args(argv)


def main(argv: list[str] | None = None) -> None:
    args = parse(argv)
    flows = {path.stem: load_flow(path) for path in args.flow}
    options = SynthOptions(
        classes=20, clips_per_class=(0, 0, -(-args.clips // 20)), size=args.size, frames=(24, 32), seed=args.seed,
        camera=args.camera,
    )  # fmt: skip
    clips = [row.source for row in manifest(options)][: args.clips]
    started = time.perf_counter()
    scores, changed = evaluate([clip for clip in clips if isinstance(clip, SynthClip)], flows)
    table = Table("flow", "method", "precision", "recall", "F1", "kept", "latents masked", "degenerate")
    for s in scores:
        masked = "" if s.latents_masked is None else f"{s.latents_masked:.2f}"
        table.add_row(
            s.flow, s.method, f"{s.precision:.2f}", f"{s.recall:.2f}", f"{s.f1:.2f} ± {s.f1_std:.2f}", f"{s.kept:.2f}",
            masked, str(s.degenerate),
        )  # fmt: skip
    console.print(table, width=140, crop=False)
    for name, share in changed.items():
        console.print(
            f"changed by {name}: {share['mean']:.2%} of the pixels, {share['worst_clip']:.2%} of the worst clip"
        )
    write_json(
        args.out,
        {
            "data": dataclasses.asdict(options),
            "clips": len(clips),
            "seconds": time.perf_counter() - started,
            "torch": torch.__version__,
            "environment": describe(),
            "flows": {
                path.stem: {
                    "config": dataclasses.asdict(flows[path.stem].config),
                    "card": dataclasses.asdict(flows[path.stem].card),
                    "file_sha256": hashlib.sha256(path.read_bytes()).hexdigest(),
                }
                for path in args.flow
            },
            "pixels_changed": changed,
            "scores": [dataclasses.asdict(score) for score in scores],
        },
    )

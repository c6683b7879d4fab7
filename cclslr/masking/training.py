"""Maximum-likelihood training of a flow on single frames, as AdvFlow does it."""

from __future__ import annotations

import dataclasses
import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn.parallel import DistributedDataParallel

from cclslr.distributed import Process
from cclslr.errors import UserError
from cclslr.files import atomic_write
from cclslr.masking.flow import Flow
from cclslr.masking.mpm import to_unit

CALIBRATED = (0.7, 1.3)  # of the latents' std on held-out frames: outside it an absolute p = 0.5 means something else


@dataclass(frozen=True)
class TrainOptions:
    """How a flow is trained; recorded in its card."""

    steps: int = 20_000
    batch: int = 64  # frames a step over all ranks
    lr: float = 1e-3
    warmup: int = 200  # steps of linear warm-up; a cosine to zero follows
    clip: float = 50.0  # bound on the gradient's norm, of the loss in bits per dimension
    noise: float = 0.02  # std of the Gaussian added to dequantised frames in [0, 1]
    flip: bool = True
    seed: int = 0
    dtype: str = "float32"  # of the coupling subnets: float32 | bfloat16


@dataclass
class FlowQuality:
    """A flow on held-out frames, in float32."""

    bits_per_dim: float  # of uniformly dequantised frames
    bits_per_dim_noisy: float  # of frames with the training noise: what training minimises
    round_trip_error: float  # largest |x - decode(encode(x))|, x in [0, 1]
    latent_std: float  # over all held-out frames and dimensions

    @property
    def calibrated(self) -> bool:
        """Whether an absolute threshold on a latent's deviation means what the paper means by it."""
        return CALIBRATED[0] <= self.latent_std <= CALIBRATED[1]


def augment(frames_BCHW: Tensor, options: TrainOptions, generator: torch.Generator, flip: bool) -> Tensor:
    """uint8 → float frames in about [0, 1]: uniform dequantisation, Gaussian noise, and a flip of half of them."""
    x = to_unit(frames_BCHW)
    x = x + (torch.rand(x.shape, generator=generator) - 0.5) / 256
    x = x + options.noise * torch.randn(x.shape, generator=generator)
    if flip:
        mirrored_B = torch.rand(len(x), generator=generator) < 0.5
        x = torch.where(mirrored_B.view(-1, 1, 1, 1), x.flip(3), x)
    return x


def learning_rate(step: int, options: TrainOptions) -> float:
    """Linear warm-up, then half a cosine to zero."""
    if step < options.warmup:
        return options.lr * (step + 1) / options.warmup
    done = (step - options.warmup) / max(1, options.steps - options.warmup)
    return options.lr * 0.5 * (1 + math.cos(math.pi * done))


def train_flow(
    flow: Flow,
    frames_NCHW: Tensor,
    options: TrainOptions,
    process: Process,
    state_path: Path,
    on_step: Callable[[int, float], None] = lambda step, loss: None,
    save_every: int = 500,
    max_seconds: float = math.inf,
) -> dict[str, Any]:
    """Train `flow` in place on this rank's uint8 frames; continues from `state_path` where it exists.

    What a step sees is a pure function of (seed, step, rank), so a run continues after a kill as if nothing happened.

    Args:
        on_step: called with the step and its loss in bits per dimension.
        save_every: steps between writes of `state_path`.
        max_seconds: stop early after this time; the learning rate is not changed by it.

    Returns:
        steps done, seconds (of all runs), skipped steps (non-finite gradients), last loss.
    """
    local_batch = options.batch // process.world
    if local_batch < 1:
        raise UserError(f"--batch {options.batch} gives {process.world} ranks less than one frame each")
    parameters = [p for p in flow.parameters() if p.requires_grad]
    optimiser = torch.optim.Adam(parameters, lr=options.lr)
    begin, seconds, skipped, loss_value = 0, 0.0, 0, math.nan
    if state_path.exists():
        state = torch.load(state_path, map_location="cpu", weights_only=True)
        if state["options"] != dataclasses.asdict(options):
            raise UserError(f"{state_path} belongs to a run with other settings; remove it, or choose another --out")
        flow.load_state_dict(state["flow"])
        optimiser.load_state_dict(state["optimiser"])
        begin, seconds, skipped = state["step"], state["seconds"], state["skipped"]
    else:
        flow.normalise_to(augment(_first(frames_NCHW, process), options, _generator(options.seed, 0, 0), False))
    flow.set_dtype(getattr(torch, options.dtype)).train()
    model = DistributedDataParallel(flow) if process.world > 1 else flow
    started = time.perf_counter()

    def save(step: int) -> None:
        if process.main:
            state = {
                "flow": flow.state_dict(),
                "optimiser": optimiser.state_dict(),
                "step": step,
                "seconds": seconds + time.perf_counter() - started,
                "skipped": skipped,
                "options": dataclasses.asdict(options),
            }
            with atomic_write(state_path) as file:
                torch.save(state, file)

    step = begin
    while step < options.steps and time.perf_counter() - started < max_seconds:
        generator = _generator(options.seed, step + 1, process.rank)
        index = torch.randint(len(frames_NCHW), (local_batch,), generator=generator)
        x = augment(frames_NCHW[index], options, generator, options.flip).to(process.device)
        for group in optimiser.param_groups:
            group["lr"] = learning_rate(step, options)
        loss = model(x).mean()
        optimiser.zero_grad()
        loss.backward()
        norm = torch.nn.utils.clip_grad_norm_(parameters, options.clip)
        if bool(torch.isfinite(norm)):
            optimiser.step()
        else:
            skipped += 1
        loss_value = loss.item()
        step += 1
        on_step(step, loss_value)
        if step % save_every == 0:
            save(step)
    save(step)
    flow.set_dtype(torch.float32).eval()
    return {
        "steps": step,
        "seconds": seconds + time.perf_counter() - started,
        "skipped_steps": skipped,
        "loss": loss_value,
    }


@torch.inference_mode()
def measure(flow: Flow, frames_NCHW: Tensor, options: TrainOptions, batch: int = 64) -> FlowQuality:
    """The quality of a flow on uint8 frames, with the noise drawn from the options' seed."""
    exact = dataclasses.replace(options, noise=0.0)
    bits, noisy, errors, latents = [], [], [], []
    for number, chunk in enumerate(frames_NCHW.split(batch)):
        noise = (_generator(options.seed, -1, number), False)
        bits.append(flow(augment(chunk, exact, *noise).to(flow.device)))
        noisy.append(flow(augment(chunk, options, *noise).to(flow.device)))
        x = to_unit(chunk).to(flow.device)
        latents.append(flow.encode(x)[0])
        errors.append((x - flow.decode(latents[-1])).abs().max())
    return FlowQuality(
        bits_per_dim=float(torch.cat(bits).mean()),
        bits_per_dim_noisy=float(torch.cat(noisy).mean()),
        round_trip_error=float(torch.stack(errors).max()),
        latent_std=float(torch.cat(latents).std()),
    )


def _generator(seed: int, step: int, rank: int) -> torch.Generator:
    return torch.Generator().manual_seed((seed * 1_000_003 + step) * 4099 + rank)


def _first(frames_NCHW: Tensor, process: Process) -> Tensor:
    """Frames for the data-dependent initialisation: rank 0's, for all."""
    chosen = frames_NCHW[torch.linspace(0, len(frames_NCHW) - 1, min(256, len(frames_NCHW))).long()]
    return process.gather_objects(chosen)[0]

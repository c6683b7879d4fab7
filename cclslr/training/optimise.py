"""Optimiser, learning rate, mixed precision: the parts of a step that are the same for every loss."""

from __future__ import annotations

import bisect
from collections.abc import Iterable

import torch
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from cclslr.config import OptimConfig, RunConfig
from cclslr.errors import UserError
from cclslr.training.distributed import Process

AMP_DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


def learning_rate(cfg: OptimConfig, epoch: float) -> float:
    """Learning rate at a (fractional) epoch: linear warm-up, then a factor `gamma` at each milestone."""
    if epoch < cfg.warmup_epochs:
        return cfg.lr * (epoch + 1e-8) / cfg.warmup_epochs
    return cfg.lr * cfg.gamma ** bisect.bisect_right(sorted(cfg.milestones), epoch)


def sgd(parameters: Iterable[nn.Parameter], cfg: OptimConfig, fused: bool = True) -> torch.optim.SGD:
    """SGD with momentum; as one fused kernel, `Amp.step` skips a step without waiting for the device."""
    foreach = None if fused else False
    return torch.optim.SGD(
        parameters, cfg.lr, cfg.momentum, weight_decay=cfg.weight_decay, fused=fused, foreach=foreach
    )


class Amp:
    """Autocast and gradient scaling; a step whose gradients are not finite changes nothing.

    The scaler's check runs on the device and the fused optimiser reads its verdict there, so bf16 and fp32 use it
    too, with a scale fixed at 1.
    """

    def __init__(self, amp: str, device: torch.device) -> None:
        if amp == "auto":
            # Not bf16 on a CPU, though 1.5 times as fast with AVX512_BF16: in 1 of 13 runs oneDNN's weight gradient of
            # a 3D convolution held numbers of 1e35 (torch 2.13), and what is random in memory cannot be repeated.
            amp = "fp32" if device.type == "cpu" else "bf16" if torch.cuda.is_bf16_supported() else "fp16"
        self.name = amp
        self.device = device
        self.dtype = AMP_DTYPES[amp]
        self.scaler = torch.amp.GradScaler(device.type, init_scale=2.0**16 if amp == "fp16" else 1.0)
        self.skipped = torch.zeros((), device=device)  # steps whose gradients were not finite
        self.skipped_in_a_row = torch.zeros((), device=device)

    def autocast(self) -> torch.autocast:
        return torch.autocast(self.device.type, self.dtype, enabled=self.dtype != torch.float32)

    def backward(self, loss: torch.Tensor) -> None:
        self.scaler.scale(loss).backward()

    def step(self, optimizer: torch.optim.Optimizer) -> None:
        """Step unless a gradient is not finite, adapt the scale, clear the gradients."""
        self.scaler.step(optimizer)
        for found_inf in self.scaler._found_inf_per_device(optimizer).values():
            self.skipped += found_inf
            self.skipped_in_a_row.add_(found_inf).mul_(found_inf)
        self.scaler.update(None if self.name == "fp16" else 1.0)
        optimizer.zero_grad(set_to_none=True)

    def check_progress(self) -> None:
        """Give up on a run that will not recover; waits for the device, so call it where that is paid for anyway.

        Raises:
            UserError: the last 50 steps were all skipped (finding its scale costs fp16 some 16).
        """
        if (lost := int(self.skipped_in_a_row.item())) >= 50:
            raise UserError(
                f"the gradients of the last {lost} steps were not finite: the run has diverged. Continue from an older "
                f"checkpoint (run.resume=PATH) with a lower optim.lr, or try run.amp=fp32 (now {self.name})"
            )


def compile_model(model: nn.Module, run: RunConfig) -> None:
    """Apply torch.compile in place if `run.compile` asks for it."""
    if run.compile != "none":
        model.compile(mode="reduce-overhead" if run.compile == "cuda_graphs" else "default")


def distribute(model: nn.Module, process: Process, run: RunConfig) -> nn.Module:
    """Wrap `model` in DDP where there are several ranks."""
    if process.world == 1:
        return model
    # BN statistics belong to a micro-batch, so buffers are not broadcast.
    ddp = DistributedDataParallel(model, broadcast_buffers=False, gradient_as_bucket_view=run.gradient_as_bucket_view)
    if run.gradient_compression != "none":
        from torch.distributed.algorithms.ddp_comm_hooks import default_hooks

        ddp.register_comm_hook(None, getattr(default_hooks, f"{run.gradient_compression}_compress_hook"))
    return ddp


def check_batch(cfg: OptimConfig, world: int) -> None:
    """Refuse a global batch that does not split into ranks and micro-batches, and say what would."""
    if cfg.batch % (world * cfg.micro_batch):
        raise UserError(
            f"optim.batch={cfg.batch} does not split into {world} rank(s) x micro-batches of {cfg.micro_batch}; "
            f"set optim.batch to a multiple of {world * cfg.micro_batch}, or a smaller optim.micro_batch"
        )

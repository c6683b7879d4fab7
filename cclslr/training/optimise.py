"""Optimiser, learning rate, mixed precision: the parts of a step that are the same for every loss."""

from __future__ import annotations

import bisect
import inspect
from collections.abc import Iterable
from typing import Any

import torch
from torch import nn
from torch.nn.parallel import DistributedDataParallel
from torch.nn.utils import convert_conv3d_weight_memory_format

from cclslr.config import OptimConfig, RunConfig
from cclslr.distributed import Process
from cclslr.errors import UserError
from cclslr.models.precision import Precision
from cclslr.models.r3d import R3D

# torch 2.13 calls it by the second name and warns of the first
_DDP_KEYS = inspect.signature(DistributedDataParallel).parameters
_BUFFERS_KEY = "forward_sync_buffers" if "forward_sync_buffers" in _DDP_KEYS else "broadcast_buffers"


def learning_rate(cfg: OptimConfig, epoch: float) -> float:
    """Learning rate at a (fractional) epoch: linear warm-up, then a factor `gamma` at each milestone."""
    if epoch < cfg.warmup_epochs:
        return cfg.lr * (epoch + 1e-8) / cfg.warmup_epochs
    return cfg.lr * cfg.gamma ** bisect.bisect_right(sorted(cfg.milestones), epoch)


def sgd(parameters: Iterable[nn.Parameter], cfg: OptimConfig, fused: bool = True) -> torch.optim.SGD:
    """SGD with momentum; as one fused kernel, `Amp.step` skips a step without waiting for the device.

    Momentum begins at zero instead of with the first step: the same arithmetic, but where the first step is skipped the
    fused kernel would leave its own buffers as the memory was, and the next step would add that to the weights.
    """
    foreach = None if fused else False
    optimizer = torch.optim.SGD(
        parameters, cfg.lr, cfg.momentum, weight_decay=cfg.weight_decay, fused=fused, foreach=foreach
    )
    if cfg.momentum:
        for group in optimizer.param_groups:
            for parameter in group["params"]:
                optimizer.state[parameter]["momentum_buffer"] = torch.zeros_like(parameter)
    return optimizer


class Amp(Precision):
    """Autocast and gradient scaling; a step whose gradients are not finite changes nothing.

    The scaler's check runs on the device and the fused optimiser reads its verdict there, so bf16 and fp32 use it
    too, with a scale fixed at 1.
    """

    def __init__(self, amp: str, device: torch.device, keep_gradients: bool = False) -> None:
        """`keep_gradients`: clear gradients where they are, for who needs them to stay at their addresses."""
        super().__init__(amp, device)
        self.keep_gradients = keep_gradients
        self.scaler = torch.amp.GradScaler(device.type, init_scale=2.0**16 if self.name == "fp16" else 1.0)
        self.skipped = torch.zeros((), device=device)  # steps whose gradients were not finite
        self.skipped_in_a_row = torch.zeros((), device=device)

    def backward(self, loss: torch.Tensor) -> None:
        self.scaler.scale(loss).backward()

    def step(self, optimizer: torch.optim.Optimizer) -> torch.Tensor:
        """Step unless a gradient is not finite, adapt the scale, clear the gradients.

        Returns:
            On the device, 1.0 where the step was skipped, else 0.0.
        """
        self.scaler.step(optimizer)
        (found_inf,) = self.scaler._found_inf_per_device(optimizer).values()
        skipped = found_inf.clone()
        self.skipped += skipped
        self.skipped_in_a_row.add_(skipped).mul_(skipped)
        self.scaler.update(None if self.name == "fp16" else 1.0)
        optimizer.zero_grad(set_to_none=not self.keep_gradients)
        return skipped

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

    def check_end(self) -> None:
        """Give up on the result of a run whose last steps were all skipped; waits for the device.

        Raises:
            UserError: they were.
        """
        if self.is_diverging():
            raise UserError(
                f"the gradients of the last {int(self.skipped_in_a_row.item())} steps were not finite: the run has "
                f"diverged. Set a lower optim.lr, or try run.amp=fp32 (now {self.name})"
            )

    def is_diverging(self) -> bool:
        """Whether so many steps in a row were skipped that it is no single bad batch; waits for the device.

        fp16 skips some 16 steps until it has found its scale.
        """
        return self.skipped_in_a_row.item() >= (20 if self.name == "fp16" else 3)


def arrange_memory(encoder: nn.Module, run: RunConfig) -> None:
    """How an RGB encoder lays out its feature maps, and whether it keeps them: `run.channels_last`, `run.recompute`.

    Raises:
        UserError: `run.recompute` beside `run.compile`, which decides itself what to keep.
    """
    if run.recompute and run.compile != "none":
        raise UserError(f"run.recompute=true does not go with run.compile={run.compile}; set one of them alone")
    if run.channels_last:
        convert_conv3d_weight_memory_format(encoder, torch.channels_last_3d)
    for module in encoder.modules():
        if isinstance(module, R3D):
            module.recompute = run.recompute


def compile_model(model: nn.Module, run: RunConfig) -> None:
    """Apply torch.compile in place if `run.compile` asks for it.

    CUDA graphs own what they allocate, and gradients of several micro-batches add up in one place: those are made here,
    before any graph, and `Amp` keeps them where they are.
    """
    if run.compile == "cuda_graphs":
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.grad = torch.zeros_like(parameter)
    if run.compile != "none":
        model.compile(mode="reduce-overhead" if run.compile == "cuda_graphs" else "default")


def keeps_gradients(run: RunConfig, world: int) -> bool:
    """Whether gradients stay where they are: for CUDA graphs, and as DDP's bucket views save no memory otherwise."""
    return run.compile == "cuda_graphs" or (world > 1 and run.gradient_as_bucket_view)


def distribute(model: nn.Module, process: Process, run: RunConfig) -> nn.Module:
    """Wrap `model` in DDP where there are several ranks."""
    if process.world == 1:
        return model
    # BN statistics belong to a micro-batch, so buffers are not sent around in a step.
    keys: dict[str, Any] = {_BUFFERS_KEY: False, "gradient_as_bucket_view": run.gradient_as_bucket_view}
    ddp = DistributedDataParallel(model, **keys)
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

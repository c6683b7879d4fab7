"""A training step on torch's *meta* device: shapes and dtypes without numbers, so a GPU's questions need no GPU.

Two of them: does a step ever make the host wait for the device (`no_host_waits`), and how much memory does it take
(`cclslr.bench.footprint`). The step is the trainer's own. What the meta device lacks is put in its place here:
autocast, two fused kernels, and the other ranks.
"""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable, Iterator
from typing import Any
from unittest import mock

import numpy as np
import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from cclslr import distributed
from cclslr.models import r3d
from cclslr.models.precision import Precision
from cclslr.training import optimise

META = torch.device("meta")


class HostWaits(AssertionError):
    """The host would wait for everything that the device was given before."""


@contextlib.contextmanager
def meta_device(dtype: torch.dtype = torch.float32) -> Iterator[None]:
    """Within it, the steps of both programs run on the meta device, at any number of ranks and autocast to `dtype`.

    Collectives answer with memory of the right size, and the wrapper for several ranks is the model itself: what DDP
    does by itself is not seen.
    """
    with torch.library._scoped_library("aten", "IMPL") as kernels, contextlib.ExitStack() as patches:
        kernels.impl("_fused_sgd_", lambda *arguments, **options: None, "Meta")
        for owner, name, stand_in in (
            (sys.modules[torch.optim.SGD.__module__], "_device_dtype_check_for_fused", lambda parameter: None),
            (distributed, "_all_gather", lambda out, x: None),
            (dist, "all_to_all_single", lambda out, x, *counts: None),
            (dist, "all_reduce", lambda x, *options: None),
            (optimise, "DistributedDataParallel", lambda model, **options: _Wrapped(model)),
            (Precision, "autocast", lambda precision: _autocast(dtype)),
            (r3d, "statistics_stay", _and_autocast(r3d.statistics_stay, dtype)),
        ):
            patches.enter_context(mock.patch.object(owner, name, stand_in))
        yield


def _and_autocast(
    context: Callable[[nn.Module], contextlib.AbstractContextManager[None]], dtype: torch.dtype
) -> Callable[[nn.Module], contextlib.AbstractContextManager[None]]:
    """`context` with autocast around it: torch brings back its own where a stage runs again, but not our stand-in."""

    @contextlib.contextmanager
    def both(stage: nn.Module) -> Iterator[None]:
        with _autocast(dtype), context(stage):
            yield

    return both


class _Wrapped(nn.Module):
    """In place of DDP: the model, and `no_sync`."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = module

    def forward(self, *arguments: Any) -> Any:
        return self.module(*arguments)

    def no_sync(self) -> contextlib.AbstractContextManager[None]:
        return contextlib.nullcontext()


@contextlib.contextmanager
def _autocast(dtype: torch.dtype) -> Iterator[None]:
    """Autocast to `dtype` for the operations of our models, as it is on a GPU: matrix products and convolutions in
    `dtype`, softmax and layer norm in float32, the casts of trained weights kept until the end."""
    kept: dict[int, Tensor] = {}

    def lower(x: Any) -> Any:
        if not isinstance(x, Tensor) or x.dtype != torch.float32:
            return x
        if not (x.requires_grad and x.is_leaf):
            return x.to(dtype)
        if id(x) not in kept:
            kept[id(x)] = x.to(dtype)
        return kept[id(x)]

    def upper(x: Any) -> Any:
        return x.float() if isinstance(x, Tensor) and x.dtype == dtype else x

    def cast(owner: Any, name: str, to: Callable[[Any], Any]) -> Any:
        original = getattr(owner, name)

        def call(*arguments: Any, **options: Any) -> Any:
            return original(*map(to, arguments), **{key: to(value) for key, value in options.items()})

        return mock.patch.object(owner, name, call)

    with contextlib.ExitStack() as patches:
        if dtype != torch.float32:
            for name in ("linear", "conv2d", "conv3d", "scaled_dot_product_attention"):
                patches.enter_context(cast(F, name, lower))
            patches.enter_context(cast(Tensor, "__matmul__", lower))
            patches.enter_context(cast(F, "layer_norm", upper))
            patches.enter_context(cast(Tensor, "softmax", upper))
        yield


@contextlib.contextmanager
def no_host_waits() -> Iterator[None]:
    """Within it, whatever would make the host wait for the device raises: a number asked for, a result whose shape
    depends on numbers, a copy to the device that is not `non_blocking`, an index or a factor on the host.

    Raises:
        HostWaits: with the operation; its traceback leads to the line.
    """
    with _HostData(), _HostTensors():
        try:
            yield
        except (NotImplementedError, RuntimeError) as error:
            if "meta" not in str(error).lower():
                raise
            raise HostWaits(str(error).splitlines()[0]) from error


class _HostTensors(TorchDispatchMode):
    """Refuses operations that move a tensor to the meta device and wait for it."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        options = kwargs or {}
        tensors = [x for x in tree_leaves((args, options)) if isinstance(x, Tensor)]
        on_host = [x for x in tensors if x.device.type == "cpu"]
        to_device = options.get("device") == META or any(x.device == META for x in tensors)
        if to_device and on_host:
            copies = func in (torch.ops.aten._to_copy.default, torch.ops.aten.copy_.default)
            waits = not (options.get("non_blocking") or any(x is True for x in args)) if copies else True
            if waits and (copies or any(x.dim() for x in on_host)):  # a number on the host travels with the launch
                raise HostWaits(f"{func} takes a tensor on the host of shape {tuple(on_host[0].shape)} to the device")
        return func(*args, **options)


class _HostData(TorchFunctionMode):
    """Refuses numbers of Python or NumPy that become a tensor on the meta device: such copies wait, too."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        options = kwargs or {}
        made = func in (torch.tensor, torch.as_tensor, torch.asarray)
        if made and torch.device(options.get("device") or "cpu") == META and not isinstance(args[0], Tensor):
            raise HostWaits(f"torch.{func.__name__} makes a tensor on the device of numbers on the host")
        if func in (Tensor.__getitem__, Tensor.__setitem__) and args[0].device == META:
            index = args[1] if isinstance(args[1], tuple) else (args[1],)
            if any(isinstance(part, list | np.ndarray) for part in index):
                raise HostWaits("an index of numbers on the host")
        return func(*args, **options)

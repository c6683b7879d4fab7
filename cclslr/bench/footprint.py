"""How many bytes of a GPU a run takes, for every config, without a GPU: the trainer's own step on the meta device.

Counted are tensors, as torch's allocator hands them out (blocks of 512 bytes): weights, gradients, optimiser, banks,
what a step holds at its peak, and the batches that the loader makes ahead. The step has two micro-batches, so that
gradients of the first are there while the second is at its peak; DDP's buckets are the gradients
(`run.gradient_as_bucket_view`) or as much again. Not counted, and so left as room by `fits`: the CUDA context, cuDNN's
workspaces, fragments, DALI's own buffers (decoded frames of a batch), NCCL's buffers, torch.compile's pools.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from cclslr import finetune, keypoints, train
from cclslr.bench.meta import META, meta_device
from cclslr.config import FinetuneConfig, PretrainConfig
from cclslr.data.batch import Batch
from cclslr.distributed import Process
from cclslr.models.ccl import ByModality
from cclslr.models.precision import AMP_DTYPES, Precision
from cclslr.schedule import phases

ROOM = int(2.5e9)  # bytes of a card left for what is not counted, an assumption
BLOCK = 512  # bytes; torch's CUDA allocator rounds every tensor up to a multiple


class LiveBytes(TorchDispatchMode):
    """Counts the memory of the tensors that are made on a device while it is active, and its highest level."""

    def __init__(self, device: torch.device) -> None:
        super().__init__()
        self.device, self.now, self.peak = device, 0, 0
        self._known: dict[int, weakref.ref[Any]] = {}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        for x in tree_leaves(out):
            if isinstance(x, Tensor) and x.device.type == self.device.type:
                self._add(x.untyped_storage())
        return out

    def restart(self) -> int:
        """Begin to look for a new peak; what is there now."""
        self.peak = self.now
        return self.now

    def _add(self, storage: torch.UntypedStorage) -> None:
        key = storage._cdata
        if key in self._known:
            return
        size = rounded(storage.nbytes())

        def freed(_: object) -> None:
            del self._known[key]
            self.now -= size

        self._known[key] = weakref.ref(storage, freed)
        self.now += size
        self.peak = max(self.peak, self.now)


def rounded(size: int) -> int:
    """Bytes that the allocator takes for a tensor of `size` bytes."""
    return -(-size // BLOCK) * BLOCK


def bytes_of(tensors: Iterable[Tensor]) -> int:
    """Of the tensors together; memory that some share counts once."""
    return sum({x.untyped_storage()._cdata: rounded(x.untyped_storage().nbytes()) for x in tensors}.values())


@dataclass(frozen=True)
class Footprint:
    """Bytes of one GPU."""

    weights: int  # parameters and buffers: of query and key, or of the classifier
    gradients: int  # with DDP's buckets
    optimiser: int  # momentum
    banks: int
    activations: int  # of a step at its peak: all that none of the others is
    batches: int  # of training: one that is worked on and those made ahead
    eval_activations: int  # of an evaluation, or of the k-NN probe, at its peak
    eval_batches: int

    @property
    def resident(self) -> int:
        """There all the time, while training is interrupted by an evaluation, too."""
        return self.weights + self.gradients + self.optimiser + self.banks + self.batches

    @property
    def training(self) -> int:
        """At the peak of a step."""
        return self.resident + self.activations

    @property
    def evaluation(self) -> int:
        """At the peak of an evaluation."""
        return self.resident + self.eval_activations + self.eval_batches

    @property
    def total(self) -> int:
        return max(self.training, self.evaluation)

    def fits(self, card_gb: float) -> bool:
        """On a card of `card_gb`, with `ROOM` for what is not counted."""
        return self.total + ROOM <= 1e9 * card_gb


def footprint(cfg: PretrainConfig | FinetuneConfig, world: int = 1, classes: int = 1000) -> Footprint:
    """What a run of `cfg` on `world` ranks takes of each of its GPUs: of several phases the one that takes most, with
    an evaluation at the full size beside its batches. Arguments as `_of_phase`.
    """
    parts = [_of_phase(phase.cfg, world, classes) for phase in phases(cfg)]
    most = max(parts, key=lambda part: part.training)
    whole = most if len(parts) == 1 else _of_phase(cfg, world, classes)
    return replace(
        most,
        eval_activations=whole.eval_activations,
        eval_batches=whole.eval_batches,
    )


def _of_phase(cfg: PretrainConfig | FinetuneConfig, world: int, classes: int) -> Footprint:
    """What a phase takes.

    Args:
        cfg: `run.amp=auto` counts as a 16-bit type, which GPUs of the last ten years have.
        world: ranks.
        classes: of a classifier.
    """
    dtype = torch.bfloat16 if cfg.run.amp == "auto" else AMP_DTYPES[cfg.run.amp]
    with meta_device(dtype):
        measured = measure(cfg, META, classes)
    rank_batch = cfg.optim.batch // world
    clip, rest = view_bytes(cfg), rank_batch - measured.clips
    # Of a step only the shuffled key views grow with the batch: micro-batches come one after the other.
    more = rest * clip if isinstance(cfg, PretrainConfig) else 0
    own_buckets = world > 1 and not cfg.run.gradient_as_bucket_view
    compressed = world > 1 and cfg.run.gradient_compression != "none"
    return Footprint(
        weights=measured.weights,
        gradients=measured.gradients * (2 if own_buckets else 1) + (measured.gradients // 2 if compressed else 0),
        optimiser=measured.optimiser,
        banks=measured.banks,
        activations=measured.step - measured.gradients + more,
        batches=(1 + cfg.data.prefetch) * 2 * rank_batch * clip,
        eval_activations=measured.evaluation,
        eval_batches=(1 + cfg.data.prefetch) * cfg.optim.micro_batch * clip,
    )


def view_bytes(cfg: PretrainConfig | FinetuneConfig) -> int:
    """Of one view of one clip, all modalities."""
    views = cfg.views
    sizes = {"rgb": views.rgb_frames * views.size**2 * 3, "pose": views.pose_frames * keypoints.NUM_JOINTS * 3 * 4}
    return sum(sizes[m] for m in cfg.model.modalities)


@dataclass(frozen=True)
class Measured:
    """Bytes of a small step: of what is there before it, and of what it adds at its peak."""

    clips: int  # of the step: two micro-batches, or one where a rank has no more
    weights: int
    gradients: int
    optimiser: int
    banks: int
    step: int
    evaluation: int


def measure(cfg: PretrainConfig | FinetuneConfig, device: torch.device, classes: int) -> Measured:
    """Run two steps and an evaluation on `device` and watch the memory; numbers are zeros."""
    clips = min(2 * cfg.optim.micro_batch, cfg.optim.batch)
    cfg = replace(cfg, optim=replace(cfg.optim, batch=clips), model=replace(cfg.model, rgb_weights=None))
    alone = Process(0, 1, device)
    with LiveBytes(device) as live:
        with device:  # weights are made where they stay
            modules, optimizer, step, forward = _program(cfg, alone, classes)
        batch = _zeros(cfg, device, views=2, clips=clips)
        step(batch, 0)
        before = live.restart()
        step(batch, 1)
        peak_step = live.peak - before
        del batch
        batch = _zeros(cfg, device, views=1, clips=cfg.optim.micro_batch)
        for module in modules:
            module.eval()
        before = live.restart()
        with torch.inference_mode(), Precision(cfg.run.amp, device).autocast():
            forward(_views(batch, 0))
        peak_evaluation = live.peak - before
    parameters = [x for module in modules for x in module.parameters()]
    banks = bytes_of(modules[-1].buffers()) if isinstance(cfg, PretrainConfig) else 0
    buffers = [x for module in modules for x in module.buffers()]
    return Measured(
        clips=clips,
        weights=bytes_of([*parameters, *buffers]) - banks,
        gradients=bytes_of(x for x in parameters if x.requires_grad),
        optimiser=bytes_of(x for x in tree_leaves(list(optimizer.state.values())) if isinstance(x, Tensor)),
        banks=banks,
        step=peak_step,
        evaluation=peak_evaluation,
    )


Program = tuple[list[nn.Module], torch.optim.Optimizer, Callable[[Batch, int], Any], Callable[[ByModality], Any]]


def _program(cfg: PretrainConfig | FinetuneConfig, alone: Process, classes: int) -> Program:
    """Networks (of pre-training the banks are the last), optimiser, one step, and the pass of an evaluation."""
    if isinstance(cfg, PretrainConfig):
        learner = train.build_learner(cfg, alone)
        modules = [learner.query, learner.key, learner.banks]
        pretrain = lambda batch, number: train.pretrain_step(learner, batch, number, cfg, alone)  # noqa: E731
        return modules, learner.optimizer, pretrain, lambda views: learner.query(views)[0]
    known: Any = SimpleNamespace(classes=[""] * classes, info=dict.fromkeys(("codec", "size", "crop", "quality")))
    tuned = finetune.build_learner(replace(cfg, pretrained=None), known, None, alone)
    step = lambda batch, number: finetune.finetune_step(tuned, batch, number, cfg, alone)  # noqa: E731
    return [tuned.classifier], tuned.optimizer, step, tuned.classifier


def _zeros(cfg: PretrainConfig | FinetuneConfig, device: torch.device, views: int, clips: int) -> Batch:
    size, frames, joints = cfg.views.size, cfg.views.rgb_frames, cfg.views.pose_frames
    rgb = torch.zeros(views, clips, frames, size, size, 3, dtype=torch.uint8, device=device)
    pose = torch.zeros(views, clips, joints, keypoints.NUM_JOINTS, 3, device=device)
    ids = torch.zeros(clips, dtype=torch.int64, device=device)
    used = cfg.model.modalities
    return Batch(rgb if "rgb" in used else None, pose if "pose" in used else None, ids, ids)


def _views(batch: Batch, number: int) -> ByModality:
    both = {"rgb": batch.rgb_VBTHWC, "pose": batch.pose_VBTJC}
    return {m: x_VB[number] for m, x_VB in both.items() if x_VB is not None}

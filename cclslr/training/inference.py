"""Run a model over every clip of a data set once, whatever the number of ranks."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor

from cclslr.config import DataConfig, ViewConfig
from cclslr.console import progress_aside
from cclslr.data.loader import Loader
from cclslr.data.plan import Plan
from cclslr.distributed import Process
from cclslr.errors import UserError
from cclslr.models.ccl import ByModality
from cclslr.shards.reader import ShardSet
from cclslr.training.optimise import Amp


@contextmanager
def no_cudnn_search() -> Iterator[None]:
    """cuDNN's search takes memory and time for each new shape; the last batch of a pass has one of its own."""
    before = torch.backends.cudnn.benchmark
    torch.backends.cudnn.benchmark = False
    try:
        yield
    finally:
        torch.backends.cudnn.benchmark = before


@torch.inference_mode()
def over_clips(
    forward: Callable[[ByModality], ByModality],
    shards: ShardSet,
    data: DataConfig,
    views: ViewConfig,
    modalities: list[str],
    batch: int,
    amp: Amp,
    process: Process,
) -> tuple[ByModality, Tensor, Tensor]:
    """Apply `forward` to the evaluation view of each clip: outputs by name, clip ids and labels, on the CPU.

    `batch` clips at a time on each rank. Rows are in the order of the clip ids and the same on every rank. A clip that
    cannot be read is missing.

    Raises:
        UserError: no clip, or outputs that are not finite, which would still have a largest one.
    """
    plan = Plan.for_evaluation(shards, batch)
    parts: list[tuple[ByModality, Tensor, Tensor]] = []
    loader = Loader(data, views, shards, plan, process, modalities, seed=0, augment=False)
    with no_cudnn_search(), loader.start(0), progress_aside() as progress:
        task = progress.add_task("evaluating", total=len(shards))
        for clips in loader:
            x = {"rgb": clips.rgb_VBTHWC, "pose": clips.pose_VBTJC}
            with amp.autocast():
                outputs = forward({m: x_VB[0] for m, x_VB in x.items() if x_VB is not None})
            parts.append(
                ({n: y.float().cpu() for n, y in outputs.items()}, clips.clip_ids_B.cpu(), clips.labels_B.cpu())
            )
            progress.update(task, completed=min(len(parts) * batch * process.world, len(shards)))  # all ranks' clips
    loader.quarantine.found_by_all(process)
    everything = [part for of_rank in process.gather_objects(parts) for part in of_rank]
    if not everything:
        raise UserError(f"{', '.join(data.shards)}: no clip in the chosen split")
    clip_ids = torch.cat([ids for _, ids, _ in everything])
    order = clip_ids.argsort()
    outputs = {name: torch.cat([y[name] for y, _, _ in everything])[order] for name in everything[0][0]}
    for name, output_ND in outputs.items():
        if not output_ND.isfinite().all():
            bad = clip_ids[order][~output_ND.isfinite().all(1)]
            raise UserError(
                f"the model's outputs ({name}) are not finite for {len(bad)} of {len(order)} clips, e.g. "
                f"{shards.rows[bad[0]].key}: its training had diverged, or they are too large for run.amp={amp.name}. "
                "Use an older checkpoint, or run.amp=fp32"
            )
    return outputs, clip_ids[order], torch.cat([labels for _, _, labels in everything])[order]

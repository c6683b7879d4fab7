"""Run a model over every clip of a data set once, whatever the number of ranks."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor

from cclslr.config import DataConfig, ViewConfig
from cclslr.console import progress_aside
from cclslr.data.loader import Loader
from cclslr.data.plan import Plan
from cclslr.distributed import Process
from cclslr.errors import UserError
from cclslr.models.ccl import ByModality
from cclslr.models.precision import Precision
from cclslr.shards.reader import ShardSet

Forward = Callable[[ByModality], ByModality]  # views by modality → outputs (B, …) by name


@dataclass(frozen=True)
class Outputs:
    """What a model said of some clips, on the CPU."""

    values: ByModality  # (B, …) float32 by name
    clip_ids: Tensor  # (B,) int64, rows of the `ShardSet`
    labels: Tensor  # (B,) int64, -1 where a clip has none

    @staticmethod
    def together(parts: list[Outputs]) -> Outputs:
        """All of them, in the order of the clip ids; there must be one at least."""
        clip_ids = torch.cat([part.clip_ids for part in parts])
        order = clip_ids.argsort()
        values = {name: torch.cat([part.values[name] for part in parts])[order] for name in parts[0].values}
        return Outputs(values, clip_ids[order], torch.cat([part.labels for part in parts])[order])

    def check(self, shards: ShardSet, precision: Precision) -> None:
        """Refuse outputs that are not finite, which would still have a largest one.

        Raises:
            UserError: names one of the clips.
        """
        for name, output_ND in self.values.items():
            finite_N = output_ND.flatten(1).isfinite().all(1)
            if not finite_N.all():
                bad = self.clip_ids[~finite_N]
                raise UserError(
                    f"the model's outputs ({name}) are not finite for {len(bad)} of {len(self.clip_ids)} clips, e.g. "
                    f"{shards.rows[int(bad[0])].key}: its training had diverged, or they are too large for "
                    f"run.amp={precision.name}. Use an older checkpoint, or run.amp=fp32"
                )


@contextmanager
def no_cudnn_search() -> Iterator[None]:
    """cuDNN's search takes memory and time for each new shape; the last batch of a pass has one of its own."""
    before = torch.backends.cudnn.benchmark
    torch.backends.cudnn.benchmark = False
    try:
        yield
    finally:
        torch.backends.cudnn.benchmark = before


def each_batch(forward: Forward, loader: Loader, precision: Precision) -> Iterator[Outputs]:
    """Apply `forward` to the evaluation views that a started loader gives."""
    with no_cudnn_search(), torch.inference_mode():
        for clips in loader:
            x = {"rgb": clips.rgb_VBTHWC, "pose": clips.pose_VBTJC}
            with precision.autocast():
                outputs = forward({m: x_VB[0] for m, x_VB in x.items() if x_VB is not None})
            values = {name: y.float().cpu() for name, y in outputs.items()}
            yield Outputs(values, clips.clip_ids_B.cpu(), clips.labels_B.cpu())


def over_clips(
    forward: Forward,
    shards: ShardSet,
    data: DataConfig,
    views: ViewConfig,
    modalities: list[str],
    batch: int,
    precision: Precision,
    process: Process,
) -> tuple[ByModality, Tensor, Tensor]:
    """Apply `forward` to the evaluation view of each clip: outputs by name, clip ids and labels, on the CPU.

    `batch` clips at a time on each rank. Rows are in the order of the clip ids and the same on every rank. A clip that
    cannot be read is missing.

    Raises:
        UserError: no clip, or outputs that are not finite.
    """
    plan = Plan.for_evaluation(shards, batch)
    parts: list[Outputs] = []
    loader = Loader(data, views, shards, plan, process, modalities, seed=0, augment=False)
    with loader.start(0), progress_aside() as progress:
        task = progress.add_task("evaluating", total=len(shards))
        for outputs in each_batch(forward, loader, precision):
            parts.append(outputs)
            progress.update(task, completed=min(len(parts) * batch * process.world, len(shards)))  # all ranks' clips
    loader.quarantine.found_by_all(process)
    everything = [part for of_rank in process.gather_objects(parts) for part in of_rank]
    if not everything:
        raise UserError(f"{', '.join(data.shards)}: no clip in the chosen split")
    found = Outputs.together(everything)
    found.check(shards, precision)
    return found.values, found.clip_ids, found.labels

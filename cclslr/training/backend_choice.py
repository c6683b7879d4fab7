"""`data.backend=auto` on a GPU: which way of making RGB views trains fastest on this machine with these clips.

Each way that exists here gets its share of `SECONDS`: some batches, with a training step beside them, since a way that
decodes on the GPU takes from the step what it saves the CPU. The run keeps what was chosen, in its folder and in its
checkpoints: between backends views differ within rounding, so a run never changes it. Nothing of the run itself is
touched by measuring: the clips, their order and their views are functions of seed and step.
"""

from __future__ import annotations

import importlib.util
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from rich.table import Table

from cclslr.codecs import Codec
from cclslr.config import DataConfig, FinetuneConfig, PretrainConfig
from cclslr.console import console
from cclslr.data.batch import Batch
from cclslr.data.loader import Loader
from cclslr.data.placement import makes
from cclslr.data.plan import Plan
from cclslr.distributed import Process
from cclslr.errors import UserError
from cclslr.files import read_json, write_json
from cclslr.schedule import longest, views_by_epoch
from cclslr.shards.reader import ShardSet
from cclslr.training.resume import Saved

SECONDS = 20.0  # for all placements together
BATCHES = 10  # of each
FILE = "backend.json"


@dataclass(frozen=True)
class Placement:
    """One way to make views: what `data.backend`, `data.decode` and `data.device` are."""

    backend: str
    decode: str
    device: str

    def applied(self, data: DataConfig) -> DataConfig:
        return replace(data, **asdict(self))

    def agrees(self, data: DataConfig) -> bool:
        """With the keys that the user has set."""
        return all(getattr(data, name) in ("auto", value) for name, value in asdict(self).items())


@dataclass(frozen=True)
class Measured:
    """A placement under the clock, on all ranks."""

    placement: Placement
    clips_per_second: float  # of training; 0 where it failed
    waiting: float  # share of the time in which the step waited for clips
    batches: int  # that were timed, on the rank with the fewest
    error: str = ""


StepOnTrial = Callable[[Batch, int], Any]
OpenBatches = Callable[[DataConfig], Any]  # a started loader: a context manager and an iterator of batches


def placements(codec: Codec, data: DataConfig, sizes: Sequence[int], gpu: bool, dali: bool) -> list[Placement]:
    """The ways that exist for this codec on a machine with a GPU, or without one, and that the config leaves open.

    Args:
        codec: of the shards.
        data: of the config.
        sizes: pixels of a view, of all phases of the run.
        gpu: whether there is one.
        dali: whether DALI is installed.
    """
    found = [Placement("numba", "auto", "cpu")] if makes("numba", sizes) else []
    if dali and gpu:
        found += [Placement("dali", "dali", "gpu")] if codec.dali_gpu else []
        found += [Placement("dali", "libav", "gpu")] if not codec.alone else []
    if dali and not gpu:
        found += [Placement("dali", "dali", "cpu")] if codec.dali_cpu else []
    return [placement for placement in found if placement.agrees(data)]


def fastest(rows: list[Measured]) -> Placement | None:
    """The placement with the highest training rate; of equals the first; None if none of them worked."""
    possible = [row for row in rows if not row.error]
    return max(possible, key=lambda row: row.clips_per_second).placement if possible else None


def measure(
    choices: list[Placement],
    data: DataConfig,
    open_batches: OpenBatches,
    step: StepOnTrial,
    process: Process,
    seconds: float = SECONDS,
    clock: Callable[[], float] = time.perf_counter,
) -> list[Measured]:
    """Time each placement on every rank at once, within `seconds` in all but for a batch that is late.

    Args:
        choices: the same on every rank.
        data: of the config.
        open_batches: opens this rank's batches, as training would get them.
        step: a step on one of them that waits for no other rank.
        process: this one among all.
        seconds: for all of them; one that takes less leaves its rest to the others.
        clock: seconds.
    """
    end, rows = clock() + seconds, []
    for number, placement in enumerate(choices):
        share = max(0.0, end - clock()) / (len(choices) - number)
        mine = _alone(placement, data, open_batches, step, process.device, share, clock)
        everyone: list[Measured] = process.gather_objects(mine)
        slowest = min(everyone, key=lambda row: row.clips_per_second)
        rows.append(
            replace(
                slowest,
                clips_per_second=slowest.clips_per_second * process.world,
                waiting=statistics.mean(row.waiting for row in everyone),
                batches=min(row.batches for row in everyone),
                error=next((row.error for row in everyone if row.error), ""),
            )
        )
    return rows


def _alone(
    placement: Placement,
    data: DataConfig,
    open_batches: OpenBatches,
    step: StepOnTrial,
    device: torch.device,
    seconds: float,
    clock: Callable[[], float],
) -> Measured:
    """One placement on this rank; first as many batches as the loader makes ahead, in half of the time at most."""
    placed, began = placement.applied(data), clock()
    waited, clips, number, timed = 0.0, 0, 0, 0

    def one(batches: Iterator[Batch]) -> None:
        nonlocal waited, clips, number
        asked = clock()
        batch = next(batches)
        waited += clock() - asked
        step(batch, number)
        if device.type == "cuda":
            torch.cuda.synchronize(device)  # else the time would be that of the launches
        clips, number = clips + len(batch.clip_ids_B), number + 1

    try:
        with open_batches(placed) as batches:
            while number < max(1, placed.prefetch) and (number == 0 or clock() < began + seconds / 2):
                one(batches)
            started, waited, clips = clock(), 0.0, 0
            while timed < BATCHES and (timed == 0 or clock() < began + seconds):
                one(batches)
                timed += 1
            took = max(clock() - started, 1e-9)
    except (UserError, RuntimeError, ImportError, OSError) as error:
        return Measured(placement, 0.0, 0.0, 0, (str(error).splitlines() or [type(error).__name__])[0])
    return Measured(placement, clips / took, waited / took, timed)


def choose(
    cfg: PretrainConfig | FinetuneConfig,
    shards: ShardSet,
    plan: Plan,
    process: Process,
    saved: Saved | None,
    make_step: Callable[[], StepOnTrial],
) -> Placement | None:
    """The placement of a run; None where the config decides: `data.backend` is set, a CPU, one way only, pose alone.

    Args:
        cfg: of the run.
        shards, plan: the clips, and which of them when.
        process: this one among all.
        saved: the checkpoint that the run continues.
        make_step: makes the `step` of `measure`, with networks of its own; called only if something is measured. It is
            a step of the run's longest phase, whose batches are measured.
    """
    if "rgb" not in cfg.model.modalities or cfg.data.backend != "auto":
        return None

    def loader(data: DataConfig) -> Loader:
        return Loader(data, views, shards, plan, process, cfg.model.modalities, cfg.run.seed)

    views, begin = views_by_epoch(cfg), plan.timeline.first_step(longest(cfg).first_epoch)
    codec, state = loader(cfg.data).codec, None if saved is None else saved.state
    assert codec is not None
    kept = process.from_main(lambda: _kept(cfg, codec, state))
    if kept is not None and kept.device == "gpu" and not on_gpu(process):
        console.print(
            f"{cfg.run.dir} was trained with views from a GPU, which is not here: they differ within rounding"
        )
        return None
    if kept is not None or state is not None or not on_gpu(process):
        return kept
    dali = importlib.util.find_spec("nvidia.dali") is not None
    choices = placements(codec, cfg.data, [of_phase.size for of_phase in views.all], gpu=True, dali=dali)
    if len(choices) < 2:
        return None
    console.print(f"data.backend=auto: measuring {len(choices)} ways to make views, {SECONDS:g} s at most")
    rows = measure(choices, cfg.data, lambda data: loader(data).start(begin), make_step(), process)
    if process.device.type == "cuda":
        torch.cuda.empty_cache()  # the step on trial is gone
    best = fastest(rows)
    console.print(table(rows, best))
    if process.main:
        file = {
            "codec": codec.name,
            "chosen": None if best is None else asdict(best),
            "measured": list(map(asdict, rows)),
        }
        Path(cfg.run.dir).mkdir(parents=True, exist_ok=True)
        write_json(Path(cfg.run.dir) / FILE, file)
    return best


def on_gpu(process: Process) -> bool:
    """Whether training is on one; on a CPU views and step share the cores, and numba makes the most of them."""
    return process.device.type == "cuda"


def _kept(cfg: PretrainConfig | FinetuneConfig, codec: Codec, state: dict[str, Any] | None) -> Placement | None:
    """What the run was begun with: its checkpoint says it, or its folder if it has no checkpoint yet."""
    path, known = Path(cfg.run.dir) / FILE, None
    if state is not None:
        known = state.get("placement")
    elif cfg.run.resume == "auto" and path.exists():
        written = read_json(path)
        known = written["chosen"] if written["codec"] == codec.name else None
    placement = None if known is None else Placement(**known)
    return placement if placement is not None and placement.agrees(cfg.data) else None


def table(rows: list[Measured], best: Placement | None = None) -> Table:
    """The placements for people."""
    shown = Table("backend", "decode", "device", "training clips/s", "waits for clips", "", title="Ways to make views")
    for row in rows:
        figures = ("", "", row.error) if row.error else (f"{row.clips_per_second:.1f}", f"{row.waiting:.0%}", "")
        style = "bold" if row.placement == best else None
        shown.add_row(*asdict(row.placement).values(), *figures, style=style)
    return shown

"""Whether an exported graph says what the model says, and how long it takes: on clips of the data set, one by one."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
import torch

from cclslr.data.loader import Loader
from cclslr.data.placement import makes
from cclslr.data.plan import EvalPlan
from cclslr.distributed import Process
from cclslr.export.graphs import Graph, Run, example, numpy_views
from cclslr.inference.model import Model
from cclslr.inference.passes import no_cudnn_search
from cclslr.models.ccl import ByModality
from cclslr.shards.reader import ShardSet

TOLERANCE = 1e-3  # of the largest output; float32 in another order of summation gives about 1e-6
TIMED, TIMED_SECONDS = 30, 10.0  # clips, after one that is not counted; fewer of a graph that is slow, three at least


@dataclass
class Parity:
    """An exported graph against the model in torch, float32 on the CPU."""

    clips: int
    largest: dict[str, float]  # of the model's outputs, by name
    difference: dict[str, float]  # the largest, by name
    same_top1: dict[str, float]  # share of the clips, by name of logits
    same_top5: dict[str, float]  # the same five classes, in any order; of all classes where there are fewer
    ms: float = 0.0  # a clip alone on one core, median
    ms_p95: float = 0.0
    bytes: int = 0

    @property
    def good(self) -> bool:
        """Whether it is the same but for rounding."""
        return all(x <= TOLERANCE * max(1.0, self.largest[name]) for name, x in self.difference.items())

    def as_json(self) -> dict[str, Any]:
        return asdict(self)


def each_view(
    model: Model, shards: ShardSet | None, count: int, modalities: Sequence[str] | None = None
) -> Iterator[ByModality]:
    """The evaluation views of `count` clips spread over the data set, a batch at a time; None: random views.

    Args:
        modalities: those that are looked at (default: all of the model's).
    """
    modalities = list(modalities or model.modalities)
    cfg = model.config
    if shards is None:
        for seed in range(count):
            yield {m: example(model, m, 1, seed) for m in modalities}
        return
    clip_ids = np.unique(np.linspace(0, len(shards) - 1, min(count, len(shards))).round().astype(np.int64))
    plan = EvalPlan(clip_ids, min(8, cfg.optim.micro_batch))
    alone = Process(0, 1, torch.device("cpu"))
    numba = makes("numba", [cfg.views.size])  # which needs nothing installed
    data = replace(cfg.data, backend="numba") if numba else cfg.data
    loader = Loader(data, cfg.views, shards, plan, alone, modalities, seed=0, augment=False)
    with loader.start(0):
        for clips in loader:
            views = {"rgb": clips.rgb_VBTHWC, "pose": clips.pose_VBTJC}
            yield {m: x[0].clone() for m, x in views.items() if x is not None}


def compare(model: Model, runs: dict[str, tuple[Graph, Run]], views: Iterator[ByModality]) -> dict[str, Parity]:
    """Each exported graph against the model on all views, by name."""
    wanted: dict[str, list[np.ndarray]] = {}
    found: dict[str, dict[str, list[np.ndarray]]] = {name: {} for name in runs}
    for batch in views:
        with no_cudnn_search(), torch.inference_mode():
            for name, said in model.forward(batch).items():
                wanted.setdefault(name, []).append(said.float().numpy())
        arrays = numpy_views(batch)
        for name, (_, run) in runs.items():
            for output, x in run(arrays).items():
                found[name].setdefault(output, []).append(x)
    truth = {name: np.concatenate(parts) for name, parts in wanted.items()}
    return {
        name: _parity(truth, {output: np.concatenate(parts) for output, parts in outputs.items()})
        for name, outputs in found.items()
    }


def _parity(truth: dict[str, np.ndarray], found: dict[str, np.ndarray]) -> Parity:
    def top(x_NK: np.ndarray, count: int) -> np.ndarray:
        return np.sort(np.argsort(-x_NK, axis=1, kind="stable")[:, :count], axis=1)

    def same(name: str, count: int) -> float:
        return float((top(truth[name], count) == top(found[name], count)).all(1).mean())

    logits = [name for name in found if name.startswith("logits_")]
    return Parity(
        clips=len(next(iter(found.values()))),
        largest={name: float(abs(truth[name]).max()) for name in found},
        difference={name: float(abs(truth[name] - x).max()) for name, x in found.items()},
        same_top1={name: same(name, 1) for name in logits},
        same_top5={name: same(name, 5) for name in logits},
    )


def latency(run: Callable[[], object], times: int = TIMED) -> tuple[float, float]:
    """Median and 95th percentile of a call, in milliseconds."""
    taken: list[float] = []
    run()
    while len(taken) < 3 or (len(taken) < times and sum(taken) < 1000 * TIMED_SECONDS):
        began = time.perf_counter()
        run()
        taken.append(1000 * (time.perf_counter() - began))
    return float(np.median(taken)), float(np.quantile(taken, 0.95))


def one_clip(model: Model, graph: Graph) -> dict[str, np.ndarray]:
    """Views of one clip, for `latency`."""
    return numpy_views({m: example(model, m, 1) for m in graph.inputs})

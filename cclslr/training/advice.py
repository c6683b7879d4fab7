"""A clear word when a run waits for its data, and what would help."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from cclslr.codecs.base import Codec
from cclslr.config import DataConfig
from cclslr.data.placement import backend_name, decodes_on

WORTH_A_WORD = 0.05  # share of time


@dataclass(frozen=True)
class LoaderSetup:
    """How the data of one rank come, as far as it decides what would make them come faster."""

    workers: int  # data.workers
    cores: int  # of the node that this program may use
    ranks: int  # on the node
    backend: str  # data.backend as it was resolved: numba | dali | ffcv
    device: str  # where RGB is decoded and augmented: cpu | gpu
    trains_on: str  # cpu | cuda
    codec: str | None  # None: poses alone
    remote: bool  # shards come through the cache of the node

    @classmethod
    def of(cls, data: DataConfig, sizes: Sequence[int], codec: Codec | None, trains_on: str) -> LoaderSetup:
        """The setup of this process, whose RGB views have these sizes in pixels."""
        device = decodes_on(data, trains_on)
        backend = backend_name(data, sizes, device)
        cores, ranks = len(os.sched_getaffinity(0)), int(os.environ.get("LOCAL_WORLD_SIZE", 1))
        remote = any("://" in shards for shards in data.shards)
        name = None if codec is None else codec.name
        return cls(data.workers, cores, ranks, backend, device, trains_on, name, remote)


def loader_advice(waits: Mapping[str, float], setup: LoaderSetup) -> str | None:
    """One line that names the largest cause of waiting and what to change; None if waiting is not worth a word.

    Args:
        waits: share of time that the trainer waited, by cause: "fetch", "decode", "copy".
        setup: of the run.
    """
    total = sum(waits.values())
    if total < WORTH_A_WORD:
        return None
    cause = max(waits, key=lambda name: waits[name])
    remedies = {"fetch": _fetch, "decode": _decode, "copy": _copy}[cause](total, setup)
    return f"waiting {100 * waits[cause]:.0f} % for {cause}: {', or '.join(remedies)}"


def _more_workers(total: float, setup: LoaderSetup) -> list[str]:
    """So many more that the loader keeps up, as far as there are cores; one is left to each rank's trainer."""
    most = max(setup.cores // setup.ranks - (setup.trains_on != "cpu"), 1)
    wanted = min(math.ceil(setup.workers / max(1 - total, 0.1)) + 1, most)
    return [f"raise data.workers to {wanted} (now {setup.workers})"] if wanted > setup.workers else []


def _fetch(total: float, setup: LoaderSetup) -> list[str]:
    remedies = _more_workers(total, setup)
    if setup.remote:
        remedies.append("wait for the second epoch, which reads data.cache_dir (put it on a fast local disk)")
    else:
        remedies.append("put the shards on a faster or a local disk")
    if setup.codec == "jpeg":
        remedies.append("pack h264, a tenth of JPEG's bytes")
    return remedies


def _decode(total: float, setup: LoaderSetup) -> list[str]:
    if setup.codec is None:
        return _more_workers(total, setup) or ["use a machine with more cores for each rank"]
    if setup.device == "gpu":
        return ["decode on the CPU: data.device=cpu data.backend=numba and as many data.workers as there are cores"]
    remedies = _more_workers(total, setup)
    if setup.backend == "dali":
        remedies.append("take the faster CPU path, data.backend=numba")
    if setup.codec not in ("h264", "jpeg"):
        remedies.append(f"pack h264, which decodes faster than {setup.codec}")
    if setup.trains_on == "cuda":
        remedies.append("decode on the GPU: data.device=gpu")
    return remedies or [
        "every core is in use: more cores or a GPU help, or smaller views (views.size, views.rgb_frames)"
    ]


def _copy(total: float, setup: LoaderSetup) -> list[str]:
    if setup.device == "cpu" and setup.codec is not None:
        return ["let compressed video cross to the GPU instead of frames: data.device=gpu"]
    return ["raise data.prefetch"]

"""What masks are made with and what came of it, as it is recorded in the shards."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections import Counter
from dataclasses import dataclass, field
from functools import cache
from typing import Any

import torch

from cclslr.masking.flow import Flow, load_flow
from cclslr.masking.methods import MaskMethod, MpmOptions, MpmReport, methods


@dataclass(frozen=True)
class MaskSettings:
    """How masks are made, on what."""

    options: MpmOptions
    flow_path: str | None = None
    dtype: str = "float32"  # of the coupling subnets
    device: str = "cpu"
    threads: int = 1  # decoding ahead of the flow

    @property
    def method(self) -> MaskMethod:
        return methods()[self.options.method]

    def describe(self) -> dict[str, Any]:
        """What decides the masks, for dataset.json and every clip's json; the device is no part of it."""
        if not self.method.needs_flow:
            return {"options": self.options.recorded(), "flow": None}
        flow = self.flow()
        assert flow is not None
        known = ("bits_per_dim", "latent_std", "steps", "file")
        return {
            "options": self.options.recorded(),
            "dtype": self.dtype,
            "flow": {
                "preset": flow.config.preset,
                "size": flow.size,
                "origin": flow.card.origin,
                "sha256": flow.card.sha256,
                **{name: flow.card.training[name] for name in known if name in flow.card.training},
            },
        }

    def flow(self) -> Flow | None:
        """The flow, loaded once in each process; None for a method without one."""
        if not self.method.needs_flow:
            return None
        assert self.flow_path is not None
        return _load(self.flow_path, self.device, self.dtype)

    def recipe(self) -> str:
        """SHA-256 of what decides the masks."""
        decides: dict[str, Any] = {"options": self.options.recorded()}
        if (flow := self.flow()) is not None:
            decides |= {"flow": flow.card.sha256, "dtype": self.dtype}
        return hashlib.sha256(json.dumps(decides, sort_keys=True).encode()).hexdigest()


@dataclass
class MaskTotals:
    """Sums over clips."""

    clips: int = 0
    without_video: int = 0
    kept: float = 0.0  # sum of the clips' shares of kept pixels
    latents_masked: float = 0.0
    with_latents: int = 0
    degenerate: dict[str, int] = field(default_factory=dict)  # by reason
    notes: dict[str, int] = field(default_factory=dict)  # real masks that had to do without something

    def add(self, report: MpmReport | None) -> None:
        if report is None:
            self.without_video += 1
            return
        self.clips += 1
        self.kept += report.share_kept
        if report.share_latents_masked is not None:
            self.with_latents += 1
            self.latents_masked += report.share_latents_masked
        if report.degenerate is not None:
            self.degenerate[report.degenerate] = self.degenerate.get(report.degenerate, 0) + 1
        elif report.note is not None:
            self.notes[report.note] = self.notes.get(report.note, 0) + 1

    def merge(self, other: MaskTotals) -> None:
        for item in dataclasses.fields(self):
            mine, others = getattr(self, item.name), getattr(other, item.name)
            if isinstance(mine, dict):
                setattr(self, item.name, dict(Counter(mine) + Counter(others)))
            else:
                setattr(self, item.name, mine + others)


@cache
def _load(path: str, device: str, dtype: str) -> Flow:
    if device == "cpu":
        torch.set_num_threads(1)  # every process has its own core
    return load_flow(path, device).set_dtype(getattr(torch, dtype))

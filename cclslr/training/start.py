"""What fine-tuning finds out before its first step: what it starts from, and whether it has classes to tell apart."""

from __future__ import annotations

from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np

from cclslr import checkpoint
from cclslr.config import FinetuneConfig, ModelConfig
from cclslr.console import console
from cclslr.distributed import Process
from cclslr.errors import UserError
from cclslr.keys import show
from cclslr.shards.format import SPLITS
from cclslr.shards.reader import ShardSet

NOT_PRETRAINED = "pretrained takes one of cclslr train; a fine-tuned run goes on where its own run.dir is given"


def model_of(cfg: FinetuneConfig, process: Process) -> dict[str, Any]:
    """The model's config in the checkpoint that the run starts from: its own, or the pre-trained one.

    Raises:
        UserError: `pretrained` is no checkpoint of pre-training.
    """

    def read() -> tuple[Path, dict[str, Any], int | None]:
        own = checkpoint.to_resume(cfg.run.dir, cfg.run.resume)
        path = Path(str(cfg.pretrained)) if own is None else own
        state = checkpoint.load(path)
        if own is None:
            checkpoint.check_kind(state, "query", path, NOT_PRETRAINED)
        return path, state.get("config", {}).get("model", {}), state.get("step")

    path, stored, step = process.from_main(read)
    known = {item.name for item in fields(ModelConfig)} - {"rgb_weights"}  # those weights are in the checkpoint
    stored = {name: value for name, value in stored.items() if name in known}
    if path == Path(str(cfg.pretrained)):
        default = vars(ModelConfig())
        other = [f"model.{name}={show(value)}" for name, value in stored.items() if value != default[name]]
        console.print(
            f"{path} is a checkpoint of pre-training, step {step}; model.* is taken from it"
            + (f": {', '.join(other)}" if other else ", all of it the default"),
            soft_wrap=True,
        )
    return stored


def tell_of_changes(stored: dict[str, Any], model: ModelConfig) -> None:
    """Say what the config has otherwise than the checkpoint; weights that don't fit are refused later."""
    other = [
        f"model.{name}={show(getattr(model, name))} (pre-trained with {show(value)})"
        for name, value in stored.items()
        if getattr(model, name) != value
    ]
    if other:
        console.print(f"the config says otherwise: {', '.join(other)}", style="yellow", soft_wrap=True)


def check_classes(cfg: FinetuneConfig, shards: ShardSet) -> None:
    """Refuse clips of one class, say which classes are scored and never trained.

    Raises:
        UserError: there is nothing to tell apart, or nothing of what is scored is trained.
    """
    trained, whole = np.unique(shards.rows.labels_N), ShardSet(cfg.data.shards).rows
    where = ", ".join(cfg.data.shards)
    if len(trained) < 2:
        raise UserError(
            f"{where}: all clips of {cfg.data.split} have one label, {shards.classes[trained[0]]}; fine-tuning tells "
            "several apart"
        )
    scored = np.unique(whole.labels_N[whole.splits_N == SPLITS.index(cfg.eval_split)])
    unknown = np.setdiff1d(scored[scored >= 0], trained)
    if not len(unknown):
        return
    told = f"{len(unknown)} of {len(scored)} classes of {cfg.eval_split} have no clip in {cfg.data.split}, e.g. "
    told += shards.classes[unknown[0]]
    if len(unknown) == len(scored):
        raise UserError(f"{where}: {told}; are both splits of one data set?")
    console.print(f"{told}: they cannot be learnt", style="yellow", soft_wrap=True)

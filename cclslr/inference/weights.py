"""A model as safetensors: its weights beside a config.json, a folder that the Hub holds and that runs no code.

`cclslr.load` reads it like a checkpoint. What only training needs is not in it: no optimiser, no banks, no key path.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save

from cclslr.checkpoint import KINDS
from cclslr.errors import UserError
from cclslr.files import atomic_write, read_json, write_json

WEIGHTS_NAME, CONFIG_NAME = "model.safetensors", "config.json"
VERSION = 1


def read_weights(path: Path) -> dict[str, Any]:
    """What `cclslr.inference.model.Model` takes, from the folder or its `WEIGHTS_NAME`.

    Raises:
        UserError: a file is missing, unreadable or of another version; names it.
    """
    folder = path if path.is_dir() else path.parent
    weights = folder / WEIGHTS_NAME if path.is_dir() else path
    if not (folder / CONFIG_NAME).is_file() or not weights.is_file():
        raise UserError(
            f"{path}: no exported weights; such a folder has {CONFIG_NAME} and {WEIGHTS_NAME} "
            "(cclslr export --format safetensors)"
        )
    about = read_json(folder / CONFIG_NAME)
    try:
        version, key = about["version"], next(key for key, kind in KINDS.items() if kind == about["kind"])
        state = {name: about[name] for name in ("config", "classes", "temperatures", "packing")}
    except (KeyError, TypeError, StopIteration) as error:
        raise UserError(f"{folder / CONFIG_NAME}: not written by cclslr export") from error
    if version != VERSION:
        raise UserError(f"{folder / CONFIG_NAME}: version {version}, this program reads {VERSION}; export it again")
    try:
        tensors = load_file(weights)
    except (SafetensorError, OSError) as error:
        raise UserError(f"{weights}: cannot be read ({error})") from error
    return {**state, key: tensors}


def about_model(state: dict[str, Any], packing: dict[str, Any] | None) -> dict[str, Any]:
    """The content of config.json: what the weights are weights of."""
    kind = next(kind for key, kind in KINDS.items() if key in state)
    about = {
        "version": VERSION,
        "architecture": "cclslr",
        "kind": kind,
        "classes": state.get("classes", []),
        "temperatures": state.get("temperatures"),
        "packing": packing,
        "config": state["config"],
    }
    return json.loads(json.dumps(about))


def write_weights(folder: Path, state: dict[str, Any], about: dict[str, Any]) -> Path:
    """Write the weights and config.json into `folder`; returns the file of the weights."""
    key = next(key for key in KINDS if key in state)
    tensors = {name: x.detach().cpu().contiguous() for name, x in state[key].items() if isinstance(x, torch.Tensor)}
    with atomic_write(folder / WEIGHTS_NAME) as file:
        file.write(save(tensors, metadata={"format": "pt"}))
    write_json(folder / CONFIG_NAME, about)
    return folder / WEIGHTS_NAME

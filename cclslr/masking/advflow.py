"""Imports the checkpoints that AdvFlow published for its flow.

They were written with FrEIA before 2021 and differ from a flow built with today's in these points, all met here or in
cclslr/masking/architecture.py:

- `{"net": state_dict}`; modules are `module_list.<i>`, numbered with the input node as 0;
- a coupling's subnets are `s1` and `s2` (now `subnet1`, `subnet2`), their layers `conv1..3` or `fc1, fc2, fc2b, fc3`;
- a log-scale is clamp · 0.636 · atan(s / clamp), without the division today;
- of an odd number of channels the first part got the smaller half, today the rounded one;
- the squeeze puts a 2x2 block's positions before its channels;
- permutations are not in the file: numpy's generator, seeded with the block's number, gives them again;
- the random orthogonal 1x1 convolutions are in the file, with inverse and log-determinant;
- `tmp_var_<i>` are leftovers of the graph.
"""

from __future__ import annotations

import math
import pickle
import re
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from cclslr.errors import UserError
from cclslr.masking.architecture import flow_config
from cclslr.masking.flow import Flow, FlowCard

_SUBNET = re.compile(r"module_list\.(\d+)\.(s[12])\.(\w+)\.(weight|bias)")
_MIXING = re.compile(r"module_list\.(\d+)\.(M|M_inv|logDetM)")
_LAYERS = {"conv1": 0, "conv2": 2, "conv3": 4, "fc1": 0, "fc2": 2, "fc2b": 4, "fc3": 6}


def import_advflow(path: str | Path) -> Flow:
    """Read an AdvFlow checkpoint (`<dataset>_<n>_blocks_Simple_Gaussian.pt`) into a flow of the preset `advflow`.

    The frame size follows from the shapes in the file.

    Raises:
        FileNotFoundError: no such file.
        UserError: the file is no checkpoint of that layout, or of another architecture.
    """
    path = Path(path)
    old = _read(path)
    subnets, mixing = _collect(old, path)
    first_linear = next((t for key, t in old.items() if key.endswith("s1.fc1.weight")), None)
    if first_linear is None:
        raise UserError(f"{path}: no fully connected coupling; this is not the flow that AdvFlow uses for images")
    pixels = 4 * 2 * first_linear.shape[1]  # the fully connected part sees a quarter, a subnet half of that
    flow = Flow(flow_config("advflow", math.isqrt(pixels // 3)), FlowCard("advflow", training={"file": path.name}))
    new = flow.state_dict()
    couplings = _numbers(new, ".subnet1.")
    convolutions = _numbers(new, ".M")
    if len(subnets) != len(couplings) or len(mixing) != len(convolutions):
        raise UserError(
            f"{path}: {len(subnets)} couplings and {len(mixing)} 1x1 convolutions; AdvFlow's flow has"
            f" {len(couplings)} and {len(convolutions)}"
        )
    translated: dict[str, Tensor] = {}
    for number, old_number in zip(couplings, sorted(subnets)):
        for (subnet, layer, kind), tensor in subnets[old_number].items():
            name = f"net.module_list.{number}.subnet{subnet[1]}.layers.{_LAYERS[layer]}.{kind}"
            translated[name] = tensor
    for number, old_number in zip(convolutions, sorted(mixing)):
        for kind, tensor in mixing[old_number].items():
            translated[f"net.module_list.{number}.{kind}"] = tensor.reshape(
                new[f"net.module_list.{number}.{kind}"].shape
            )
    permutations = {name: tensor for name, tensor in new.items() if name.endswith((".perm", ".perm_inv"))}
    try:
        flow.load_state_dict({**translated, **permutations})
    except RuntimeError as error:
        raise UserError(f"{path}: not AdvFlow's architecture: {error}") from error
    return flow.requires_grad_(False).eval()


def _read(path: Path) -> dict[str, Tensor]:
    try:
        content: Any = torch.load(path, map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, RuntimeError, EOFError) as error:
        raise UserError(f"{path}: not a torch checkpoint of tensors ({str(error).splitlines()[0]})") from error
    if not isinstance(content, dict) or not isinstance(content.get("net"), dict):
        raise UserError(f"{path}: no 'net' in it; expected AdvFlow's {{'net': state_dict}}")
    return content["net"]


def _collect(
    old: dict[str, Tensor], path: Path
) -> tuple[dict[int, dict[tuple[str, str, str], Tensor]], dict[int, dict[str, Tensor]]]:
    """The tensors of each coupling and of each 1x1 convolution, by the number of their module."""
    subnets: dict[int, dict[tuple[str, str, str], Tensor]] = {}
    mixing: dict[int, dict[str, Tensor]] = {}
    for key, tensor in old.items():
        if key.startswith("tmp_var_"):
            continue
        if (match := _SUBNET.fullmatch(key)) and match[3] in _LAYERS:
            subnets.setdefault(int(match[1]), {})[match[2], match[3], match[4]] = tensor
        elif match := _MIXING.fullmatch(key):
            mixing.setdefault(int(match[1]), {})[match[2]] = tensor
        else:
            raise UserError(f"{path}: unknown tensor {key!r}; this is not a checkpoint of AdvFlow's layout")
    return subnets, mixing


def _numbers(state: dict[str, Tensor], part: str) -> list[int]:
    """Numbers of the modules that have a tensor whose name contains `part`, in order."""
    return sorted({int(name.split(".")[2]) for name in state if part in name})

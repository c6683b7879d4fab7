"""The RGB encoder: a 3D ResNet that speaks the key names of the published Kinetics weights (CCL-SLR §4).

Architecture: Hara, Kataoka, Satoh, "Can Spatiotemporal 3D CNNs Retrace the History of 2D CNNs and ImageNet?" (CVPR
2018), with shortcut B. `r3d50` at 32x224x224 costs 79.7 G multiply-accumulates forward and has 46.2 M parameters.
"""

from __future__ import annotations

import pickle
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from cclslr.errors import UserError

KINETICS_MEAN = (0.4345, 0.4051, 0.3775)
KINETICS_STD = (0.2768, 0.2713, 0.2737)


class BasicBlock(nn.Module):
    """Two 3x3x3 convolutions and a shortcut."""

    expansion = 1

    def __init__(self, dim_in: int, width: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv3d(dim_in, width, 3, stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm3d(width)
        self.conv2 = nn.Conv3d(width, width, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm3d(width)
        self.relu = nn.ReLU(inplace=True)
        self.downsample = _shortcut(dim_in, width, stride)

    def forward(self, x: Tensor) -> Tensor:
        y = self.relu(self.bn1(self.conv1(x)))
        return self.relu(self.bn2(self.conv2(y)).add_(self.downsample(x)))


class Bottleneck(nn.Module):
    """1x1x1, 3x3x3 and 1x1x1 convolutions and a shortcut; the last one widens fourfold."""

    expansion = 4

    def __init__(self, dim_in: int, width: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv3d(dim_in, width, 1, bias=False)
        self.bn1 = nn.BatchNorm3d(width)
        self.conv2 = nn.Conv3d(width, width, 3, stride, padding=1, bias=False)
        self.bn2 = nn.BatchNorm3d(width)
        self.conv3 = nn.Conv3d(width, 4 * width, 1, bias=False)
        self.bn3 = nn.BatchNorm3d(4 * width)
        self.relu = nn.ReLU(inplace=True)
        self.downsample = _shortcut(dim_in, 4 * width, stride)

    def forward(self, x: Tensor) -> Tensor:
        y = self.relu(self.bn1(self.conv1(x)))
        y = self.relu(self.bn2(self.conv2(y)))
        return self.relu(self.bn3(self.conv3(y)).add_(self.downsample(x)))


def _shortcut(dim_in: int, dim_out: int, stride: int) -> nn.Module:
    """Shortcut B: a strided 1x1x1 convolution where the shape changes, else nothing."""
    if stride == 1 and dim_in == dim_out:
        return nn.Identity()
    return nn.Sequential(nn.Conv3d(dim_in, dim_out, 1, stride, bias=False), nn.BatchNorm3d(dim_out))


@dataclass(frozen=True)
class R3DLayout:
    """What distinguishes one 3D ResNet from another."""

    block: type[BasicBlock] | type[Bottleneck]
    depths: tuple[int, int, int, int]  # blocks of each stage
    width: int  # channels of the stem and of the first stage
    stem: tuple[int, int, int]  # kernel of the first convolution: frames, rows, columns


LAYOUTS = {
    "r3d50": R3DLayout(Bottleneck, (3, 4, 6, 3), 64, (7, 7, 7)),
    "r3d18": R3DLayout(BasicBlock, (2, 2, 2, 2), 64, (7, 7, 7)),
    # For demonstrations on a CPU with small views; no published weights.
    "r3d10_narrow": R3DLayout(BasicBlock, (1, 1, 1, 1), 16, (3, 5, 5)),
}


class R3D(nn.Module):
    """uint8 views (B, T, H, W, 3) → features (B, dim), the mean over time and space of the last stage.

    Attributes:
        recompute: of the stem and of each stage only the input is kept for the backward pass, which runs them again.
            Same gradients, for a third more arithmetic.
    """

    layer1: nn.Module
    layer2: nn.Module
    layer3: nn.Module
    layer4: nn.Module
    scale_C: Tensor
    shift_C: Tensor

    def __init__(self, layout: R3DLayout) -> None:
        super().__init__()
        width = layout.width
        kt, kh, kw = layout.stem
        self.conv1 = nn.Conv3d(3, width, layout.stem, (1, 2, 2), padding=(kt // 2, kh // 2, kw // 2), bias=False)
        self.bn1 = nn.BatchNorm3d(width)
        self.relu = nn.ReLU(inplace=True)
        self.maxpool = nn.MaxPool3d(3, 2, padding=1)
        dim = width
        for stage, depth in enumerate(layout.depths):
            blocks = []
            for index in range(depth):
                stride = 2 if stage > 0 and index == 0 else 1
                blocks.append(layout.block(dim, width << stage, stride))
                dim = (width << stage) * layout.block.expansion
            self.add_module(f"layer{stage + 1}", nn.Sequential(*blocks))
        self.dim = dim
        self.recompute = False

        # x/255 normalised by mean and std is x * scale + shift: no state of the checkpoint, so not persistent.
        mean, std = torch.tensor(KINETICS_MEAN), torch.tensor(KINETICS_STD)
        self.register_buffer("scale_C", 1 / (255 * std), persistent=False)
        self.register_buffer("shift_C", -mean / std, persistent=False)
        for module in self.modules():
            if isinstance(module, nn.Conv3d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def normalise(self, rgb_BTHWC: Tensor) -> Tensor:
        """uint8 (B, T, H, W, 3) → normalised float32 (B, 3, T, H, W), channels last in memory.

        In float32 whatever the autocast type: rounded once, when the first convolution casts its input, where
        arithmetic in bfloat16 would be off by up to half a grey level. It costs one pass over the pixels.
        """
        return torch.addcmul(self.shift_C, rgb_BTHWC, self.scale_C).permute(0, 4, 1, 2, 3)

    def forward(self, rgb_BTHWC: Tensor) -> Tensor:
        x = self.normalise(rgb_BTHWC)
        if self.conv1.weight.is_contiguous():  # run.channels_last=false
            x = x.contiguous()
        x = self._part(self.stem, self.bn1, x)
        for layer in (self.layer1, self.layer2, self.layer3, self.layer4):
            x = self._part(layer, layer, x)
        return x.mean((2, 3, 4))

    def _part(self, run: Callable[[Tensor], Tensor], norms: nn.Module, x: Tensor) -> Tensor:
        """What `run` makes of x, to be made again for gradients if `recompute` says so; `norms` has its BatchNorms."""
        return _recomputed(run, norms, x) if self.recompute and torch.is_grad_enabled() else run(x)

    def stem(self, x: Tensor) -> Tensor:
        """Before the first stage: (B, 3, T, H, W) → (B, width, T/2, H/4, W/4)."""
        out: Tensor = self.maxpool(self.relu(self.bn1(self.conv1(x))))
        return out


def _recomputed(stage: Callable[[Tensor], Tensor], norms: nn.Module, x: Tensor) -> Tensor:
    def both_passes() -> tuple[AbstractContextManager[None], AbstractContextManager[None]]:
        return nullcontext(), statistics_stay(norms)

    out: Tensor = checkpoint(stage, x, use_reentrant=False, preserve_rng_state=False, context_fn=both_passes)
    return out


@contextmanager
def statistics_stay(part: nn.Module) -> Iterator[None]:
    """The BatchNorms in it keep their running statistics: the first pass has counted these clips."""
    norms = [module for module in part.modules() if isinstance(module, nn.BatchNorm3d)]
    before = [(norm.momentum, norm.num_batches_tracked) for norm in norms]
    for norm in norms:
        norm.momentum, norm.num_batches_tracked = 0.0, None
    try:
        yield
    finally:
        for norm, (momentum, count) in zip(norms, before, strict=True):
            norm.momentum, norm.num_batches_tracked = momentum, count


def build_rgb(name: str, weights: str | Path | None = None) -> R3D:
    """The 3D ResNet called `name` (a key of `LAYOUTS`), from scratch or from published weights.

    Args:
        weights: a file with a state dict in the names of Hara et al., bare or under `state_dict`, with or without
            DataParallel's `module.`; the classifier `fc` in it is ignored.

    Raises:
        UserError: unknown name; weights that do not fit, with the file and the first keys that differ.
    """
    if name not in LAYOUTS:
        raise UserError(f"model.rgb is {name!r}; choose one of {', '.join(LAYOUTS)}")
    model = R3D(LAYOUTS[name])
    if weights is not None:
        _load(model, name, Path(weights))
    return model


def _load(model: R3D, name: str, path: Path) -> None:
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, RuntimeError, EOFError) as error:
        raise UserError(f"{path}: not a file of weights ({str(error).splitlines()[0]})") from error
    if isinstance(state, dict):
        state = state.get("state_dict", state)
    if not isinstance(state, dict) or not all(isinstance(value, Tensor) for value in state.values()):
        raise UserError(f"{path}: expected a state dict, bare or under the key 'state_dict'")
    state = {key.removeprefix("module."): cast(Tensor, value) for key, value in state.items()}
    state = {key: value for key, value in state.items() if not key.startswith("fc.")}
    wanted = model.state_dict()
    problems = [f"{key} is missing" for key in wanted if key not in state]
    problems += [f"{key} is unknown" for key in state if key not in wanted]
    problems += [
        f"{key} is {tuple(state[key].shape)}, not {tuple(value.shape)}"
        for key, value in wanted.items()
        if key in state and state[key].shape != value.shape
    ]
    if problems:
        more = f" and {len(problems) - 3} more" if len(problems) > 3 else ""
        raise UserError(f"{path}: these weights do not fit model.rgb={name}: {'; '.join(problems[:3])}{more}")
    model.load_state_dict(state)

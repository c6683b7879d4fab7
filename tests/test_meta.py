"""No step ever makes the host wait for the device: shown on the meta device, at one rank and at two."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from cclslr import finetune, train
from cclslr.bench import meta, pretrain
from cclslr.bench.meta import META, HostWaits
from cclslr.config import FinetuneConfig, PretrainConfig, load_config
from cclslr.distributed import Process

SMALL = [
    "model.rgb=r3d10_narrow",
    "model.gcn_width=16",
    "model.transformer_blocks=1",
    "model.transformer_heads=2",
    "model.transformer_width=16",
    "views.rgb_frames=8",
    "views.size=32",
    "views.pose_frames=8",
    "optim.batch=4",
    "optim.micro_batch=2",
    "run.amp=bf16",
]


def pretrain_steps(cfg: PretrainConfig, process: Process, number: int = 2) -> dict[str, torch.Tensor]:
    with meta.meta_device(torch.bfloat16):
        with META:
            learner = train.build_learner(cfg, process)
        batch = pretrain.random_batch(cfg, process)
        with meta.no_host_waits():
            for step in range(number):
                losses = train.pretrain_step(learner, batch, step, cfg, process)
    return losses


@pytest.mark.parametrize("rank_and_world", [(0, 1), (1, 2)], ids=str)
@pytest.mark.parametrize(
    "overrides",
    [
        ["model.rgb=r3d18"],
        ["objective.exclude_same_clip=true", "objective.mine_from=f", "model.pool=mean", "run.amp=fp16"],
        ["model.modalities=[pose]", "objective.shuffle_bn=false", "run.fused_momentum_update=false"],
    ],
    ids=" ".join,
)
def test_a_pretraining_step_never_waits(overrides: list[str], rank_and_world: tuple[int, int]) -> None:
    cfg = load_config(PretrainConfig, None, [*SMALL, *overrides])
    losses = pretrain_steps(cfg, Process(*rank_and_world, META))
    assert losses["cl_pose"].device == META


@pytest.mark.parametrize("world", [1, 2])
@pytest.mark.parametrize("linear_probe", [False, True])
def test_a_finetuning_step_never_waits(linear_probe: bool, world: int) -> None:
    cfg = load_config(FinetuneConfig, None, [*SMALL, "model.rgb=r3d18", f"linear_probe={linear_probe}"])
    process = Process(world - 1, world, META)
    with meta.meta_device(torch.bfloat16):
        shards = SimpleNamespace(classes=["a", "b"], info=dict.fromkeys(("codec", "size", "crop", "quality")))
        with META:
            learner = finetune.build_learner(cfg, shards, None, process)
        batch = pretrain.random_batch(load_config(PretrainConfig, None, SMALL), process)
        with meta.no_host_waits():
            for step in range(2):
                losses = finetune.finetune_step(learner, batch, step, cfg, process)
    assert set(losses) == {"ce_rgb", "ce_pose"}


X = torch.empty(4, 3, device=META)
ON_HOST = torch.zeros(4, 3)
WAITS: dict[str, Callable[[], object]] = {
    "item": lambda: X.sum().item(),
    "if": lambda: bool(X.sum() > 0),
    "to the host": lambda: X.cpu(),
    "tolist": lambda: X.tolist(),
    "equal": lambda: torch.equal(X, X),
    "nonzero": lambda: X.nonzero(),
    "mask": lambda: X[X > 0],
    "blocking copy": lambda: ON_HOST.to(META),
    "blocking copy into": lambda: X.copy_(ON_HOST),
    "index on the host": lambda: X[torch.arange(2)],
    "index of numbers": lambda: X[[0, 1]],
    "index of NumPy": lambda: X[np.array([0, 1])],
    "index on the host, written": lambda: X.index_put_((torch.arange(2),), X[:2]),
    "tensor of numbers": lambda: torch.tensor([1.0, 2.0], device=META),
}


@pytest.mark.parametrize("wait", WAITS)
def test_a_wait_that_somebody_adds_is_found(wait: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each kind of wait, put into the middle of a real step."""
    update = train.momentum_update

    def mutated(*arguments: object) -> None:
        update(*arguments)
        WAITS[wait]()

    monkeypatch.setattr(train, "momentum_update", mutated)
    cfg = load_config(PretrainConfig, None, [*SMALL, "model.modalities=[pose]", "optim.batch=2"])
    with pytest.raises(HostWaits):
        pretrain_steps(cfg, Process(0, 1, META), number=1)


def test_what_does_not_wait_passes() -> None:
    with meta.no_host_waits():
        ON_HOST.to(META, non_blocking=True)
        X.to(META, torch.float16)
        X[torch.arange(2).to(META, non_blocking=True)]
        X * torch.tensor(2.0)  # a number travels with the launch
        X[0] = 1.0
        torch.tensor([1.0, 2.0])[torch.arange(2)].tolist()


def test_a_bug_is_not_called_a_wait() -> None:
    with pytest.raises(RuntimeError, match="broadcast"), meta.no_host_waits():
        X + torch.empty(5, 3, device=META)

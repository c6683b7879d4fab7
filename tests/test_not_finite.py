"""Steps whose gradients are not finite: they change nothing that lasts, and a run that only has such ends."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
from small_runs import ALONE, TINY_PRETRAIN, finetune_here, records, same, tiny_shards, train_here

from cclslr import checkpoint
from cclslr import evaluate as evaluation
from cclslr import finetune as finetuning
from cclslr import train as pretraining
from cclslr.bench.pretrain import random_batch
from cclslr.config import OptimConfig, PretrainConfig, load_config
from cclslr.training.optimise import Amp, sgd


@pytest.fixture(scope="module")
def shards(tmp_path_factory) -> Path:
    return tiny_shards(tmp_path_factory.mktemp("shards") / "tiny")


@pytest.mark.parametrize("fused", [True, False])
def test_a_skipped_first_step_leaves_no_trace(fused):
    """The kernel's own momentum buffers would be what the memory held: here numbers of 1e30."""

    def train(factors, optimizer_of):
        torch.manual_seed(0)
        model = torch.nn.Sequential(torch.nn.Linear(50, 50), torch.nn.Linear(50, 1))
        optimizer, guard = optimizer_of(model), Amp("fp32", torch.device("cpu"))
        x = torch.randn(8, 50)
        for factor in factors:
            loss = model(x).square().mean() * factor
            guard.backward(loss)
            litter = [torch.full((rows, 50), 1e30) for rows in (1, 50) for _ in range(50)]
            del litter
            guard.step(optimizer)
        return [p.detach().clone() for p in model.parameters()]

    cfg = OptimConfig(lr=0.1)
    ours = train([math.nan, 1.0, 1.0], lambda model: sgd(model.parameters(), cfg, fused))
    # The reference never sees the first step, and has torch's momentum
    plain = train(
        [1.0, 1.0], lambda model: torch.optim.SGD(model.parameters(), 0.1, 0.9, weight_decay=1e-4, fused=fused or None)
    )
    assert all(torch.equal(a, b) for a, b in zip(ours, plain, strict=True))


def _poisoned(cfg: PretrainConfig, learner: pretraining.Learner, step: int):
    batch = random_batch(cfg, ALONE)
    batch.pose_VBTJC[:, 5] = math.nan
    return pretraining.pretrain_step(learner, batch, step, cfg, ALONE)


@pytest.mark.parametrize("first", [True, False])
def test_a_batch_that_is_not_finite_stays_in_no_running_statistics(first):
    cfg = load_config(PretrainConfig, None, TINY_PRETRAIN)
    learner = pretraining.build_learner(cfg, ALONE)
    if not first:
        pretraining.pretrain_step(learner, random_batch(cfg, ALONE), 0, cfg, ALONE)
    before = learner.statistics.values.clone()
    query = {name: x.clone() for name, x in learner.query.state_dict().items() if "num_batches" not in name}
    losses = _poisoned(cfg, learner, 1)
    assert not all(loss.isfinite() for loss in losses.values())
    assert learner.amp.skipped == 1
    assert torch.equal(learner.statistics.values, before)
    now = learner.query.state_dict()
    assert same(query, {name: now[name] for name in query})
    pretraining.pretrain_step(learner, random_batch(cfg, ALONE), 2, cfg, ALONE)
    assert not torch.equal(learner.statistics.values, before)
    assert checkpoint.not_finite(learner.state()) is None


@pytest.mark.parametrize("value", [math.inf, math.nan, -1e30])
def test_weights_that_are_not_finite_never_replace_a_checkpoint(shards, tmp_path, monkeypatch, value):
    """Nor those of which the next step makes infinite numbers."""
    train_here(tmp_path, shards, "run.max_steps=2")
    before = (tmp_path / "last.pt").read_bytes()
    step = pretraining.pretrain_step

    def overflows(learner, *arguments):
        losses = step(learner, *arguments)
        with torch.no_grad():
            next(learner.query.parameters()).fill_(value)
        return losses

    monkeypatch.setattr(pretraining, "pretrain_step", overflows)
    with pytest.raises(ValueError, match=r"not finite or beyond all use: .* last\.pt was not written"):
        train_here(tmp_path, shards, "run.max_steps=4")
    assert (tmp_path / "last.pt").read_bytes() == before


@pytest.mark.parametrize("scale", [1.0, 1e18])
def test_a_model_whose_outputs_overflow_is_not_scored(shards, tmp_path, scale):
    """All its weights are finite, and small enough for a checkpoint."""
    finetune_here(tmp_path, shards, "run.max_steps=1")
    state = checkpoint.load(tmp_path / "last.pt")
    for name, x in state["classifier"].items():
        if name.startswith("encoder.pose") and name.endswith("linear.weight"):
            x *= scale
    assert checkpoint.not_finite(state) is None
    checkpoint.save(tmp_path / "huge.pt", state)
    arguments = [str(tmp_path / "huge.pt"), "--out", str(tmp_path / "out")]
    if scale == 1:
        evaluation.main(arguments)
        return
    with pytest.raises(ValueError, match=r"outputs \(pose\) are not finite for 16 of 16 clips"):
        evaluation.main(arguments)
    assert not (tmp_path / "out").exists()


def test_finetuning_that_is_not_finite_from_some_step_on_ends_without_scores(shards, tmp_path, monkeypatch):
    cross_entropy, calls = finetuning.F.cross_entropy, []

    def breaks(logits, labels):
        calls.append(None)
        return cross_entropy(logits, labels) * (math.nan if len(calls) > 3 * 4 else 1.0)  # 2 micro-batches, 2 branches

    monkeypatch.setattr(finetuning.F, "cross_entropy", breaks)
    with pytest.raises(ValueError, match="gradients of the last 5 steps were not finite"):
        finetune_here(tmp_path, shards, "optim.epochs=2")
    assert not (tmp_path / "test.json").exists()
    assert records(tmp_path)[-1]["skipped_steps"] == 5
    state = checkpoint.load(tmp_path / "last.pt")
    assert state["step"] == 5  # two skipped steps are no divergence yet: the weights are those of step 3
    assert checkpoint.not_finite(state) is None


@pytest.mark.parametrize(("amp", "patience"), [("fp32", 3), ("bf16", 3), ("fp16", 20)])
def test_when_steps_that_are_skipped_mean_divergence(amp, patience):
    model = torch.nn.Linear(3, 2)
    optimizer, guard = sgd(model.parameters(), OptimConfig()), Amp(amp, torch.device("cpu"))
    for step in range(patience):
        assert not guard.is_diverging(), step
        guard.backward(model(torch.ones(4, 3)).mean() * math.nan)
        guard.step(optimizer)
    assert guard.is_diverging()
    with pytest.raises(ValueError, match=f"last {patience} steps"):
        guard.check_end()
    guard.backward(model(torch.ones(4, 3)).mean())
    guard.step(optimizer)
    guard.check_end()


def test_gradients_stay_at_their_addresses_for_cuda_graphs(monkeypatch):
    """And what is computed is what is computed without."""
    monkeypatch.setattr(torch.nn.Module, "compile", lambda module, mode: None)
    states, addresses = [], set()
    for mode in ("none", "cuda_graphs"):
        cfg = load_config(PretrainConfig, None, [*TINY_PRETRAIN, f"run.compile={mode}"])
        learner = pretraining.build_learner(cfg, ALONE)
        for step in range(3):
            if mode == "cuda_graphs":
                addresses.add(tuple(p.grad.data_ptr() for p in learner.query.parameters()))
            pretraining.pretrain_step(learner, random_batch(cfg, ALONE), step, cfg, ALONE)
        states.append(learner.state())
    assert len(addresses) == 1
    assert same(*states)

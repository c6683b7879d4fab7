"""Metrics, learning rate, mixed precision, checkpoints, journal: each against plain loops or by breaking it."""

from __future__ import annotations

import json
import resource
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from small_runs import same

from cclslr import checkpoint
from cclslr.config import ModelConfig, ObjectiveConfig, OptimConfig, RunConfig
from cclslr.models.ccl import Branches, MemoryBanks
from cclslr.models.classifier import Classifier
from cclslr.models.fusion import fuse
from cclslr.training.journal import Journal
from cclslr.training.metrics import accuracies, confusion
from cclslr.training.optimise import Amp, check_batch, compile_model, learning_rate, sgd
from cclslr.training.probe import knn_top1, mined_precision
from cclslr.training.rate import Rate


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 2**31), clips=st.integers(1, 40), classes=st.integers(2, 12), labelled=st.integers(1, 12))
def test_accuracies_agree_with_loops(seed, clips, classes, labelled):
    rng = np.random.default_rng(seed)
    logits = rng.normal(size=(clips, classes))
    labels = rng.integers(0, min(labelled, classes), clips)  # the higher classes are absent from the test set
    ours = accuracies(torch.from_numpy(logits), torch.from_numpy(labels))
    for k in (1, 5):
        hits = [int(label in np.argsort(-row)[:k]) for row, label in zip(logits, labels)]
        assert ours[f"per_instance_top{k}"] == pytest.approx(100 * np.mean(hits), abs=1e-4)
        per_class = [np.mean([h for h, label in zip(hits, labels) if label == c]) for c in sorted(set(labels))]
        assert ours[f"per_class_top{k}"] == pytest.approx(100 * np.mean(per_class), abs=1e-4)
    counts = confusion(torch.from_numpy(logits), torch.from_numpy(labels))
    assert counts.sum() == clips
    assert counts.diagonal().sum() == sum(logits.argmax(1) == labels)
    assert counts.sum(1).tolist() == np.bincount(labels, minlength=classes).tolist()


def test_learning_rate_of_the_paper():
    pretrain, finetune = OptimConfig(), OptimConfig(epochs=40, lr=0.05, milestones=[25, 35])
    assert [learning_rate(pretrain, e) for e in (0, 99.9, 100, 139)] == pytest.approx([0.01, 0.01, 0.001, 0.001])
    assert [learning_rate(finetune, e) for e in (0, 25, 35)] == pytest.approx([0.05, 0.005, 0.0005])
    warm = OptimConfig(lr=1.0, warmup_epochs=2.0)
    assert [learning_rate(warm, e) for e in (0, 1, 2)] == pytest.approx([0, 0.5, 1], abs=1e-6)


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
@pytest.mark.parametrize("amp", ["fp32", "bf16"])
def test_step_that_is_not_finite_changes_nothing(bad, amp):
    torch.manual_seed(0)
    model = torch.nn.Linear(3, 2)
    optimizer, guard = sgd(model.parameters(), OptimConfig()), Amp(amp, torch.device("cpu"))

    def step(factor):
        before = [p.detach().clone() for p in model.parameters()]
        with guard.autocast():
            loss = model(torch.randn(4, 3)).float().pow(2).mean() * factor
        guard.backward(loss)
        guard.step(optimizer)
        return any(not torch.equal(a, b) for a, b in zip(before, model.parameters()))

    assert step(1.0)
    momentum = [state["momentum_buffer"].clone() for state in optimizer.state.values()]
    assert not step(bad)
    assert all(torch.equal(a, s["momentum_buffer"]) for a, s in zip(momentum, optimizer.state.values()))
    assert step(1.0)
    assert guard.skipped == 1


def test_a_run_that_only_skips_steps_ends():
    model = torch.nn.Linear(3, 2)
    optimizer, guard = sgd(model.parameters(), OptimConfig()), Amp("fp32", torch.device("cpu"))

    def step(factor, times):
        for _ in range(times):
            guard.backward(model(torch.ones(4, 3)).mean() * factor)
            guard.step(optimizer)

    step(float("nan"), 49)
    step(1.0, 1)
    step(float("nan"), 49)
    guard.check_progress()
    step(float("nan"), 1)
    with pytest.raises(ValueError, match=r"last 50 steps .* diverged.*amp=fp32"):
        guard.check_progress()


def test_batch_that_does_not_split_says_what_would():
    check_batch(OptimConfig(batch=64, micro_batch=8), world=8)
    with pytest.raises(ValueError, match="multiple of 24"):
        check_batch(OptimConfig(batch=64, micro_batch=8), world=3)


def test_checkpoint_is_whole_or_absent(tmp_path):
    path = tmp_path / "last.pt"
    checkpoint.save(path, {"x": torch.arange(3), "step": 5})
    assert checkpoint.load(path)["step"] == 5
    with pytest.raises(RuntimeError, match="cannot pickle"):
        checkpoint.save(path, {"x": _Unpicklable()})
    assert checkpoint.load(path)["step"] == 5  # the old one is still there
    assert [p.name for p in tmp_path.iterdir()] == ["last.pt"]
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(ValueError, match="cannot be read"):
        checkpoint.load(path)
    with pytest.raises(ValueError, match="no such file"):
        checkpoint.load(tmp_path / "none.pt")


def test_a_flipped_byte_in_a_checkpoint_is_refused_or_harmless(tmp_path):
    path, rng = tmp_path / "last.pt", np.random.default_rng(0)
    state = {"x": torch.randn(1000), "step": 5, "names": ["a", "b"]}
    checkpoint.save(path, state)
    whole, refused = path.read_bytes(), 0
    for place in rng.choice(len(whole), 200, replace=False):
        damaged = bytearray(whole)
        damaged[place] ^= 1 << rng.integers(8)
        path.write_bytes(damaged)
        message = ""
        try:
            assert same(checkpoint.load(path), state)  # a date, or bytes between the records
        except ValueError as error:
            message, refused = str(error), refused + 1
        assert not message or (str(path) in message and "\n" not in message.strip())
    assert refused > 150  # tensors and pickle are most of the file


def test_a_checkpoint_that_cannot_be_written_is_one_line(tmp_path):
    path = tmp_path / "last.pt"
    checkpoint.save(path, {"step": 5})
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, hard))  # as a full disk does, writing stops half-way
    try:
        with pytest.raises(ValueError, match=r"last.pt: cannot be written \(File too large"):
            checkpoint.save(path, {"x": torch.zeros(1 << 20)})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert checkpoint.load(path) == {"step": 5}
    assert [p.name for p in tmp_path.iterdir()] == ["last.pt"]
    (tmp_path / "file").touch()
    with pytest.raises(ValueError, match=r"file/last.pt: cannot be written"):
        checkpoint.save(tmp_path / "file/last.pt", {})


class _Unpicklable:
    def __reduce__(self):
        raise RuntimeError("cannot pickle this")


def test_what_to_resume(tmp_path):
    assert checkpoint.to_resume(tmp_path, "auto") is None
    (tmp_path / "last.pt").touch()
    assert checkpoint.to_resume(tmp_path, "auto") == tmp_path / "last.pt"
    assert checkpoint.to_resume(tmp_path, "none") is None
    assert str(checkpoint.to_resume(tmp_path, "other.pt")) == "other.pt"


def test_journal_forgets_what_came_after_the_checkpoint(tmp_path):
    def journal(first):
        return Journal(tmp_path, active=True, first_step=first, last_step=9, title="t")

    with journal(0) as first:
        for step in (1, 2, 3, 4):
            first.write(step, {"loss": step / 2})
    with open(tmp_path / "metrics.jsonl", "a") as file:
        file.write('{"step": 5, "lo')  # killed in the middle of a line
    with journal(2) as second:
        second.write(3, {"loss": 0.0})
    lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert [(line["step"], line["loss"]) for line in lines] == [(1, 0.5), (2, 1.0), (3, 0.0)]


def test_rate_counts_only_what_came_after_restart():
    class Source:
        waited: dict[str, float] = {"fetch": 100.0}  # noqa: RUF012

    rate = Rate(Source(), lambda step: 8 * step, last_step=20)
    rate.restart(10)
    result = rate.since_last(10)
    assert result["clips_per_second"] == 0
    assert result["waiting"] == 0


def test_knn_votes_agree_with_loops():
    rng = np.random.default_rng(0)
    bank, query = (torch.nn.functional.normalize(torch.from_numpy(rng.normal(size=(n, 4)))).float() for n in (20, 10))
    labels, truth = torch.from_numpy(rng.integers(0, 3, 20)), torch.from_numpy(rng.integers(0, 3, 10))
    hits = 0
    for q, label in zip(query, truth):
        similarity = bank @ q
        votes = np.zeros(3)
        for j in similarity.argsort(descending=True)[:5]:
            votes[labels[j]] += np.exp(similarity[j].item() / 0.07)
        hits += votes.argmax() == label.item()
    assert knn_top1(bank, labels, query, truth, 5) == pytest.approx(10 * hits)


@pytest.mark.filterwarnings("error")
@settings(max_examples=20, deadline=None)
@given(
    seed=st.integers(0, 2**31), enqueued=st.integers(1, 30), classes=st.integers(1, 4), mine_from=st.sampled_from("gf")
)
def test_mined_precision_agrees_with_loops(seed, enqueued, classes, mine_from):
    """Clips come again and again, some have no label, and the bank may be half empty."""
    rng = np.random.default_rng(seed)
    banks = MemoryBanks(Branches(TINY), TINY, size=20)
    clip_ids, labels_N = rng.integers(0, 8, enqueued), rng.integers(-1, classes, 8).astype(np.int32)
    for clip_id in clip_ids:
        f, g = ({m: torch.from_numpy(rng.normal(size=(1, d))).float() for m, d in dims.items()} for dims in DIMS)
        banks.enqueue(f, g, torch.tensor([clip_id]))
    source = banks.g if mine_from == "g" else banks.f
    right: dict[str, list[bool]] = {}
    slots = [slot for slot, c in enumerate(banks.clip_ids.tolist()) if c >= 0 and labels_N[c] >= 0]
    clip_of = banks.clip_ids.tolist()
    for i in slots:
        others = [j for j in slots if clip_of[j] != clip_of[i]]
        nearest = {m: sorted(others, key=lambda j, x=x: -(x[i] @ x[j]).item())[:3] for m, x in source.items()}
        union = {j for of_one in nearest.values() for j in of_one}
        for name, found in {**nearest, "union": union, "chance": others}.items():
            right.setdefault(name, []).extend(labels_N[clip_of[i]] == labels_N[clip_of[j]] for j in found)
    expected = {f"mined_{name}": 100 * np.mean(hits) for name, hits in right.items() if hits}
    labels_N.flags.writeable = False  # as a column of an index is
    told = mined_precision(banks, labels_N, ObjectiveConfig(k=3, mine_from=mine_from))
    assert told == pytest.approx(expected)


TINY = ModelConfig(rgb="r3d10_narrow", gcn_width=16, transformer_blocks=1, transformer_heads=2, transformer_width=32)
DIMS = {"rgb": 128, "pose": 128}, Branches(TINY).dims


def test_classifier_takes_the_query_encoders():
    query, classifier = Branches(TINY), Classifier(TINY, classes=7)
    classifier.load_pretrained(query.state_dict())
    for m in ("rgb", "pose"):
        ours, theirs = classifier.encoder[m].state_dict(), query.branch[m].encoder.state_dict()
        assert all(torch.equal(ours[name], theirs[name]) for name in theirs)
    pose_only = {name: x for name, x in query.state_dict().items() if ".pose." in name}
    with pytest.raises(ValueError, match="no rgb branch"):
        classifier.load_pretrained(pose_only)
    with pytest.raises(ValueError, match=r"pose encoder does not fit the model config \(.*\); set model") as error:
        Classifier(replace(TINY, gcn_width=8), classes=7).load_pretrained(query.state_dict())
    assert "\n" not in str(error.value)


def test_linear_probe_trains_the_last_layer_only():
    classifier = Classifier(TINY, classes=3, linear_probe=True).train()
    views = {"rgb": torch.randint(0, 255, (2, 8, 32, 32, 3), dtype=torch.uint8), "pose": torch.randn(2, 16, 75, 3)}
    before = {name: x.clone() for name, x in classifier.state_dict().items()}
    optimizer = sgd((p for p in classifier.parameters() if p.requires_grad), OptimConfig())
    fuse(classifier(views))["fused"].logsumexp(1).sum().backward()
    optimizer.step()
    changed = {name for name, x in classifier.state_dict().items() if not torch.equal(x, before[name])}
    assert changed == {"fc.rgb.weight", "fc.rgb.bias", "fc.pose.weight", "fc.pose.bias"}


def test_every_optimiser_makes_the_same_step():
    models = [torch.nn.Linear(3, 2), torch.nn.Linear(3, 2)]
    models[1].load_state_dict(models[0].state_dict())
    for model, fused in zip(models, (True, False), strict=True):
        optimizer = sgd(model.parameters(), OptimConfig(lr=0.1), fused)
        for _ in range(3):
            model(torch.ones(4, 3)).square().sum().backward()
            optimizer.step()
    torch.testing.assert_close(models[0].weight, models[1].weight)


def test_only_real_bf16_counts(monkeypatch):
    """Turing emulates it, slowly: fp16 there."""
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation=True: including_emulation)
    monkeypatch.setattr(torch, "zeros", lambda shape, device: None)
    assert Amp("auto", torch.device("cuda")).name == "fp16"


@pytest.mark.parametrize(
    ("setting", "modes"), [("none", []), ("default", ["default"]), ("cuda_graphs", ["reduce-overhead"])]
)
def test_what_run_compile_asks_for(setting, modes, monkeypatch):
    asked = []
    monkeypatch.setattr(torch.nn.Module, "compile", lambda module, mode: asked.append(mode))
    compile_model(torch.nn.Linear(2, 2), RunConfig(compile=setting))
    assert asked == modes

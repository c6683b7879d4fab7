"""The bytes that a run takes of a GPU: counted on shapes, held against what a CPU really allocates."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest
import torch
from torch.profiler import ProfilerActivity, profile

from cclslr.bench.footprint import LiveBytes, bytes_of, footprint, measure, rounded, view_bytes
from cclslr.bench.meta import META, meta_device
from cclslr.commands import plan
from cclslr.config import FinetuneConfig, PretrainConfig, load_config, to_dict

CONFIGS = sorted((Path(__file__).parents[1] / "configs").glob("*.yaml"))
SMALL = [
    "model.rgb=r3d10_narrow",
    "model.gcn_width=32",
    "model.transformer_blocks=1",
    "model.transformer_heads=4",
    "model.transformer_width=64",
    "views.rgb_frames=8",
    "views.size=64",
    "views.pose_frames=16",
    "optim.batch=8",
    "optim.micro_batch=4",
    "run.amp=fp32",
]


def load(path: Path, *overrides: str) -> PretrainConfig | FinetuneConfig:
    kind = FinetuneConfig if "finetune" in path.stem else PretrainConfig
    return load_config(kind, path, list(overrides))


def test_memory_is_counted_while_it_lives() -> None:
    cpu = torch.device("cpu")
    with LiveBytes(cpu) as live:
        x = torch.zeros(1000)
        assert live.now == live.peak == 4096
        y = x.view(10, 100)[:5].t()  # a view takes nothing
        x += 1
        assert live.now == 4096
        z = x + y.sum()
        del z, x
        assert live.now == 4096  # the view still holds it
        del y
        assert (live.now, live.peak) == (0, 2 * 4096 + 512)
        assert live.restart() == live.peak == 0


def test_tensors_that_share_memory_count_once() -> None:
    x = torch.zeros(1000)
    assert bytes_of([x, x[:10], torch.zeros(1)]) == 4096 + 512
    assert (rounded(0), rounded(1), rounded(512), rounded(513)) == (0, 512, 512, 1024)


@pytest.fixture
def _one_thread() -> Iterator[None]:
    """Kernels take memory for themselves for each thread."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.mark.usefixtures("_one_thread")
@pytest.mark.parametrize("recompute", [False, True])
@pytest.mark.parametrize("kind", [PretrainConfig, FinetuneConfig])
def test_agrees_with_what_a_cpu_allocates(kind: type, recompute: bool) -> None:
    """The same run on shapes and on a CPU; and torch's profiler, which sees every allocation in between."""
    cfg = load_config(
        kind,
        None,
        [*SMALL, f"run.recompute={recompute}", *(["objective.bank_size=256"] if kind is PretrainConfig else [])],
    )
    with meta_device():
        shapes = measure(cfg, META, classes=10)
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        real = measure(cfg, torch.device("cpu"), classes=10)
    for name, value in dataclasses.asdict(shapes).items():
        assert value == pytest.approx(getattr(real, name), rel=0.01), name
    now = peak = 0
    for event in profiler.profiler.kineto_results.events():
        if event.name() == "[memory]":
            now += event.nbytes()
            peak = max(peak, now)
    batch = 2 * cfg.optim.batch * view_bytes(cfg)
    counted = shapes.weights + shapes.optimiser + shapes.banks + shapes.step + batch
    assert 0.85 * peak < counted <= peak  # what kernels take for themselves is not seen


def test_parts() -> None:
    cfg = load_config(PretrainConfig, None, [*SMALL, "objective.bank_size=256", "data.prefetch=3", "optim.batch=16",
                       "model.modalities=[rgb]"])  # fmt: skip
    alone, half = footprint(cfg), footprint(cfg, world=2)
    assert alone.batches == 4 * 2 * 16 * view_bytes(cfg) == 2 * half.batches
    assert alone.activations - half.activations == 8 * view_bytes(cfg)  # shuffled key views of half as many clips
    assert alone.weights > alone.gradients == alone.optimiser > alone.banks > 256 * 128 * 4
    assert alone.total == max(alone.training, alone.evaluation)
    more = dataclasses.replace(cfg, run=dataclasses.replace(cfg.run, gradient_as_bucket_view=False))
    assert footprint(more, world=2).gradients == 2 * alone.gradients
    larger = dataclasses.replace(cfg, optim=dataclasses.replace(cfg.optim, micro_batch=8))
    assert 1.6 < footprint(larger).activations / alone.activations < 2.1
    mixed = dataclasses.replace(cfg, run=dataclasses.replace(cfg.run, amp="auto"))
    assert footprint(mixed).activations < 0.85 * alone.activations


def test_a_card_must_hold_more_than_the_tensors() -> None:
    taken = footprint(load_config(PretrainConfig, None, [*SMALL, "model.modalities=[pose]"]))
    full = dataclasses.replace(taken, activations=0, eval_activations=0, eval_batches=0, batches=0, banks=0)
    at_limit = dataclasses.replace(full, weights=int(21.5e9) - full.gradients - full.optimiser)
    assert at_limit.fits(24)
    assert not dataclasses.replace(at_limit, eval_activations=1000).fits(24)


@cache
def shipped(key: str, path: Path, world: int) -> bool:
    return footprint(load(path), world).fits(24)


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_every_shipped_config_fits_a_card_of_24_gb(path: Path) -> None:
    cfg = load(path)
    described = to_dict(cfg)
    described["data"]["shards"], described["run"]["dir"] = [], ""  # nothing else tells some of them apart
    world = 8 if cfg.optim.batch % (8 * cfg.optim.micro_batch) == 0 else 1
    assert shipped(json.dumps(described), Path(path), world)


def test_the_papers_run_fits_at_its_micro_batch_and_not_at_any() -> None:
    path = next(path for path in CONFIGS if path.stem == "pretrain")
    assert load(path).optim.micro_batch == 8
    assert footprint(load(path), world=8).fits(24)
    assert not footprint(load(path, "optim.micro_batch=64")).fits(24)
    assert footprint(load(path, "run.recompute=true"), world=8).fits(8)
    assert not footprint(load(path), world=8).fits(8)


def test_plan_shows_the_memory(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out, path = tmp_path / "plan.json", next(path for path in CONFIGS if path.stem == "pretrain_small")
    options = ["--node", "1x3090", "--json", str(out)]
    plan.main(["--config", str(path), *options, "objective.bank_size=700"])
    shown = capsys.readouterr().out
    assert "activations" in shown
    assert "fits 24 GB" in shown
    taken = json.loads(out.read_text())["memory_bytes"]
    cfg = load(path, "objective.bank_size=700")
    assert taken == dataclasses.asdict(footprint(cfg)) | {"total": taken["total"]}
    with pytest.raises(ValueError, match="overrides a key of no config"):
        plan.main(["optim.batch=8"])
    with pytest.raises(ValueError, match="does not split into 8"):
        plan.main(["--config", str(path)])

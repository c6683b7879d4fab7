"""Flows: exactly invertible, true log-determinants, weights that come back, AdvFlow's old checkpoints, training."""

from __future__ import annotations

import dataclasses
import itertools
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from small_runs import ROOT, tiny_shards
from torch import Tensor, nn

from cclslr.distributed import Process
from cclslr.masking.advflow import import_advflow
from cclslr.masking.architecture import flow_config
from cclslr.masking.flow import Flow, FlowCard, load_flow, save_flow, weights_hash
from cclslr.masking.training import TrainOptions, learning_rate, measure, train_flow


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


def shaken(preset: str, size: int, seed: int = 0) -> Flow:
    """A flow with random weights in every layer, so that no coupling is the identity."""
    torch.manual_seed(seed)
    flow = Flow(flow_config(preset, size), FlowCard("trained"))
    flow.normalise_to(torch.rand(8, 3, size, size))
    for parameter in flow.parameters():
        if parameter.requires_grad and parameter.ndim in (2, 4) and parameter.shape[0] > 1:
            parameter.data.add_(torch.randn_like(parameter) * 0.02)
    return flow.requires_grad_(False).eval()


@pytest.mark.parametrize(("preset", "size"), [("tiny", 32), ("tiny", 64), ("tiny", 128), ("glow", 32), ("advflow", 32)])
def test_decode_inverts_encode(preset: str, size: int) -> None:
    flow = shaken(preset, size)
    x = torch.rand(2, 3, size, size)
    z, log_det = flow.encode(x)
    assert z.shape == (2, 3 * size**2)
    assert log_det.shape == (2,)
    assert (flow.decode(z) - x).abs().max() < 1e-4
    assert flow.encode(flow.decode(z))[0].sub(z).abs().max() < 1e-3


@pytest.mark.parametrize("preset", ["tiny", "advflow"])
def test_log_determinant_is_that_of_the_jacobian(preset: str) -> None:
    """By numbers, on an architecture of the same blocks at 8x8, in double precision."""
    torch.manual_seed(0)
    config = dataclasses.replace(flow_config(preset, 32), size=8, width=8, steps=1)
    flow = Flow(config)
    for parameter in flow.parameters():
        if parameter.requires_grad:
            parameter.data.add_(torch.randn_like(parameter) * 0.1)
    flow = flow.double()
    for subnet in flow.modules():
        if isinstance(subnet, nn.Sequential):
            subnet.double()
    x = torch.rand(1, 3, 8, 8, dtype=torch.float64)
    jacobian = torch.autograd.functional.jacobian(lambda v: flow.encode(v.reshape(1, 3, 8, 8))[0][0], x.flatten())
    expected = torch.linalg.slogdet(jacobian)[1]
    assert float(flow.encode(x)[1][0].detach()) == pytest.approx(float(expected), rel=1e-4, abs=1e-4)


def test_bits_per_dimension_of_a_known_density() -> None:
    """A fresh glow is a product of orthogonal maps and scales of one: its density is a standard normal of pixels."""
    flow = Flow(flow_config("tiny", 32)).eval()
    x = torch.rand(3, 3, 32, 32)
    normal = torch.distributions.Normal(0.0, 1.0)
    expected = -normal.log_prob(x).flatten(1).mean(1) / np.log(2) + 8
    assert torch.allclose(flow(x), expected.float(), atol=1e-3)


def test_normalise_to_gives_unit_latents_and_exact_inverses() -> None:
    torch.manual_seed(0)
    frames = 0.5 + 0.05 * torch.randn(64, 3, 32, 32).cumsum(3).clamp(-3, 3)
    flow = Flow(flow_config("tiny", 32)).eval()
    flow.normalise_to(frames)
    z = flow.encode(frames)[0].detach()
    assert float(z.std()) == pytest.approx(1.0, abs=0.05)
    assert float(z.mean()) == pytest.approx(0.0, abs=0.01)


def test_building_a_flow_leaves_numpys_generator_alone() -> None:
    np.random.seed(3)  # noqa: NPY002
    expected = np.random.random(2)  # noqa: NPY002
    np.random.seed(3)  # noqa: NPY002
    Flow(flow_config("tiny", 32))
    assert (np.random.random(2) == expected).all()  # noqa: NPY002


def test_weights_come_back_with_their_card(tmp_path: Path) -> None:
    flow = shaken("tiny", 32)
    flow.card.training = {"steps": 3, "bits_per_dim": 5.25}
    save_flow(flow, tmp_path / "flow.safetensors")
    again = load_flow(tmp_path / "flow.safetensors")
    assert again.config == flow.config
    assert again.card == flow.card
    assert again.card.sha256 == weights_hash(flow)
    x = torch.rand(2, 3, 32, 32)
    assert (again.encode(x)[0] == flow.encode(x)[0]).all()


def test_damaged_and_foreign_weights_are_refused(tmp_path: Path) -> None:
    save_flow(shaken("tiny", 32), tmp_path / "flow.safetensors")
    data = bytearray((tmp_path / "flow.safetensors").read_bytes())
    data[-5] ^= 1
    (tmp_path / "damaged.safetensors").write_bytes(data)
    with pytest.raises(ValueError, match=r"damaged\.safetensors.*damaged, copy it again"):
        load_flow(tmp_path / "damaged.safetensors")
    (tmp_path / "foreign.safetensors").write_bytes(b"not safetensors at all")
    with pytest.raises(ValueError, match=r"foreign\.safetensors"):
        load_flow(tmp_path / "foreign.safetensors")
    with pytest.raises(FileNotFoundError):
        load_flow(tmp_path / "absent.safetensors")


@pytest.mark.parametrize(("preset", "size"), [("resnet", 64), ("tiny", 48)])
def test_unknown_presets_and_sizes_are_refused(preset: str, size: int) -> None:
    with pytest.raises(ValueError, match="choose one of"):
        flow_config(preset, size)


# --- AdvFlow's old layout, from its formulas alone: no block of FrEIA is used below ---


class OldConv(nn.Module):
    def __init__(self, channels_in: int, channels_out: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels_in, 128, 3, padding=1)
        self.conv2 = nn.Conv2d(128, 128, 3, padding=1)
        self.conv3 = nn.Conv2d(128, channels_out, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        x = nn.functional.leaky_relu(self.conv1(x), 0.1)
        return self.conv3(nn.functional.leaky_relu(self.conv2(x), 0.1))


class OldLinear(nn.Module):
    def __init__(self, features_in: int, features_out: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(features_in, 128)
        self.fc2 = nn.Linear(128, 128)
        self.fc2b = nn.Linear(128, 128)
        self.fc3 = nn.Linear(128, features_out)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc3(self.fc2b(self.fc2(self.fc1(x).relu()).relu()).relu())


class OldCoupling(nn.Module):
    def __init__(self, channels: int, subnet: type[nn.Module]) -> None:
        super().__init__()
        self.first, self.second = channels // 2, channels - channels // 2
        self.s1 = subnet(self.first, 2 * self.second)
        self.s2 = subnet(self.second, 2 * self.first)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        log_scale = lambda s: 1.5 * 0.636 * torch.atan(s / 1.5)  # noqa: E731
        x1, x2 = x[:, : self.first], x[:, self.first :]
        s2, t2 = self.s2(x2).split(self.first, 1)
        y1 = log_scale(s2).exp() * x1 + t2
        s1, t1 = self.s1(y1).split(self.second, 1)
        y2 = log_scale(s1).exp() * x2 + t1
        return torch.cat((y1, y2), 1), log_scale(s1).flatten(1).sum(1) + log_scale(s2).flatten(1).sum(1)


class OldMixing(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        orthogonal = torch.linalg.qr(torch.randn(channels, channels, dtype=torch.float64))[0].float()
        self.M = nn.Parameter(orthogonal.T.reshape(channels, channels, 1, 1), requires_grad=False)
        self.M_inv = nn.Parameter(orthogonal.reshape(channels, channels, 1, 1), requires_grad=False)
        self.logDetM = nn.Parameter(torch.slogdet(orthogonal)[1], requires_grad=False)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        mixed = torch.einsum("oc,bchw->bohw", self.M[:, :, 0, 0], x)
        return mixed, (self.logDetM * x.shape[2] * x.shape[3]).expand(len(x))


class OldAdvFlow(nn.Module):
    """The whole flow; `module_list` has the numbering of the old graph, nodes without tensors included."""

    def __init__(self, size: int) -> None:
        super().__init__()
        pixels = 3 * size * size
        plain = nn.Identity
        self.module_list = nn.ModuleList([plain()])  # the input
        for _ in range(4):
            self.module_list += [OldCoupling(3, OldConv), plain()]
        self.module_list += [plain()]  # the squeeze
        for _ in range(6):
            self.module_list += [OldMixing(12), OldCoupling(12, OldConv), plain()]
        self.module_list += [plain(), plain()]  # flatten, split
        for _ in range(6):
            self.module_list += [OldCoupling(pixels // 4, OldLinear), plain()]
        self.module_list += [plain(), plain()]  # concatenation, output

    @staticmethod
    def permute(x: Tensor, seed: int) -> Tensor:
        return x[:, np.random.RandomState(seed).permutation(x.shape[1])]

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        modules = list(self.module_list)
        log_det = torch.zeros(len(x))
        for k in range(4):
            x, j = modules[1 + 2 * k](x)
            x, log_det = self.permute(x, k), log_det + j
        corners = [x[:, :, i::2, j::2] for i in (0, 1) for j in (0, 1)]
        x = torch.cat(corners, 1)
        for k in range(6):
            for module in modules[10 + 3 * k : 12 + 3 * k]:
                x, j = module(x)
                log_det = log_det + j
            x = self.permute(x, k)
        x = x.flatten(1)
        deep, skip = x.tensor_split((x.shape[1] // 4,), 1)
        for k in range(6):
            deep, j = modules[30 + 2 * k](deep)
            deep, log_det = self.permute(deep, k), log_det + j
        return torch.cat((deep, skip), 1), log_det


def old_checkpoint(path: Path, size: int) -> OldAdvFlow:
    torch.manual_seed(size)
    old = OldAdvFlow(size).eval()
    state = dict(old.state_dict())
    state["tmp_var_0"] = torch.zeros(1)
    state["tmp_var_31"] = torch.zeros(1)
    torch.save({"net": state}, path)
    return old


@pytest.mark.parametrize("size", [32, 64])
def test_old_advflow_checkpoints_give_the_same_latents(tmp_path: Path, size: int) -> None:
    old = old_checkpoint(tmp_path / "ImageNet_6_blocks_Simple_Gaussian.pt", size)
    flow = import_advflow(tmp_path / "ImageNet_6_blocks_Simple_Gaussian.pt")
    assert flow.size == size
    assert flow.card.origin == "advflow"
    x = torch.rand(2 if size == 32 else 1, 3, size, size)
    with torch.inference_mode():
        expected, expected_log_det = old(x)
        latents, log_det = flow.encode(x)
        assert expected.std() > 0.1
        assert (latents - expected).abs().max() < 1e-5
        assert ((log_det - expected_log_det) / expected_log_det.abs().clamp(min=1)).abs().max() < 1e-5
        assert (flow.decode(expected) - x).abs().max() < 1e-4
    save_flow(flow, tmp_path / "flow.safetensors")
    assert (load_flow(tmp_path / "flow.safetensors").encode(x)[0] == latents).all()


def test_other_checkpoints_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "x.pt"
    path.write_bytes(b"no torch file")
    with pytest.raises(ValueError, match=r"x\.pt: not a torch checkpoint"):
        import_advflow(path)
    torch.save({"state_dict": {}}, path)
    with pytest.raises(ValueError, match="no 'net' in it"):
        import_advflow(path)
    torch.save({"net": {"conv.weight": torch.zeros(2)}}, path)
    with pytest.raises(ValueError, match=r"unknown tensor 'conv\.weight'"):
        import_advflow(path)
    old = old_checkpoint(path, 32)
    state = {k: v for k, v in old.state_dict().items() if not k.startswith("module_list.1.")}
    torch.save({"net": state}, path)
    with pytest.raises(ValueError, match="15 couplings"):
        import_advflow(path)


# --- Training ---


def toy_frames(count: int = 96) -> Tensor:
    """Smooth random frames: uint8 (N, 3, 32, 32)."""
    generator = torch.Generator().manual_seed(0)
    coarse = torch.rand(count, 3, 4, 4, generator=generator) * 255
    return nn.functional.interpolate(coarse, (32, 32), mode="bicubic").clamp(0, 255).to(torch.uint8)


OPTIONS = TrainOptions(steps=8, batch=4, lr=2e-3, warmup=3)
ALONE = Process(0, 1, torch.device("cpu"))


def fresh() -> Flow:
    torch.manual_seed(0)
    return Flow(flow_config("tiny", 32))


def test_training_lowers_the_bits_and_reports(tmp_path: Path) -> None:
    frames, losses = toy_frames(48), []
    flow = fresh()
    result = train_flow(flow, frames[:40], OPTIONS, ALONE, tmp_path / "s.pt", lambda step, loss: losses.append(loss))
    assert result["steps"] == 8
    assert result["skipped_steps"] == 0
    assert len(losses) == 8
    assert np.mean(losses[-3:]) < losses[0]
    quality = measure(flow, frames[40:], OPTIONS)
    assert quality.bits_per_dim < quality.bits_per_dim_noisy < 7
    assert quality.round_trip_error < 1e-3
    assert quality.calibrated == (0.7 <= quality.latent_std <= 1.3)


def test_a_stopped_run_continues_as_if_nothing_happened(tmp_path: Path) -> None:
    frames = toy_frames()
    through = fresh()
    train_flow(through, frames, OPTIONS, ALONE, tmp_path / "a.pt")

    class Killed(Exception):
        pass

    def kill(step: int, loss: float) -> None:
        if step == 6:
            raise Killed

    with pytest.raises(Killed):
        train_flow(fresh(), frames, OPTIONS, ALONE, tmp_path / "b.pt", kill, save_every=4)
    steps: list[int] = []
    resumed = fresh()
    train_flow(resumed, frames, OPTIONS, ALONE, tmp_path / "b.pt", lambda step, loss: steps.append(step))
    assert steps == list(range(5, 9))
    assert weights_hash(resumed) == weights_hash(through)
    other = dataclasses.replace(OPTIONS, lr=1e-3)
    with pytest.raises(ValueError, match="other settings"):
        train_flow(fresh(), frames, other, ALONE, tmp_path / "b.pt")


def test_the_command_on_two_ranks(tmp_path: Path) -> None:
    shards, out = tiny_shards(tmp_path / "shards"), tmp_path / "flow.safetensors"
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    options = ["--preset", "tiny", "--size", "32", "--steps", "3", "--batch", "8", "--device", "cpu"]
    done = subprocess.run(
        [*torchrun, "-m", "cclslr", "flow", "--shards", shards, "--out", out, *options],
        cwd=ROOT, env={**os.environ, "OMP_NUM_THREADS": "1"}, capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    flow = load_flow(out)
    assert (flow.card.training["ranks"], flow.card.training["steps"]) == (2, 3)
    assert f"{flow.card.training['bits_per_dim']:.3f} bits/dim" in " ".join(done.stdout.split())
    assert ("--threshold quantile" in done.stdout) == (not 0.7 <= flow.card.training["latent_std"] <= 1.3)
    assert out.with_suffix(".png").stat().st_size > 1000
    assert not out.with_suffix(".state.pt").exists()


def test_a_step_with_broken_gradients_is_skipped(tmp_path: Path) -> None:
    flow = fresh()
    options = dataclasses.replace(OPTIONS, steps=2, noise=float("inf"))
    train_flow(flow, toy_frames(), dataclasses.replace(OPTIONS, steps=0), ALONE, tmp_path / "zero.pt")
    state = torch.load(tmp_path / "zero.pt", weights_only=True)
    torch.save({**state, "options": dataclasses.asdict(options)}, tmp_path / "s.pt")
    before = weights_hash(flow)
    result = train_flow(flow, toy_frames(), options, ALONE, tmp_path / "s.pt")
    assert result["skipped_steps"] == 2
    assert weights_hash(flow) == before


def test_frames_go_through_in_passes_that_fit_a_cpus_cache() -> None:
    passes = {preset: Flow(flow_config(preset, 64)).frames_per_pass for preset in ("advflow", "glow", "tiny")}
    assert passes == {
        "advflow": 8,
        "glow": 32,
        "tiny": 128,
    }  # 4 Mi values of 128, 128, 32 channels, 64 or 32 pixels wide


def test_half_precision_subnets_stay_invertible(tmp_path: Path) -> None:
    flow = shaken("tiny", 32).set_dtype(torch.bfloat16)
    x = torch.rand(2, 3, 32, 32)
    exact = shaken("tiny", 32)
    z = flow.encode(x)[0]
    assert (flow.decode(z) - x).abs().max() < 1e-2
    assert 0 < (z - exact.encode(x)[0]).abs().max() < 0.2


def test_learning_rate_warms_up_and_falls() -> None:
    rates = [learning_rate(step, OPTIONS) for step in range(9)]
    assert rates[:3] == pytest.approx([2e-3 / 3, 4e-3 / 3, 2e-3])
    assert all(a >= b for a, b in itertools.pairwise(rates[2:]))
    assert learning_rate(8, OPTIONS) == pytest.approx(0)

"""The RGB encoder against MONAI's network, its published key names, and arithmetic counted by hand."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from torch.nn.utils import convert_conv3d_weight_memory_format

from cclslr.models.flops import forward_flops, training_flops
from cclslr.models.r3d import KINETICS_MEAN, KINETICS_STD, LAYOUTS, build_rgb


@pytest.fixture(autouse=True)
def _one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    yield
    torch.set_num_threads(before)


def clip(batch: int, frames: int = 8, size: int = 32) -> torch.Tensor:
    generator = torch.Generator().manual_seed(1)
    return torch.randint(0, 256, (batch, frames, size, size, 3), dtype=torch.uint8, generator=generator)


def test_r3d50_is_the_published_network():
    nets = pytest.importorskip("monai.networks.nets")
    ours = build_rgb("r3d50")
    oracle = nets.resnet50(
        spatial_dims=3,
        n_input_channels=3,
        shortcut_type="B",
        conv1_t_size=7,
        conv1_t_stride=(1, 2, 2),
        bias_downsample=False,
        feed_forward=False,
    )
    for module in ours.modules():  # statistics that matter, as after training
        if isinstance(module, torch.nn.BatchNorm3d):
            module.running_mean.normal_(0, 0.1)
            module.running_var.uniform_(0.5, 2)
    oracle.load_state_dict(ours.state_dict(), strict=True)
    ours.eval(), oracle.eval()
    rgb = clip(1)
    with torch.no_grad():
        torch.testing.assert_close(ours(rgb), oracle(ours.normalise(rgb)), rtol=0, atol=0)
    assert ours.dim == 2048


def conv_macs(kernel: int, dim_in: int, dim_out: int, voxels: int) -> int:
    return kernel * dim_in * dim_out * voxels


def test_flops_of_r3d50_counted_by_hand():
    frames, size = 16, 56  # after the max-pool of a 32x224x224 clip
    macs = conv_macs(7 * 7 * 7, 3, 64, 32 * 112 * 112)
    dim = 64
    for stage, depth in enumerate((3, 4, 6, 3)):
        width = 64 << stage
        for index in range(depth):
            before = frames * size * size
            if stage > 0 and index == 0:
                frames, size = frames // 2, size // 2
            after = frames * size * size
            macs += conv_macs(1, dim, width, before) + conv_macs(27, width, width, after)
            macs += conv_macs(1, width, 4 * width, after)
            if index == 0:
                macs += conv_macs(1, dim, 4 * width, after)
            dim = 4 * width
    assert (frames, size, dim) == (2, 7, 2048)
    assert forward_flops(build_rgb("r3d50"), (1, 32, 224, 224, 3), torch.uint8) == 2 * macs
    assert macs / 1e9 == pytest.approx(79.7, abs=0.05)
    # Backward: as much again for the weights and for the inputs, but nobody asks for the gradient of the pixels.
    backward = 4 * macs - 2 * conv_macs(7 * 7 * 7, 3, 64, 32 * 112 * 112)
    assert training_flops(build_rgb("r3d50"), (1, 32, 224, 224, 3), torch.uint8) == 2 * macs + backward


def test_flops_grow_with_the_batch_and_leave_the_module_alone():
    model = build_rgb("r3d10_narrow").eval()
    before = {key: value.clone() for key, value in model.state_dict().items()}
    one, four = (forward_flops(model, (batch, 16, 64, 64, 3), torch.uint8) for batch in (1, 4))
    assert four == 4 * one > 0
    assert not model.training
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())


@pytest.mark.parametrize(("name", "dim"), [("r3d18", 512), ("r3d10_narrow", 128)])
def test_features(name, dim):
    model = build_rgb(name)
    features = model(clip(2))
    assert features.shape == (2, dim) == (2, model.dim)
    features.square().sum().backward()
    assert all(parameter.grad is not None and parameter.grad.any() for parameter in model.parameters())


def test_normalisation_against_float64_without_a_copy_of_the_layout():
    rgb = clip(2, frames=3, size=5)
    got = build_rgb("r3d10_narrow").normalise(rgb)
    wanted = (rgb.numpy() / 255.0 - np.array(KINETICS_MEAN)) / np.array(KINETICS_STD)
    np.testing.assert_allclose(got.numpy(), wanted.transpose(0, 4, 1, 2, 3), atol=2e-6)
    assert got.is_contiguous(memory_format=torch.channels_last_3d)


@pytest.mark.parametrize("channels_last", [True, False])
def test_the_layout_of_the_weights_is_that_of_every_feature_map(channels_last):
    model = build_rgb("r3d10_narrow").eval()
    if channels_last:
        convert_conv3d_weight_memory_format(model, torch.channels_last_3d)
    seen = []
    model.layer2.register_forward_hook(lambda module, inputs, output: seen.append(output))
    model(clip(2, frames=8, size=32))
    wanted, other = torch.channels_last_3d, torch.contiguous_format
    assert seen[0].is_contiguous(memory_format=wanted if channels_last else other)
    assert not seen[0].is_contiguous(memory_format=other if channels_last else wanted)


@pytest.mark.parametrize("training", [True, False])
def test_stages_that_run_again_change_nothing(training):
    """Features, gradients and BatchNorm's statistics are those of a model that keeps everything."""
    kept = build_rgb("r3d18").train(training)
    again = copy.deepcopy(kept)
    again.recompute = True
    for _ in range(2):
        for model in (kept, again):
            model(clip(2, frames=8, size=32)).square().sum().backward()
    for one, other in zip(kept.parameters(), again.parameters(), strict=True):
        assert torch.equal(one.grad, other.grad)
    assert all(torch.equal(value, again.state_dict()[key]) for key, value in kept.state_dict().items())


def test_clips_do_not_see_each_other_in_evaluation():
    model = build_rgb("r3d10_narrow").eval()
    rgb = clip(3)
    with torch.no_grad():
        alone = torch.cat([model(rgb[i : i + 1]) for i in range(3)])
        torch.testing.assert_close(model(rgb), alone, rtol=1e-4, atol=1e-5)


def test_autocast_stays_close_to_float32():
    model = build_rgb("r3d10_narrow").eval()
    with torch.no_grad():
        exact = model(clip(2))
        with torch.autocast("cpu", dtype=torch.bfloat16):
            rough = model(clip(2)).float()
    assert torch.nn.functional.cosine_similarity(exact, rough).min() > 0.99


def test_the_small_network_learns_the_direction_of_motion():
    generator = torch.Generator().manual_seed(0)
    scene = torch.randint(0, 256, (8, 1, 32, 32, 3), dtype=torch.uint8, generator=generator)
    forward = torch.cat([scene.roll(3 * t, dims=3) for t in range(8)], 1)
    rgb, labels = torch.cat([forward, forward.flip(1)]), torch.arange(2).repeat_interleave(8)
    model = build_rgb("r3d10_narrow")
    head = torch.nn.Linear(model.dim, 2)
    optimiser = torch.optim.SGD([*model.parameters(), *head.parameters()], lr=0.05, momentum=0.9)
    losses = []
    for _ in range(25):
        loss = torch.nn.functional.cross_entropy(head(model(rgb)), labels)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append(loss.item())
    assert losses[-1] < 0.2 < 0.5 < losses[0]


@pytest.mark.parametrize("wrapped", [False, True])
@pytest.mark.parametrize("prefix", ["", "module."])
def test_weights_load_without_their_classifier(tmp_path, wrapped, prefix):
    source = build_rgb("r3d10_narrow")
    state = {prefix + key: value for key, value in source.state_dict().items()}
    state |= {prefix + "fc.weight": torch.zeros(700, 128), prefix + "fc.bias": torch.zeros(700)}
    path = tmp_path / "weights.pth"
    torch.save({"epoch": 200, "arch": "resnet", "state_dict": state} if wrapped else state, path)
    loaded = build_rgb("r3d10_narrow", path)
    assert all(torch.equal(value, source.state_dict()[key]) for key, value in loaded.state_dict().items())


def test_weights_that_do_not_fit_are_named(tmp_path):
    source = build_rgb("r3d10_narrow").state_dict()
    path = tmp_path / "weights.pth"

    torch.save({key: value for key, value in source.items() if key != "layer4.0.bn2.running_var"}, path)
    with pytest.raises(ValueError, match=r"weights\.pth.*layer4\.0\.bn2\.running_var is missing"):
        build_rgb("r3d10_narrow", path)

    torch.save(source | {"conv1.weight": torch.zeros(16, 3, 7, 7, 7)}, path)
    with pytest.raises(ValueError, match=r"weights\.pth.*conv1\.weight is \(16, 3, 7, 7, 7\), not \(16, 3, 3, 5, 5\)"):
        build_rgb("r3d10_narrow", path)

    torch.save(source, path)
    with pytest.raises(ValueError, match=r"weights\.pth.*r3d18.*and \d+ more"):
        build_rgb("r3d18", path)

    torch.save([1, 2], path)
    with pytest.raises(ValueError, match=r"weights\.pth: expected a state dict"):
        build_rgb("r3d10_narrow", path)

    path.write_bytes(b"no weights at all")
    with pytest.raises(ValueError, match=r"weights\.pth: not a file of weights"):
        build_rgb("r3d10_narrow", path)

    with pytest.raises(ValueError, match=f"choose one of {', '.join(LAYOUTS)}"):
        build_rgb("r3d51")

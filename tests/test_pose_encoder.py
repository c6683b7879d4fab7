"""The pose encoder: its graphs, its symmetries, and plain loops in float64 beside the fast graph convolution."""

from __future__ import annotations

import dataclasses
import itertools

import numpy as np
import pytest
import torch

from cclslr import keypoints
from cclslr.config import ModelConfig
from cclslr.errors import UserError
from cclslr.models.flops import forward_flops
from cclslr.models.pose import (
    AttentionPool,
    EachJoint,
    GraphConv,
    GroupEncoder,
    PoseEncoder,
    Stream,
    partitioned_adjacency,
    place_hand,
)

SMALL = ModelConfig(gcn_width=16, transformer_blocks=2, transformer_heads=4, transformer_width=24)


@pytest.fixture(autouse=True)
def _one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    yield
    torch.set_num_threads(before)


def encoder(**changes) -> PoseEncoder:
    """A float64 encoder in evaluation mode with statistics and importances unlike the initial ones."""
    model = PoseEncoder(ModelConfig(**(vars(SMALL) | changes))).double().eval()
    with torch.no_grad():
        for module in model.modules():
            if isinstance(module, torch.nn.modules.batchnorm._BatchNorm):
                module.running_mean.normal_(0, 0.1)
                module.running_var.uniform_(0.5, 2)
            if isinstance(module, GraphConv):
                module.importance_KJJ.uniform_(0.5, 1.5)
    return model


def poses(batch: int = 2, frames: int = 12) -> torch.Tensor:
    return torch.randn(batch, frames, keypoints.NUM_JOINTS, 3, dtype=torch.float64)


@pytest.mark.parametrize("group", keypoints.GROUPS)
def test_partitions_split_the_normalised_adjacency(group):
    edges, root = keypoints.EDGES[group], keypoints.ROOTS[group]
    partitions = partitioned_adjacency(edges, root)
    num_joints = partitions.shape[-1]
    assert num_joints == len(keypoints.WHOLEBODY[group])
    neighbours = {joint: {joint} for joint in range(num_joints)}
    for a, b in edges:
        neighbours[a].add(b)
        neighbours[b].add(a)
    hops, frontier = {root: 0}, [root]
    while frontier:
        joint = frontier.pop(0)
        for other in neighbours[joint] - hops.keys():
            hops[other] = hops[joint] + 1
            frontier.append(other)
    for w, v in itertools.product(range(num_joints), repeat=2):
        expected = np.zeros(3)
        if v in neighbours[w]:
            expected[0 if hops[v] == hops[w] else 1 if hops[v] < hops[w] else 2] = 1 / len(neighbours[v])
        np.testing.assert_allclose(partitions[:, w, v], expected, rtol=1e-6)


def test_a_fingertip_is_four_hops_from_the_wrist():
    reach = partitioned_adjacency(keypoints.EDGES["left_hand"], 0).sum(0) > 0
    assert (np.linalg.matrix_power(reach.astype(int), 4)[0] > 0).all()
    assert not (np.linalg.matrix_power(reach.astype(int), 3)[0] > 0).all()


@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
def test_graph_convolution_against_plain_loops(memory_format):
    adjacency = partitioned_adjacency(keypoints.EDGES["body"], keypoints.ROOTS["body"])
    conv = GraphConv(2, 5, adjacency).double()
    torch.nn.init.normal_(conv.importance_KJJ)
    x = torch.randn(2, 2, 3, 7, dtype=torch.float64).to(memory_format=memory_format)
    got = conv(x).detach().numpy()
    weight = conv.linear.weight.detach().numpy().reshape(5, 3, 2)  # output, partition, input
    importance = conv.importance_KJJ.detach().numpy()
    wanted = np.zeros((2, 5, 3, 7))
    for n, t, w, v, k in itertools.product(range(2), range(3), range(7), range(7), range(3)):
        wanted[n, :, t, w] += adjacency[k, w, v] * importance[k, w, v] * (weight[:, k] @ x[n, :, t, v].numpy())
    np.testing.assert_allclose(got, wanted, atol=1e-12)


@pytest.mark.parametrize("pool", ["attention", "mean"])
def test_shape_and_gradient_to_every_parameter(pool):
    model = PoseEncoder(ModelConfig(**(vars(SMALL) | {"pool": pool})))
    features = model(poses(4).float())
    assert features.shape == (4, 32) == (4, model.dim)
    (features * torch.randn_like(features)).sum().backward()
    assert [name for name, p in model.named_parameters() if p.grad is None or not p.grad.any()] == []


def test_a_placed_hand_against_plain_loops():
    hand, wrist = torch.randn(2, 3, 21, 3), torch.randn(2, 3, 3)
    got = place_hand(hand, wrist)
    for b, t, j in itertools.product(range(2), range(3), range(21)):
        found = hand[b, t, j, 2] > 0 and wrist[b, t, 2] > 0
        place = hand[b, t, j, :2] + wrist[b, t, :2] if found else torch.zeros(2)
        assert torch.equal(got[b, t, j], torch.cat([hand[b, t, j], place]))


def test_a_view_of_a_place_is_the_place_in_a_view():
    """Rotated, scaled and flipped views of placed hands are placed hands rotated, scaled and flipped."""
    angle, scale = 0.3, 1.2
    turn = scale * torch.tensor([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]], dtype=torch.float32)
    hand, wrist = torch.rand(1, 2, 21, 3), torch.rand(1, 2, 3)
    moved = [torch.cat([x[..., :2] @ turn.T, x[..., 2:]], -1) for x in (hand, wrist)]
    torch.testing.assert_close(place_hand(*moved)[..., 3:], place_hand(hand, wrist)[..., 3:] @ turn.T)


def test_only_a_placed_hand_knows_where_it_is():
    """Two clips that differ in where the right hand is, with the same body elsewhere and the same hand shapes."""
    x = poses(1)
    x[..., 2] = 1
    moved = x.clone()
    moved[:, :, keypoints.RIGHT_WRIST, :2] += 0.5
    for hands, same in (("wrist", True), ("placed", False)):
        seen: list[torch.Tensor] = []
        model = encoder(hands=hands)
        model.groups["hand"].register_forward_hook(lambda _, __, output, seen=seen: seen.append(output))
        with torch.no_grad():
            model(x), model(moved)
        left, right = ([half[i] for half in (part.chunk(2) for part in seen)] for i in (0, 1))
        assert torch.equal(*left)
        assert torch.equal(*right) == same


def test_found_joints_are_equally_sure():
    x = poses(2)
    other = x.clone()
    other[..., 2] = torch.where(x[..., 2] > 0, 0.5 * x[..., 2] + 0.1, x[..., 2])
    with torch.no_grad():
        model = encoder(confidence="found")
        assert torch.equal(model(x), model(other))
        model = encoder()
        assert not torch.allclose(model(x), model(other))


@pytest.mark.parametrize(("stream", "others"), [("manual", ["face", "mouth"]), ("non_manual", ["hand", "body"])])
def test_one_stream_alone(stream, others):
    model = encoder(streams=[stream])
    assert model.dim == SMALL.gcn_width
    assert not set(others) & set(model.groups)
    with torch.no_grad():
        assert model(poses(3)).shape == (3, model.dim)


def test_dimension_of_the_paper():
    assert PoseEncoder(ModelConfig(transformer_blocks=1)).dim == 1024


def test_clips_do_not_see_each_other_in_evaluation():
    model, x = encoder(), poses(3)
    with torch.no_grad():
        torch.testing.assert_close(model(x), torch.cat([model(x[i : i + 1]) for i in range(3)]))


def parts_of_manual_stream(model: PoseEncoder, x: torch.Tensor) -> tuple[torch.Tensor, ...]:
    seen: list[torch.Tensor] = []
    handle = model.streams["manual"].register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    with torch.no_grad():
        model(x)
    handle.remove()
    return seen[0].chunk(3, dim=2)


def test_both_hands_share_one_module():
    model, x = encoder(), poses()
    swapped = x.clone()
    left, right = keypoints.SLICES["left_hand"], keypoints.SLICES["right_hand"]
    swapped[:, :, left], swapped[:, :, right] = x[:, :, right], x[:, :, left]
    before, after = parts_of_manual_stream(model, x), parts_of_manual_stream(model, swapped)
    torch.testing.assert_close(before[0], after[1])
    torch.testing.assert_close(before[1], after[0])
    torch.testing.assert_close(before[2], after[2])
    with torch.no_grad():
        assert (model(x) - model(swapped)).abs().max() > 1e-6  # but the stream tells them apart


@pytest.mark.parametrize("group", keypoints.GROUPS)
def test_each_group_reaches_its_own_stream_only(group):
    model, x = encoder(), poses()
    changed = x.clone()
    changed[:, :, keypoints.SLICES[group]] += 1
    with torch.no_grad():
        difference = (model(x) - model(changed)).abs().amax(0)
    manual, non_manual = difference.chunk(2)
    touched, untouched = (non_manual, manual) if group in ("face", "mouth") else (manual, non_manual)
    assert touched.max() > 1e-6
    assert untouched.max() == 0


@pytest.mark.parametrize("pool", ["attention", "mean"])
def test_a_stream_does_not_know_the_order_of_frames(pool):
    stream = Stream(3, ModelConfig(**(vars(SMALL) | {"pool": pool}))).double().eval()
    x = torch.randn(2, 10, 48, dtype=torch.float64)
    with torch.no_grad():
        torch.testing.assert_close(stream(x), stream(x[:, torch.randperm(10)]))


def test_the_encoder_knows_the_order_of_frames():
    model, x = encoder(), poses()
    with torch.no_grad():
        assert (model(x) - model(x.flip(1))).abs().max() > 1e-3


def test_attention_pool_against_plain_loops_and_blind_to_the_order_of_parts():
    pool = AttentionPool(4).double()
    x = torch.randn(2, 5, 12, dtype=torch.float64)
    score = pool.score.weight.detach().numpy()[0]
    wanted = np.zeros((2, 4))
    for b in range(2):
        tokens = [x[b, t, 4 * p : 4 * p + 4].numpy() for t in range(5) for p in range(3)]
        weights = np.exp([token @ score for token in tokens])
        wanted[b] = sum(weight * token for weight, token in zip(weights / weights.sum(), tokens))
    np.testing.assert_allclose(pool(x).detach().numpy(), wanted, atol=1e-12)
    shuffled = torch.cat([x[..., 8:], x[..., :4], x[..., 4:8]], 2)
    torch.testing.assert_close(pool(x), pool(shuffled))


def test_a_group_sees_sixteen_frames_to_each_side():
    model = GroupEncoder("mouth", 16).double().eval()
    x = torch.randn(1, 45, 8, 3, dtype=torch.float64)
    changed = x.clone()
    changed[:, 22] += 1
    with torch.no_grad():
        moved = (model(x) - model(changed)).abs().amax((0, 2)) > 1e-12
    assert moved.nonzero().flatten().tolist() == list(range(22 - 16, 22 + 17))


@pytest.mark.parametrize("joints", ["mean", "each"])
def test_joints_side_by_side_are_told_apart(joints, monkeypatch):
    """Two joints of a ring exchange what the blocks say of them: their mean is the same, their places are not."""
    model = GroupEncoder("mouth", 16, joints=joints).double().eval()
    blocks_NCTJ = torch.randn(2, 8, 5, 8, dtype=torch.float64)
    order = [0, 1, 5, 3, 4, 2, 6, 7]
    outputs = []
    for x in (blocks_NCTJ, blocks_NCTJ[..., order]):
        monkeypatch.setattr(model.blocks, "forward", lambda _, x=x: x)
        outputs.append(model(torch.zeros(2, 5, 8, 3, dtype=torch.float64)))
    assert torch.allclose(*outputs) is (joints == "mean")


def test_a_step_moves_joints_side_by_side_as_little_as_their_mean():
    """The map is a plain one that is drawn as PyTorch draws, and whose rate of learning is J times lower."""
    torch.manual_seed(0)
    ours = EachJoint(21, 4, 6).double()
    torch.manual_seed(0)
    plain = torch.nn.Linear(21 * 4, 6).double()
    x_NTJC = torch.randn(3, 2, 21, 4, dtype=torch.float64)
    optimizers = torch.optim.SGD(ours.parameters(), 0.1), torch.optim.SGD([plain.weight], 0.1 / 21)
    optimizers[1].add_param_group({"params": [plain.bias], "lr": 0.1})
    for _ in range(3):
        outputs = ours(x_NTJC), plain(x_NTJC.flatten(2))
        assert torch.allclose(*outputs)
        for output, optimizer in zip(outputs, optimizers, strict=True):
            optimizer.zero_grad()
            output.square().sum().backward()
            optimizer.step()


def test_a_hidden_face_is_one_that_was_not_found():
    """In training some clips are seen without face and mouth, and all else is as it was; in evaluation none."""
    config = dataclasses.replace(SMALL, dropout=0.0)
    shown, hiding = PoseEncoder(config), PoseEncoder(dataclasses.replace(config, hide_face=0.5))
    hiding.load_state_dict(shown.state_dict())
    pose_BTJC = torch.rand(40, 6, 75, 3)
    faceless_BTJC = pose_BTJC.clone()
    faceless_BTJC[:, :, 49:] = 0
    assert torch.equal(hiding.eval()(pose_BTJC), shown.eval()(pose_BTJC))
    torch.manual_seed(0)
    hidden_B = torch.rand(40) < 0.5
    assert 5 < hidden_B.sum() < 35
    hiding.training = True  # itself alone: BatchNorm would mix clips
    torch.manual_seed(0)
    seen = hiding(pose_BTJC)
    expected = torch.where(hidden_B[:, None], shown(faceless_BTJC), shown(pose_BTJC))
    assert torch.allclose(seen, expected, atol=1e-6)
    assert not torch.allclose(shown(faceless_BTJC), shown(pose_BTJC), atol=1e-3)


def test_weights_from_before_the_scale_are_refused():
    model = PoseEncoder(dataclasses.replace(SMALL, joints="each"))
    state = {name.replace(".linear.map.", ".linear."): x for name, x in model.state_dict().items()}
    with pytest.raises(UserError, match="before its map got a scale"):
        model.load_state_dict(state)
    model.load_state_dict(model.state_dict())


def test_flops_counted_by_hand():
    frames, batch = 12, 3
    macs = 0
    for group, copies in (("left_hand", 2), ("body", 1), ("face", 1), ("mouth", 1)):
        joints = len(keypoints.WHOLEBODY[group])
        dims = (3, 2, 2, 4, 8)
        for a, b in itertools.pairwise(dims):
            per_frame = 3 * joints * joints * a + joints * 3 * a * b + joints * 9 * b * b
            macs += copies * frames * (per_frame + (joints * a * b if a != b else 0))
        macs += copies * frames * 8 * 16
    for parts in (3, 2):
        width = parts * 16
        block = frames * (4 * width * width + 2 * width * 24) + 2 * frames * frames * width
        macs += 2 * block + parts * frames * 16
    assert forward_flops(PoseEncoder(SMALL), (batch, frames, 75, 3)) == 2 * batch * macs


def test_a_width_that_cannot_be_split_is_refused():
    with pytest.raises(ValueError, match="gcn_width is 20"):
        PoseEncoder(ModelConfig(gcn_width=20))
    with pytest.raises(ValueError, match="5 heads"):
        PoseEncoder(ModelConfig(gcn_width=64, transformer_heads=5))

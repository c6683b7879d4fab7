"""The pose encoder: graph convolutions a joint group, one Transformer a stream (CCL-SLR §4).

Axis letters: N = clips (both hands of a clip count as two), B clips, T frames, J joints of a group, C channels,
K = 3 partitions, P parts of a stream.
"""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cclslr import keypoints
from cclslr.config import ModelConfig
from cclslr.errors import UserError

STREAMS: dict[str, tuple[str, ...]] = {"manual": ("left_hand", "right_hand", "body"), "non_manual": ("face", "mouth")}
PARTITIONS = 3
TEMPORAL_KERNEL = 9  # frames
FACE = slice(keypoints.SLICES["face"].start, keypoints.SLICES["mouth"].stop)  # the last of the 75


def partitioned_adjacency(edges: tuple[tuple[int, int], ...], root: int) -> np.ndarray:
    """The graph of a joint group as three weighted adjacency matrices that sum to A·D⁻¹, A with self-loops.

    Spatial partitioning of ST-GCN (Yan et al., AAAI 2018, §3.3): entry [k, w, v] weighs what joint w takes from its
    neighbour v, where k = 0 if both are equally far from `root` (hops), 1 if v is nearer to it, 2 if v is farther.

    Returns:
        (3, J, J) float32.
    """
    num_joints = 1 + max(max(edge) for edge in edges)
    adjacency = np.eye(num_joints)
    for a, b in edges:
        adjacency[a, b] = adjacency[b, a] = 1
    hops = np.full(num_joints, np.inf)
    hops[root] = 0
    for _ in range(num_joints):  # Bellman-Ford: small graphs
        hops = np.minimum(hops, np.where(adjacency > 0, hops + 1, np.inf).min(axis=1))
    assert np.isfinite(hops).all(), "the graph of a joint group is connected"
    normalised = adjacency / adjacency.sum(axis=0)  # each joint gives away 1 in all
    centripetal, centrifugal = hops[None, :] < hops[:, None], hops[None, :] > hops[:, None]
    partitions = [~centripetal & ~centrifugal, centripetal, centrifugal]
    return np.stack([normalised * chosen for chosen in partitions]).astype(np.float32)


class GraphConv(nn.Module):
    """(N, C, T, J) → (N, D, T, J): every joint gathers its neighbours by partition, then one linear map.

    The adjacency is multiplied by a learned importance of every edge.
    """

    adjacency_KJJ: Tensor

    def __init__(self, dim_in: int, dim_out: int, adjacency_KJJ: np.ndarray) -> None:
        super().__init__()
        self.register_buffer("adjacency_KJJ", torch.from_numpy(adjacency_KJJ), persistent=False)
        self.importance_KJJ = nn.Parameter(torch.ones(adjacency_KJJ.shape))
        self.linear = nn.Linear(PARTITIONS * dim_in, dim_out, bias=False)  # a BatchNorm follows

    def forward(self, x_NCTJ: Tensor) -> Tensor:
        weights_JKJ = (self.adjacency_KJJ * self.importance_KJJ).transpose(0, 1)
        x_NTJC = x_NCTJ.permute(0, 2, 3, 1)  # a view: x is channels-last in memory
        gathered = weights_JKJ.flatten(0, 1) @ x_NTJC  # (N, T, J·K, C)
        return self.linear(gathered.unflatten(2, (-1, PARTITIONS)).flatten(3)).permute(0, 3, 1, 2)


class STGCNBlock(nn.Module):
    """Graph convolution over joints, then a convolution over time, and a shortcut: (N, C, T, J) → (N, D, T, J)."""

    def __init__(self, dim_in: int, dim_out: int, adjacency_KJJ: np.ndarray) -> None:
        super().__init__()
        self.spatial = GraphConv(dim_in, dim_out, adjacency_KJJ)
        self.spatial_norm = nn.BatchNorm2d(dim_out)
        padding = (TEMPORAL_KERNEL // 2, 0)
        self.temporal = nn.Conv2d(dim_out, dim_out, (TEMPORAL_KERNEL, 1), padding=padding, bias=False)
        self.temporal_norm = nn.BatchNorm2d(dim_out)
        self.shortcut: nn.Module = nn.Identity()
        if dim_in != dim_out:
            self.shortcut = nn.Sequential(nn.Conv2d(dim_in, dim_out, 1, bias=False), nn.BatchNorm2d(dim_out))

    def forward(self, x_NCTJ: Tensor) -> Tensor:
        y = F.relu(self.spatial_norm(self.spatial(x_NCTJ)))
        return F.relu(self.temporal_norm(self.temporal(y)) + self.shortcut(x_NCTJ))


def place_hand(hand_BTJC: Tensor, wrist_BTC: Tensor) -> Tensor:
    """A hand's joints with their place about the body beside that about its wrist: (B, T, 21, 3) → (B, T, 21, 5).

    The place is the body's wrist plus the joint's offset, both in units of the body's square; (0, 0) where one of them
    was not found. Views rotate and scale both about the same origins, so the sum is the view of the place.
    """
    found_BTJ1 = (hand_BTJC[..., 2:] > 0) & (wrist_BTC[:, :, None, 2:] > 0)
    place_BTJ2 = hand_BTJC[..., :2] + wrist_BTC[:, :, None, :2]
    return torch.cat([hand_BTJC, place_BTJ2 * found_BTJ1], 3)


class MeanJoint(nn.Linear):
    """(N, T, J, C) → (N, T, width): a linear map of the mean over joints, which does not know which joint is where."""

    def __init__(self, num_joints: int, channels: int, width: int) -> None:
        super().__init__(channels, width)

    def forward(self, x_NTJC: Tensor) -> Tensor:
        return super().forward(x_NTJC.mean(2))


class EachJoint(nn.Module):
    """(N, T, J, C) → (N, T, width): a linear map of all joints side by side.

    Inputs are divided by √J and weights drawn √J times as large. Nothing changes at the start, but a step of SGD then
    changes the output as much as with the mean; without, it is J times as much, and in the demo's pre-training both
    branches stayed apart: k-NN accuracy of RGB 23 and pose 68 % where it is now 67 and 86 (docs/results/joints).
    """

    def __init__(self, num_joints: int, channels: int, width: int) -> None:
        super().__init__()
        self.scale = num_joints**-0.5
        self.map = nn.Linear(num_joints * channels, width)
        with torch.no_grad():
            self.map.weight /= self.scale

    def forward(self, x_NTJC: Tensor) -> Tensor:
        return self.map(x_NTJC.flatten(2) * self.scale)

    def _load_from_state_dict(self, state: dict[str, Any], prefix: str, *rest: Any) -> None:
        if f"{prefix}weight" in state:  # for a day the map was a plain one
            raise UserError(
                "this checkpoint has model.joints=each from before its map got a scale; pre-train and fine-tune again"
            )
        super()._load_from_state_dict(state, prefix, *rest)


JOINTS: dict[str, type[MeanJoint] | type[EachJoint]] = {"mean": MeanJoint, "each": EachJoint}


class GroupEncoder(nn.Module):
    """One joint group: (N, T, J, C) → (N, T, width).

    Four blocks, since a fingertip is four hops from the wrist; of width/8, width/8, width/4 and width/2 channels,
    since the temporal convolutions are nearly all of the cost and grow with the square. Then the joints become one
    vector of `width` by one of `JOINTS`.
    """

    def __init__(self, group: str, width: int, channels: int = 3, joints: str = "mean") -> None:
        super().__init__()
        adjacency = partitioned_adjacency(keypoints.EDGES[group], keypoints.ROOTS[group])
        num_joints = adjacency.shape[-1]
        self.input_norm = nn.BatchNorm1d(channels * num_joints)  # each coordinate of each joint for itself
        dims = (channels, width // 8, width // 8, width // 4, width // 2)
        self.blocks = nn.Sequential(*(STGCNBlock(a, b, adjacency) for a, b in itertools.pairwise(dims)))
        self.linear = JOINTS[joints](num_joints, width // 2, width)

    def forward(self, x_NTJC: Tensor) -> Tensor:
        x = self.input_norm(x_NTJC.flatten(2).flatten(0, 1)).view(x_NTJC.shape)
        return self.linear(self.blocks(x.permute(0, 3, 1, 2)).permute(0, 2, 3, 1))


class AttentionPool(nn.Module):
    """(B, T, P·width) → (B, width): a weighted mean of all parts at all times, one softmax over all of them."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.width = width
        self.score = nn.Linear(width, 1, bias=False)

    def forward(self, x_BTC: Tensor) -> Tensor:
        tokens_BSC = x_BTC.unflatten(2, (-1, self.width)).flatten(1, 2)
        return (self.score(tokens_BSC).softmax(1) * tokens_BSC).sum(1)


class MeanPool(nn.Module):
    """(B, T, P·width) → (B, width): a linear map, then the mean over time."""

    def __init__(self, parts: int, width: int) -> None:
        super().__init__()
        self.linear = nn.Linear(parts * width, width)

    def forward(self, x_BTC: Tensor) -> Tensor:
        return self.linear(x_BTC.mean(1))  # both are linear: the cheaper order


class Stream(nn.Module):
    """The Transformer over the frames of one stream: (B, T, P·width) → (B, width).

    Layer norm first, and no position encoding: order reaches it through the temporal convolutions.
    """

    def __init__(self, parts: int, config: ModelConfig) -> None:
        super().__init__()
        width = parts * config.gcn_width
        layer = nn.TransformerEncoderLayer(
            width,
            config.transformer_heads,
            config.transformer_width,
            config.dropout,
            activation="gelu",
            batch_first=True,
            norm_first=True,
        )
        self.transformer = nn.TransformerEncoder(
            layer, config.transformer_blocks, norm=nn.LayerNorm(width), enable_nested_tensor=False
        )
        attention = config.pool == "attention"
        self.pool = AttentionPool(config.gcn_width) if attention else MeanPool(parts, config.gcn_width)

    def forward(self, x_BTC: Tensor) -> Tensor:
        return self.pool(self.transformer(x_BTC))


class PoseEncoder(nn.Module):
    """Poses (B, T, 75, 3) float → features (B, dim), dim = gcn_width a stream: the manual and the non-manual stream.

    By the paper a hand is seen about its own wrist, a joint comes with its confidence, and face and mouth are a stream
    of their own. `hands`, `confidence`, `joints` and `streams` of the config change that; views stay as they are.
    `hide_face` zeroes face and mouth of some clips in training, as where none was found.

    Raises:
        UserError: `gcn_width` that eight or the number of heads does not divide.
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        width, heads = config.gcn_width, config.transformer_heads
        self.parts = {name: STREAMS[name] for name in config.streams}
        widths = [len(parts) * width for parts in self.parts.values()]
        if width % 8 or any(one % heads for one in widths):
            raise UserError(
                f"model.gcn_width is {width}; it must be a multiple of 8, and {heads} heads "
                f"(model.transformer_heads) must divide {' and '.join(map(str, widths))}"
            )
        self.dim = len(self.parts) * width
        self.placed = config.hands == "placed"
        self.found_only = config.confidence == "found"
        self.hide_face = config.hide_face
        used = [part for parts in self.parts.values() for part in parts]
        groups: dict[str, nn.Module] = {}
        if "left_hand" in used:
            groups["hand"] = GroupEncoder("left_hand", width, 5 if self.placed else 3, config.joints)
        groups |= {
            name: GroupEncoder(name, width, joints=config.joints) for name in ("body", "face", "mouth") if name in used
        }
        self.groups = nn.ModuleDict(groups)
        self.streams = nn.ModuleDict({name: Stream(len(parts), config) for name, parts in self.parts.items()})

    def forward(self, pose_BTJC: Tensor) -> Tensor:
        if self.found_only:
            pose_BTJC = torch.cat([pose_BTJC[..., :2], (pose_BTJC[..., 2:] > 0).to(pose_BTJC.dtype)], 3)
        if self.training and self.hide_face:
            shown_B = torch.rand(len(pose_BTJC), device=pose_BTJC.device) >= self.hide_face
            hidden_BTJC = pose_BTJC[:, :, FACE] * shown_B[:, None, None, None]
            pose_BTJC = torch.cat([pose_BTJC[:, :, : FACE.start], hidden_BTJC], 2)
        joints = {group: pose_BTJC[:, :, where] for group, where in keypoints.SLICES.items()}
        parts: dict[str, Tensor] = {}
        if "hand" in self.groups:
            hands = joints["left_hand"], joints["right_hand"]
            if self.placed:
                body_BTJC = joints["body"]
                wrists = body_BTJC[:, :, keypoints.LEFT_WRIST], body_BTJC[:, :, keypoints.RIGHT_WRIST]
                hands = place_hand(hands[0], wrists[0]), place_hand(hands[1], wrists[1])
            parts |= dict(zip(("left_hand", "right_hand"), self.groups["hand"](torch.cat(hands)).unflatten(0, (2, -1))))
        parts |= {name: encoder(joints[name]) for name, encoder in self.groups.items() if name != "hand"}
        streams = [
            stream(torch.cat([parts[part] for part in self.parts[name]], 2)) for name, stream in self.streams.items()
        ]
        return torch.cat(streams, 1)

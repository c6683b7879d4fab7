"""The graph of a branch, or of both, written for another runtime; and what that runtime makes of views.

ONNX goes by `torch.export` and onnxscript (`torch.onnx.export(dynamo=True)`): the exporter by TorchScript is
deprecated, and only this one keeps the batch dynamic by a proof instead of by what one example did.
"""

from __future__ import annotations

import logging
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from cclslr.errors import UserError
from cclslr.inference.model import Model
from cclslr.keypoints import NUM_JOINTS

BRANCHES = ("rgb", "pose", "fused")
OPSET = 18
Run = Callable[[dict[str, np.ndarray]], dict[str, np.ndarray]]  # views by modality → outputs (B, …) by name


class Graph(nn.Module):
    """Views → g, f and logits as a tuple, in the order of `outputs`.

    Attributes:
        inputs: "rgb" uint8 (B, T, H, W, 3), "pose" float32 (B, T, 75, 3); of a fused graph both, in this order.
        outputs: as `Model.forward` names them.
    """

    def __init__(self, model: Model, branch: str) -> None:
        super().__init__()
        self.network = model.network
        self.inputs = [m for m in model.modalities if branch in (m, "fused")]
        self._forward = model.forward
        self.example = {m: example(model, m, 2) for m in self.inputs}
        with torch.inference_mode():
            self.outputs = list(self._forward(self.example))

    def forward(self, *views: Tensor) -> tuple[Tensor, ...]:
        by_modality = {m: x.float() for m, x in zip(self.inputs, views)}  # uint8 has no arithmetic in ONNX
        return tuple(self._forward(by_modality).values())


def example(model: Model, modality: str, clips: int, seed: int = 0) -> Tensor:
    """Random views of the right shape and type."""
    views, random = model.config.views, np.random.default_rng(seed)
    if modality == "rgb":
        shape = (clips, views.rgb_frames, views.size, views.size, 3)
        return torch.from_numpy(random.integers(0, 256, shape, np.uint8))
    pose = random.uniform(-1, 1, (clips, views.pose_frames, NUM_JOINTS, 3)).astype(np.float32)
    pose[..., 2] = abs(pose[..., 2])
    return torch.from_numpy(pose)


def branches(model: Model) -> list[str]:
    """What can be exported of a model."""
    return [branch for branch in BRANCHES if branch in model.modalities or len(model.modalities) > 1]


@contextmanager
def quiet() -> Iterator[None]:
    """Exporters speak of their own insides; and no fused attention, which no other runtime has."""
    fast = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings(), torch.no_grad():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)
        torch.backends.mha.set_fastpath_enabled(fast)


def write_onnx(graph: Graph, path: Path) -> None:
    """Write one .onnx file, with a batch of any size.

    Raises:
        UserError: the packages of the extra are not installed.
    """
    need("onnx", "onnxscript", "onnxruntime")
    batch = torch.export.Dim("batch", min=1)
    with quiet():
        # Traced first: given the module, torch.onnx.export fixes a batch that it cannot keep dynamic, and says nothing.
        shapes = (tuple({0: batch} for _ in graph.inputs),)
        program = torch.export.export(graph, tuple(graph.example.values()), dynamic_shapes=shapes, strict=False)
        torch.onnx.export(
            program,
            (),
            path,
            input_names=graph.inputs,
            output_names=graph.outputs,
            opset_version=OPSET,
            dynamo=True,
            external_data=False,
            verbose=False,
        )


def cut_onnx(whole: Path, path: Path, graph: Graph) -> None:
    """Write the part of a fused .onnx file that `graph` is: the same numbers, without tracing again."""
    import onnx.utils

    model = onnx.load(whole)
    foreign = {each.name for each in model.graph.input} - set(graph.inputs)
    for node in model.graph.node:
        if node.op_type == "Shape" and node.input[0] in foreign:  # asks how many clips there are
            node.input[0] = graph.inputs[0]
    part = onnx.utils.Extractor(model).extract_model(graph.inputs, graph.outputs)
    onnx.checker.check_model(part)
    onnx.save(part, path)


def write_torchscript(graph: Graph, path: Path) -> None:
    """Write a traced module; its forward takes the inputs in order and gives the tuple of outputs."""
    with quiet():
        traced = torch.jit.trace(graph.eval(), tuple(graph.example.values()), check_trace=False)
        torch.jit.save(torch.jit.freeze(traced), str(path))  # weights of the other branch are left out


def open_onnx(path: Path, threads: int = 1) -> Run:
    """The .onnx file in ONNX Runtime on the CPU."""
    need("onnxruntime")
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    inputs = [each.name for each in session.get_inputs()]
    outputs = [each.name for each in session.get_outputs()]
    return lambda views: dict(zip(outputs, session.run(outputs, {name: views[name] for name in inputs})))


def open_torchscript(path: Path, graph: Graph) -> Run:
    """The traced module, with the names that its graph has."""
    module = torch.jit.load(str(path))

    def run(views: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        with torch.inference_mode():
            found = module(*(torch.from_numpy(views[name]) for name in graph.inputs))
        return {name: x.numpy() for name, x in zip(graph.outputs, found)}

    return run


@dataclass(frozen=True)
class Format:
    """A kind of graph file."""

    suffix: str
    write: Callable[[Graph, Path], None]
    open: Callable[[Path, Graph], Run]


FORMATS: dict[str, Format] = {
    "onnx": Format(".onnx", write_onnx, lambda path, graph: open_onnx(path)),
    "torchscript": Format(".torchscript.pt", write_torchscript, open_torchscript),
}


def need(*packages: str) -> None:
    for name in packages:
        try:
            __import__(name)
        except ImportError as error:
            raise UserError(f"{name} is not installed: pip install -c constraints.txt 'cclslr[export]'") from error


def numpy_views(views: dict[str, Any]) -> dict[str, np.ndarray]:
    """Tensors as a runtime takes them."""
    return {name: np.ascontiguousarray(x.cpu().numpy()) for name, x in views.items()}

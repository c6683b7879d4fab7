"""The pose branch with weights of fewer bits: ONNX files that are smaller, and faster where the processor has the sums.

Most of the weights are factors of matrix products, most of the time goes into convolutions over time. So those become
matrix products, too, of nine shifted copies of their input, and all products are done in 8 bits.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from cclslr.export.graphs import need, quiet

BLOCK = 128  # weights of a column that share a scale in 4 bits


@dataclass(frozen=True)
class Precision:
    """A way to write the pose branch: an entry of the table."""

    meaning: str
    write: Callable[[Path, Path], None]  # from the float32 file to another


def write_int8(source: Path, path: Path) -> None:
    """Weights of the matrix products in 8 bits, one scale a column; activations are scaled as they come."""
    need("onnx", "onnxruntime")
    from onnxruntime.quantization import QuantType, quantize_dynamic
    from onnxruntime.quantization.shape_inference import quant_pre_process

    with quiet(), tempfile.TemporaryDirectory() as folder:
        prepared = Path(folder) / "prepared.onnx"
        quant_pre_process(source, prepared, skip_symbolic_shape=True)
        _convolutions_as_products(prepared)
        quantize_dynamic(prepared, path, op_types_to_quantize=["MatMul"], per_channel=True, weight_type=QuantType.QInt8)


def write_int4(source: Path, path: Path) -> None:
    """Stored in 4 bits, one scale a `BLOCK` of a column; the runtime makes the 8 bits of `write_int8` when it loads."""
    import onnx

    write_int8(source, path)
    model = onnx.load(path)
    weights = {each.name: each for each in model.graph.initializer}
    for name in sorted({node.input[1] for node in model.graph.node if node.op_type == "MatMulInteger"} & set(weights)):
        w_KN = onnx.numpy_helper.to_array(weights[name])
        model.graph.initializer.remove(weights[name])
        _store_in_4_bits(model.graph, name, w_KN)
    onnx.checker.check_model(model)
    onnx.save(model, path)


PRECISIONS = {
    "int8": Precision("weights and matrix products in 8 bits", write_int8),
    "int4": Precision("weights kept in 4 bits, matrix products in 8", write_int4),
}


def quantised(name: str) -> Precision | None:
    """What a file of an exported folder is, by its name; None: no file of this kind."""
    return next((each for key, each in PRECISIONS.items() if name == f"pose_{key}.onnx"), None)


def _convolutions_as_products(path: Path) -> None:
    """Write each convolution over time (k, 1) of a file as one product in 8 bits, of k shifted inputs side by side."""
    import onnx
    from onnx import numpy_helper

    model = onnx.load(path)
    graph = model.graph
    weights = {each.name: each for each in graph.initializer}
    nodes = []
    for node in graph.node:
        told = {each.name: onnx.helper.get_attribute_value(each) for each in node.attribute}
        if node.op_type == "Conv" and told["kernel_shape"][0] > 1 and told["kernel_shape"][1] == 1:
            w_OCK = numpy_helper.to_array(weights[node.input[1]])[..., 0]
            nodes += _product(graph, node, w_OCK, told)
            graph.initializer.remove(weights[node.input[1]])
        else:
            nodes.append(node)
    del graph.node[:]
    graph.node.extend(nodes)
    onnx.checker.check_model(model)
    onnx.save(model, path)


def _product(graph: Any, node: Any, w_OCK: np.ndarray, told: dict[str, Any]) -> list[Any]:
    """The nodes that take the place of a convolution of (B, C, T, J) with `w_OCK` over T.

    The input is brought to 8 bits before it is copied, so that the copies are small.
    """
    from onnx import TensorProto
    from onnx.helper import make_node

    taps, stride = w_OCK.shape[2], told["strides"][0]
    before, after = told["pads"][0], told["pads"][2]
    (source, _, *bias), (out,) = node.input, node.output
    at = _Names(graph, out)
    constant = at.constant
    w_FO = np.ascontiguousarray(w_OCK.transpose(2, 1, 0)).reshape(-1, len(w_OCK))
    scale_O = np.maximum(abs(w_FO).max(0) / 127, 1e-12)
    axis, step = constant("axis", [1]), constant("step", [stride])
    weight = constant("weight", np.rint(w_FO / scale_O).astype(np.int8))
    nodes = [
        make_node("Transpose", [source], [at("BTJC")], perm=[0, 2, 3, 1]),
        make_node("Pad", [at("BTJC"), constant("pads", [0, before, 0, 0, 0, after, 0, 0])], [at("padded")]),
        make_node("DynamicQuantizeLinear", [at("padded")], [at("bytes"), at("scale"), at("zero")]),
    ]
    for k in range(taps):
        end = k - taps + 1 or np.iinfo(np.int64).max
        ends = constant(f"begin{k}", [k]), constant(f"end{k}", [end])
        nodes.append(make_node("Slice", [at("bytes"), *ends, axis, step], [at(f"tap{k}")]))
    nodes += [
        make_node("Concat", [at(f"tap{k}") for k in range(taps)], [at("taps")], axis=3),
        make_node("MatMulInteger", [at("taps"), weight, at("zero")], [at("integers")]),
        make_node("Cast", [at("integers")], [at("floats")], to=TensorProto.FLOAT),
        make_node("Mul", [at("scale"), constant("weight_scale", scale_O.astype(np.float32))], [at("scales")]),
        make_node("Mul", [at("floats"), at("scales")], [at("product")]),
    ]
    last = at("product")
    if bias:
        last = at("sum")
        nodes.append(make_node("Add", [at("product"), *bias], [last]))
    return [*nodes, make_node("Transpose", [last], [out], perm=[0, 3, 1, 2])]


def _store_in_4_bits(graph: Any, name: str, w_KN: np.ndarray) -> None:
    """Put nodes of constants before a graph, which make the int8 weights `name` out of nibbles and scales.

    Two halves of the rows lie in one byte each; a runtime folds all of it into one constant as it loads.
    """
    from onnx import TensorProto
    from onnx.helper import make_node

    rows, columns = w_KN.shape
    block = min(BLOCK, rows + rows % 2)
    blocks = -(-rows // block)
    padded_GKN = np.zeros((blocks, block, columns), np.float32)
    padded_GKN.reshape(-1, columns)[:rows] = w_KN
    scale_G1N = np.maximum(abs(padded_GKN).max(1, keepdims=True) / 7, 1e-3).astype(np.float16)
    q_KN = np.clip(np.rint(padded_GKN / scale_G1N.astype(np.float32)), -7, 7).reshape(-1, columns) + 8
    low, high = np.split(q_KN.astype(np.uint8), 2)

    at = _Names(graph, name)
    constant = at.constant
    packed, four = constant("packed", low | high << 4), constant("four", np.uint8(4))
    nodes = [
        make_node("BitwiseAnd", [packed, constant("mask", np.uint8(15))], [at("low")]),
        make_node("BitShift", [packed, four], [at("high")], direction="RIGHT"),
        make_node("Concat", [at("low"), at("high")], [at("nibbles")], axis=0),
        make_node("Cast", [at("nibbles")], [at("float")], to=TensorProto.FLOAT),
        make_node("Sub", [at("float"), constant("eight", np.float32(8))], [at("signed")]),
        make_node("Reshape", [at("signed"), constant("blocks", [blocks, block, columns])], [at("blocked")]),
        make_node("Cast", [constant("scale", scale_G1N)], [at("scales")], to=TensorProto.FLOAT),
        make_node("Mul", [at("blocked"), at("scales")], [at("scaled")]),
        make_node("Reshape", [at("scaled"), constant("shape", [blocks * block, columns])], [at("padded")]),
        make_node("Slice", [at("padded"), constant("first", [0]), constant("rows", [rows])], [at("whole")]),
        make_node("Round", [at("whole")], [at("rounded")]),
        make_node("Clip", [at("rounded"), constant("least", np.float32(-127)), constant("most", np.float32(127))],
                  [at("clipped")]),
        make_node("Cast", [at("clipped")], [name], to=TensorProto.INT8),
    ]  # fmt: skip
    for node in reversed(nodes):
        graph.node.insert(0, node)


@dataclass(frozen=True)
class _Names:
    """Names for the parts of one thing in a graph."""

    graph: Any
    of: str

    def __call__(self, what: str) -> str:
        """The name of what a node gives."""
        return f"{self.of}.{what}"

    def constant(self, what: str, values: Any) -> str:
        """Add an initializer; its name."""
        from onnx import numpy_helper

        self.graph.initializer.append(numpy_helper.from_array(np.asarray(values), self(what)))
        return self(what)

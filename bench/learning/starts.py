"""Where training starts: a teacher grown by some scheme, or a baseline, which has the grown architecture but not its function."""

from __future__ import annotations

from math import log2, prod, sqrt
from typing import Any

import numpy as np
from onnx import GraphProto, NodeProto, numpy_helper

import onnx_grow as og

Array = np.ndarray[Any, Any]
Values = dict[str, Array]
Reader = tuple[NodeProto, int]


def grown(teacher: og.Model, growth: str, scheme: str, samples: Array, seed: int) -> og.Model:
    """The teacher grown by a scheme, that of widening and of deepening being separated by " + "; "default" is onnx-grow's own."""
    schemes = scheme.split(" + ")
    model = teacher
    if not growth.startswith("deeper"):
        factor = float(growth.partition(" x")[2] or 2)
        model = og.widen(model, factor=factor, seed=seed, **_scheme(schemes[0]))
    if growth == "both" or growth.startswith("deeper"):
        identities = schemes[-1] in ("default", "identity")  # the others have no use for samples
        calibration = {"calibration": {"input": samples}} if identities else {}
        model = og.deepen(model, every=1, seed=seed, **calibration, **_scheme(schemes[-1]))
    return model


def _scheme(name: str) -> dict[str, Any]:
    return {} if name == "default" else {"scheme": name}


def shrunk(model: og.Model) -> og.Model:
    """The same function, to the last bit, with convolutions before BatchNormalization at about the scale of He initialisation.

    Each is multiplied by a power of two c, as are the mean behind it and, by its square, variance and epsilon, so that neither the running
    statistics nor those of a batch tell the difference. What training has let grow then learns as fast as what is new: under a norm
    the gradient of a weight goes as the inverse of its scale.
    """
    proto = model.to_proto()
    tensors = {tensor.name: tensor for tensor in proto.graph.initializer}
    writers = {name: node for node in proto.graph.node for name in node.output}
    for norm in proto.graph.node:
        layer = writers.get(norm.input[0])
        if norm.op_type != "BatchNormalization" or layer is None or layer.op_type != "Conv":
            continue
        kernel = numpy_helper.to_array(tensors[layer.input[1]])
        scale = sqrt(2.0 / kernel[0].size) / float(np.sqrt(np.mean(kernel**2)))
        factor = 2.0 ** round(log2(scale))
        for name, power in (*((name, 1) for name in (*layer.input[1:], norm.input[3])), (norm.input[4], 2)):
            value = numpy_helper.to_array(tensors[name]) * np.float32(factor**power)
            tensors[name].CopyFrom(numpy_helper.from_array(value, name))
        for attribute in norm.attribute:
            if attribute.name == "epsilon":
                attribute.f *= factor**2
    return og.load(proto.SerializeToString())


def initial(model: og.Model, seed: int) -> Values:
    """He initialisation: variance 2 / fan-in before an activation, 1 / fan-in elsewhere; norms are 1 and 0, biases 0, tables 1/2.

    Kaiming He et al., arXiv 1502.01852. Returns values by the names of the weights; what is no weight is not among them.
    """
    graph = model.to_proto().graph
    readers = _readers(graph)
    values: Values = {}
    for k, tensor in enumerate(sorted(graph.initializer, key=lambda tensor: tensor.name)):
        old = numpy_helper.to_array(tensor)
        deviation = _deviation(old, readers.get(tensor.name, []), readers)
        if old.dtype == np.float32 and deviation is not None:
            mean, spread = deviation
            drawn = np.random.default_rng([seed, k]).standard_normal(old.shape)
            values[tensor.name] = (mean + spread * drawn).astype(np.float32)
    return values


def random_pad(teacher: og.Model, model: og.Model, seed: int) -> Values:
    """The paper's baseline for wider networks: the teacher's weights in the corner of the wider ones, He initialisation around them."""
    values = initial(model, seed)
    for name, old in weights(teacher).items():
        if name in values:
            values[name][tuple(slice(n) for n in old.shape)] = old
    return values


def random_layers(teacher: og.Model, model: og.Model, seed: int) -> Values:
    """The paper's baseline for deeper networks: the teacher's layers as they are, He initialisation of the new ones."""
    old = weights(teacher)
    return {name: value for name, value in initial(model, seed).items() if name not in old}


def weights(model: og.Model) -> Values:
    return {tensor.name: numpy_helper.to_array(tensor) for tensor in model.to_proto().graph.initializer}


def _readers(graph: GraphProto) -> dict[str, list[Reader]]:
    readers: dict[str, list[Reader]] = {}
    for node in graph.node:
        for k, name in enumerate(node.input):
            readers.setdefault(name, []).append((node, k))
    return readers


def _deviation(
    value: Array, reading: list[Reader], readers: dict[str, list[Reader]]
) -> tuple[float, float] | None:
    """Mean and standard deviation of what is drawn for a weight, by the operator that reads it."""
    for node, k in reading:
        match node.op_type, k:
            case "Transpose" | "Identity", 0:
                return _deviation(value.T, readers[node.output[0]], readers)
            case "Conv", 1:
                return 0.0, _he(prod(value.shape[1:]), node, readers)
            case "Gemm", 1:
                by_rows = any(a.name == "transB" and a.i for a in node.attribute)
                return 0.0, _he(value.shape[1 if by_rows else 0], node, readers)
            case "MatMul", 1:
                return 0.0, _he(value.shape[0], node, readers)
            case "Gather", 0:
                return 0.0, sqrt(0.5)
            case "BatchNormalization", 1 | 4:
                return 1.0, 0.0
            case "LayerNormalization", 1:
                return 1.0, 0.0
            case ("BatchNormalization", 2 | 3) | ("LayerNormalization", 2) | ("Conv" | "Gemm", 2):
                return 0.0, 0.0
            case "Add", _ if value.ndim == 1:
                return 0.0, 0.0
    return None


def _he(fan_in: int, node: NodeProto, readers: dict[str, list[Reader]]) -> float:
    return sqrt((2.0 if _is_activated(node.output[0], readers) else 1.0) / fan_in)


def _is_activated(name: str, readers: dict[str, list[Reader]]) -> bool:
    """Whether an activation reads a tensor, perhaps through a norm or the addition of a bias."""
    for node, _ in readers.get(name, []):
        if node.op_type in ("Relu", "Erf", "Tanh"):
            return True
        if node.op_type in ("BatchNormalization", "Add", "Div") and _is_activated(node.output[0], readers):
            return node.op_type != "Add" or len(readers.get(name, [])) == 1
    return False

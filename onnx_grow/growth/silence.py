"""Which weights make the end of a branch zero: the last linear layer with its bias, and every bias behind it."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable

from onnx_grow.growth.dataflow import Dataflow, attribute, operator
from onnx_grow.shapes import Shapes

__all__ = ["has_weights", "silence"]

_LINEAR = frozenset(
    {
        *("Conv", "ConvTranspose", "Einsum", "GRU", "Gemm", "LSTM", "MatMul", "RNN"),
        *("ConvInteger", "MatMulInteger", "QLinearConv", "QLinearMatMul", "com.microsoft.QGemm"),
        *("com.microsoft.Attention", "com.microsoft.FusedConv", "com.microsoft.FusedGemm"),
        *("com.microsoft.FusedMatMul", "com.microsoft.MatMulNBits", "com.microsoft.QAttention"),
    }
)
"""Operators with weights; a branch must have one to be worth a copy."""


def has_weights(flow: Dataflow, shapes: Shapes, index: int) -> bool:
    """Whether a node is a linear layer, or a recurrent one, that trains a weight."""
    node = flow.nodes[index]
    return operator(node) in _LINEAR and any(
        name in flow.constants and math.prod(shapes.shape.get(name, ())) > 1 for name in node.input
    )


def silence(
    flow: Dataflow, shapes: Shapes, nodes: Iterable[int], source: str, end: str
) -> frozenset[str] | None:
    """The stored tensors that must be zero for the nodes to compute an `end` that is zero, None if there are none such.

    One pass over the nodes, in order: a linear layer is silent if its weight and bias are, shape operators and activations with phi(0) = 0
    pass silence on, a sum needs it of all its terms, a product of one. A norm behind the last linear layer is silent if its scale and
    shift are: zeros in front of it would be divided by sqrt(epsilon) in the gradient, and a normalised step of any size is as large as
    any other. A rectifier does not count, because its gradient at zero is zero and the copy would never learn; nor does a
    weight that the branch uses twice, because with both uses zero neither gets a gradient.
    """
    silent: dict[str, frozenset[str]] = {}
    uses: Counter[str | None] = Counter()
    for index in nodes:
        node = flow.nodes[index]
        uses.update(flow.root(name) for name in node.input if name in flow.constants)
        found = _silent(flow, shapes, index, silent)
        if found is not None:
            silent.update((name, found) for name in node.output[: None if node.op_type == "Split" else 1])
    zeroed = silent.get(end)
    if zeroed is None or any(uses[name] > 1 for name in zeroed):
        return None
    return zeroed


_AFFINE = frozenset(
    {
        *("BatchNormalization", "GroupNormalization", "InstanceNormalization"),
        *("LayerNormalization", "RMSNormalization", "SimplifiedLayerNormalization"),
        *("com.microsoft.GroupNorm", "com.microsoft.SimplifiedLayerNormalization"),
    }
)

_PASSING = frozenset(
    {
        *(
            "AveragePool",
            "Cast",
            "Celu",
            "DepthToSpace",
            "Dropout",
            "Elu",
            "Erf",
            "Expand",
            "Flatten",
            "Gather",
        ),
        *(
            "Gelu",
            "GlobalAveragePool",
            "HardSwish",
            "Identity",
            "LeakyRelu",
            "Mish",
            "Neg",
            "PRelu",
            "ReduceMean",
        ),
        *(
            "ReduceSum",
            "Reshape",
            "Resize",
            "Selu",
            "Sin",
            "Slice",
            "Softsign",
            "SpaceToDepth",
            "Split",
            "Squeeze",
        ),
        *("Swish", "Tanh", "Tile", "Transpose", "Unsqueeze", "Upsample"),
        *("com.microsoft.FastGelu", "com.microsoft.Gelu", "com.microsoft.QuickGelu"),
    }
)
"""Zero in, zero out, and a gradient at zero."""


def _silent(
    flow: Dataflow, shapes: Shapes, index: int, silent: dict[str, frozenset[str]]
) -> frozenset[str] | None:
    node = flow.nodes[index]
    name = operator(node)
    inputs = [entry for entry in node.input if entry]
    constant = [entry in flow.constants for entry in inputs]
    if name in ("Conv", "ConvTranspose", "Einsum", "Gemm", "MatMul") and any(constant[:2]):
        return _layer(flow, node.input, silent)
    if name in _AFFINE:
        return _roots(flow, inputs[1:3])
    if name in ("Add", "Sub", "Sum", "Concat"):
        return _all(flow, inputs, silent, biases=name != "Concat")
    if name in ("Mul", "MatMul", "Einsum"):
        return _product(flow, inputs, silent)
    if name == "Div" and constant[1]:
        return silent.get(inputs[0])
    if name == "Resize" and attribute(node, "extrapolation_value", 0.0):
        return None
    if name in _PASSING or (name == "Pad" and _pads_zeros(flow, shapes, index)):
        return silent.get(inputs[0])
    return None


def _layer(flow: Dataflow, inputs: Iterable[str], silent: dict[str, frozenset[str]]) -> frozenset[str] | None:
    """Weight and bias of a linear layer; a Gemm may add an activation, which has to be silent itself."""
    parameters = [name for name in inputs if name in flow.constants]
    added = [name for name in list(inputs)[2:] if name and name not in flow.constants]
    found = _roots(flow, parameters)
    if found is None or not parameters or any(name not in silent for name in added):
        return None
    return found.union(*(silent[name] for name in added))


def _all(
    flow: Dataflow, inputs: list[str], silent: dict[str, frozenset[str]], *, biases: bool
) -> frozenset[str] | None:
    """What silences every term; constants among them are biases, unless they are single numbers (the 1 in 1 + erf(x))."""
    terms = [name for name in inputs if name not in flow.constants]
    shifts = _roots(flow, (name for name in inputs if name in flow.constants))
    if shifts is None or any(not biases or flow.elements(name) < 2 for name in shifts):
        return None
    if any(name not in silent for name in terms):
        return None
    return shifts.union(*(silent[name] for name in terms))


def _product(flow: Dataflow, inputs: list[str], silent: dict[str, frozenset[str]]) -> frozenset[str] | None:
    """What silences one factor; a constant one (layer scale) if it is zero already, or else nothing before it can be."""
    roots = [root for name in inputs if name in flow.constants and (root := flow.root(name))]
    for root in roots:
        if _is_zero(flow, root):  # a second zero in the same product would leave neither a gradient
            return frozenset((root,))
    for name in inputs:
        if name in silent:
            return silent[name]
    return frozenset(roots) if roots and flow.elements(roots[0]) > 1 else None


def _is_zero(flow: Dataflow, root: str) -> bool:
    weight = flow.stored(root) if 0 < flow.elements(root) <= _SCALE else None
    return weight is not None and not weight.array().any()


_SCALE = 1 << 16
"""Elements that a layer scale may have."""


def _roots(flow: Dataflow, names: Iterable[str]) -> frozenset[str] | None:
    """The stored tensors that constants are, None if one is computed in another way."""
    roots = [flow.root(name) for name in names]
    return None if None in roots else frozenset(root for root in roots if root)


def _pads_zeros(flow: Dataflow, shapes: Shapes, index: int) -> bool:
    node = flow.nodes[index]
    if attribute(node, "mode", b"constant") != b"constant":
        return True
    value = node.input[2] if len(node.input) > 2 else ""
    if value:
        return value in shapes.value and not shapes.value[value].any()
    return not attribute(node, "value", 0.0)

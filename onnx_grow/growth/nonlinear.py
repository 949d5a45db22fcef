"""New layers with an activation phi of their own, which compute nothing at first.

    residual-new:  x + W2 phi(W1 x + b1) + b2,          W2 = b1 = b2 = 0, W1 drawn     (ResNet's branch; zero last: Goyal et al.,
                                                                                   arXiv 1706.02677)
    parametric:    a x + (1 - a) phi(W x + b),          W = I, b = 0, a = 1            (Wei et al., Network Morphism,
                                                                                   arXiv 1603.01670, section 3.4)

Both are x to the last bit wherever phi is finite, also an x that is stored in integers and rounded to them again. In the first, the
gradient reaches W2 at once, and W1 when W2 has moved; in the second, a at once, and W when a has moved. Where phi(phi(v)) = phi(v) the
second would never learn: a gets x - phi(x) = 0.
"""

from __future__ import annotations

from zlib import crc32

import numpy as np
from onnx import NodeProto, helper, numpy_helper

from onnx_grow.errors import InvalidRequestError
from onnx_grow.growth.dataflow import Dataflow, operator
from onnx_grow.growth.deepen_plan import Linear, NewBranchLayer, ParametricLayer
from onnx_grow.growth.initial import Drawn, IdentityKernel, Zeros
from onnx_grow.growth.insertion import Insertion
from onnx_grow.growth.linear import convolution, redone, undone
from onnx_grow.model import Draft, Inline, Weight

__all__ = ["insert_new_branch", "insert_parametric", "is_averaged", "operands"]

_WITH_BIAS = frozenset({"com.microsoft.FastGelu"})
"""Activations that may add a bias to their argument; a new layer has its own."""


def insert_new_branch(draft: Draft, flow: Dataflow, layer: NewBranchLayer, prefix: str) -> None:
    """Insert x + W2 phi(W1 x + b1) + b2. Raises InvalidRequestError if the layer was planned for another model."""
    site = _Site(draft, flow, layer, prefix)
    linear = layer.linear
    seed = (layer.seed, crc32(layer.output.encode()))
    drawn = Drawn(linear.dtype, _shape(linear, linear.channels, layer.hidden), layer.deviation, seed)
    zeros = Zeros(linear.dtype, _shape(linear, layer.hidden, linear.channels))
    insertion, start = site.insertion, site.insertion.start
    if layer.steps:
        start = insertion.add("DequantizeLinear", [start, *layer.steps])
    tensor = undone(insertion, site.layout, start)
    tensor = site.applied("hidden", drawn, layer.hidden, tensor)
    tensor = site.activated(tensor)
    tensor = site.applied("output", zeros, linear.channels, tensor)
    tensor = insertion.add("Add", [start, redone(insertion, site.layout, tensor)])
    insertion.close(insertion.add("QuantizeLinear", [tensor, *layer.steps]) if layer.steps else tensor)


def insert_parametric(draft: Draft, flow: Dataflow, layer: ParametricLayer, prefix: str) -> None:
    """Insert a x + (1 - a) phi(W x + b). Raises InvalidRequestError if the layer was planned for another model."""
    site = _Site(draft, flow, layer, prefix)
    insertion, linear = site.insertion, layer.linear
    identity = IdentityKernel(linear.dtype, linear.channels, linear.kernel, linear.groups)
    tensor = undone(insertion, site.layout, insertion.start)
    tensor = site.applied("own", identity, linear.channels, tensor)
    tensor = site.activated(redone(insertion, site.layout, tensor))
    ones = np.ones(layer.gate, helper.tensor_dtype_to_np_dtype(linear.dtype))
    kept = insertion.weight("kept", Inline.of(ones))
    one = insertion.add("Constant", [], value=numpy_helper.from_array(ones.reshape(-1)[:1]))
    new = insertion.add("Mul", [insertion.add("Sub", [one, kept]), tensor])
    old = insertion.add("Mul", [kept, insertion.start])
    insertion.close(insertion.add("Add", [old, new]))


def operands(node: NodeProto) -> list[str]:
    """What an activation's node reads in a copy: all that it does read, but for a bias."""
    names = list(node.input)
    return names[:1] if operator(node) in _WITH_BIAS else names


def is_averaged(flow: Dataflow, name: str) -> bool:
    """Whether a constant of an activation becomes the mean of its values in a copy: where it is stored, and no single number."""
    root = flow.root(name)
    kind = flow.kind(root) if root else None
    return kind is not None and not (root == name and kind[1] in ((), (1,)))


def _shape(linear: Linear, inputs: int, outputs: int) -> tuple[int, ...]:
    """The shape of a weight between so many channels."""
    if linear.operator == "Conv":
        return (outputs, inputs // linear.groups, *linear.kernel)
    return (outputs, inputs) if linear.is_left else (inputs, outputs)


class _Site:
    """The place of one new layer: its insertion, and the nodes of the model that it repeats."""

    def __init__(
        self, draft: Draft, flow: Dataflow, layer: NewBranchLayer | ParametricLayer, prefix: str
    ) -> None:
        self._linear = layer.linear
        self._function = layer.function
        self._flow = flow
        found = [flow.producer(name) for name in (*layer.linear.layout, *layer.function.nodes, layer.output)]
        nodes = [flow.nodes[index] for index in found if index is not None]
        inputs = {name for node in nodes for name in node.input}
        if len(nodes) < len(found) or (layer.function.nodes and layer.function.argument not in inputs):
            raise InvalidRequestError(
                f"the plan inserts a layer behind {layer.name!r} that does not fit this model",
                hint="a plan replays on the file that it was made for",
            )
        self.layout: list[NodeProto] = nodes[: len(layer.linear.layout)]
        self._phi = nodes[len(layer.linear.layout) : -1]
        self.insertion = Insertion(draft, flow, layer.output, prefix)

    def applied(self, name: str, weight: Weight, outputs: int, tensor: str) -> str:
        """What a linear map with a bias of zero makes of a tensor."""
        linear, insertion = self._linear, self.insertion
        kernel = insertion.weight(f"{name}.weight", weight)
        shape = (outputs, 1) if linear.is_left else (outputs,)
        bias = insertion.weight(f"{name}.bias", Zeros(linear.dtype, shape))
        if linear.operator == "Conv":
            return convolution(insertion, tensor, kernel, bias, linear.kernel, linear.groups)
        if linear.operator == "Gemm":
            return insertion.add("Gemm", [tensor, kernel, bias])
        product = insertion.add("MatMul", [kernel, tensor] if linear.is_left else [tensor, kernel])
        return insertion.add("Add", [product, bias])

    def activated(self, tensor: str) -> str:
        """Phi of a tensor of any number of channels: parameters per channel become one of their mean."""
        if not self._phi:
            return self.insertion.add(self._function.operator, [tensor])
        names = {self._function.argument: tensor}
        for node in self._phi:
            for name in operands(node):
                if name in self._flow.constants and name not in names:
                    names[name] = self._parameter(name)
            inputs = [names.get(name, name) for name in operands(node)]
            copied = self.insertion.copy(node, inputs, node.op_type, node.output)
            names.update(zip(filter(None, node.output), filter(None, copied), strict=True))
        return names[self._phi[-1].output[0]]

    def _parameter(self, name: str) -> str:
        root = self._flow.root(name)
        weight = self._flow.stored(root) if root and is_averaged(self._flow, name) else None
        if weight is None:
            return name
        dtype = weight.dtype if root == name else self._linear.dtype  # behind a Cast it is another
        mean = np.mean(weight.array().astype(np.float64)).reshape(1)
        return self.insertion.weight(
            "activation.parameter", Inline.of(mean.astype(helper.tensor_dtype_to_np_dtype(dtype)))
        )

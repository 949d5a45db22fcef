"""Net2DeeperNet: a new layer that begins as the identity.

    phi(B(I * phi(v))) = phi(v)    with I the identity kernel, B a BatchNormalization that undoes itself, phi(phi(v)) = phi(v)

Chen, Goodfellow and Shlens, Net2Net, ICLR 2016, arXiv 1511.05641, section 2.3.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import prod

import numpy as np
from onnx import NodeProto, TensorProto, helper, numpy_helper

from onnx_grow.errors import InvalidRequestError
from onnx_grow.growth.dataflow import Dataflow, attribute, operator
from onnx_grow.growth.deepen_plan import IdentityLayer
from onnx_grow.growth.initial import IdentityKernel, Zeros
from onnx_grow.growth.insertion import Insertion
from onnx_grow.growth.linear import convolution, undone
from onnx_grow.growth.normalization import identity_normalization
from onnx_grow.model import Draft

__all__ = ["insert_identity"]


def insert_identity(draft: Draft, flow: Dataflow, layer: IdentityLayer, prefix: str) -> None:
    """Insert one layer. A grouped or depthwise site gets a grouped layer: a dense one would cost `groups` times the site itself.

    Raises InvalidRequestError if the layer was planned for another model.
    """
    linear, *repeated = _nodes(flow, layer)
    insertion = Insertion(draft, flow, layer.output, prefix)
    tensor = undone(insertion, repeated, insertion.start)
    tensor = _linear(insertion, layer, linear, tensor)
    if function := attribute(linear, "activation"):
        tensor = _clamped(insertion, layer, function.decode(), attribute(linear, "activation_params"), tensor)
    for node in repeated:
        if operator(node) == "BatchNormalization":
            inputs = [tensor, *_normalization(insertion, flow, layer, node)]
        elif operator(node) in ("Add", "Sub"):
            zeros = insertion.weight("bias", Zeros(layer.dtype, layer.bias or ()))
            inputs = [zeros if name in flow.constants else tensor for name in node.input]
        else:
            inputs = [name if not name or name in flow.constants else tensor for name in node.input]
        (tensor,) = insertion.copy(node, inputs, node.op_type, node.output[:1])
    insertion.close(tensor)


def _nodes(flow: Dataflow, layer: IdentityLayer) -> list[NodeProto]:
    indices = [flow.producer(name) for name in (*layer.nodes, layer.output)]
    nodes = [flow.nodes[index] for index in indices if index is not None]
    if (
        len(nodes) < len(indices)
        or operator(nodes[0]) != layer.operator
        or not _has_channels(flow, nodes[0], layer)
    ):
        raise InvalidRequestError(
            f"the plan deepens {layer.name!r}, a {layer.operator} of {layer.channels} channels that this model does not have",
            hint="a plan replays on the file that it was made for",
        )
    return nodes[:-1]


def _has_channels(flow: Dataflow, linear: NodeProto, layer: IdentityLayer) -> bool:
    """Whether the layer's channels fit a linear node's weight, as far as that is stored, in whatever shape."""
    roots = (flow.root(name) for name in linear.input[:2] if name in flow.constants)
    shapes = [kind[1] for root in roots if root and (kind := flow.kind(root))]
    return not shapes or prod(shapes[0]) % layer.channels == 0


def _linear(insertion: Insertion, layer: IdentityLayer, site: NodeProto, tensor: str) -> str:
    weight = insertion.weight(
        "weight", IdentityKernel(layer.dtype, layer.channels, layer.kernel, layer.groups)
    )
    bias = ""
    if len(site.input) > 2 and site.input[2]:
        bias = insertion.weight("bias", Zeros(layer.dtype, (layer.channels,)))
    if layer.kernel:
        return convolution(insertion, tensor, weight, bias, layer.kernel, layer.groups)
    if layer.operator == "MatMul":
        left = site.input[0] in insertion.flow.constants
        return insertion.add("MatMul", [weight, tensor] if left else [tensor, weight])
    return insertion.add(
        "Gemm", [tensor, weight, bias] if bias else [tensor, weight], transB=attribute(site, "transB", 0)
    )


def _clamped(
    insertion: Insertion, layer: IdentityLayer, function: str, bounds: Sequence[float] | None, tensor: str
) -> str:
    """The activation of a fused layer; Clip as it can be written in every opset."""
    if function != "Clip":
        return insertion.add(function, [tensor])
    for name, bound in zip(("Max", "Min"), bounds or (), strict=False):
        value = np.full((1,), bound).astype(helper.tensor_dtype_to_np_dtype(layer.dtype))
        constant = insertion.add("Constant", [], value=numpy_helper.from_array(value))
        tensor = insertion.add(name, [tensor, constant])
    return tensor


def _normalization(insertion: Insertion, flow: Dataflow, layer: IdentityLayer, site: NodeProto) -> list[str]:
    """Names of the four parameters of a BatchNormalization like the site's."""
    statistics = layer.statistics
    if statistics is None or not len(statistics.mean) == len(statistics.variance) == layer.channels:
        raise InvalidRequestError(
            f"the plan has no statistics for the {layer.channels} channels of {layer.name!r}",
            hint="plan again with onnx-grow deepen",
        )
    affine, moments = (_dtype(flow, site.input[place], layer.dtype) for place in (1, 3))
    parameters = identity_normalization(
        np.array(statistics.mean),
        np.array(statistics.variance),
        float(attribute(site, "epsilon", 1e-5)),
        affine,
        moments,
    )
    return [insertion.weight(name, weight) for name, weight in parameters.weights()]


def _dtype(flow: Dataflow, name: str, default: int) -> int:
    """The element type of a parameter; that of the layer where only a computed parameter would tell, or does not fit."""
    kind = flow.kind(name)
    return kind[0] if kind and kind[0] in (default, TensorProto.FLOAT) else default

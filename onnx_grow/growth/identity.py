"""Net2DeeperNet: a new layer that begins as the identity.

    phi(B(I * phi(v))) = phi(v)    with I the identity kernel, B a BatchNormalization that undoes itself, phi(phi(v)) = phi(v)

Chen, Goodfellow and Shlens, Net2Net, ICLR 2016, arXiv 1511.05641, section 2.3.
"""

from __future__ import annotations

import numpy as np
from onnx import NodeProto, TensorProto

from onnx_grow.errors import InvalidRequestError
from onnx_grow.growth.dataflow import Dataflow, attribute, operator
from onnx_grow.growth.deepen_plan import IdentityLayer
from onnx_grow.growth.initial import IdentityKernel, Zeros
from onnx_grow.growth.insertion import Insertion
from onnx_grow.growth.normalization import identity_normalization
from onnx_grow.model import Draft

__all__ = ["insert_identity"]


def insert_identity(draft: Draft, flow: Dataflow, layer: IdentityLayer, prefix: str) -> None:
    """Insert one layer. A grouped or depthwise site gets a grouped layer: a dense one would cost `groups` times the site itself.

    Raises InvalidRequestError if the layer was planned for another model.
    """
    linear, *repeated = _nodes(flow, layer)
    insertion = Insertion(draft, flow, layer.output, prefix)
    tensor = insertion.start
    for node in reversed(repeated):
        if operator(node) in _INVERSE:
            tensor = _undo(insertion, node, tensor)
    tensor = _linear(insertion, flow, layer, linear, tensor)
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
    """Whether the layer's channels are a dimension of a linear node's weight, as far as that is stored."""
    roots = (flow.root(name) for name in linear.input[:2] if name in flow.constants)
    shapes = [kind[1] for root in roots if root and (kind := flow.kind(root))]
    return not shapes or layer.channels in shapes[0] or layer.channels // layer.groups in shapes[0]


_INVERSE = {"Transpose": "Transpose", "Squeeze": "Unsqueeze", "Unsqueeze": "Squeeze"}


def _undo(insertion: Insertion, node: NodeProto, tensor: str) -> str:
    """The inverse of a change of layout; a Transpose without `perm` is its own."""
    attributes = {}
    if order := attribute(node, "perm"):
        attributes["perm"] = np.argsort(order).tolist()
    if axes := attribute(node, "axes"):
        attributes["axes"] = axes
    return insertion.add(_INVERSE[operator(node)], [tensor, *node.input[1:]], **attributes)


def _linear(insertion: Insertion, flow: Dataflow, layer: IdentityLayer, site: NodeProto, tensor: str) -> str:
    weight = insertion.weight(
        "weight", IdentityKernel(layer.dtype, layer.channels, layer.kernel, layer.groups)
    )
    if layer.operator == "MatMul":
        left = site.input[0] in flow.constants
        return insertion.add("MatMul", [weight, tensor] if left else [tensor, weight])
    inputs = [tensor, weight]
    if len(site.input) > 2 and site.input[2]:
        inputs.append(insertion.weight("bias", Zeros(layer.dtype, (layer.channels,))))
    if layer.operator == "Gemm":
        return insertion.add("Gemm", inputs, transB=attribute(site, "transB", 0))
    return insertion.add(
        "Conv",
        inputs,
        kernel_shape=layer.kernel,
        pads=[size // 2 for size in layer.kernel] * 2,
        strides=[1] * len(layer.kernel),
        dilations=[1] * len(layer.kernel),
        group=layer.groups,
    )


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

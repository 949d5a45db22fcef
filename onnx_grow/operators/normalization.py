"""Normalisations: statistics over some dimensions, parameters along others.

    y = scale (x - mean(x)) / sqrt(var(x) + epsilon) + bias

Mean and variance do not change when every index they are taken over gets the same number of copies; dimensions that they are
not taken over may get any.
"""

from __future__ import annotations

from onnx_grow.axes.algebra import axis, leaves, size
from onnx_grow.axes.equations import Node, Rule
from onnx_grow.axes.signature import Signature, broadcast

_BATCH = Signature("N c *, c, c, c, c -> N c *, c, c, c, c")
_BATCH_OF_POSITIONS = Signature("N c *, c *, c *, c *, c * -> N c *, c, c, c, c")
_INSTANCE = Signature("N c ~*, c, c -> N c *")
_GROUP = Signature("N (g ~k) ~*, (g k), (g k) -> N (g k) *", {"num_groups": "g"})
_GROUP_18 = Signature("N (g ~k) ~*, g, g -> N (g k) *", {"num_groups": "g"})


def batch(node: Node) -> None:
    """Statistics are parameters in inference; in training mode they are taken over the batch and the positions."""
    names = (_BATCH_OF_POSITIONS if node.version < 9 and node.attribute("spatial", 1) == 0 else _BATCH)(node)
    outputs_used = sum(shape is not None for shape in node.out_shapes)
    if node.attribute("training_mode", 0) or (node.version < 14 and outputs_used > 1):
        for name, dim in names.items():
            if name != "c":
                node.uniform(dim)


def instance(node: Node) -> None:
    """Statistics over the positions of each channel; where those hold channels too, it is a group norm in disguise."""
    names = _INSTANCE(node)
    positions = [dim for name, dim in names.items() if name.startswith("*")]
    if any(not leaf.frozen for dim in positions for leaf in leaves(dim)):
        node.role("groups", names["c"])


def group(node: Node) -> None:
    """Statistics over the positions and the channels of each of `g` groups."""
    names = (_GROUP_18 if node.version < 21 else _GROUP)(node)
    node.role("groups", names["g"])


def layer(node: Node) -> None:
    """Statistics over all dimensions from `axis` on, for LayerNormalization and RMSNormalization."""
    node.apart()
    dims = node.input(0)
    first = node.axis(node.attribute("axis", -1))
    for dim in dims[first:]:
        node.uniform(dim)
    for i in (1, 2):
        if node.has(i):
            broadcast(node, [dims, node.input(i)])
    node.set(0, dims)
    for o in (1, 2):
        node.set(o, [*dims[:first], *(() for _ in dims[first:])])


def branches(node: Node) -> None:
    """BranchwiseRMSNorm: statistics over each branch alone; branches are a dimension, or the outer factor of the last one."""
    dims = node.input(0)
    count = int(node.attribute("num_branches", 0))
    parallel, channels = (axis(count), axis(size(dims[-1]) // count)) if count else dims[-2:]
    if count:
        node.unify(dims[-1], (*parallel, *channels))
        node.size_attribute("num_branches", parallel)
    node.uniform(channels)
    if node.has(1):
        scale = node.input(1)
        both = len(scale) == 1 and size(scale[0]) != size(channels)
        for dim, part in zip(
            reversed(scale), ((*parallel, *channels),) if both else (channels, parallel), strict=False
        ):
            node.unify(dim, part)
    node.set(0, dims)


def gated(node: Node) -> None:
    """GatedRMSNorm: statistics over the channels of each head, which the scale has; the gate is as large as the data."""
    dims, (channels,) = node.input(0), node.input(1)
    node.unify(dims[-1], (*axis(size(dims[-1]) // size(channels)), *channels))
    node.uniform(channels)
    node.set(0, broadcast(node, [dims, node.input(2)]))


def mean_variance(node: Node) -> None:
    """Statistics over the dimensions `axes`, no parameters."""
    node.apart()
    dims = node.input(0)
    for position in node.attribute("axes", [0, 2, 3]):
        node.uniform(dims[node.axis(position)])
    node.set(0, dims)


def lp(node: Node) -> None:
    """m copies make the p-norm m ** (1 / p) times as large."""
    dims = node.input(0)
    at = node.axis(node.attribute("axis", -1))
    node.uniform(dims[at])
    node.dilute(at, 1.0 / node.attribute("p", 2))
    node.set(0, dims)


def local_response(node: Node) -> None:
    """Each channel is normalised by its neighbours: their order matters."""
    dims = node.input(0)
    node.window(1, int(node.attribute("size", 0)) // 2)
    node.set(0, dims)


RULES = {
    ("", "BatchNormalization"): Rule(batch, ((1,), (2,))),
    ("", "InstanceNormalization"): Rule(instance, ((1,), (2,))),
    ("", "GroupNormalization"): Rule(group, ((1,), (2,))),
    ("", "LayerNormalization"): Rule(layer, ((1,), (2,))),
    ("", "RMSNormalization"): Rule(layer, ((1,),)),
    ("", "SimplifiedLayerNormalization"): Rule(layer, ((1,),)),
    ("", "MeanVarianceNormalization"): Rule(mean_variance),
    ("", "LpNormalization"): Rule(lp),
    ("", "LRN"): Rule(local_response),
    ("com.microsoft", "BranchwiseRMSNorm"): Rule(branches),
    ("com.microsoft", "GatedRMSNorm"): Rule(gated),
}

"""Both branches of every If, whatever the inputs decide: a branch that no input takes would not be compared at all.

Ifs are made to take one branch by constants in place of their conditions, in the original and in the grown model alike. Those inside the
bodies of Loop and Scan keep their conditions, on which it may depend whether a loop ends.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import onnx
from onnx import GraphProto, NodeProto

from onnx_grow.model import Model
from onnx_grow.model.names import Names
from onnx_grow.model.nodes import constant, is_default
from onnx_grow.model.walk import all_names

__all__ = ["WAYS", "branches", "forced"]

Way = tuple[bool, bool]
"""The condition of Ifs that lie in no other If, or in an even number of them, and of those in between."""

WAYS: dict[Way, str] = {
    (True, True): "every If takes its then_branch",
    (False, False): "every If takes its else_branch",
    (True, False): "every If takes its then_branch, Ifs inside it their else_branch",
    (False, True): "every If takes its else_branch, Ifs inside it their then_branch",
}


def branches(model: Model) -> list[Way]:
    """The ways in which all branches of a model are taken; none where it has no If."""
    depths = [depth for _, depth in _ifs(model.skeleton.graph)]
    return [way for way in WAYS if depths and (max(depths) > 0 or way[0] == way[1])]


def forced(model: Model, way: Way) -> Model:
    """The model in which every If takes the branch that `way` says."""
    skeleton = onnx.ModelProto()
    skeleton.CopyFrom(model.skeleton)
    names = Names(all_names(skeleton))
    taken = {value: names.fresh(f"taken_{value}") for value in set(way)}
    for node, depth in list(_ifs(skeleton.graph)):
        node.input[0] = taken[way[depth % 2]]
    constants = [constant(name, np.array(value)) for value, name in taken.items()]
    nodes = [*constants, *skeleton.graph.node]
    copies = [NodeProto.FromString(node.SerializeToString()) for node in nodes]
    del skeleton.graph.node[:]
    skeleton.graph.node.extend(copies)
    return Model(skeleton, model.weights)


def _ifs(graph: GraphProto) -> Iterator[tuple[NodeProto, int]]:
    """The Ifs of a graph and of their branches, and in how many others each lies."""
    stack = [(graph, 0)]
    while stack:
        current, level = stack.pop()
        for node in current.node:
            if node.op_type == "If" and is_default(node):
                yield node, level
                stack += ((attribute.g, level + 1) for attribute in node.attribute if attribute.HasField("g"))

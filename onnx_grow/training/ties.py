"""Tensors that were merged by accident: equal values are stored once by exporters, and would be trained as one.

Two biases of zeros are equal at the start of a training, not one parameter. An embedding that is also the last layer is.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from onnx import NodeProto

from onnx_grow.model import Draft, Inline, Model

__all__ = ["untied"]

Place = tuple[int, int]
"""A node and the position of one of its inputs."""

_PARAMETERS: Mapping[str, tuple[int, ...]] = {
    "Conv": (1, 2),
    "ConvTranspose": (1, 2),
    "Gemm": (1, 2),
    "MatMul": (0, 1),
    "BatchNormalization": (1, 2, 3, 4),
    "LayerNormalization": (1, 2),
    "GroupNormalization": (1, 2),
    "InstanceNormalization": (1, 2),
    "RMSNormalization": (1,),
    "PRelu": (1,),
    "Add": (0, 1),
    "Mul": (0, 1),
}
"""Operators with parameters, and which inputs these are."""


def untied(model: Model) -> tuple[Model, tuple[str, ...]]:
    """The model in which every layer has parameters of its own, and the names of the new ones; the function stays the same.

    What several layers share is untied if all its elements are equal, as zeros and ones at the start of a training are, or if it is a
    running statistic; unless these layers share another, larger weight too: then they are one layer, used several times. All other
    sharing is kept. Identities of such tensors are looked through.
    """
    nodes = list(model.skeleton.graph.node)
    stored = _stored(model, nodes)
    readers: dict[str, list[Place]] = {}
    for index, node in enumerate(nodes):
        for i, name in enumerate(node.input):
            if name in stored and i in _PARAMETERS.get(node.op_type, ()) and node.domain in ("", "ai.onnx"):
                readers.setdefault(stored[name], []).append((index, i))
    draft = Draft(model)
    made = []
    for name, places in readers.items():
        if len(places) < 2 or not _is_accidental(model, nodes, stored, name, places):
            continue
        for index, i in places[1:]:
            weight = Inline.of(np.array(model.weights[name].array()))
            copy = draft.add_weight(f"{nodes[index].name or nodes[index].output[0]}/{name}", weight)
            draft.node(index).input[i] = copy
            made.append(copy)
    return (draft.freeze() if made else model), tuple(made)


def _stored(model: Model, nodes: list[NodeProto]) -> dict[str, str]:
    """The initializer behind a name: itself, or what an Identity reads."""
    stored = {name: name for name in model.weights}
    for node in nodes:
        if node.op_type == "Identity" and node.input[0] in stored:
            stored[node.output[0]] = stored[node.input[0]]
    return stored


def _is_accidental(
    model: Model, nodes: list[NodeProto], stored: Mapping[str, str], name: str, places: list[Place]
) -> bool:
    weight = model.weights[name]
    if not weight.shape or weight.array().dtype.kind in "iubO":
        return False
    others = [
        {stored[other] for other in nodes[index].input if other in stored and stored[other] != name}
        for index, _ in places
    ]
    if any(len(model.weights[shared].shape) > 1 for shared in set.intersection(*others)):
        return False
    statistics = all(nodes[index].op_type == "BatchNormalization" and i > 2 for index, i in places)
    return statistics or _is_even(weight.array())


def _is_even(array: np.ndarray[Any, Any]) -> bool:
    return bool(array.size and (array == array.reshape(-1)[0]).all())

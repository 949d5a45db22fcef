"""The same network with its sums in another order, which is what growing it does to them.

A sum of rounded numbers depends on the order of its terms. For a contraction of an activation with a stored weight,

    sum_k x[k] w[k, j]  =  sum_k x[p(k)] w[p(k), j]        for every permutation p,

so a Gather before the node and a permuted weight change nothing but the rounding. The hidden units of a recurrent layer
are summed over inside it, step after step: there the units themselves are permuted, and put back in the layer's outputs.
"""

from __future__ import annotations

import zlib
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from onnx import NodeProto, helper

from onnx_grow.model import Draft, Inline, Model, Weight, flattened, nested
from onnx_grow.model.nodes import is_default
from onnx_grow.model.walk import all_nodes
from onnx_grow.verification.derived import Derived

__all__ = ["reordered"]

Array = np.ndarray[Any, Any]

_RECURRENT = ("LSTM", "GRU", "RNN")
_HELD = (1, 2, 3, 7)
"""Input positions of weights: of a contraction the first, of a recurrent layer W, R, B and the peepholes."""


def reordered(model: Model, seed: int) -> Model:
    """`model` with the terms of its sums in random order, where the weight is an initializer that only one node reads.

    Covers MatMul, Gemm, Conv and ConvTranspose without groups, LSTM, GRU and RNN, also in the bodies of If, Loop and Scan. Weights
    are permuted while they are read.
    """
    model = flattened(model)
    draft = Draft(model)
    graph = model.skeleton.graph
    readers = Counter(name for node in all_nodes(model.skeleton) for name in node.input)
    readers.update(value.name for value in graph.output)
    for index, node in enumerate(graph.node):
        held = [
            name for position, name in enumerate(node.input) if position in _HELD and name in model.weights
        ]
        if not is_default(node) or any(readers[name] > 1 for name in held):
            continue
        rng = np.random.default_rng(zlib.crc32(" ".join(node.output).encode(), seed))
        if node.op_type in _RECURRENT:
            _permute_units(draft, index, rng)
        elif axes := _contracted(node, model.weights):
            _permute_terms(draft, index, *axes, rng)
    return nested(draft.freeze())


@dataclass(frozen=True, eq=False)
class _Permuted(Derived):
    """A weight with its entries along some axes in another order."""

    orders: Mapping[int, Array]

    def array(self) -> Array:
        array = self.base.array()
        for axis, order in self.orders.items():
            array = np.take(array, order, axis)
        return array

    def chunks(self) -> Iterator[bytes | memoryview]:
        return Inline(self.array()).chunks()


def _contracted(node: NodeProto, weights: Mapping[str, Weight]) -> tuple[int, int] | None:
    """The axes of the activation and of the weight that `node` sums over, None if it does not multiply by a weight."""
    if len(node.input) < 2 or node.input[1] not in weights:
        return None
    rank = len(weights[node.input[1]].shape)
    attributes = {attribute.name: attribute.i for attribute in node.attribute}
    grouped = attributes.get("group", 1) != 1
    if node.op_type == "MatMul" and rank >= 2:
        return -1, rank - 2
    if node.op_type == "Gemm" and rank == 2:
        return (0 if attributes.get("transA") else 1), (1 if attributes.get("transB") else 0)
    if node.op_type == "Conv" and not grouped:
        return 1, 1
    if node.op_type == "ConvTranspose" and not grouped:
        return 1, 0
    return None


def _permute_terms(
    draft: Draft, index: int, activation_axis: int, weight_axis: int, rng: np.random.Generator
) -> None:
    node = draft.node(index)
    weight = draft.weights[node.input[1]]
    order = rng.permutation(weight.shape[weight_axis])
    draft.weights[node.input[1]] = _Permuted(weight, {weight_axis: order})
    node.input[0] = _gathered(draft, index, node.input[0], order, activation_axis)


def _permute_units(draft: Draft, index: int, rng: np.random.Generator) -> None:
    """Permute the units of a recurrent layer: W[d, gates, i], R[d, gates, h], B[d, 2 gates], peepholes P[d, 3 h]."""
    node = draft.node(index)
    names = [*node.input, *[""] * (8 - len(node.input))]
    stored = [names[position] for position in _HELD if names[position]]
    if not all(name in draft.weights for name in stored):
        return
    size = draft.weights[names[2]].shape[2]
    order = rng.permutation(size)
    for name in stored:
        weight = draft.weights[name]
        rows = np.concatenate([order + start for start in range(0, weight.shape[1], size)])
        draft.weights[name] = _Permuted(weight, {1: rows, 2: order} if name == names[2] else {1: rows})
    for position in (5, 6):
        if names[position]:
            node.input[position] = _gathered(draft, index, names[position], order, -1)
    for position, name in enumerate(node.output):
        if name:
            node.output[position] = draft.fresh_name(f"{name}_permuted")
            draft.insert_after(index, _gather(draft, node.output[position], name, np.argsort(order), -1))


def _gathered(draft: Draft, index: int, name: str, order: Array, axis: int) -> str:
    """The tensor `name` with its entries along `axis` in another order, made before node `index`."""
    output = draft.fresh_name(f"{name}_permuted")
    draft.insert_before(index, _gather(draft, name, output, order, axis))
    return output


def _gather(draft: Draft, name: str, output: str, order: Array, axis: int) -> NodeProto:
    indices = draft.add_weight(f"{output}_order", Inline.of(order.astype(np.int64)))
    return helper.make_node(
        "Gather", [name, indices], [output], draft.fresh_name(f"{output}_gather"), axis=axis
    )

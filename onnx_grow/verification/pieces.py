"""What nodes compute of weights that are too large to be in memory at once: some rows at a time.

    y = x W = sum_k x[:, k] W[k]        y = x W^T = [x W[k]^T for every k]

A table is looked up in without reading its other rows. Transposing a large matrix is put off until it is multiplied with.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper

from onnx_grow.model import Model, Weight, rows_of
from onnx_grow.model.nodes import is_default
from onnx_grow.model.walk import all_nodes

__all__ = ["Pieces"]

Array = np.ndarray[Any, Any]

LARGE = 1 << 28
"""Bytes of a matrix above which it is multiplied with piece by piece."""
PIECE = 1 << 23
"""Elements of a piece."""


@dataclass
class Pieces:
    """The large weights of a model in float64 (`onnx_grow.verification.promotion.doubled`), whose nodes come in their order."""

    model: Model
    turned: dict[str, str] = field(default_factory=dict)

    def run(self, node: onnx.NodeProto, values: Mapping[str, Any]) -> Sequence[Any] | None:
        """What a node computes of such weights and of `values`, or None: it takes its weights whole."""
        operator = node.op_type if is_default(node) else ""
        if operator == "Transpose":
            return self._put_off(node)
        found = None
        if operator == "Gather":
            found = self._looked_up(node, values)
        elif operator in ("MatMul", "Gemm"):
            found = self._multiplied(node, values)
        return None if found is None else [found]

    def _looked_up(self, node: onnx.NodeProto, values: Mapping[str, Any]) -> Array | None:
        """What a Gather finds in the rows of a weight."""
        if any(a.i for a in node.attribute if a.name == "axis"):
            return None
        weight, index = self.model.weights.get(node.input[0]), values.get(node.input[1])
        if weight is None or not weight.shape or index is None or weight.dtype == TensorProto.STRING:
            return None
        size = weight.shape[0]
        if not isinstance(index, np.ndarray) or not ((index >= -size) & (index < size)).all():
            return None
        rows, where = np.unique(np.where(index < 0, index + size, index).reshape(-1), return_inverse=True)
        found: Array = rows_of(weight)(rows)[where].reshape((*index.shape, *weight.shape[1:]))
        return found

    def _put_off(self, node: onnx.NodeProto) -> Sequence[Any] | None:
        """Remember a matrix that is transposed for products alone; there is no result."""
        if self._large(node.input[0]) is None:
            return None
        read = [n for n in all_nodes(self.model.skeleton) if node.output[0] in n.input]
        multiplied = [n for n in self.model.skeleton.graph.node if self._multiplies(n, node.output[0])]
        turned = all(list(a.ints) == [1, 0] for a in node.attribute if a.name == "perm")
        alone = len(read) == len(multiplied) and not _is_result(self.model, node.output[0])
        if not turned or not alone:
            return None
        self.turned[node.output[0]] = node.input[0]
        return []

    def _multiplies(self, node: onnx.NodeProto, name: str) -> bool:
        """Whether a node multiplies something computed with a tensor."""
        return (
            node.op_type == "MatMul"
            and node.input[1] == name != node.input[0]
            and node.input[0] not in self.model.weights
        )

    def _multiplied(self, node: onnx.NodeProto, values: Mapping[str, Any]) -> Array | None:
        name, x = node.input[1], values.get(node.input[0])
        weight = self._large(self.turned.get(name, name))
        settings = {a.name: helper.get_attribute_value(a) for a in node.attribute}
        if weight is None or not isinstance(x, np.ndarray) or x.ndim < 1 or x.dtype != np.float64:
            return None
        if settings.get("transA"):
            x = x.T
        product = _times(x, weight, bool(settings.get("transB")) or name in self.turned)
        product *= settings.get("alpha", 1.0)
        beta = settings.get("beta", 1.0)
        for bias in filter(None, node.input[2:] if beta else ()):
            added = values[bias] if bias in values else self.model.weights[bias].array()
            product = product + beta * added
        return product

    def _large(self, name: str) -> Weight | None:
        weight = self.model.weights.get(name)
        is_large = weight is not None and len(weight.shape) == 2 and weight.nbytes > LARGE
        return weight if is_large else None


def _times(x: Array, weight: Weight, transposed: bool) -> Array:
    """x W, or x W^T."""
    if transposed:
        return np.concatenate([x @ rows.T for _, rows in _pieces(weight)], axis=-1)
    out = np.zeros((*x.shape[:-1], weight.shape[1]))
    for start, rows in _pieces(weight):
        out += x[..., start : start + len(rows)] @ rows
    return out


def _pieces(weight: Weight) -> Iterator[tuple[int, Array]]:
    """Some rows at a time, each with the index of the first."""
    rows = rows_of(weight)
    at_once = max(1, PIECE // max(1, weight.shape[1]))
    for start in range(0, weight.shape[0], at_once):
        yield start, rows(np.arange(start, min(start + at_once, weight.shape[0])))


def _is_result(model: Model, name: str) -> bool:
    return any(value.name == name for value in model.skeleton.graph.output)

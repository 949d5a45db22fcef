"""Divisions by what may be zero: a layer that divides so is finite only for inputs like those that it was trained on."""

from __future__ import annotations

from collections.abc import Iterator
from enum import IntEnum
from typing import Any

import numpy as np
from onnx import NodeProto

from onnx_grow.growth.dataflow import Dataflow, attribute, operator
from onnx_grow.shapes import Shapes

__all__ = ["unguarded_divisions"]


def unguarded_divisions(flow: Dataflow, shapes: Shapes) -> frozenset[int]:
    """The nodes that divide by an activation which nothing keeps from being zero.

    Guards are a number that is added (an epsilon), or that nothing falls below (Clip, Max). Neither a softmax sums to zero, nor
    the exponentials of what its maximum was subtracted from.
    """
    bounds: dict[str, _Bound] = {}
    found = set()
    for index, node in enumerate(flow.nodes):
        divisor = _divisor(flow, shapes, node)
        if divisor and _of(divisor, shapes, bounds) < _Bound.ABOVE_ZERO:
            found.add(index)
        bound = max(_bounds(flow, shapes, node, bounds), default=_Bound.UNKNOWN)
        bounds.update((name, bound) for name in node.output if bound)
    return frozenset(found)


class _Bound(IntEnum):
    """What is known of the numbers in a tensor, or of their sums: nothing; none is negative; none is as low as zero."""

    UNKNOWN = 0
    NOT_BELOW_ZERO = 1
    ABOVE_ZERO = 2


_NEVER_NEGATIVE = frozenset(
    {
        *("Abs", "Exp", "HardSigmoid", "ReduceL1", "ReduceL2", "ReduceSumSquare", "Relu", "Sigmoid"),
        *("Softplus", "Sqrt"),
    }
)
_ABOVE_ZERO = frozenset({"Shape", "Size", "Softmax"})
_AS_THE_LEAST = frozenset({"Concat", "Div", "Min", "Mul"})
_AS_THE_FIRST = frozenset(
    {
        *("AveragePool", "Cast", "CastLike", "Dropout", "Expand", "Flatten", "Gather", "GlobalAveragePool"),
        *("GlobalMaxPool", "Identity", "MaxPool", "Pow", "ReduceMax", "ReduceMean", "ReduceMin", "ReduceSum"),
        *("Relu", "Reshape", "Slice", "Split", "Sqrt", "Squeeze", "Tile", "Transpose", "Unsqueeze"),
    }
)


def _divisor(flow: Dataflow, shapes: Shapes, node: NodeProto) -> str:
    """The activation that a node divides by; nothing if there is none."""
    divisor = ""
    if operator(node) == "Div":
        divisor = node.input[1]
    elif operator(node) == "Reciprocal" or (
        operator(node) == "Pow" and np.any(shapes.value.get(node.input[1], np.zeros(1)) < 0)
    ):
        divisor = node.input[0]
    return "" if divisor in flow.constants else divisor


def _of(tensor: str, shapes: Shapes, bounds: dict[str, _Bound]) -> _Bound:
    value = shapes.value.get(tensor)
    return bounds.get(tensor, _Bound.UNKNOWN) if value is None else _of_values(value)


def _of_values(values: np.ndarray[Any, Any]) -> _Bound:
    if values.dtype.kind not in "fiu" or not values.size or not (values >= 0).all():
        return _Bound.UNKNOWN
    return _Bound.ABOVE_ZERO if (values > 0).all() else _Bound.NOT_BELOW_ZERO


def _bounds(flow: Dataflow, shapes: Shapes, node: NodeProto, known: dict[str, _Bound]) -> Iterator[_Bound]:
    """All that can be said of what a node computes."""
    name = operator(node)
    inputs = [entry for entry in node.input if entry]
    operands = [_of(entry, shapes, known) for entry in inputs]
    if name in _ABOVE_ZERO or (name == "Exp" and _lies_below_its_maximum(flow, inputs[0])):
        yield _Bound.ABOVE_ZERO
    if name in _NEVER_NEGATIVE or (name == "Mul" and len(set(inputs)) == 1) or _is_even_power(shapes, node):
        yield _Bound.NOT_BELOW_ZERO
    if name in _AS_THE_FIRST:
        yield operands[0]
    if name in _AS_THE_LEAST:
        yield min(operands)
    if name == "Where":
        yield min(operands[1:])
    if name == "Max" or (name in ("Add", "Sum") and (min(operands) or _adds_a_number(shapes, inputs))):
        yield max(operands)
    if name == "Clip":
        given = len(node.input) > 1 and node.input[1]
        yield operands[0]
        yield operands[1] if given else _of_values(np.asarray(attribute(node, "min", -np.inf)))


def _adds_a_number(shapes: Shapes, inputs: list[str]) -> bool:
    """Whether a term is one number: nobody divides by what it was added to unless that is never negative."""
    return any(entry in shapes.value and shapes.value[entry].size == 1 for entry in inputs)


def _is_even_power(shapes: Shapes, node: NodeProto) -> bool:
    exponent = shapes.value.get(node.input[1]) if operator(node) == "Pow" else None
    return exponent is not None and bool(np.all(exponent % 2 == 0))


def _lies_below_its_maximum(flow: Dataflow, tensor: str) -> bool:
    index = flow.producer(tensor)
    if index is None or operator(flow.nodes[index]) != "Sub":
        return False
    largest = flow.producer(flow.nodes[index].input[1])
    return largest is not None and operator(flow.nodes[largest]) == "ReduceMax"

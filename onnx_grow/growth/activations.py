"""Activations phi: the nodes that compute one, and whether phi(phi(v)) = phi(v) for every v.

An activation is one operator, or a small set of elementwise ones that exporters wrote it as (x sigmoid(x), GELU by erf).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from onnx_grow.growth.dataflow import Dataflow, enclosed, operator
from onnx_grow.shapes import Shapes

__all__ = ["BOUNDED", "CLAMPS", "CURVED", "Activation", "following", "fused", "is_clamp", "keeps_shape"]

CLAMPS = frozenset({"Abs", "Clip", "Max", "Min", "Relu", "ThresholdedRelu"})
"""Idempotent activations; Max and Min where the other operand is a constant."""

BOUNDED = frozenset({"HardSigmoid", "LogSoftmax", "Sigmoid", "Softmax", "Softsign", "Tanh"})
"""Activations that models also end in, to shape their output."""


@dataclass(frozen=True)
class Activation:
    """The nodes that compute phi of the tensor `argument`, in order, up to the tensor `output`.

    `name` has their operators. `is_idempotent`: phi(phi(v)) = phi(v). `is_hidden`: it works element by element and is finite
    wherever its argument is, so that a new layer can use it.
    """

    nodes: tuple[int, ...]
    argument: str
    output: str
    name: str
    is_idempotent: bool
    is_hidden: bool


def following(flow: Dataflow, shapes: Shapes, tensor: str) -> Activation | None:
    """The activation that is applied to a tensor; None if there is none."""
    readers = flow.readers(tensor)
    if curve := _curve(flow, shapes, tensor, readers):
        last = flow.nodes[curve[-1]].output[0]
        return Activation(
            curve, tensor, last, _name(flow, curve), False, _is_hidden(flow, shapes, tensor, curve)
        )
    clamps = [index for index in readers if is_clamp(flow, index) and keeps_shape(flow, shapes, index)]
    if len(clamps) != 1:
        return None
    while len(readers := flow.readers(flow.nodes[clamps[-1]].output[0])) == 1:
        if not is_clamp(flow, readers[0]) or not keeps_shape(flow, shapes, readers[0]):
            break
        clamps.append(readers[0])
    end = flow.nodes[clamps[-1]].output[0]
    return Activation(tuple(clamps), tensor, end, _name(flow, clamps), True, True)


def fused(name: str, output: str) -> Activation:
    """The activation that a fused layer (com.microsoft) applies itself."""
    return Activation((), "", output, name, name in CLAMPS, True)


def is_clamp(flow: Dataflow, index: int) -> bool:
    """Whether a node is an idempotent activation: phi(phi(v)) = phi(v) for every v."""
    node = flow.nodes[index]
    if operator(node) in ("Max", "Min"):
        return len(node.input) == 2 and len(flow.activations(index)) == 1
    return operator(node) in CLAMPS and len(flow.activations(index)) == 1


def keeps_shape(flow: Dataflow, shapes: Shapes, index: int) -> bool:
    """Whether the result of a node has the (known) shape of its first activation."""
    before, after = flow.activations(index)[0], flow.nodes[index].output[0]
    return before in shapes.shape and shapes.shape[before] == shapes.shape.get(after)


_UNFIT = frozenset({"Exp", "Log", "LogSoftmax", "Pow", "Reciprocal", "Softmax", "Sqrt"})
"""Alone, no activation of a hidden layer: without a bound, without a value, or not element by element."""

_HIDDEN = frozenset(
    {
        *("Celu", "Cos", "Elu", "Erf", "Gelu", "HardSigmoid", "HardSwish", "LeakyRelu", "Mish", "PRelu"),
        *("Selu", "Shrink", "Sigmoid", "Sin", "Softplus", "Softsign", "Swish", "Tanh"),
        *("com.microsoft.FastGelu", "com.microsoft.Gelu", "com.microsoft.QuickGelu"),
    }
)
CURVED = _UNFIT | _HIDDEN | {"Sinh", "com.microsoft.BiasGelu"}
"""Operators that are no idempotent activation and no linear function."""

_ELEMENTWISE = CURVED | CLAMPS | {"Add", "Cast", "Div", "Identity", "Mul", "Neg", "Sub", "Where"}
_NOT_EVERYWHERE = frozenset({"Log", "LogSoftmax", "Softmax", "Sqrt"})


def _curve(flow: Dataflow, shapes: Shapes, tensor: str, readers: Sequence[int]) -> tuple[int, ...]:
    """The nodes of an activation that is not idempotent; nothing if there is none."""
    if len(readers) == 1:
        return tuple(readers) if operator(flow.nodes[readers[0]]) in CURVED else ()
    shape = shapes.shape.get(tensor)
    nodes = enclosed(flow, tensor, _ELEMENTWISE, lambda end: shapes.shape.get(end) == shape, limit=16)
    return tuple(nodes or ())


def _is_hidden(flow: Dataflow, shapes: Shapes, tensor: str, nodes: Sequence[int]) -> bool:
    names = {operator(flow.nodes[index]) for index in nodes}
    if len(nodes) == 1:
        return (
            names <= _HIDDEN
            and flow.activations(nodes[0]) == [tensor]
            and keeps_shape(flow, shapes, nodes[0])
        )
    powers = [flow.nodes[index].input[1] for index in nodes if operator(flow.nodes[index]) == "Pow"]
    return (
        bool(names & (_HIDDEN | CLAMPS | {"Exp"}))
        and not names & _NOT_EVERYWHERE
        and all(_is_whole(shapes, power) for power in powers)
    )


def _is_whole(shapes: Shapes, exponent: str) -> bool:
    value = shapes.value.get(exponent)
    return value is not None and bool(np.all((value >= 0) & (value == np.floor(value))))


def _name(flow: Dataflow, nodes: Sequence[int]) -> str:
    return "+".join(dict.fromkeys(operator(flow.nodes[index]) for index in nodes))

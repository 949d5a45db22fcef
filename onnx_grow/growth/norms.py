"""What nodes do over one axis: norms, as operators or in the parts that exporters spell them out in, moves, and all that is linear."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from onnx import NodeProto, helper

from onnx_grow.axes.algebra import Axis, leaves, resolve, size
from onnx_grow.axes.inference import Analysis, Dims
from onnx_grow.growth.constants import FLOATS

__all__ = ["MOVES", "Mixture", "Norm", "NotLinear", "Over", "attribute"]

Mixture = NDArray[np.float64]


class NotLinear(Exception):
    """The axis cannot be padded, for this reason."""


@dataclass(frozen=True)
class Norm:
    """A norm as an operator: which inputs it sums and normalises, its parameters, and the output that is the sum."""

    summed: tuple[int, ...]
    gamma: int
    beta: int | None
    epsilon: float
    centred: bool
    total: int | None = None


_NORMS = {
    "LayerNormalization": Norm((0,), 1, 2, 1e-5, True),
    "RMSNormalization": Norm((0,), 1, None, 1e-5, False),
    "SimplifiedLayerNormalization": Norm((0,), 1, None, 1e-5, False),
    "SkipLayerNormalization": Norm((0, 1, 4), 2, 3, 1e-12, True, 3),
    "SkipSimplifiedLayerNormalization": Norm((0, 1, 3), 2, None, 1e-12, False, 3),
    "EmbedLayerNormalization": Norm((2, 3, 4), 5, 6, 1e-12, True, 2),
}
MOVES = frozenset(
    {"Cast", "DepthToSpace", "Dropout", "Expand", "Flatten", "Gather", "Identity"}
    | {"Reshape", "Slice", "Split", "Squeeze", "Tile", "Transpose", "Unsqueeze"}
)
"""Operators that only move values."""

_LINEAR = MOVES | {
    "AveragePool",
    "GlobalAveragePool",
    "Neg",
    "ReduceMean",
    "ReduceSum",
    "Resize",
    "Upsample",
}
_GATES = ("HardSigmoid", "Sigmoid", "Softmax")


class Over:
    """What the nodes of a model do over one axis."""

    def __init__(self, analysis: Analysis, axis: Axis) -> None:
        self.analysis = analysis
        self.topology = analysis.topology
        self.axis = axis

    def norm(self, index: int) -> Norm | None:
        """The norm that a node takes over the axis, and over nothing else."""
        proto = self.topology.proto(index)
        norm = _NORMS.get(proto.op_type)
        if norm is None:
            return None
        dims = self.analysis.input_dims(index, norm.summed[0]) or ()
        first = int(attribute(proto, "axis", -1)) if norm.total is None else -1
        over = [dim for dim in dims[first:] if size(dim) > 1]
        return norm if len(over) == 1 and resolve(over[0]) == (self.axis,) else None

    def averages(self, index: int) -> bool:
        """Whether a node takes the mean over the axis, and over nothing else."""
        proto = self.topology.proto(index)
        if proto.op_type not in ("GlobalAveragePool", "ReduceMean"):
            return False
        dims = self.analysis.input_dims(index, 0) or ()
        out = self.analysis.dims.get(proto.output[0])
        if out is None or not any(resolve(dim) == (self.axis,) for dim in dims):
            return False
        kept = [leaf for dim in out for leaf in leaves(dim)]
        gone = [leaf for dim in dims for leaf in leaves(dim) if leaf not in kept]
        return gone == [self.axis]

    def mean_of(self, name: str) -> str | None:
        """The tensor whose mean over the axis this is, once moved."""
        index = self.averaging(name)
        return None if index is None else str(self.topology.proto(index).input[0])

    def averaging(self, name: str) -> int | None:
        """The node whose mean over the axis this is, once moved."""
        while (producer := self.topology.producers.get(name)) is not None:
            if self.averages(producer):
                return producer
            if not self.is_move(self.topology.proto(producer)):
                return None
            name = self.topology.proto(producer).input[0]
        return None

    def squared(self, name: str) -> str | None:
        """The tensor whose square this is."""
        producer = self.topology.producers.get(name)
        if producer is None:
            return None
        proto = self.topology.proto(producer)
        if proto.op_type == "Pow":
            exponent = self.value(proto.input[1])
            return str(proto.input[0]) if exponent is not None and bool((exponent == 2).all()) else None
        return str(proto.input[0]) if proto.op_type == "Mul" and proto.input[0] == proto.input[1] else None

    def is_linear(self, proto: NodeProto) -> bool:
        """Whether a node is linear in its first input, and does with every channel the same."""
        return proto.op_type in _LINEAR and (proto.op_type != "Cast" or self.is_move(proto))

    def is_move(self, proto: NodeProto) -> bool:
        """Whether a node only moves values, as a cast to or from integers does not: it cuts off what is behind the point."""
        types = [self.analysis.shapes.dtype.get(name) for name in (*proto.input[:1], *proto.output[:1])]
        return proto.op_type in MOVES and (proto.op_type != "Cast" or all(kind in FLOATS for kind in types))

    def is_positive(self, name: str) -> bool:
        """Whether all of a constant is, as an exponent must be for the power of zero to be zero."""
        value = self.value(name)
        return value is not None and bool((value > 0).all())

    def is_gate(self, name: str) -> bool:
        """Whether a tensor is what a gate gives: never zero."""
        producer = self.topology.producers.get(name)
        return producer is not None and self.topology.proto(producer).op_type in _GATES

    def is_constant(self, index: int, i: int) -> bool:
        """Whether an input is a constant."""
        return self.topology.proto(index).input[i] in self.analysis.constants

    def is_known(self, name: str) -> bool:
        """Whether a tensor is a constant or computed from constants."""
        return name in self.analysis.constants or name in self.analysis.folded

    def is_read(self, name: str) -> bool:
        """Whether anybody reads a tensor."""
        return bool(self.topology.consumers.get(name)) or name in self.topology.outputs

    def value(self, name: str) -> NDArray[Any] | None:
        """What a tensor holds, where that is known."""
        while (producer := self.topology.producers.get(name)) is not None and self.is_known(name):
            if self.topology.proto(producer).op_type != "Identity":
                break
            name = self.topology.proto(producer).input[0]
        weight = self.analysis.model.weights.get(name)
        return self.analysis.shapes.value.get(name) if weight is None else weight.array()

    def along(self, index: int, i: int) -> Mixture:
        """The elements of a constant along the axis; it must have no other dimension."""
        value = self.value(self.topology.proto(index).input[i])
        at = self.position(index, i)
        if at is None or value is None or value.size != self.axis.size:
            raise NotLinear(f"{self.label(index)} multiplies by more than a number for each channel")
        return value.astype(np.float64).reshape(-1)

    def position(self, index: int, i: int, *, strict: bool = True) -> int | None:
        """The dimension of an input that is or contains the axis."""
        return self._holds(self.analysis.input_dims(index, i) or (), index, strict)

    def tensor_position(self, name: str) -> int | None:
        """The dimension of a tensor that is or contains the axis."""
        return self._holds(self.analysis.dims.get(name, ()), 0, strict=False)

    def _holds(self, dims: Dims | Sequence[Any], index: int, strict: bool) -> int | None:
        positions = [d for d, dim in enumerate(dims) if self.axis in leaves(dim)]
        if strict and positions and (len(positions) > 1 or resolve(dims[positions[0]]).count(self.axis) != 1):
            raise NotLinear(f"{self.label(index)} joins or cuts it")
        return positions[0] if positions else None

    def label(self, index: int) -> str:
        """What messages call a node."""
        return self.analysis.labels[index]


def attribute(proto: NodeProto, name: str, default: Any) -> Any:
    """An attribute of a node; `default` where it has none."""
    found = next((attribute for attribute in proto.attribute if attribute.name == name), None)
    return default if found is None else helper.get_attribute_value(found)

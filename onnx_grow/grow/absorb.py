"""Moving a scale to where it costs nothing: into the weights that produce a tensor.

A contraction of two computed tensors (attention's Q Kt, a sum over channels) has no weight to divide. The scale then moves back through
operators that pass it on, to weights and biases, as their rules' `addends` tell; only where it cannot, a Mul is inserted.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import prod

import numpy as np
from numpy.typing import NDArray
from onnx import helper

from onnx_grow.axes.algebra import Axis, Dim, Factor, Maps, grown_size, leaves, resolve
from onnx_grow.axes.inference import Analysis, Dims
from onnx_grow.grow.constants import Constants

Factors = NDArray[np.float64]

_FLOATS = (1, 10, 11, 16)  # FLOAT, FLOAT16, DOUBLE, BFLOAT16
_ELEMENTWISE = ("Add", "Sub", "Mul", "Div", "Sum", "Mean", "Where", "Max", "Min", "PRelu")
_MOVES = ("Flatten", "Identity", "Reshape", "Squeeze", "Transpose", "Unsqueeze")
_DEEPEST = 64


@dataclass(frozen=True, eq=False)
class Rescaled:
    """A constant's use (node, input) whose dimension `dim` takes `factors`."""

    node: int
    input: int
    dim: int
    factors: Factors


class Absorption:
    """Finds the constants that can take a scale on an input of a node."""

    def __init__(self, analysis: Analysis, maps: Maps) -> None:
        self.analysis = analysis
        self.maps = maps

    def find(self, node: int, i: int, dim: int, factors: Factors, depth: int = 0) -> list[Rescaled] | None:
        """The constants to rescale so that dimension `dim` of input `i` is scaled; None when it cannot be done."""
        topology = self.analysis.topology
        name = topology.proto(node).input[i]
        if self.analysis.shapes.dtype.get(name) not in _FLOATS or depth > _DEEPEST:
            return None
        if name in self.analysis.constants:
            return [Rescaled(node, i, dim, factors)]
        producer = topology.producers.get(name)
        if producer is None or len(topology.consumers[name]) > 1 or not self._private(name):
            return None
        rule = self.analysis.rules[producer]
        if rule is None or rule.addends is None or topology.proto(producer).output[0] != name:
            return None
        present = [k for k, operand in enumerate(topology.proto(producer).input) if operand]
        addends = [(k,) for k in present] if rule.addends == "each" else rule.addends
        found: list[Rescaled] = []
        for addend in addends:
            operands = [k for k in addend if k in present]
            if not operands:
                continue
            taken = self._through(producer, operands, self.analysis.dims[name], dim, factors, depth)
            if taken is None:
                return None
            found += taken
        return found

    def weight(self, node: int, i: int, dim: int, over: Dim) -> tuple[int, int, list[int]] | None:
        """The constant behind an input, if only moved on its way there, and which of its dimensions hold `over`.

        Its copies can then be told apart, which a mere scale cannot do.
        """
        topology = self.analysis.topology
        grown = {leaf for leaf in leaves(over) if leaf in self.maps}
        places = [dim]
        while (name := topology.proto(node).input[i]) not in self.analysis.constants:
            producer = topology.producers.get(name)
            if producer is None or len(topology.consumers[name]) > 1 or not self._private(name):
                return None
            proto = topology.proto(producer)
            dims, operand = self.analysis.dims[name], self.analysis.input_dims(producer, 0)
            if proto.op_type not in _MOVES or operand is None:
                return None
            if proto.op_type == "Transpose":
                perm = next(
                    (list(a.ints) for a in proto.attribute if a.name == "perm"), list(range(len(dims)))[::-1]
                )
                places = [perm[place] for place in places]
            elif proto.op_type != "Identity":
                if _holding(dims, grown) != sorted(places):
                    return None
                places = _holding(operand, grown)
            node, i = producer, 0
        return (node, i, places) if self.analysis.shapes.dtype[name] in _FLOATS else None

    def _private(self, name: str) -> bool:
        return name not in self.analysis.topology.outputs and name not in self.analysis.topology.captured

    def _through(
        self, producer: int, operands: Sequence[int], out: Dims, dim: int, factors: Factors, depth: int
    ) -> list[Rescaled] | None:
        for operand in operands:
            place = self._locate(producer, operand, out, dim, factors)
            if place is not None:
                found = self.find(producer, operand, *place, depth + 1)
                if found is not None:
                    return found
        return None

    def _locate(
        self, producer: int, operand: int, out: Dims, dim: int, factors: Factors
    ) -> tuple[int, Factors] | None:
        """Where in an operand the scaled dimension of the result is, and the factors for it there."""
        dims = self.analysis.input_dims(producer, operand)
        if dims is None:
            return None
        target = resolve(out[dim])
        if self.analysis.topology.proto(producer).op_type in _ELEMENTWISE:
            position = dim - len(out) + len(dims)
            fits = position >= 0 and (resolve(dims[position]) == target or self._constant(producer, operand))
            return (position, factors) if fits else None
        if sum(resolve(d) == target for d in out) > 1:
            return None
        contracted = {
            place for c in self.analysis.said.contractions if c.node == producer for place in c.operands
        }
        places = [
            (position, span)
            for position, d in enumerate(dims)
            if (operand, position) not in contracted and (span := _span(resolve(d), target)) is not None
        ]
        if len(places) != 1:
            return None
        position, start = places[0]
        factor_list = resolve(dims[position])
        outer = self._count(factor_list[:start])
        inner = self._count(factor_list[start + len(target) :])
        return position, np.tile(np.repeat(factors, inner), outer)

    def _constant(self, node: int, i: int) -> bool:
        return self.analysis.topology.proto(node).input[i] in self.analysis.constants

    def _count(self, factors: Sequence[Factor]) -> int:
        return prod(grown_size((factor,), self.maps) for factor in factors)


def insert_scale(
    analysis: Analysis, constants: Constants, node: int, i: int, dim: int, factors: Factors
) -> None:
    """Insert a Mul by constant `factors` along dimension `dim` before one input of a node."""
    draft = constants.draft
    name = analysis.topology.proto(node).input[i]
    dtype = helper.tensor_dtype_to_np_dtype(analysis.shapes.dtype[name])
    rank = len(analysis.input_dims(node, i) or ())
    values = factors.reshape([-1, *[1] * (rank - 1 - dim)]).astype(dtype)
    factor = constants.add(f"{name}_shares", values)
    out = draft.fresh_name(f"{name}_shared")
    mul = helper.make_node("Mul", [draft.node(node).input[i], factor], [out], draft.fresh_name(f"{out}_Mul"))
    draft.insert_before(node, mul)
    draft.node(node).input[i] = out


def insert_after(analysis: Analysis, constants: Constants, node: int, factor: float) -> None:
    """Insert a Mul by a constant behind output 0 of a node, which keeps its name."""
    draft = constants.draft
    proto = draft.node(node)
    name = proto.output[0]
    dtype = helper.tensor_dtype_to_np_dtype(analysis.shapes.dtype[name])
    proto.output[0] = draft.fresh_name(f"{name}_diluted")
    by = constants.add(f"{name}_factor", np.asarray(factor, dtype))
    draft.insert_after(
        node, helper.make_node("Mul", [proto.output[0], by], [name], draft.fresh_name(f"{name}_Mul"))
    )


def _holding(dims: Dims, axes: set[Axis]) -> list[int]:
    """The positions of the dimensions in which any of `axes` occurs."""
    return [k for k, dim in enumerate(dims) if any(leaf in axes for leaf in leaves(dim))]


def _span(dim: Dim, target: Dim) -> int | None:
    """Where the factors of `target` stand in a row in `dim`; None when they do not, or more than once."""
    width = len(target)
    starts = [k for k in range(len(dim) - width + 1) if dim[k : k + width] == target]
    return starts[0] if len(starts) == 1 else None

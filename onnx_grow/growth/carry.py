"""Carrying a factor forward to where it costs nothing: into the constants that a tensor meets.

Uniform copies make a sum m times as large, a norm sqrt(m) times. What cannot be undone in the weights before may be undone behind: the
factor is carried through operators that keep it, until a constant takes it or another factor cancels it, as in x / |x| or <q, k>.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from math import isclose, prod, sqrt

import numpy as np
from onnx import NodeProto

from onnx_grow.axes.inference import Analysis
from onnx_grow.growth.absorb import Absorption, Factors, Place
from onnx_grow.growth.constants import FLOATS

_BLIND = ("ArgMax", "ArgMin", "IsInf", "IsNaN", "Shape", "Sign", "Size")
"""Operators that see no positive factor."""
_PRODUCTS = ("Einsum", "MatMul", "Mul")
_BILINEAR = ("Conv", "ConvTranspose", "Mul")


class Stuck(Exception):
    """A factor meets what does not pass it on; `sources` are the nodes that it comes from."""

    def __init__(self, sources: frozenset[int]) -> None:
        super().__init__(sources)
        self.sources = sources


def carry(analysis: Analysis, absorption: Absorption, sources: Mapping[int, float]) -> dict[Place, Factors]:
    """The scales of constants that make up for results of nodes `sources` that are so many times as large as they were.

    Raises Stuck when that cannot be done.
    """
    return _Walk(analysis, absorption, sources).run()


class _Walk:
    def __init__(self, analysis: Analysis, absorption: Absorption, sources: Mapping[int, float]) -> None:
        self.analysis = analysis
        self.absorption = absorption
        self.sources = sources
        self.taken: dict[Place, Factors] = {}
        self.off: dict[str, float] = {}  # tensors that are so many times as large
        self.origins: dict[str, frozenset[int]] = {}

    def run(self) -> dict[Place, Factors]:
        for index in range(min(self.sources), len(self.analysis.topology.nodes)):
            self._node(index)
        return self.taken

    def _node(self, index: int) -> None:
        proto = self.analysis.topology.proto(index)
        factors = {i: self.off[name] for i, name in enumerate(proto.input) if name in self.off}
        if not factors and index not in self.sources:
            return
        origins = frozenset([index] if index in self.sources else []).union(
            *(self.origins[proto.input[i]] for i in factors)
        )
        passed = self._through(index, proto, factors) if factors else 1.0
        if passed is None:
            raise Stuck(origins - {index} or origins)
        passed *= self.sources.get(index, 1.0)
        if isclose(passed, 1.0, rel_tol=1e-12):
            return
        for name in filter(None, proto.output):
            if not self.absorption.private(name):
                raise Stuck(origins)
            self.off[name], self.origins[name] = passed, origins

    def _through(self, index: int, proto: NodeProto, factors: Mapping[int, float]) -> float | None:
        """By how much the results of a node are larger when these inputs are; None if there is no telling."""
        if proto.op_type in _BLIND:
            return 1.0
        if len(factors) == 1:
            ((i, factor),) = factors.items()
            for weight in self._beside(index, proto, i):
                self._rescale(weight, 1 / factor)
                return 1.0
        if proto.op_type in _PRODUCTS:
            return prod(factors.values())
        match proto.op_type:
            case "Div":
                for other in {0, 1} - factors.keys():
                    if proto.input[other] in self.analysis.constants:
                        self._rescale((index, other), factors[1 - other])
                        return 1.0
                return factors.get(0, 1.0) / factors.get(1, 1.0)
            case "Sqrt":
                return sqrt(factors[0])
            case "Reciprocal":
                return 1 / factors[0]
            case "ReduceSumSquare":
                return factors[0] ** 2
            case "Pow":
                exponent = self.absorption.number(proto.input[1])
                return None if exponent is None or 1 in factors else float(factors[0] ** exponent)
            case _:
                return self._together(index, proto, factors)

    def _beside(self, index: int, proto: NodeProto, i: int) -> Iterator[Place]:
        """The constants by which a node multiplies an input, or with which it contracts it."""
        others = [1 - i] if proto.op_type in _BILINEAR and i < 2 else []
        for contraction in self.analysis.said.contractions:
            operands = [operand for operand, _ in contraction.operands]
            if contraction.node == index and i in operands:
                others += operands
        for k in others:
            name = proto.input[k]
            if k != i and name in self.analysis.constants and self.analysis.shapes.dtype[name] in FLOATS:
                yield index, k

    def _together(self, index: int, proto: NodeProto, factors: Mapping[int, float]) -> float | None:
        """All addends of a result must be larger alike; those that are not yet are scaled, if only constants have to be."""
        factor = next(iter(factors.values()))
        scales = [
            np.full((1,) * len(self.analysis.dims.get(name, ())), factor) if name else np.ones(())
            for name in proto.output
        ]
        addends = self.absorption.addends(index, scales)
        if addends is None:
            return None
        used: set[int] = set()
        for alternatives in addends:
            found = [k for k, scale in alternatives if k in factors and _is(scale, factors[k])]
            if found:
                used.add(found[0])
            elif not any(self._scaled((index, k), scale) for k, scale in alternatives if k not in factors):
                return None
        return factor if used == factors.keys() else None

    def _scaled(self, place: Place, scale: Factors) -> bool:
        taken = self.absorption.take({place: scale})
        for each, factors in (taken or {}).items():
            if each in self.analysis.uses:
                self._rescale(each, factors)
        return taken is not None

    def _rescale(self, place: Place, factors: Factors | float) -> None:
        rank = len(self.analysis.uses[place])
        before = self.taken.get(place, np.ones((1,) * rank))
        self.taken[place] = before * factors


def _is(scale: Factors, factor: float) -> bool:
    return bool(np.allclose(scale[~np.isnan(scale)], factor, rtol=1e-12, atol=0.0))

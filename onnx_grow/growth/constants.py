"""Constants of a draft: initializers and Constant nodes alike, replaced in place where all readers agree, else beside the old one."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, numpy_helper

from onnx_grow.axes.algebra import Axis
from onnx_grow.axes.inference import Analysis
from onnx_grow.model import Draft, Inline, Typed, Weight

FLOATS = (TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.DOUBLE, TensorProto.BFLOAT16)
"""The element types that can be scaled."""


class Refusal(Exception):
    """The rewrite cannot be done while `axes` grow; none named means all of them."""

    def __init__(self, axes: Sequence[Axis], reason: str) -> None:
        super().__init__(reason)
        self.axes = axes
        self.reason = reason


class Constants:
    """The constants that nodes of a draft read. `shapes` are those of Constant nodes that hold another value now."""

    def __init__(self, analysis: Analysis, draft: Draft) -> None:
        self.analysis = analysis
        self.draft = draft
        self.shapes: dict[str, tuple[int, ...]] = {}
        self._replaced: set[str] = set()

    def weight(self, name: str) -> Weight:
        """The original value of a constant, lazily."""
        if name in self.analysis.model.weights:
            return self.analysis.model.weights[name]
        proto = self.analysis.topology.proto(self.analysis.topology.producers[name])
        attribute = next((a for a in proto.attribute if a.name.startswith("value")), None)
        if attribute is None:
            raise Refusal([], f"{self.analysis.labels[self.analysis.topology.producers[name]]} is sparse")
        if attribute.type == onnx.AttributeProto.TENSOR:
            return Typed(attribute.t)
        kind = np.float32 if "float" in attribute.name else np.int64
        return Inline.of(np.asarray(onnx.helper.get_attribute_value(attribute), kind))

    def replace(self, name: str, weight: Weight, uses: Sequence[tuple[int, int]]) -> None:
        """Let `uses` of constant `name` read `weight` instead: in place when nobody else reads it."""
        if name not in self._replaced and self._read_only_by(name, uses):
            self._replaced.add(name)
            if name in self.draft.weights:
                self.draft.weights[name] = weight
                return
            self.shapes[name] = weight.shape
            proto = self.draft.node(self.analysis.topology.producers[name])
            del proto.attribute[:]
            proto.attribute.append(
                onnx.helper.make_attribute("value", numpy_helper.from_array(weight.array()))
            )
            return
        copy = self.draft.add_weight(f"{name}_grown", weight)
        for index, i in uses:
            self.draft.node(index).input[i] = copy

    def put(self, index: int, i: int, value: np.ndarray[Any, Any]) -> None:
        """Let one input of a node be this value."""
        name = self.analysis.topology.proto(index).input[i]
        if name in self.analysis.constants:
            self.replace(name, Inline.of(value), [(index, i)])
        else:
            self.draft.node(index).input[i] = self.add(f"{name}_pinned", value)

    def add(self, base: str, value: np.ndarray[Any, Any]) -> str:
        """A new constant; its name."""
        return self.draft.add_weight(base, Inline.of(value))

    def _read_only_by(self, name: str, uses: Sequence[tuple[int, int]]) -> bool:
        topology = self.analysis.topology
        if name in topology.captured or name in topology.outputs:
            return False
        return set(topology.consumers.get(name, ())) == set(uses)

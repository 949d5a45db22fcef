"""What a graph input is for, read off the nodes that it reaches.

A number fed to a network can be a measurement, where anything goes, or the row of a table, a length, a switch, a mask, where
most values are illegal. From every input the graph is walked through nodes that hand values on unchanged (Cast, Reshape,
Add of a constant …) to the nodes that use them.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx
from onnx import NodeProto, numpy_helper

from onnx_grow.model import Model
from onnx_grow.model.walk import nested_graphs

__all__ = ["Role", "roles"]

_CARRIES = {
    "Cast": (0,),
    "Clip": (0,),
    "Concat": None,
    "Dropout": (0,),
    "Expand": (0,),
    "Flatten": (0,),
    "Gather": (0,),
    "Identity": (0,),
    "Max": None,
    "Min": None,
    "Pad": (0,),
    "Reshape": (0,),
    "Slice": (0,),
    "Split": (0,),
    "Squeeze": (0,),
    "Tile": (0,),
    "Transpose": (0,),
    "Unsqueeze": (0,),
    "Where": (1, 2),
}
"""Operators that hand on the values of the inputs at these positions; None means all."""

_LENGTHS = {("LSTM", 4), ("GRU", 4), ("RNN", 4), ("ReverseSequence", 1)}
_COUNTS = {
    ("Reshape", 1),
    ("Expand", 1),
    ("Tile", 1),
    ("Range", 1),
    ("TopK", 1),
    ("ConstantOfShape", 0),
    ("Loop", 0),
    ("OneHot", 1),
}
_ROWS = {("Gather", 1), ("GatherElements", 1), ("GatherND", 1), ("ScatterElements", 1), ("ScatterND", 1)}


@dataclass(frozen=True)
class Role:
    """What the values of an input have to satisfy.

    `rows`: they index a table and lie in [low, rows). `choices`: they are compared with these, so one of them decides a
    branch. `length`: they count steps or elements. `mask`: they switch positions on and off. None of these: free values.
    """

    rows: int | None = None
    low: int = 0
    choices: tuple[Any, ...] = ()
    length: bool = False
    mask: bool = False


def roles(model: Model, names: Iterable[str]) -> dict[str, Role]:
    """The roles of graph inputs, by name."""
    graph = _Graph(model)
    return {name: _role(graph, name) for name in names}


def _role(graph: _Graph, name: str) -> Role:
    found = _Found()
    seen = {name}
    stack: list[tuple[str, int]] = [(name, 0)]
    while stack:
        tensor, offset = stack.pop()
        for node, position in graph.consumers.get(tensor, ()):
            found.note(graph, node, position, offset)
            shift = _carried(graph, node, position)
            if shift is None:
                continue
            for output in node.output[:1] if node.op_type != "Split" else node.output:
                if output not in seen:
                    seen.add(output)
                    stack.append((output, offset + shift))
    return found.role(name)


@dataclass
class _Found:
    """What the walk from one input has met so far."""

    rows: list[int] = field(default_factory=list)
    low: int = 0
    choices: list[Any] = field(default_factory=list)
    length: bool = False

    def note(self, graph: _Graph, node: NodeProto, position: int, offset: int) -> None:
        use = (node.op_type, position)
        if use in _ROWS or (node.op_type == "EmbedLayerNormalization" and position < 2):
            self.rows.append(max(graph.rows(node, position) - offset, 1))
            self.low = max(self.low, -offset)
        elif use == ("OneHot", 0) and (depth := graph.constant(node.input[1])) is not None:
            self.rows.append(max(int(depth.reshape(-1)[0]) - offset, 1))
        elif use in _LENGTHS or use in _COUNTS:
            self.length = True
        elif node.op_type == "Equal" and (other := graph.constant(node.input[1 - position])) is not None:
            self.choices += [
                value - offset for value in other.reshape(-1)[:16].tolist() if isinstance(value, int)
            ]
        elif node.domain == "ai.onnx.ml":
            self.choices += _keys(node)

    def role(self, name: str) -> Role:
        lowered = name.lower()
        if self.rows:
            rows = min(self.rows)
            return Role(rows=rows, low=min(self.low, rows - 1))
        if self.length or ("len" in lowered and "mask" not in lowered):
            return Role(length=True)
        if "mask" in lowered:
            return Role(mask=True)
        return Role(choices=tuple(dict.fromkeys(self.choices)))


class _Graph:
    """The nodes by what they read, and the constants by name; subgraphs included."""

    def __init__(self, model: Model) -> None:
        self.model = model
        self.consumers: dict[str, list[tuple[NodeProto, int]]] = {}
        self.producers: dict[str, NodeProto] = {}
        main = model.skeleton.graph
        for node in (node for graph in (main, *nested_graphs(main)) for node in graph.node):
            for position, name in enumerate(node.input):
                self.consumers.setdefault(name, []).append((node, position))
            for name in node.output:
                self.producers[name] = node

    def constant(self, name: str) -> np.ndarray[Any, Any] | None:
        """The value of a small initializer or Constant node."""
        weight = self.model.weights.get(name)
        if weight is not None:
            return weight.array() if weight.nbytes <= 1024 else None
        node = self.producers.get(name)
        if node is not None and node.op_type == "Constant":
            for attribute in node.attribute:
                if attribute.name == "value":
                    return numpy_helper.to_array(attribute.t)
                if attribute.name in ("value_int", "value_ints"):
                    return np.asarray(onnx.helper.get_attribute_value(attribute))
        return None

    def rows(self, node: NodeProto, position: int) -> int:
        """How many rows the table has that `node` looks into; 1, which is always legal, if that is not known."""
        if node.op_type == "EmbedLayerNormalization":
            tables = node.input[2:5]  # of words, positions and segments
            return min(self._shape(tables[2 * position]), default=1) if len(tables) == 3 else 1
        shape = self._shape(node.input[0])
        if not shape:
            return 1
        if node.op_type.endswith("ND"):
            return min(shape)
        axis = next((attribute.i for attribute in node.attribute if attribute.name == "axis"), 0)
        return shape[axis] if -len(shape) <= axis < len(shape) else 1

    def _shape(self, name: str) -> Sequence[int]:
        """The shape of a weight, also behind nodes that keep the shape."""
        for _ in range(8):
            if name in self.model.weights:
                return self.model.weights[name].shape
            node = self.producers.get(name)
            if node is None:
                return ()
            if node.op_type == "Constant":
                return next((tuple(a.t.dims) for a in node.attribute if a.name == "value"), ())
            if node.op_type not in ("Cast", "Identity", "DequantizeLinear", "QuantizeLinear"):
                return ()
            name = node.input[0]
        return ()


def _carried(graph: _Graph, node: NodeProto, position: int) -> int | None:
    """What the node adds to the values that come in at `position` and go on; None if they do not go on."""
    if node.op_type in ("Add", "Sub"):
        other = graph.constant(node.input[1 - position])
        if (
            other is None
            or other.size == 0
            or other.dtype.kind not in "iuf"
            or (node.op_type == "Sub" and position)
        ):
            return None
        return int(other.max() if node.op_type == "Add" else -other.min())
    positions = _CARRIES.get(node.op_type, ())
    return 0 if positions is None or position in positions else None


def _keys(node: NodeProto) -> Iterator[Any]:
    """The strings or integers that a node of ai.onnx.ml knows."""
    known: Mapping[str, str] = {
        "keys_strings": "s",
        "cats_strings": "s",
        "keys_int64s": "i",
        "cats_int64s": "i",
    }
    for attribute in node.attribute:
        if attribute.name in known:
            for key in onnx.helper.get_attribute_value(attribute):
                yield key.decode() if isinstance(key, bytes) else key

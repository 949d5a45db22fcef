"""The topology: who computes what, and who reads it; and the same graph as GraphSurgeon sees it.

GraphSurgeon gets a copy without weights and without what it cannot import; nothing is written through it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import TYPE_CHECKING

import onnx
from onnx import AttributeProto, NodeProto, TensorProto

from onnx_grow.model.checks import captured
from onnx_grow.model.walk import all_nodes, graphs

if TYPE_CHECKING:
    import onnx_graphsurgeon as gs

__all__ = ["Topology"]


class Topology:
    """Who computes what, and who reads it, in the main graph.

    `nodes` are those of the skeleton. `inputs` and `outputs` name what
    a caller feeds and gets: initializers that are also inputs are not among them.
    """

    def __init__(self, skeleton: onnx.ModelProto) -> None:
        self._skeleton = skeleton
        graph = skeleton.graph
        stored = {tensor.name for tensor in graph.initializer}
        stored |= {sparse.values.name for sparse in graph.sparse_initializer}
        self.nodes: Sequence[NodeProto] = list(graph.node)
        self.inputs = tuple(value.name for value in graph.input if value.name not in stored)
        self.outputs = tuple(value.name for value in graph.output)

    @cached_property
    def producers(self) -> Mapping[str, int]:
        """The node that computes each tensor."""
        return {name: index for index, node in enumerate(self.nodes) for name in node.output if name}

    @cached_property
    def consumers(self) -> Mapping[str, Sequence[tuple[int, int]]]:
        """The (node, input position) pairs that read each tensor."""
        found: dict[str, list[tuple[int, int]]] = {}
        for index, node in enumerate(self.nodes):
            for position, name in enumerate(node.input):
                if name:
                    found.setdefault(name, []).append((index, position))
        return found

    @cached_property
    def captured(self) -> Mapping[str, int]:
        """The (first) node in whose subgraphs each tensor is read that they do not compute themselves."""
        found: dict[str, int] = {}
        for index, node in enumerate(self.nodes):
            for name in captured(node):
                found.setdefault(name, index)
        return found

    def is_read(self, name: str) -> bool:
        """Whether anything reads a tensor, if only the world outside."""
        return name in self.consumers or name in self.outputs or name in self.captured

    def proto(self, index: int) -> NodeProto:
        """Node `index` as the file has it."""
        return self.nodes[index]

    @cached_property
    def graph(self) -> gs.Graph:
        """The graph as GraphSurgeon sees it, whose `nodes[i]` is node i; read attributes and values from `proto(i)`, as it does
        not know all of them."""
        return _imported(self._skeleton)


def _imported(skeleton: onnx.ModelProto) -> gs.Graph:
    import onnx_graphsurgeon as gs
    from onnx_graphsurgeon.logger import G_LOGGER

    with G_LOGGER.suppress():  # it warns of types it does not know; we never ask it for values
        return gs.import_onnx(_importable(skeleton))


_KNOWN_TYPES = frozenset(TensorProto.DataType.values())
_READABLE = (
    AttributeProto.FLOAT,
    AttributeProto.INT,
    AttributeProto.STRING,
    AttributeProto.GRAPH,
    AttributeProto.FLOATS,
    AttributeProto.INTS,
    AttributeProto.STRINGS,
)


def _importable(skeleton: onnx.ModelProto) -> onnx.ModelProto:
    """A copy that `gs.import_onnx` reads without exception: only types and attributes it decodes."""
    copy = onnx.ModelProto()
    copy.CopyFrom(skeleton)
    for field in ("training_info", "functions", "metadata_props"):
        copy.ClearField(field)
    for graph in graphs(copy):
        for value in (*graph.input, *graph.output, *graph.value_info):
            tensor = value.type.HasField("tensor_type")
            if not tensor or value.type.tensor_type.elem_type not in _KNOWN_TYPES:
                value.ClearField("type")
    for node in all_nodes(copy):
        kept = [attribute for attribute in node.attribute if _is_readable(attribute)]
        if len(kept) < len(node.attribute):
            del node.attribute[:]
            node.attribute.extend(kept)
    return copy


def _is_readable(attribute: AttributeProto) -> bool:
    return attribute.type in _READABLE and all(map(_is_text, (attribute.s, *attribute.strings)))


def _is_text(text: bytes) -> bool:
    try:
        text.decode()
    except UnicodeDecodeError:
        return False
    return True

"""The topology: the graph as GraphSurgeon sees it, for reading.

GraphSurgeon gets a copy without weights and without what it cannot import; nothing is written through it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, cast

import onnx
from onnx import AttributeProto, NodeProto, TensorProto

from onnx_grow.model.checks import captured
from onnx_grow.model.walk import all_nodes, graphs

if TYPE_CHECKING:
    import onnx_graphsurgeon as gs

__all__ = ["Topology"]


class Topology:
    """Who computes what, and who reads it, in the main graph.

    `graph` is the GraphSurgeon graph and `nodes[i]` its view of node i of the skeleton; read attributes and
    values from `proto(i)`, since GraphSurgeon does not know all of them. `producers` maps a tensor to the node
    that computes it, `consumers` to the (node, input position) pairs that read it, and `captured` maps a tensor
    that is read inside a subgraph to the (first) node that owns the subgraph. `inputs` and `outputs` name what
    a caller feeds and gets: initializers that are also inputs are not among them.
    """

    graph: gs.Graph
    nodes: list[gs.Node]
    producers: Mapping[str, int]
    consumers: Mapping[str, Sequence[tuple[int, int]]]
    captured: Mapping[str, int]
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]

    def __init__(self, skeleton: onnx.ModelProto) -> None:
        self._skeleton = skeleton
        self.graph = _imported(skeleton)
        self.nodes = self.graph.nodes
        self.inputs = tuple(tensor.name for tensor in self.graph.inputs)
        self.outputs = tuple(tensor.name for tensor in self.graph.outputs)
        producers: dict[str, int] = {}
        consumers: dict[str, list[tuple[int, int]]] = {}
        owners: dict[str, int] = {}
        for index, node in enumerate(self.nodes):
            producers.update((tensor.name, index) for tensor in node.outputs if tensor.name)
            for position, tensor in enumerate(node.inputs):
                if tensor.name:
                    consumers.setdefault(tensor.name, []).append((index, position))
            for name in captured(self.proto(index)):
                owners.setdefault(name, index)
        self.producers, self.consumers, self.captured = producers, consumers, owners

    def proto(self, index: int) -> NodeProto:
        """Node `index` as the file has it."""
        return cast(NodeProto, self._skeleton.graph.node[index])


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

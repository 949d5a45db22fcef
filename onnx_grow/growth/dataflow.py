"""What depends on what: constants told from activations, and the nodes between two tensors."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from typing import Any

from onnx import NodeProto, TensorProto, helper, numpy_helper

from onnx_grow.model import Inline, Model, Topology, Weight
from onnx_grow.model.bodies import MARKERS, Bodies
from onnx_grow.model.walk import subgraphs

__all__ = ["RANDOM", "Dataflow", "Reach", "attribute", "enclosed", "operator"]

RANDOM = frozenset(
    {"Bernoulli", "Multinomial", "RandomNormal", "RandomNormalLike", "RandomUniform", "RandomUniformLike"}
)


def operator(node: NodeProto) -> str:
    """The operator of a node, with its domain unless that is the default one."""
    return node.op_type if node.domain in ("", "ai.onnx") else f"{node.domain}.{node.op_type}"


def attribute(node: NodeProto, name: str, default: Any = None) -> Any:
    """The value of an attribute of a node, `default` where it has none."""
    for entry in node.attribute:
        if entry.name == name:
            return helper.get_attribute_value(entry)
    return default


class Dataflow:
    """The main graph of a model, bodies of control flow written out, for reading.

    A tensor is *constant* if it is an initializer or is computed from initializers alone, an *activation* otherwise; what enters
    or leaves a body is an activation.
    """

    def __init__(self, model: Model) -> None:
        self.topology: Topology = model.topology()
        self.nodes: list[NodeProto] = list(model.skeleton.graph.node)
        self.bodies = Bodies.of(model.skeleton.graph)
        self._weights = model.weights
        self.constants: frozenset[str] = self._find_constants(model)

    def producer(self, tensor: str) -> int | None:
        """The index of the node that computes a tensor; None for inputs and initializers."""
        return self.topology.producers.get(tensor)

    def readers(self, tensor: str) -> tuple[int, ...]:
        """The nodes of the main graph that read the values of a tensor, not only its shape; in order, each once."""
        found = dict.fromkeys(index for index, _ in self.topology.consumers.get(tensor, ()))
        return tuple(index for index in found if operator(self.nodes[index]) not in _SHAPE_ONLY)

    def is_visible(self, tensor: str) -> bool:
        """Whether anything but the nodes of the main graph sees a tensor: the caller, or a subgraph."""
        return tensor in self.topology.outputs or tensor in self.topology.captured

    def activations(self, index: int) -> list[str]:
        """The inputs of a node that depend on the model's inputs."""
        return [name for name in self.nodes[index].input if name and name not in self.constants]

    def is_enclosed(self, index: int) -> bool:
        """Whether a node lies in a body."""
        return bool(self.bodies.around[index])

    def lies_around(self, body: tuple[int, ...], tensor: str) -> bool:
        """Whether a tensor is known in a body."""
        producer = self.producer(tensor)
        place = self.bodies.weights.get(tensor, ()) if producer is None else self.bodies.around[producer]
        return body[: len(place)] == place

    def label(self, index: int) -> str:
        """The name of a node, or of its first output where the file gives it none."""
        node = self.nodes[index]
        return node.name or next(filter(None, node.output), f"{node.op_type}_{index}")

    def root(self, tensor: str) -> str | None:
        """The stored tensor that a constant is, seen through Transpose, Reshape, Cast and the like; None if there is none."""
        while (index := self.producer(tensor)) is not None:
            node = self.nodes[index]
            if operator(node) == "Constant":
                return tensor
            if operator(node) not in _VIEWS or tensor not in self.constants:
                return None
            tensor = node.input[0]
        return tensor if tensor in self._weights else None

    def stored(self, tensor: str) -> Weight | None:
        """The values of an initializer or of a Constant node's tensor; None for anything else."""
        if tensor in self._weights:
            return self._weights[tensor]
        value = self._constant(tensor)
        return Inline.of(numpy_helper.to_array(value)) if value else None

    def kind(self, tensor: str) -> tuple[int, tuple[int, ...]] | None:
        """TensorProto.DataType and shape of a stored tensor; None for what is not stored."""
        if tensor in self._weights:
            return self._weights[tensor].dtype, self._weights[tensor].shape
        value = self._constant(tensor)
        return (value.data_type, tuple(value.dims)) if value else None

    def elements(self, tensor: str) -> int:
        """How many elements a stored tensor has; 0 for what is not stored."""
        kind = self.kind(tensor)
        return math.prod(kind[1]) if kind else 0

    def _constant(self, tensor: str) -> TensorProto | None:
        index = self.producer(tensor)
        if index is None or operator(self.nodes[index]) != "Constant":
            return None
        value = attribute(self.nodes[index], "value")
        return value if isinstance(value, TensorProto) else None

    def _find_constants(self, model: Model) -> frozenset[str]:
        constants = set(model.weights)
        constants.update(tensor.values.name for tensor in model.skeleton.graph.sparse_initializer)
        for node in self.nodes:
            if operator(node) == "Constant" or (
                node.input
                and node.op_type not in RANDOM
                and node.domain not in MARKERS
                and all(not name or name in constants for name in _computed_from(node))
                and not any(subgraphs(node))
            ):
                constants.update(filter(None, node.output))
        return frozenset(constants)


def _computed_from(node: NodeProto) -> Sequence[str]:
    """The inputs of a node whose values count; of some it reads only the type."""
    return list(node.input)[: 1 if operator(node) == "CastLike" else None]


_SHAPE_ONLY = frozenset({"Shape", "Size"})
_VIEWS = frozenset({"Cast", "Flatten", "Identity", "Reshape", "Squeeze", "Transpose", "Unsqueeze"})


class Reach:
    """Which of some tensors every other tensor is computed from.

    One bit per source and one pass over the nodes: the set that reaches a tensor is the union of those that reach
    the inputs of its node. What only reads a shape does not depend on the data.
    """

    def __init__(self, flow: Dataflow, sources: Iterable[str]) -> None:
        self._flow = flow
        self._bit: Mapping[str, int] = {
            source: 1 << place for place, source in enumerate(dict.fromkeys(sources))
        }
        self._behind: dict[str, int] = {}
        for node in flow.nodes:
            if operator(node) in _SHAPE_ONLY:
                continue
            reached = 0
            for name in node.input:
                reached |= self._behind.get(name, 0) | self._bit.get(name, 0)
            if reached:
                self._behind.update((name, reached) for name in node.output if name)

    def is_behind(self, tensor: str, source: str) -> bool:
        """Whether a tensor is computed from the source, and is not the source itself."""
        return bool(self._behind.get(tensor, 0) & self._bit[source])

    def between(
        self, source: str, end: str, barrier: Callable[[int], bool] = lambda _: False
    ) -> list[int] | None:
        """The nodes that lie both behind the source and before, or at, the end; in order. None if one is a barrier."""
        found: set[int] = set()
        stack = [end]
        while stack:
            tensor = stack.pop()
            index = self._flow.producer(tensor)
            if index is not None and index not in found and self.is_behind(tensor, source):
                if barrier(index):
                    return None
                found.add(index)
                stack.extend(self._flow.nodes[index].input)
        return sorted(found)


def enclosed(
    flow: Dataflow,
    tensor: str,
    allowed: Collection[str],
    is_exit: Callable[[str], bool],
    limit: int = 24,
) -> list[int] | None:
    """The smallest set of nodes that all readers of a tensor belong to and that only one tensor leaves.

    The nodes are operators of `allowed` that read nothing but constants and each other, and `is_exit` accepts the tensor
    that leaves: the output of the last of them. None if there is no such set of up to `limit` nodes.
    """
    nodes: list[int] = []
    inside = {tensor}
    pending = set(flow.readers(tensor))
    while pending and len(nodes) < limit:
        index = min(pending)
        node = flow.nodes[index]
        if operator(node) not in allowed or not inside.issuperset(flow.activations(index)):
            return None
        nodes.append(index)
        inside.update(filter(None, node.output))
        pending.update(reader for name in node.output for reader in flow.readers(name))
        pending.discard(index)
        if pending and not pending.issubset(flow.readers(node.output[0])):
            continue
        leaving = [
            name for name in inside if flow.is_visible(name) or not pending.isdisjoint(flow.readers(name))
        ]
        if leaving == [node.output[0]] and is_exit(node.output[0]):
            return nodes
    return None

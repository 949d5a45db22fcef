"""What grew between two models, layer by layer, whoever grew them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass
from functools import cache
from itertools import zip_longest
from typing import Any, Literal
from zlib import crc32

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import AttributeProto, NodeProto, TensorProto, defs, helper, numpy_helper

from onnx_grow.growth.provenance import continued, history
from onnx_grow.model import Model, Weight, flattened
from onnx_grow.model.bodies import MARKERS
from onnx_grow.model.nodes import is_default

__all__ = ["Change", "Difference", "LayerDifference", "aligned", "diff"]

Shape = tuple[int | str | None, ...]
Bytes = NDArray[np.uint8]


@dataclass(frozen=True)
class Change:
    """Something with a name, and what it is in the original and in the grown model; None where it is not there."""

    name: str
    before: Any
    after: Any


@dataclass(frozen=True)
class LayerDifference:
    """A node that differs: what is true of it, and the shapes of the weights it reads, its attributes and its inputs that changed.

    Of a node that one of the models lacks, `weights` are all that it reads.
    """

    name: str
    operator: str
    change: Literal["added", "removed", "changed"]
    weights: tuple[Change, ...] = ()
    attributes: tuple[Change, ...] = ()
    inputs: tuple[Change, ...] = ()


@dataclass(frozen=True)
class Difference:
    """What differs between two models.

    `layers` are nodes, in the order of the grown model, those that it lacks behind; nodes belong together by name, those without one by
    operator and order. `weights` are initializers that are of another shape, or in one model only; `values` names those of
    equal shape whose values differ, or their type. `interface` are inputs and outputs of the models. `history` is what the grown model
    says was done to it, but not to the original.
    """

    parameters: Change
    nodes: Change
    layers: tuple[LayerDifference, ...]
    weights: tuple[Change, ...]
    values: tuple[str, ...]
    interface: tuple[Change, ...]
    history: tuple[Mapping[str, Any], ...]

    @property
    def is_empty(self) -> bool:
        """Whether the models are the same, as far as they are compared."""
        return not (self.layers or self.weights or self.values or self.interface)

    def to_json(self) -> dict[str, Any]:
        """Plain data with the keys of docs/json.md."""
        counts = {name: {"before": c.before, "after": c.after} for name, c in self._counts()}
        return {**asdict(self), **counts, "same": self.is_empty}

    def __str__(self) -> str:
        lines = [f"{name}: {change.before:,} -> {change.after:,}" for name, change in self._counts()]
        for layer in self.layers:
            what = (
                f"{c.name} {c.before} -> {c.after}"
                for c in (*layer.weights, *layer.attributes, *layer.inputs)
            )
            lines.append(f"{layer.change} {layer.operator} {layer.name}: {'; '.join(what)}".rstrip(": "))
        return "\n".join(lines)

    def _counts(self) -> tuple[tuple[str, Change], ...]:
        return (("parameters", self.parameters), ("nodes", self.nodes))


def diff(original: Model, grown: Model) -> Difference:
    """Compare two models by their files: nodes, weights, attributes, inputs and outputs. Nothing is run.

    Nodes in the bodies of control flow are compared like all others.
    """
    before, after = flattened(original), flattened(grown)
    weights = (before.weights, after.weights)
    return Difference(
        Change("parameters", original.parameters, grown.parameters),
        Change("nodes", len(original.skeleton.graph.node), len(grown.skeleton.graph.node)),
        tuple(_layers(before, after)),
        tuple(_changes(*({name: weight.shape for name, weight in held.items()} for held in weights))),
        tuple(
            name for name, weight in after.weights.items() if _has_other_values(weights[0].get(name), weight)
        ),
        tuple(_changes(*(_interface(model) for model in (original, grown)))),
        tuple(history(grown) if (new := continued(original, grown)) is None else new),
    )


def _layers(original: Model, grown: Model) -> Iterator[LayerDifference]:
    before, after = (
        _named(node for node in model.skeleton.graph.node if node.domain not in MARKERS)
        for model in (original, grown)
    )
    for key, node in after.items():
        old = before.get(key)
        if old is None:
            yield LayerDifference(
                _name(node), node.op_type, "added", tuple(_all_weights(grown, node, added=True))
            )
            continue
        layer = LayerDifference(
            _name(node),
            node.op_type,
            "changed",
            tuple(_weights(original, old, grown, node)),
            tuple(_changes(_described(old, original), _described(node, grown))),
            tuple(_rewired(old, node, original, grown)),
        )
        if layer.weights or layer.attributes or layer.inputs:
            yield layer
    for key, node in before.items():
        if key not in after:
            yield LayerDifference(
                _name(node), node.op_type, "removed", tuple(_all_weights(original, node, added=False))
            )


def _named(nodes: Iterable[NodeProto]) -> dict[tuple[str, str, int], NodeProto]:
    """The nodes by what identifies them: a name, or an operator, and how often that came before."""
    seen: Counter[tuple[str, str]] = Counter()
    out: dict[tuple[str, str, int], NodeProto] = {}
    for node in nodes:
        kind = (node.name, "" if node.name else node.op_type)
        out[*kind, seen[kind]] = node
        seen[kind] += 1
    return out


def _name(node: NodeProto) -> str:
    return node.name or next(filter(None, node.output), node.op_type)


def _all_weights(model: Model, node: NodeProto, *, added: bool) -> Iterator[Change]:
    for name in node.input:
        if name in model.weights:
            shape = model.weights[name].shape
            yield Change(name, None, shape) if added else Change(name, shape, None)


def _weights(original: Model, old: NodeProto, grown: Model, new: NodeProto) -> Iterator[Change]:
    """The weights that a node reads at the same place, where their shapes differ."""
    for before, after in zip_longest(old.input, new.input, fillvalue=""):
        shapes = _shape(original, before), _shape(grown, after)
        if shapes[0] != shapes[1] and None not in shapes:
            yield Change(after, *shapes)


def _shape(model: Model, name: str) -> tuple[int, ...] | None:
    return model.weights[name].shape if name in model.weights else None


def _rewired(old: NodeProto, new: NodeProto, original: Model, grown: Model) -> Iterator[Change]:
    """Inputs that come from elsewhere; weights only where they took the place of something else, or gave it up."""
    for k, (before, after) in enumerate(zip_longest(old.input, new.input, fillvalue="")):
        both = before in original.weights and after in grown.weights
        if before != after and not both:
            yield Change(f"input {k}", before, after)


def _described(node: NodeProto, model: Model) -> dict[str, Any]:
    """The operator of a node and its attributes, with those it leaves out and ONNX has a value for."""
    name = f"{node.domain}.{node.op_type}" if node.domain else node.op_type
    said = {attribute.name: _value(attribute) for attribute in node.attribute}
    return {"operator": name, **(_defaults(node.op_type, model.opset) if is_default(node) else {}), **said}


@cache
def _defaults(operator: str, opset: int) -> Mapping[str, Any]:
    if not defs.has(operator, opset):
        return {}
    values = (formal.default_value for formal in defs.get_schema(operator, opset).attributes.values())
    return {value.name: _value(value) for value in values if value.type != AttributeProto.UNDEFINED}


def _value(attribute: AttributeProto) -> Any:
    """An attribute's value as people read it; of tensors and graphs, how large they are and what tells them apart."""
    match attribute.type:
        case AttributeProto.TENSOR:
            return _tensor(attribute.t)
        case AttributeProto.GRAPH:
            return f"graph of {len(attribute.g.node)} nodes"
        case AttributeProto.INT | AttributeProto.FLOAT | AttributeProto.INTS | AttributeProto.FLOATS:
            value = helper.get_attribute_value(attribute)
            return list(value) if attribute.type in (AttributeProto.INTS, AttributeProto.FLOATS) else value
        case AttributeProto.STRING:
            return attribute.s.decode(errors="replace")
        case AttributeProto.STRINGS:
            return [text.decode(errors="replace") for text in attribute.strings]
        case _:
            return AttributeProto.AttributeType.Name(attribute.type).lower()


def _tensor(tensor: TensorProto) -> str:
    """Few elements as they are; of many, the shape and a checksum, whichever field holds them."""
    array = numpy_helper.to_array(tensor)
    if array.size <= _FEW and array.dtype != object:
        return f"{array.tolist()}"
    data = repr(array.tolist()).encode() if array.dtype == object else array.tobytes()
    return f"tensor of shape {list(tensor.dims)}, CRC {crc32(data):08x}"


_FEW = 16


def _changes(before: Mapping[str, Any], after: Mapping[str, Any]) -> Iterator[Change]:
    for name in dict.fromkeys((*after, *before)):
        if repr(before.get(name)) != repr(after.get(name)):  # NaN is no other value than NaN
            yield Change(name, before.get(name), after.get(name))


def _interface(model: Model) -> dict[str, Shape | None]:
    graph = model.skeleton.graph
    values = [value for value in graph.input if value.name not in model.weights]
    return {value.name: _declared(value) for value in (*values, *graph.output)}


def _declared(value: onnx.ValueInfoProto) -> Shape | None:
    if not value.type.tensor_type.HasField("shape"):
        return None
    dims = value.type.tensor_type.shape.dim
    return tuple(dim.dim_value if dim.HasField("dim_value") else dim.dim_param or None for dim in dims)


def _has_other_values(old: Weight | None, new: Weight) -> bool:
    """Whether a weight that kept its shape has other values, bit by bit, or those of another type."""
    if old is None or old is new or old.shape != new.shape:
        return False
    if old.dtype != new.dtype:
        return True
    if new.dtype == TensorProto.STRING:
        return bool((old.array() != new.array()).any())
    return any(not np.array_equal(before, after) for before, after in aligned(old, new))


def aligned(old: Weight, new: Weight) -> Iterator[tuple[Bytes, Bytes]]:
    """The raw bytes of two weights of one type and shape in pieces of equal length, so that neither is in memory as a whole.

    Strings have none (TypeError).
    """
    sources = (old.chunks(), new.chunks())
    left, right = (np.zeros(0, np.uint8) for _ in sources)
    while True:
        left, right = (
            rest if rest.size else _next(source) for rest, source in zip((left, right), sources, strict=True)
        )
        count = min(left.size, right.size)
        if not count:
            return
        yield left[:count], right[:count]
        left, right = left[count:], right[count:]


def _next(chunks: Iterator[bytes | memoryview]) -> Bytes:
    found = next((chunk for chunk in chunks if memoryview(chunk).nbytes), b"")
    return np.frombuffer(found, np.uint8)

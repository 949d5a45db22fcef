"""Control flow, written out: the nodes of bodies stand among those of the main graph, once each, between markers.

    If          entry, nodes of one branch, exit, entry, nodes of the other, exit, join
    Loop, Scan  entry, nodes of the body, exit, join

Everything behind then sees one graph. Weights of bodies are weights of the model, names that shadow others are unique, and a
state that a body passes on unchanged is read where it comes from. `nested` puts everything back: what nobody changed becomes what
it was.

Markers are nodes of the owner's operator in domains of their own. An entry has the formal inputs of its body as outputs; it reads
the owner's inputs (Loop, Scan) or nothing (If). An exit reads what the body results in. A join gives the owner's outputs; it reads
the condition and both branches' exits (If), or the entry's outputs and the exit's (Loop, Scan).
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import repeat
from typing import Any

import onnx
from onnx import AttributeProto, GraphProto, NodeProto, TensorProto, ValueInfoProto, helper, numpy_helper

from onnx_grow.errors import InvalidModelError
from onnx_grow.model import wire
from onnx_grow.model.checks import captured
from onnx_grow.model.model import Model
from onnx_grow.model.names import Names, quoted
from onnx_grow.model.nodes import is_default
from onnx_grow.model.walk import all_names, nested_graphs, subgraphs
from onnx_grow.model.weights import Inline, Weight

__all__ = ["BRANCH", "ENTRY", "EXIT", "FORMALS", "JOIN", "MARKERS", "Bodies", "flattened", "nested", "states"]

ENTRY, EXIT, JOIN = "onnx_grow.entry", "onnx_grow.exit", "onnx_grow.join"
MARKERS = frozenset({ENTRY, EXIT, JOIN})

_BODIES = {"If": {"then_branch", "else_branch"}, "Loop": {"body"}, "Scan": {"body"}}
BRANCH = "onnx_grow.branch"
"""Attribute of an entry: the name of the owner's attribute that its body is."""
FORMALS = "onnx_grow.formals"
"""Attribute of a join: the number of its inputs that are the entry's outputs."""
# Other attributes of markers, beside the owner's own.
_HEADER, _NUMBER, _WEIGHTS, _RENAMED, _PASSED, _OUTPUTS, _DOMAIN = (
    "onnx_grow.header",
    "onnx_grow.number",
    "onnx_grow.weights",
    "onnx_grow.renamed",
    "onnx_grow.passed",
    "onnx_grow.outputs",
    "onnx_grow.domain",
)


class Enclosed(Inline):
    """A weight that is an initializer of a body, as the file has it."""

    __slots__ = ("tensor",)

    def __init__(self, tensor: TensorProto) -> None:
        super().__init__(numpy_helper.to_array(tensor))
        self.tensor = tensor


def flattened(model: Model) -> Model:
    """The model with the bodies of If, Loop and Scan among the nodes of its main graph; itself where there are none.

    Owners of which something is unusual (sparse initializers, the Scan of operator set 8) stay as they are.
    """
    opset = model.opset
    owners = (node for node in model.skeleton.graph.node if node.op_type in _BODIES)
    if not any(_is_described(node, opset) for node in owners):
        return model
    return _Flattening(model).run()


def nested(model: Model) -> Model:
    """The inverse of `flattened`, also of a model that was edited in between; a model without markers is returned as it is.

    Weights of bodies that were replaced stay with the main graph, which writes them without having them in memory.
    """
    if not any(node.domain in MARKERS for node in model.skeleton.graph.node):
        return model
    return _Nesting(model).run()


def states(node: NodeProto, formals: int) -> list[tuple[int, int]]:
    """The loop-carried tensors of an owner whose body has that many inputs: positions among those, and among its results."""
    if node.op_type == "If":
        return []
    first = 2 if node.op_type == "Loop" else 0
    return [(k, k - first // 2) for k in range(first, formals - _scanned(node))]


@dataclass(frozen=True)
class Bodies:
    """Where the bodies of a flat graph are.

    `around` has the entries of the bodies that each node lies in, outermost first: a body's entry and exit lie in it, a join does
    not. `weights` has them for weights that are a body's own. `carried` maps a state's formal input to what the body makes of it.
    """

    around: tuple[tuple[int, ...], ...]
    weights: Mapping[str, tuple[int, ...]]
    carried: Mapping[str, str]

    @classmethod
    def of(cls, graph: GraphProto) -> Bodies:
        """Those of a graph, none where it has no markers."""
        stack: list[int] = []
        around: list[tuple[int, ...]] = []
        weights: dict[str, tuple[int, ...]] = {}
        carried: dict[str, str] = {}
        for index, node in enumerate(graph.node):
            if node.domain == ENTRY:
                stack.append(index)
                weights.update(dict.fromkeys(_pairs(node, _WEIGHTS).values(), tuple(stack)))
            around.append(tuple(stack))
            if node.domain == EXIT:
                entry = graph.node[stack.pop()]
                pairs = states(entry, len(entry.output))
                carried.update((entry.output[k], node.input[o]) for k, o in pairs if entry.output[k])
        return cls(tuple(around), weights, carried)


def _is_described(node: NodeProto, opset: int) -> bool:
    """Whether an owner, and every owner inside it, has the form that its operator asks for."""
    return _is_owner(node, opset) and all(
        _is_owner(inner, opset)
        for graph in subgraphs(node)
        for body in (graph, *nested_graphs(graph))
        for inner in body.node
        if any(subgraphs(inner))
    )


def _is_owner(node: NodeProto, opset: int) -> bool:
    if node.op_type not in _BODIES:
        return False
    bodies = {attribute.name: attribute.g for attribute in node.attribute if attribute.HasField("g")}
    if not is_default(node) or _BODIES[node.op_type] != bodies.keys():
        return False
    if any(graph.sparse_initializer or graph.quantization_annotation for graph in bodies.values()):
        return False
    formals = {len(graph.input) for graph in bodies.values()}
    results = {len(graph.output) for graph in bodies.values()}
    if node.op_type == "If":
        return len(node.input) == 1 and formals == {0} and results == {len(node.output)}
    loop = node.op_type == "Loop"
    axes = {attribute.name: len(attribute.ints) for attribute in node.attribute}
    if axes.get("scan_input_axes", 0) not in (0, _scanned(node)):
        return False
    if axes.get("scan_output_axes", 0) not in (0, *(n - len(node.input) + _scanned(node) for n in results)):
        return False
    carried = len(node.input) - (2 if loop else _scanned(node))
    needed = max(carried, len(node.output)) + int(loop)
    known = loop or (opset >= 9 and _scanned(node) > 0)
    return known and formals == {len(node.input)} and carried >= 0 and min(results) >= needed


def _scanned(node: NodeProto) -> int:
    return next((int(attribute.i) for attribute in node.attribute if attribute.name == "num_scan_inputs"), 0)


@dataclass
class _Frame:
    """A graph whose nodes are being written out; `names` are those it defines, as they are in the flat graph."""

    nodes: Iterator[NodeProto]
    names: dict[str, str] = field(default_factory=dict)
    graph: GraphProto = field(default_factory=GraphProto)
    entry: NodeProto = field(default_factory=NodeProto)
    owner: _Owner | None = None


@dataclass
class _Owner:
    """A node with bodies: those still to be written out, and what those that are result in."""

    node: NodeProto
    inputs: list[str]
    bodies: list[AttributeProto]
    exits: dict[str, list[str]] = field(default_factory=dict)
    formals: list[str] = field(default_factory=list)


class _Flattening:
    def __init__(self, model: Model) -> None:
        self.model = model
        self.proto = onnx.ModelProto()
        self.proto.CopyFrom(model.skeleton)
        self.graph = self.proto.graph
        self.weights: dict[str, Weight] = dict(model.weights)
        self.names = Names(all_names(model.skeleton))
        main = model.skeleton.graph
        self.used = {value.name for value in main.input} | {tensor.name for tensor in main.initializer}
        self.used |= {tensor.values.name for tensor in main.sparse_initializer}
        self.used |= {name for node in main.node for name in node.output}
        self.frames: list[_Frame] = []
        self.count = 0

    def run(self) -> Model:
        del self.graph.node[:]
        self.frames = [_Frame(iter(self.model.skeleton.graph.node))]
        opset = self.model.opset
        while self.frames:
            frame = self.frames[-1]
            node = next(frame.nodes, None)
            if node is None:
                self.frames.pop()
                if frame.owner is not None:
                    self._exit(frame, frame.owner)
            elif self.frames[1:] or _is_described(node, opset):
                self._node(node)
            else:
                self.graph.node.add().CopyFrom(node)
        return replace(self.model, skeleton=self.proto, weights=self.weights)

    def _node(self, node: NodeProto) -> None:
        inputs = [self._flat(name) for name in node.input]
        if any(subgraphs(node)):
            bodies = [attribute for attribute in node.attribute if attribute.HasField("g")]
            self._enter(_Owner(node, inputs, bodies))
            return
        copy = self.graph.node.add()
        copy.CopyFrom(node)
        copy.input[:] = inputs
        copy.output[:] = [self._define(name) for name in node.output]

    def _enter(self, owner: _Owner) -> None:
        """Begin the next body of an owner."""
        attribute = owner.bodies.pop(0)
        entry = self._marker(owner, ENTRY)
        entry.attribute.extend(own for own in owner.node.attribute if not own.HasField("g"))
        entry.attribute.append(helper.make_attribute(BRANCH, attribute.name))
        frame = _Frame(iter(attribute.g.node), {}, attribute.g, entry, owner)
        passed = {} if owner.node.op_type == "If" else self._passed(owner, attribute.g)
        frame.names.update(passed)
        self.frames.append(frame)
        owner.formals = ["" if v.name in passed else self._define(v.name) for v in attribute.g.input]
        entry.output[:] = owner.formals
        if owner.node.op_type != "If":
            pairs = zip(owner.inputs, attribute.g.input, strict=True)
            entry.input[:] = ["" if value.name in passed else name for name, value in pairs]
        entry.attribute.append(_mapping(_PASSED, passed))
        entry.attribute.append(_mapping(_WEIGHTS, {t.name: self._hoist(t) for t in attribute.g.initializer}))

    def _exit(self, frame: _Frame, owner: _Owner) -> None:
        """End a body: its results, and what `nested` needs to know of it. Then the owner's next body, or its join."""
        self.frames.append(frame)
        results = [self._flat(value.name) for value in frame.graph.output]
        self._declarations(frame)
        self.frames.pop()
        for formal, result in states(frame.entry, len(frame.graph.input)):
            if not owner.formals[formal]:
                results[result] = ""
        marker = self._marker(owner, EXIT)
        marker.input[:] = results
        marker.output[:] = [name and self.names.fresh(f"{name}_result") for name in results]
        passed = _pairs(frame.entry, _PASSED)
        renamed = {name: flat for name, flat in frame.names.items() if flat != name and name not in passed}
        frame.entry.attribute.append(_mapping(_RENAMED, renamed))
        owner.exits[_text(frame.entry, BRANCH)] = list(marker.output)
        if owner.bodies:
            self._enter(owner)
        else:
            self._join(owner)

    def _join(self, owner: _Owner) -> None:
        node = owner.node
        join = self._marker(owner, JOIN)
        _copy_fields(node, join, "domain", "input", "output", "attribute")
        for attribute in node.attribute:
            copy = join.attribute.add()
            _copy_fields(attribute, copy, "g")  # one with a body keeps its place among the others
            if attribute.HasField("g"):
                copy.type = AttributeProto.STRING
        if node.HasField("domain"):
            join.attribute.append(helper.make_attribute(_DOMAIN, node.domain))
        outputs = [self._define(name) if self.frames[1:] else name for name in node.output]
        join.attribute.append(_strings(_OUTPUTS, outputs))
        join.attribute.append(helper.make_attribute(FORMALS, len(owner.formals)))
        if node.op_type == "If":
            join.input[:] = [*owner.inputs, *owner.exits["then_branch"], *owner.exits["else_branch"]]
        else:
            join.input[:] = [*owner.formals, *owner.exits["body"]]
            first = 2 * int(node.op_type == "Loop")
            outputs = [
                "" if first + k < len(owner.formals) and not owner.formals[first + k] else name
                for k, name in enumerate(outputs)
            ]
        join.output[:] = outputs

    def _marker(self, owner: _Owner, domain: str) -> NodeProto:
        marker: NodeProto = self.graph.node.add()
        marker.op_type, marker.domain = owner.node.op_type, domain
        if domain != JOIN:  # whose name comes back; this one is for messages
            marker.name = owner.node.name or next(filter(None, owner.node.output), "")
        return marker

    def _passed(self, owner: _Owner, graph: GraphProto) -> dict[str, str]:
        """The states that a body hands on as they are and nobody reads behind the owner: what they are outside."""
        same = {
            node.output[0]: node.input[0]
            for node in graph.node
            if node.op_type == "Identity" and len(node.input) == len(node.output) == 1
        }
        around = self.frames[-1].graph if self.frames[1:] else self.model.skeleton.graph
        read = {value.name for value in around.output}
        for node in around.node:
            read.update(node.input, captured(node))
        found: dict[str, str] = {}
        carried = states(owner.node, len(graph.input))
        finals = [*owner.node.output, *repeat("", len(carried))]
        for (k, o), final in zip(carried, finals, strict=False):
            formal, result = graph.input[k].name, graph.output[o].name
            for _ in same:  # a chain cannot be longer
                result = result if result == formal else same.get(result, result)
            if result == formal and owner.inputs[k] and final not in read:
                found[formal] = owner.inputs[k]
        return found

    def _hoist(self, tensor: TensorProto) -> str:
        name = self._define(tensor.name)
        header = self.graph.initializer.add(name=name, data_type=tensor.data_type, dims=tensor.dims)
        header.doc_string = tensor.doc_string
        self.weights[name] = Enclosed(tensor)
        return name

    def _declarations(self, frame: _Frame) -> None:
        """Move what the body declares of its tensors to the main graph's declarations, marked; the rest is its header."""
        graph, header = frame.graph, GraphProto()
        _copy_fields(graph, header, "node", "initializer")
        for value in (*graph.input, *graph.output, *graph.value_info):
            moved = self.graph.value_info.add()
            moved.CopyFrom(value)
            moved.name = self._flat(value.name)
            moved.metadata_props.add(key=_NUMBER, value=str(self.count))
        frame.entry.attribute.append(helper.make_attribute(_HEADER, header.SerializeToString()))
        frame.entry.attribute.append(helper.make_attribute(_NUMBER, self.count))
        self.count += 1

    def _flat(self, name: str) -> str:
        """What a name means where it is read now."""
        for frame in reversed(self.frames[1:]):
            if name in frame.names:
                return frame.names[name]
        return name

    def _define(self, name: str) -> str:
        if not name:
            return name
        names = self.frames[-1].names
        if name in names:
            raise InvalidModelError(f"a body assigns {quoted(name)} twice")
        names[name] = self.names.fresh(name) if name in self.used else name
        self.used.add(names[name])
        return names[name]


@dataclass
class _Open:
    """A graph that is being put together again, and its owner's inputs.

    `passed`: what names mean inside that stand for the state that passes them on. `dropped`: the formal inputs whose values
    are no more. `closed`: the bodies of the owner to come.
    """

    entry: NodeProto = field(default_factory=NodeProto)
    graph: GraphProto = field(default_factory=GraphProto)
    inputs: list[str] = field(default_factory=list)
    passed: Mapping[str, str] = field(default_factory=dict)
    dropped: Sequence[int] = ()
    nodes: list[NodeProto] = field(default_factory=list)
    closed: list[_Open] = field(default_factory=list)


class _Nesting:
    def __init__(self, model: Model) -> None:
        self.model = model
        self.proto = onnx.ModelProto()
        self.proto.CopyFrom(model.skeleton)
        self.graph = self.proto.graph
        self.weights: dict[str, Weight] = dict(model.weights)
        self.nodes = model.skeleton.graph.node
        self.defined = {value.name for value in self.graph.input} | self.weights.keys()
        self.defined |= {name for node in self.nodes for name in node.output}
        self.names = Names(all_names(model.skeleton))
        self.declared = self._take_declarations()
        self.original = self._original_names()

    def run(self) -> Model:
        stack = [_Open()]
        for node in self.nodes:
            if node.domain == ENTRY:
                stack.append(self._open(node, stack))
            elif node.domain == EXIT:
                self._close(stack, node)
            elif node.domain == JOIN:
                stack[-1].nodes.append(self._owner(node, stack))
            else:
                copy = NodeProto()
                copy.CopyFrom(node)
                copy.input[:] = [self._name(name, stack) for name in node.input]
                copy.output[:] = [self.original.get(name, name) for name in node.output]
                stack[-1].nodes.append(copy)
        del self.graph.node[:]
        self.graph.node.extend(stack[0].nodes)
        headers = [header for header in self.graph.initializer if header.name in self.weights]
        del self.graph.initializer[:]
        self.graph.initializer.extend(headers)
        return replace(self.model, skeleton=self.proto, weights=self.weights)

    def _take_declarations(self) -> dict[tuple[str, str], deque[ValueInfoProto]]:
        """What is declared of the tensors of bodies, by the number of the body and the name in the flat graph."""
        mine: list[ValueInfoProto] = []
        declared: dict[tuple[str, str], deque[ValueInfoProto]] = {}
        for value in self.model.skeleton.graph.value_info:
            number = next((entry.value for entry in value.metadata_props if entry.key == _NUMBER), None)
            if number is None:
                mine.append(value)
            else:
                declared.setdefault((number, value.name), deque()).append(value)
        del self.graph.value_info[:]
        self.graph.value_info.extend(mine)
        return declared

    def _original_names(self) -> dict[str, str]:
        """The names that bodies had for their tensors, where no weight that stays with the main graph has them now."""
        entries = [node for node in self.nodes if node.domain == ENTRY]
        staying = {
            name
            for entry in entries
            for name in _pairs(entry, _WEIGHTS).values()
            if name in self.weights and not self._returns(name)
        }
        return {
            flat: name
            for entry in entries
            for name, flat in _pairs(entry, _RENAMED).items()
            if flat not in staying and name not in staying
        }

    def _returns(self, name: str) -> bool:
        """Whether a hoisted weight becomes an initializer of its body again; before IR version 4, all of them do."""
        return isinstance(self.weights[name], Enclosed) or self.proto.ir_version < 4

    def _open(self, entry: NodeProto, stack: Sequence[_Open]) -> _Open:
        header = GraphProto.FromString(helper.get_node_attr_value(entry, _HEADER))
        inputs = [self._name(name, stack) for name in entry.input]
        dropped: list[int] = []
        passed = _pairs(entry, _PASSED)
        for k, value in enumerate(header.input):
            if value.name not in passed:
                continue
            if passed[value.name] in self.defined:
                inputs[k] = self._name(passed[value.name], stack)
            else:
                dropped.append(k)
        return _Open(entry, header, inputs, {flat: name for name, flat in reversed(passed.items())}, dropped)

    def _close(self, stack: list[_Open], marker: NodeProto) -> None:
        """Make a graph of the innermost body."""
        body = stack[-1]
        graph, entry = body.graph, body.entry
        number = str(helper.get_node_attr_value(entry, _NUMBER))
        flat = {**_pairs(entry, _RENAMED), **_pairs(entry, _PASSED)}
        for value in (*graph.input, *graph.output, *graph.value_info):
            name = flat.get(value.name, value.name)
            if moved := self.declared.get((number, name)):
                value.type.CopyFrom(moved.popleft().type)
            value.name = self._name(name, stack)
        graph.initializer.extend(self._initializers(entry))
        inside = {value.name for value in graph.input} | {tensor.name for tensor in graph.initializer}
        inside |= {name for node in body.nodes for name in node.output}
        for value, name in zip(graph.output, marker.input, strict=True):
            value.name = self._name(name, stack) if name else value.name
            if value.name not in inside:  # a body has to compute what it results in
                source, value.name = value.name, self.names.fresh(f"{value.name}_result")
                body.nodes.append(
                    helper.make_node(
                        "Identity", [source], [value.name], self.names.fresh(f"{value.name}_Identity")
                    )
                )
        graph.node.extend(body.nodes)
        carried = dict(states(entry, len(entry.output)))
        for k in reversed(body.dropped):
            del graph.input[k], graph.output[carried[k]], body.inputs[k]
        stack.pop()
        stack[-1].closed.append(body)

    def _initializers(self, entry: NodeProto) -> Iterator[TensorProto]:
        for name in _pairs(entry, _WEIGHTS).values():
            if name in self.weights and self._returns(name):
                weight = self.weights.pop(name)
                tensor = TensorProto()
                tensor.CopyFrom(
                    weight.tensor if isinstance(weight, Enclosed) else numpy_helper.from_array(weight.array())
                )
                tensor.name = self.original.get(name, name)
                yield tensor

    def _owner(self, join: NodeProto, stack: Sequence[_Open]) -> NodeProto:
        bodies, stack[-1].closed = stack[-1].closed, []
        node = NodeProto()
        _copy_fields(join, node, "domain", "input", "output", "attribute")
        node.input[:] = [self._name(join.input[0], stack)] if join.op_type == "If" else bodies[0].inputs
        node.output[:] = [self.original.get(name, name) for name in _list(join, _OUTPUTS)]
        first = 2 if join.op_type == "Loop" else 0
        for k in reversed(bodies[0].dropped):
            if k - first < len(node.output):
                del node.output[k - first]
        graphs = {_text(body.entry, BRANCH): body.graph for body in bodies}
        for attribute in join.attribute:
            if attribute.name == _DOMAIN:
                node.domain = attribute.s.decode()
            elif attribute.name not in (_OUTPUTS, FORMALS):
                copy = node.attribute.add()
                copy.CopyFrom(attribute)
                if attribute.name in graphs:
                    copy.type = AttributeProto.GRAPH
                    copy.g.CopyFrom(graphs[attribute.name])
        return node

    def _name(self, name: str, stack: Sequence[_Open]) -> str:
        """What a tensor is called in the innermost of some open graphs."""
        for body in reversed(stack):
            if name in body.passed:
                return body.passed[name]
        return self.original.get(name, name)


def _copy_fields(message: Any, to: Any, *but: str) -> None:
    """Copy the fields that are set, some excepted, so that what is not set stays so."""
    for descriptor, value in message.ListFields():
        if descriptor.name in but:
            continue
        if hasattr(value, "extend"):
            getattr(to, descriptor.name).extend(value)
        elif isinstance(value, bytes):  # also a text that is not UTF-8, which no assignment takes
            to.MergeFromString(wire.key(descriptor.number) + wire.varint(len(value)) + value)
        else:
            setattr(to, descriptor.name, value)


def _strings(name: str, texts: Iterable[str]) -> AttributeProto:
    return AttributeProto(name=name, type=AttributeProto.STRINGS, strings=[text.encode() for text in texts])


def _list(node: NodeProto, name: str) -> list[str]:
    return [text.decode() for entry in node.attribute if entry.name == name for text in entry.strings]


def _mapping(name: str, pairs: Mapping[str, str]) -> AttributeProto:
    return _strings(name, [text for pair in pairs.items() for text in pair])


def _pairs(node: NodeProto, name: str) -> dict[str, str]:
    """A mapping that is an attribute: of names in a body to those in the flat graph."""
    texts = _list(node, name)
    return dict(zip(texts[::2], texts[1::2], strict=True))


def _text(node: NodeProto, name: str) -> str:
    return str(helper.get_node_attr_value(node, name).decode())

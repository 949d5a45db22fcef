"""A graph as a list of calls: every node bound to the function that computes it."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache, partial
from typing import Any

from onnx import AttributeProto, GraphProto, NodeProto, numpy_helper

from onnx_grow.errors import UnsupportedOperatorError
from onnx_grow.torch.operators import HOST, TABLE, Unsupported
from onnx_grow.torch.values import Context, Values

__all__ = ["Program", "compiled", "missing"]

_IGNORED = frozenset({"consumed_inputs"})
"""Attributes that say nothing about the result."""
_GIVEN = frozenset({"opset", "outputs"})
"""Keywords that a function may have for what is known of its node beside attributes: operator set version, number of outputs."""
_RUNNING = frozenset({"training", "device"})
"""Keywords for what is known of a run."""


@dataclass(frozen=True)
class Program:
    """A graph to run: its inputs, the tensors it holds (name to key in the model), the steps and the outputs."""

    inputs: tuple[str, ...]
    constants: Mapping[str, str]
    steps: tuple[_Step, ...]
    outputs: tuple[str, ...]

    def run(self, context: Context, inputs: Sequence[Any], outer: Values | None = None) -> Values:
        """The values at the end of a run. `outer` are those of the graph around this one, if any."""
        values = Values(context, outer)
        for name, key in self.constants.items():
            if key in context.tensors:
                values.tensors[name] = context.tensors[key]
            if key in context.hosts:
                values.hosts[name] = context.hosts[key]
        for name, value in zip(self.inputs, inputs, strict=True):
            values.set(name, value)
        for step in self.steps:
            step.run(values)
        return values


@dataclass(frozen=True)
class _Step:
    """One node: the function for tensors, and the one for values on the host, if there is one."""

    place: str
    function: Callable[..., Any]
    host: Callable[..., Any] | None
    inputs: tuple[str, ...]
    on_host: tuple[bool, ...]
    outputs: tuple[str, ...]
    attributes: Mapping[str, Any]
    bodies: Mapping[str, Program]
    running: frozenset[str]
    dropped: tuple[str, ...] = ()

    def run(self, values: Values) -> None:
        try:
            result = self._on_host(values)
            if result is NotImplemented:
                result = self._on_device(values)
        except (Unsupported, NotImplementedError) as reason:
            raise UnsupportedOperatorError(f"{self.place} does not run in PyTorch: {reason}") from None
        except Exception as error:
            error.add_note(f"in {self.place}")
            raise
        results = result if isinstance(result, tuple) else (result,)
        for name, value in zip(self.outputs, results, strict=False):
            if name:
                values.set(name, value)
        values.drop(self.dropped)

    def _on_host(self, values: Values) -> Any:
        if self.host is None or not all(values.has_host(name) for name in self.inputs if name):
            return NotImplemented
        return self.host(*(values.host(name) if name else None for name in self.inputs), **self.attributes)

    def _on_device(self, values: Values) -> Any:
        arguments = [
            None if not name else values.host(name) if on_host else values.tensor(name)
            for name, on_host in zip(self.inputs, self.on_host, strict=True)
        ]
        given: dict[str, Any] = {key: getattr(values.context, key) for key in self.running}
        for key, body in self.bodies.items():
            given[key] = partial(_result, body, values)
        return self.function(*arguments, **self.attributes, **given)


def compiled(graph: GraphProto, keys: Mapping[tuple[int, str], str], versions: Mapping[str, int]) -> Program:
    """The program of a graph.

    `keys` are those of the tensors that graphs hold, by the identity of the graph and the name in it. `versions` are those of the
    operator sets. Raises UnsupportedOperatorError where an operator, or an attribute, is not in the table.
    """
    places = list(dict.fromkeys(missing(graph)))
    if places:
        first, *others = places
        more = f"; nor do {', '.join(others)}" if others else ""
        raise UnsupportedOperatorError(f"{first} does not run in PyTorch{more}")
    return _program(graph, keys, versions)


def missing(graph: GraphProto) -> Iterator[str]:
    """The nodes, in the words of messages, that nothing in the table computes."""
    for node in graph.node:
        if _key(node) not in TABLE and not _is_constant(node):
            yield _place(node)
        for attribute in node.attribute:
            if attribute.HasField("g"):
                yield from missing(attribute.g)


def _program(graph: GraphProto, keys: Mapping[tuple[int, str], str], versions: Mapping[str, int]) -> Program:
    constants = {name: key for (holder, name), key in keys.items() if holder == id(graph)}
    nodes = [node for node in graph.node if not _is_constant(node)]
    rounded = {
        n.output[0]: n.input[0] for n in nodes if n.op_type in ("QuantizeLinear", "DynamicQuantizeLinear")
    }
    steps = [_step(node, keys, versions, rounded) for node in nodes]
    outputs = tuple(value.name for value in graph.output)
    inputs = tuple(value.name for value in graph.input if value.name not in constants)
    return Program(inputs, constants, tuple(_with_drops(steps, outputs)), outputs)


def _step(
    node: NodeProto,
    keys: Mapping[tuple[int, str], str],
    versions: Mapping[str, int],
    rounded: Mapping[str, str],
) -> _Step:
    """The call of a node. `rounded` are the values that were quantised, by what came of them."""
    function = TABLE[_key(node)]
    form = _form(function)
    inputs = tuple(node.input)
    while inputs and not inputs[-1]:
        inputs = inputs[:-1]
    if node.op_type == "DequantizeLinear" and inputs[0] in rounded:
        inputs = *inputs, *("",) * (3 - len(inputs)), rounded[inputs[0]]
    attributes, bodies = {}, {}
    for attribute in node.attribute:
        if attribute.name in _IGNORED:
            continue
        if attribute.name not in form.keywords and not form.is_open:
            raise UnsupportedOperatorError(
                f"{_place(node)} does not run in PyTorch: it has an attribute {attribute.name!r}"
            )
        if attribute.HasField("g"):
            bodies[attribute.name] = _program(attribute.g, keys, versions)
        else:
            attributes[attribute.name] = _attribute(attribute)
    known = {"opset": versions[_domain(node)], "outputs": len(node.output)}
    attributes.update((key, known[key]) for key in _GIVEN & form.keywords)
    return _Step(
        place=_place(node),
        function=function,
        host=HOST.get(_key(node)),
        inputs=inputs,
        on_host=tuple(form.on_host[k : k + 1] == (True,) for k in range(len(inputs))),
        outputs=tuple(node.output),
        attributes=attributes,
        bodies=bodies,
        running=_RUNNING & form.keywords,
    )


def _result(body: Program, outer: Values, *inputs: Any) -> list[Any]:
    """What a body results in, each on the host if it is there already."""
    values = body.run(outer.context, inputs, outer)
    return [values.host(name) if values.has_host(name) else values.tensor(name) for name in body.outputs]


@dataclass(frozen=True)
class _Form:
    """What a function takes: which positional inputs on the host, which keywords, and whether it hands others on."""

    on_host: tuple[bool, ...] = ()
    keywords: frozenset[str] = frozenset()
    is_open: bool = False


@cache
def _form(function: Callable[..., Any]) -> _Form:
    """The form of one of our functions; those of PyTorch in the table take tensors and nothing else."""
    if not getattr(function, "func", function).__module__.startswith("onnx_grow"):
        return _Form()
    parameters = inspect.signature(function).parameters.values()
    positional = [p for p in parameters if p.kind is p.POSITIONAL_OR_KEYWORD]
    return _Form(
        tuple("Host" in str(p.annotation) for p in positional),
        frozenset(p.name for p in parameters if p.kind is p.KEYWORD_ONLY),
        any(p.kind is p.VAR_KEYWORD for p in parameters),
    )


def _with_drops(steps: Sequence[_Step], outputs: Iterable[str]) -> Iterator[_Step]:
    """The steps, each with the values that none after it reads."""
    needed = set(outputs)
    backwards: list[_Step] = []
    for step in reversed(steps):
        read = {*step.inputs, *(name for body in step.bodies.values() for name in _captured(body))}
        dropped = ({*read, *step.outputs} - needed) - {""}
        needed |= read
        backwards.append(replace(step, dropped=tuple(sorted(dropped))))
    return reversed(backwards)


def _captured(body: Program) -> Iterator[str]:
    """Every name that a body reads, its own among them."""
    yield from body.outputs
    for step in body.steps:
        yield from step.inputs
        for inner in step.bodies.values():
            yield from _captured(inner)


def _attribute(attribute: AttributeProto) -> Any:
    """The value of an attribute: a number, a text, a list of those, or an array."""
    kind = attribute.type
    if kind == AttributeProto.FLOAT:
        return attribute.f
    if kind == AttributeProto.INT:
        return attribute.i
    if kind == AttributeProto.STRING:
        return attribute.s.decode()
    if kind == AttributeProto.TENSOR:
        return numpy_helper.to_array(attribute.t)
    if kind == AttributeProto.FLOATS:
        return list(attribute.floats)
    if kind == AttributeProto.INTS:
        return list(attribute.ints)
    if kind == AttributeProto.STRINGS:
        return [text.decode() for text in attribute.strings]
    return attribute


def _key(node: NodeProto) -> tuple[str, str]:
    return _domain(node), node.op_type


def _domain(node: NodeProto) -> str:
    return "" if node.domain == "ai.onnx" else node.domain


def _is_constant(node: NodeProto) -> bool:
    return node.op_type == "Constant" and _domain(node) == ""


def _place(node: NodeProto) -> str:
    domain = f"{node.domain}." if _domain(node) else ""
    name = node.name or next(filter(None, node.output), "")
    return f"operator {domain}{node.op_type} (node {name!r})"

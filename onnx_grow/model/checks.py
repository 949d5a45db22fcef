"""What must hold before anyone walks a graph: names are unique, values are computed before they are read."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import onnx
from onnx import GraphProto, NodeProto

from onnx_grow.errors import InvalidModelError
from onnx_grow.model.names import quoted, title
from onnx_grow.model.walk import graphs, nested_graphs, subgraphs

__all__ = ["captured", "check"]

NEWEST = (1 << 31) - 1
"""The highest version of an operator set that anybody could mean: what comes of it is an int32."""

_Key = tuple[str, str, str]


def check(model: onnx.ModelProto) -> None:
    """Raise InvalidModelError unless the main graph is sorted, acyclic and assigns every name once.

    Function calls must not be cyclic, attributes of functions only be read there, names be text, and versions of operator sets such as
    there can be.
    """
    _check_versions(model)
    _check_names(model)
    _check_references(model.graph)
    _check_order(model.graph)
    _check_functions(model)


def captured(node: NodeProto) -> dict[str, None]:
    """The names that the subgraphs of a node read from the graphs around it, each once, in the order in which they are read."""
    return dict.fromkeys(name for graph in subgraphs(node) for name in _free(graph))


def _check_versions(model: onnx.ModelProto) -> None:
    for entries in (model.opset_import, *(function.opset_import for function in model.functions)):
        for entry in entries:
            if not 0 <= entry.version <= NEWEST:
                domain = quoted(entry.domain or "ai.onnx")
                raise InvalidModelError(f"operator set {domain} cannot have version {entry.version}")


def _check_names(model: onnx.ModelProto) -> None:
    for graph in graphs(model):
        for index, node in enumerate(graph.node):
            attributes = (attribute.name for attribute in node.attribute)
            for text in (node.op_type, node.domain, node.name, *node.input, *node.output, *attributes):
                if isinstance(text, bytes):  # what protobuf returns for a string that is not UTF-8
                    raise InvalidModelError(f"node #{index} has a name that is not UTF-8: {quoted(text)}")
        sparse = (tensor.values for tensor in graph.sparse_initializer)
        for value in (*graph.input, *graph.output, *graph.value_info, *graph.initializer, *sparse):
            if isinstance(value.name, bytes):
                raise InvalidModelError(f"a tensor has a name that is not UTF-8: {quoted(value.name)}")


def _check_references(graph: GraphProto) -> None:
    for inner in (graph, *nested_graphs(graph)):
        for node in inner.node:
            for attribute in node.attribute:
                if attribute.ref_attr_name:
                    raise InvalidModelError(
                        f"{title(node)} takes {quoted(attribute.name)} from the attribute of a function, and is in none"
                    )


def _check_order(graph: GraphProto) -> None:
    known = _names("input", (value.name for value in graph.input))
    sparse = (tensor.values.name for tensor in graph.sparse_initializer)
    known |= _names("initializer", (*(tensor.name for tensor in graph.initializer), *sparse))
    known.add("")
    for index, node in enumerate(graph.node):
        for name in (*node.input, *captured(node)):
            if name not in known:
                raise InvalidModelError(_missing(graph, index, name))
        for name in node.output:
            if name and name in known:
                raise InvalidModelError(f"{title(node)} assigns {quoted(name)}, which exists already")
            known.add(name)
    for value in graph.output:
        if value.name not in known:
            raise InvalidModelError(f"the graph output {quoted(value.name)} is computed by no node")


def _names(kind: str, names: Iterable[str]) -> set[str]:
    seen: set[str] = set()
    for name in names:
        if name in seen:
            raise InvalidModelError(f"two {kind}s are called {quoted(name)}")
        seen.add(name)
    return seen


def _missing(graph: GraphProto, index: int, name: str) -> str:
    reader = title(graph.node[index])
    for later in graph.node[index:]:
        if name in later.output:
            return f"{reader} reads {quoted(name)} before {title(later)} computes it: the graph is cyclic or not sorted"
    return f"{reader} reads {quoted(name)}, which nothing computes"


def _free(graph: GraphProto) -> Iterator[str]:
    """The names that a graph reads and does not define. Recursive, as protobuf does not read graphs that are nested deep."""
    local = {value.name for value in graph.input} | {tensor.name for tensor in graph.initializer}
    local |= {tensor.values.name for tensor in graph.sparse_initializer}
    for node in graph.node:
        yield from (name for name in (*node.input, *captured(node)) if name and name not in local)
        local.update(node.output)
    yield from (value.name for value in graph.output if value.name and value.name not in local)


def _check_functions(model: onnx.ModelProto) -> None:
    """Take away functions that call none of those left, until none is left (Kahn's algorithm)."""
    callers: dict[_Key, list[_Key]] = {_key(f.domain, f.name, f.overload): [] for f in model.functions}
    open_calls = dict.fromkeys(callers, 0)
    for function in model.functions:
        caller = _key(function.domain, function.name, function.overload)
        for callee in _callees(function) & callers.keys():
            callers[callee].append(caller)
            open_calls[caller] += 1
    ready = [key for key, count in open_calls.items() if count == 0]
    while ready:
        for caller in callers[ready.pop()]:
            open_calls[caller] -= 1
            if open_calls[caller] == 0:
                ready.append(caller)
    for (_, name, _), count in open_calls.items():
        if count:
            raise InvalidModelError(f"the function {quoted(name)} calls itself, directly or through others")


def _callees(function: onnx.FunctionProto) -> set[_Key]:
    bodies = (function.node, *(graph.node for graph in nested_graphs(function)))
    return {_key(node.domain, node.op_type, node.overload) for body in bodies for node in body}


def _key(domain: str, name: str, overload: str) -> _Key:
    return ("" if domain == "ai.onnx" else domain), name, overload

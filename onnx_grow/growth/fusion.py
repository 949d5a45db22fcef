"""Sums fused with the norm behind them, taken apart for deepening and put together again.

    SkipLayerNormalization(x, s, gamma, beta, bias) = LayerNormalization(x + s + bias, gamma, beta), and x + s + bias, if it is read

So skip connections are found, and branches copied, in what ONNX Runtime has optimised. A copy becomes a fused node as well, of a
branch that is zero: 0 + s normalised as before, bit for bit (but for half precision, where the operator rounds the sum that it hands out).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import replace

import onnx
from onnx import NodeProto

from onnx_grow.growth.dataflow import operator
from onnx_grow.model import Model
from onnx_grow.model.checks import captured
from onnx_grow.model.walk import all_names

__all__ = ["fused", "unfused"]

_NORMS = {
    "com.microsoft.SkipLayerNormalization": ("LayerNormalization", 4),
    "com.microsoft.SkipSimplifiedLayerNormalization": ("SimplifiedLayerNormalization", 3),
}
"""The norm of a fused operator, and the position of its bias."""
_PART = "onnx_grow.part"
"""Metadata of a node that is part of a fused one: which part it is."""
_BIAS, _SUM, _NORM = "bias", "sum", "norm"


def unfused(model: Model) -> Model:
    """The model with sums apart from their norms; itself where none is fused, or statistics are read, too."""
    nodes = model.skeleton.graph.node
    if not any(operator(node) in _NORMS for node in nodes):
        return model
    used = _used(model.skeleton.graph)
    taken = {"", *all_names(model.skeleton)}
    position = {name: index for index, node in enumerate(nodes) for name in node.output}
    apart: list[NodeProto] = []
    for node in nodes:
        if operator(node) in _NORMS and not any(name and used[name] for name in node.output[1:3]):
            apart += _parts(node, position, taken)
        else:
            apart.append(node)
    return _with_nodes(model, apart)


def fused(model: Model) -> Model:
    """The inverse of `unfused`, also of a model that was edited in between.

    A sum that no norm reads any more is left as such, a norm of anything else becomes one of a sum with zero if there is no other.
    """
    nodes = model.skeleton.graph.node
    if not any(map(_part, nodes)):
        return model
    parts = _Parts(model)
    return _with_nodes(model, [_unmarked(whole) for node in nodes for whole in parts.instead_of(node)])


def _parts(node: NodeProto, position: dict[str, int], taken: set[str]) -> Iterator[NodeProto]:
    """The sum with a bias, if there is one, the sum and the norm."""
    norm, place = _NORMS[operator(node)]
    label = node.name or node.output[0]
    terms, bias = list(node.input[:2]), node.input[place] if len(node.input) > place else ""
    if bias:  # belongs to what is computed last, the end of the branch
        last = max((0, 1), key=lambda k: position.get(terms[k], -1))
        biased = _fresh(f"{label}/biased", taken)
        yield _marked(_BIAS, onnx.helper.make_node("Add", [terms[last], bias], [biased], biased))
        terms[last] = biased
    total = (node.output[3] if len(node.output) > 3 else "") or _fresh(f"{label}/sum", taken)
    yield _marked(_SUM, onnx.helper.make_node("Add", terms, [total], node.name))
    apart = NodeProto()
    apart.CopyFrom(node)
    apart.op_type, apart.domain, apart.name = norm, "", _fresh(f"{label}/norm", taken)
    apart.input[:] = [total, *node.input[2:place]]
    del apart.output[1:]
    yield _marked(_NORM, apart)


class _Parts:
    """Which sums go together with which norms, and with the biases that nobody else reads."""

    def __init__(self, model: Model) -> None:
        nodes = model.skeleton.graph.node
        self._has_norm = model.opset >= 17
        self._used = _used(model.skeleton.graph)
        biases = {node.output[0]: node for node in nodes if _part(node) == _BIAS}
        self._bias: dict[str, NodeProto | None] = {}
        self._norm: dict[str, NodeProto] = {}
        position = {name: index for index, node in enumerate(nodes) for name in node.output}
        for node in nodes:
            if _part(node) == _SUM:
                own = (biases[name] for name in node.input if name in biases and self._used[name] == 1)
                self._bias[node.output[0]] = next(own, None)
            total = node.input[0] if _part(node) == _NORM else ""
            if total in self._bias and all(
                position.get(p, -1) < position[total] for p in node.input[1:] if p
            ):
                self._norm.setdefault(total, node)
        joined = (*self._norm.values(), *filter(None, self._bias.values()))
        self._joined = {node.output[0] for node in joined}

    def instead_of(self, node: NodeProto) -> list[NodeProto]:
        """What takes the place of a node: the fused one that of the sum."""
        part = _part(node)
        if not part:
            return [node]
        if part == _SUM:
            return self._sum(node)
        if node.output[0] in self._joined:
            return []
        standard = part == _BIAS or (node.op_type == "LayerNormalization" and self._has_norm)
        return [node] if standard else _of_itself(node)

    def _sum(self, add: NodeProto) -> list[NodeProto]:
        total = add.output[0]
        bias, norm = self._bias[total], self._norm.get(total)
        if norm:
            return [_whole(add, norm, bias, is_read=self._used[total] > 1)]
        return _added(add, bias) if bias else [add]


def _whole(add: NodeProto, norm: NodeProto, bias: NodeProto | None, *, is_read: bool) -> NodeProto:
    """A fused node in place of its parts; `is_read`: somebody else reads the sum."""
    name, place = next((name, place) for name, (op_type, place) in _NORMS.items() if op_type == norm.op_type)
    whole = NodeProto()
    whole.CopyFrom(norm)
    whole.domain, _, whole.op_type = name.rpartition(".")
    whole.name = add.name
    whole.input[:] = [*_terms(add, bias), *norm.input[1:]]
    if bias:
        whole.input.extend([""] * (place - len(whole.input)) + [bias.input[1]])
    if is_read:
        whole.output.extend(["", "", add.output[0]])
    return whole


def _added(add: NodeProto, bias: NodeProto) -> list[NodeProto]:
    """A sum on its own, in the order in which the fused operator adds."""
    first, last = NodeProto(), NodeProto()
    first.CopyFrom(bias)
    last.CopyFrom(add)
    first.input[:] = _terms(add, bias)
    last.input[:] = [bias.output[0], bias.input[1]]
    return [first, last]


def _terms(add: NodeProto, bias: NodeProto | None) -> list[str]:
    """What is added, without the bias."""
    return [bias.input[0] if bias and term == bias.output[0] else term for term in add.input]


def _of_itself(norm: NodeProto) -> list[NodeProto]:
    """A norm of something else as a fused one, of a sum with zero: the standard has none by itself."""
    nothing = f"{norm.output[0]}/nothing"
    zero = onnx.helper.make_node("Sub", [norm.input[0]] * 2, [nothing], nothing)
    add = onnx.helper.make_node("Add", [norm.input[0], nothing], [""], norm.name)
    return [zero, _whole(add, norm, None, is_read=False)]


def _part(node: NodeProto) -> str:
    return next((entry.value for entry in node.metadata_props if entry.key == _PART), "")


def _marked(part: str, node: NodeProto) -> NodeProto:
    node.metadata_props.add(key=_PART, value=part)
    return node


def _unmarked(node: NodeProto) -> NodeProto:
    if not _part(node):
        return node
    plain = NodeProto()
    plain.CopyFrom(node)
    del plain.metadata_props[:]
    plain.metadata_props.extend(entry for entry in node.metadata_props if entry.key != _PART)
    return plain


def _fresh(name: str, taken: set[str]) -> str:
    while name in taken:
        name += "_"
    taken.add(name)
    return name


def _used(graph: onnx.GraphProto) -> Counter[str]:
    """How often every tensor is read."""
    used = Counter(value.name for value in graph.output)
    for node in graph.node:
        used.update((*node.input, *captured(node)))
    return used


def _with_nodes(model: Model, nodes: list[NodeProto]) -> Model:
    skeleton = onnx.ModelProto()
    skeleton.CopyFrom(model.skeleton)
    del skeleton.graph.node[:]
    skeleton.graph.node.extend(nodes)
    return replace(model, skeleton=skeleton)

"""Models whose nodes are out of order are sorted when they are loaded; cyclic ones are told as what they are."""

from __future__ import annotations

import onnx
import pytest
from onnx import parser

import onnx_grow as og
from onnx_grow.errors import InvalidModelError


def loaded(text: str) -> onnx.GraphProto:
    proto = parser.parse_model(f'<ir_version: 8, opset_import: ["": 17]> {text}')
    return og.load(proto).skeleton.graph


def order(graph: onnx.GraphProto) -> list[str]:
    return [node.output[0] for node in graph.node]


def test_nodes_come_behind_what_they_read_and_else_stay() -> None:
    graph = loaded(
        "g (float[2] x) => (float[2] y) { e = Abs(x) y = Add(a, b) b = Relu(a) d = Neg(e) a = Tanh(x) }"
    )
    assert order(graph) == ["e", "d", "a", "b", "y"]


def test_a_sorted_graph_stays_as_it_is() -> None:
    graph = loaded("g (float[2] x) => (float[2] y) { b = Abs(x) a = Relu(x) y = Add(a, b) }")
    assert order(graph) == ["b", "a", "y"]


def test_bodies_are_sorted_and_nodes_wait_for_what_theirs_capture() -> None:
    graph = loaded(
        """g (bool c, float[2] x) => (float[2] y) {
        y = If(c) <then_branch = t () => (float[2] p) { p = Add(q, a) q = Relu(a) },
                   else_branch = e () => (float[2] r) { r = Identity(x) }>
        a = Tanh(x) }"""
    )
    assert order(graph) == ["a", "y"]
    assert order(graph.node[1].attribute[0].g) == ["q", "p"]


def test_a_cycle_is_refused() -> None:
    with pytest.raises(InvalidModelError, match="cyclic"):
        loaded("g (float[2] x) => (float[2] y) { a = Add(x, b) b = Relu(a) y = Relu(b) }")

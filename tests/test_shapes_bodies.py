from __future__ import annotations

import numpy as np
import pytest
from graphs import build

from onnx_grow.model import flattened
from onnx_grow.model.bodies import MARKERS
from onnx_grow.shapes import infer
from onnx_grow.shapes.counting import MOST
from onnx_grow.shapes.unrolling import unrolled

WHILE = """(float[3, 4] x, int64 most) => (float[T, 3, 4] y) {{
    zero = Constant<value = int64 {{0}}>() yes = Constant<value = bool {{1}}>() step = Constant<value = int64 {{{step}}}>()
    end = Constant<value = int64 {{{end}}}>()
    n, h, y = Loop({most}, yes, zero, x) <body = b
        (int64 i, bool go, int64 k, float[3, 4] h) => (bool more, int64 j, float[3, 4] r, float[3, 4] s) {{
        j = Add(k, step) more = Less(j, end) r = Relu(h) s = Neg(r) }}> }}"""
GROWING = """(float[1, 4] x) => (float[N, 4] y) <int64 m = {3}> {
    y, l = Loop(m, , x) <body = b (int64 i, bool go, float[M, 4] h) => (bool more, float[N, 4] g, int64[2] l) {
        r = Relu(h) g = Concat<axis = 0>(h, r) more = Identity(go) l = Shape(g) }> }"""
SCANNED = """(float[5, 2, 4] x, float[2, 4] z) => (float[2, 4] y, float[2, 5, 4] s) {
    y, s = Scan<body = b (float[2, 4] h, float[2, 4] r) => (float[2, 4] g, float[2, 4] o) { g = Add(h, r) o = FusedRelu(g) },
                num_scan_inputs = 1, scan_output_axes = [1]>(z, x) }"""


@pytest.mark.parametrize(
    ("step", "end", "most", "count"), [(1, 7, "", 7), (2, 7, "", 4), (1, 7, "end", 7), (3, 3, "", 1)]
)
def test_loops_that_count_are_counted(step: int, end: int, most: str, count: int) -> None:
    shapes = infer(build(WHILE.format(step=step, end=end, most=most)))
    assert shapes.shape["y"] == (count, 3, 4)
    assert not shapes.observed


@pytest.mark.parametrize(("end", "most"), [(MOST + 1, ""), (7, "most")])
def test_other_loops_are_observed(end: int, most: str) -> None:
    shapes = infer(build(WHILE.format(step=1, end=end, most=most)))
    assert shapes.shape["s"] == (3, 4)
    assert "y" in shapes.observed or most


def test_shapes_that_change_from_one_iteration_to_the_next_are_not_known() -> None:
    shapes = infer(build(GROWING))
    assert {"h", "r", "g"}.isdisjoint(shapes.shape)
    assert "l" not in shapes.value
    assert shapes.shape["y"] == (8, 4)


def test_what_only_a_run_tells_is_observed_inside_bodies() -> None:
    model = build(SCANNED.replace("FusedRelu(g)", "com.microsoft.Gelu(g)"))
    shapes = infer(model)
    assert shapes.shape["o"] == (2, 4)
    assert shapes.shape["s"] == (2, 5, 4)


def test_what_only_a_run_tells_is_observed_inside_branches() -> None:
    model = build("""(float[2, 4] x, bool c) => (float[2, 4] y) {
        y = If (c) <then_branch = t () => (float[2, 4] p) { [n] q = com.microsoft.Gelu(x) p = Relu(q) },
                    else_branch = e () => (float[2, 4] p) { [n] q = com.microsoft.QuickGelu(x) p = Neg(q) }> }""")
    shapes = infer(model)
    assert shapes.shape["q"] == shapes.shape["q_1"] == (2, 4)


@pytest.mark.parametrize("opset", [11, 17])
def test_unrolled_models_have_no_markers(opset: int) -> None:
    flat = flattened(build(SCANNED.replace("FusedRelu(g)", "Relu(g)"), opset))
    plain = unrolled(flat, {"s": (2, 5, 4)})
    assert MARKERS.isdisjoint(node.domain for node in plain.skeleton.graph.node)
    shapes = infer(plain)
    assert shapes.shape["s"] == (2, 5, 4)
    assert shapes.shape["r"] == (2, 4)


def test_states_have_no_value() -> None:
    text = """(float[3, 4] x) => (int64 n) <int64 m = {3}, int64 zero = {0}, int64 one = {1}> {
        n = Loop(m, , zero) <body = b (int64 i, bool go, int64 k) => (bool more, int64 j) { j = Add(k, one) more = Identity(go) }> }"""
    values = infer(build(text)).value
    assert {"i", "k", "j", "n"}.isdisjoint(values)
    np.testing.assert_array_equal(values["more"], True)

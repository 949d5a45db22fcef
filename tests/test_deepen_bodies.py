"""Layers inside the bodies of If, Loop and Scan."""

from __future__ import annotations

import numpy as np
import pytest
from deepening import assert_connected, assert_identical
from graphs import build, feeds, run

from onnx_grow.errors import NothingToGrowError
from onnx_grow.growth.dataflow import Dataflow
from onnx_grow.growth.deepen_plan import DeepenPlan
from onnx_grow.growth.deepening import apply_deepen, deepen, plan_deepen
from onnx_grow.model import Draft, Inline, Model, flattened
from onnx_grow.model.walk import nested_graphs

CHOICE = """(float[N, 5] x, bool c) => (float[N, 5] y) <float[5, 5] w, float[5, 5] u, float[5, 5] v, float[5, 5] o> {{
    x1 = MatMul(x, w) z = If (c) <then_branch = t () => (float[N, 5] p) {},
                                  else_branch = e () => (float[N, 5] q) {{ {} }}> y = MatMul(z, o) }}"""
LOOP = """(float[T, N, 5] x, float[N, 5] h0) => (float[N, 5] y, float[T, N, 5] ys)
    <float[5, 5] w, float[5, 5] u, float[5, 5] v, int64 zero = {{0}}> {{
    s = Shape(x) m = Gather(s, zero)
    y, ys = Loop(m, , h0) <body = b (int64 i, bool go, float[N, 5] h) => (bool more, float[N, 5] g, float[N, 5] o) {{
        more = Identity(go) xt = Gather(x, i) {} o = Neg(g) }}> }}"""
SCAN = """(float[T, N, 5] x, float[N, 5] h0) => (float[N, 5] y, float[T, N, 5] ys)
    <float[5, 5] w, float[5, 5] u, float[5, 5] v> {{
    y, ys = Scan <num_scan_inputs = 1, body = b (float[N, 5] h, float[N, 5] xt) => (float[N, 5] g, float[N, 5] o) {{
        {} o = Neg(g) }}> (h0, x) }}"""
BOTH = CHOICE.format("{ a = MatMul(x1, u) p = PHI(a) }", "a = MatMul(x1, v) b = Neg(a) q = Identity(b)")
SKIP = "a = MatMul(x1, u) r = Tanh(a) b = MatMul(r, v) p = Add(x1, b)"
CELL = "a = MatMul(xt, w) r = PHI(a) b = MatMul(r, u) c = Add(h, b) d = MatMul(c, v) g = PHI(d)"
RESIDUAL = "a = MatMul(h, w) r = Tanh(a) b = MatMul(r, u) g = Add(h, b)"
MODELS = {
    "identity in a branch": (BOTH.replace("PHI", "Relu"), "identity"),
    "a new branch in a branch": (BOTH.replace("PHI", "Tanh"), "residual-new"),
    "a gate in a branch": (BOTH.replace("PHI", "Sigmoid"), "parametric"),
    "a skip connection in a branch": (CHOICE.format(f"{{ {SKIP} }}", "q = Neg(x1)"), "residual-copy"),
    "a skip connection from outside in both": (
        CHOICE.format(f"{{ {SKIP} }}", SKIP.replace("p =", "q =")),
        "residual-copy",
    ),
    "a loop of Relu": (LOOP.format(CELL.replace("PHI", "Relu")), "identity"),
    "a loop of Tanh": (LOOP.format(CELL.replace("PHI", "Tanh")), "residual-new"),
    "a gate in a loop": (LOOP.format(CELL.replace("PHI", "Tanh")), "parametric"),
    "a skip connection along a loop": (LOOP.format(RESIDUAL), "residual-copy"),
    "a scan of Relu": (SCAN.format(CELL.replace("PHI", "Relu")), "identity"),
    "a scan of Tanh": (SCAN.format(CELL.replace("PHI", "Tanh")), "residual-new"),
    "a gate in a scan": (SCAN.format(CELL.replace("PHI", "Tanh")), "parametric"),
    "a skip connection along a scan": (SCAN.format(RESIDUAL), "residual-copy"),
}


def inside(model: Model) -> list[str]:
    """The names of what nodes in bodies compute."""
    graphs = nested_graphs(model.skeleton.graph)
    return [name for graph in graphs for node in graph.node for name in node.output]


def assert_deepens(model: Model, deep: Model) -> None:
    """`assert_identical`, and with a condition that is true and one that is false."""
    assert_identical(model, deep)
    for flag in (True, False) if "c" in feeds(model) else ():
        inputs = {**feeds(model), "c": np.array(flag)}
        np.testing.assert_array_equal(run(deep, inputs)[0], run(model, inputs)[0])


@pytest.mark.parametrize("name", MODELS)
def test_what_lies_in_a_body_deepens_there(name: str) -> None:
    text, scheme = MODELS[name]
    model = build(text)
    plan = plan_deepen(model, scheme=scheme, every=1)
    deep = apply_deepen(model, DeepenPlan.from_json(plan.to_json()))
    assert_deepens(model, deep)
    assert {layer.scheme for layer in plan.layers} == {scheme}
    assert [output for output in inside(deep) if "deeper" in output]
    assert len(deep.skeleton.graph.node) == len(model.skeleton.graph.node)


@pytest.mark.parametrize("name", [name for name in MODELS if "branch" not in name and "both" not in name])
def test_new_layers_in_loops_learn(name: str) -> None:
    text, scheme = MODELS[name]
    model = build(text)
    assert_connected(model, deepen(model, scheme=scheme, every=1))


def test_what_is_last_in_an_iteration_is_not_last() -> None:
    cell = "a = MatMul(xt, w) b = MatMul(h, u) c = Add(a, b) d = MatMul(c, v) g = Sigmoid(d)"
    model = build(LOOP.format(cell))
    (layer,) = plan_deepen(
        model, every=1
    ).layers  # the sigmoid that the next iteration reads is no end of the network
    assert layer.output == "g"


def test_initial_values_are_no_constants_inside() -> None:
    model = build(
        "(float[N, 5] x) => (float[N, 5] y) <float[5, 5] w, float[5, 5] u, float[5] z = {0, 0, 0, 0, 0}, int64 m = {2}> {"
        "l = Loop(m, , z) <body = b (int64 i, bool go, float[5] h) => (bool more, float[5] g) {"
        "more = Identity(go) a = MatMul(h, w) b = Add(a, h) g = Tanh(b) }> r = MatMul(x, u) y = Add(r, l) }"
    )
    flow = Dataflow(flattened(model))
    assert {"h", "g", "l", "a"}.isdisjoint(flow.constants)
    assert_deepens(model, deepen(model, every=1))


@pytest.mark.parametrize("end", ["MatMul(z, o)", "Identity(z)"])
def test_the_constants_of_another_body_are_not_read(end: str) -> None:
    gelu = (
        "half = Constant <value = float {0.5}> () one = Constant <value = float {1.0}> () "
        "e = Erf(a) f = Add(e, one) g = Mul(a, f) p = Mul(g, half)"
    )
    other = "b = MatMul(x1, v) d = MatMul(b, u) q = Neg(d)"
    text = CHOICE.format(f"{{ a = MatMul(x1, u) {gelu} }}", other)
    model = build(text.replace("MatMul(z, o)", end))
    deep = deepen(model, scheme="residual-new", after=("g", "b"))
    assert_deepens(model, deep)
    functions = {
        layer.output: layer.function.operator for layer in plan_deepen(model, after=("g", "b")).layers
    }
    assert functions == {"g": "Erf+Add+Mul", "b": "Relu"}


def test_weights_of_another_body_are_not_read() -> None:
    own = "<float[1] slope = {0.2}> { a = MatMul(x1, u) p = PRelu(a, slope) }"
    model = build(CHOICE.format(own, "b = MatMul(x1, v) d = MatMul(b, u) q = Neg(d)"))
    deep = deepen(model, scheme="residual-new", after=("p", "b"))
    assert_deepens(model, deep)
    first, second = plan_deepen(model, scheme="residual-new", after=("p", "b")).layers
    assert first.function.operator == "PRelu"
    assert second.function.operator == "Relu"


NORM = "a = Conv(x1, k) b = BatchNormalization(a, g, s, m, n) p = Relu(b)"
PICTURES = """(float[N, 4, 6, 6] x, bool c) => (float[N, 4, 6, 6] y)
    <float[4, 4, 1, 1] k, float[4] g, float[4] s, float[4] m = {0.1, 0.2, 0.3, 0.4}, float[4] n = {1, 2, 3, 4}> {
    x0 = Conv(x, k) x9 = BatchNormalization(x0, g, s, m, n) x1 = Relu(x9)
    y = If (c) <then_branch = t () => (float[N, 4, 6, 6] p) { """


def test_statistics_of_a_body_cannot_be_taken() -> None:
    model = build(PICTURES + NORM + " }, else_branch = e () => (float[N, 4, 6, 6] q) { q = Neg(x1) }> }")
    with pytest.raises(NothingToGrowError, match="'b' lies in a body of control flow"):
        plan_deepen(model, scheme="identity", after="p")
    plan = plan_deepen(model, every=1)
    assert [(layer.output, layer.scheme) for layer in plan.layers] == [
        ("x1", "identity"),
        ("p", "residual-new"),
    ]
    assert plan.layers[0].statistics is not None
    deep = deepen(model, every=1)
    for flag in (True, False):
        inputs = {**feeds(model), "c": np.array(flag)}
        np.testing.assert_allclose(run(deep, inputs)[0], run(model, inputs)[0], rtol=0, atol=1e-5)


def test_bodies_in_bodies_and_in_functions() -> None:
    text = """<ir_version: 8, opset_import: ["" : 17, "own" : 1]> g (float[N, 5] x, bool c) => (float[N, 5] y) {
        y = own.part(x, c) }
        <domain: "own", opset_import: ["" : 17]> part (x, c) => (y) {
            m = Constant <value = int64 {3}> ()
            w = Constant <value_floats = [0.1, 0.2, -0.3, 0.4, 0.5]> ()
            d = Constant <value = int64[2] {5, 1}> () e = Constant <value = int64[2] {1, 5}> ()
            w1 = Reshape(w, d) w2 = Reshape(w, e) w3 = MatMul(w1, w2)
            y = If (c) <then_branch = t () => (p) {
                p = Loop(m, , x) <body = b (int64 i, bool go, h) => (bool more, g) {
                    more = Identity(go) a = MatMul(h, w3) g = Relu(a) }> },
            else_branch = e () => (q) { q = Neg(x) }> }"""
    model = build(text)
    deep = deepen(model)
    assert_deepens(model, deep)
    assert [output for output in inside(deep) if "deeper" in output]


def test_control_flow_is_no_part_of_a_branch_to_copy() -> None:
    model = build(
        "(float[N, 5] x, bool c) => (float[N, 5] y) <float[5, 5] w, float[5, 5] v> { a = MatMul(x, w) "
        "b = If (c) <then_branch = t () => (float[N, 5] p) { p = Relu(a) }, else_branch = e () => (float[N, 5] q) { q = Neg(a) }> "
        "d = MatMul(b, v) y = Add(x, d) }"
    )
    with pytest.raises(NothingToGrowError, match="its branch contains control flow"):
        deepen(model, scheme="residual-copy")
    assert_deepens(model, deepen(model))


def test_what_stands_behind_control_flow_is_deepened_in_front_of_it_or_behind() -> None:
    model = build(
        "(float[N, 5] x, bool c) => (float[N, 5] z) <float[5, 5] w, float[5, 5] v> { "
        "a = If (c) <then_branch = t () => (float[N, 5] p) { p = MatMul(x, w) }, else_branch = e () => (float[N, 5] q) { q = Neg(x) }> "
        "b = Relu(a) d = MatMul(b, v) z = Relu(d) }"
    )
    plan = plan_deepen(model, scheme="residual-new", every=1)
    assert [layer.output for layer in plan.layers] == ["z"]
    for after in ("p", "z"):
        assert_deepens(model, deepen(model, scheme="residual-new", after=after))
    with pytest.raises(NothingToGrowError):
        deepen(model, after="b")


def test_new_weights_are_read_where_they_are_needed() -> None:
    model = build(BOTH.replace("PHI", "Relu"))
    deep = deepen(model, after="p")
    (name,) = set(deep.weights) - set(model.weights)
    draft = Draft(deep)
    draft.weights[name] = Inline.of(np.full((5, 5), 0.5, np.float32))
    for flag in (True, False):
        inputs = {**feeds(model), "c": np.array(flag)}
        old, new = run(deep, inputs)[0], run(draft.freeze(), inputs)[0]
        assert np.array_equal(old, new) != flag

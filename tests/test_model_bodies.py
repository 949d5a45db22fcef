from __future__ import annotations

import numpy as np
import onnx
import pytest
from graphs import build, feeds, run
from onnx import numpy_helper

from onnx_grow.errors import InvalidModelError
from onnx_grow.model import Inline, Model, flattened, load, nested
from onnx_grow.model.bodies import MARKERS

BRANCHES = """(float[2, 3] x, bool c) => (float[2, 3] y) {
    y = If (c) <then_branch = t () => (float[2, 3] p) <float[3] k = {1.0, 2.0, 3.0}, float[2, 3] r> { r = Add(x, k) p = Neg(r) },
                else_branch = e () => (float[2, 3] p) <float[3] k = {2.0, 2.0, 3.0}> { r = Mul(x, k) p = Relu(r) }>}"""
SHADOWING = """(float[2, 3] x, bool c) => (float[2, 3] y) <int64 m = {3}> {
    d = Relu(x)
    y = Loop(m, , d) <body = b (int64 i, bool go, float[2, 3] h) => (bool more, float[2, 3] f) {
        f = If (c) <then_branch = t () => (float[2, 3] f) { z = Add(h, d) f = Relu(z) },
                    else_branch = e () => (float[2, 3] f) { z = Sub(h, d) f = Neg(z) }>
        more = Identity(go) }>}"""
HANDED = """(float[2, 3] x) => (float[2, 3] y) <int64 m = {3}, float[3] w> {
    y, u = Loop(m, , x, w) <body = b (int64 i, bool go, float[2, 3] h, float[3] k) => (bool more, float[2, 3] f, float[3] k) {
        f = Mul(h, k) more = Identity(go) }>}"""
SCAN = """(float[4, 3] x, float[3] z) => (float[3] y, float[3, 4] s) {
    y, s = Scan<body = b (float[3] h, float[3] r) => (float[3] g, float[3] o) { g = Add(h, r) o = Neg(g) },
                num_scan_inputs = 1, scan_output_axes = [1]>(z, x) }"""
UNUSUAL = """<ir_version: 8, opset_import: ["" : 8]>
g (float[1, 4, 3] x, float[1, 3] z) => (float[1, 3] y, float[1, 4, 3] s) {
    y, s = Scan<num_scan_inputs = 1, body = b (float[3] h, float[3] r) => (float[3] g, float[3] o) {
        g = Add(h, r) o = Neg(g) }>(, z, x) }"""


@pytest.mark.parametrize("text", [BRANCHES, SHADOWING, HANDED, SCAN])
def test_what_nobody_changed_comes_back(text: str) -> None:
    model = build(text)
    flat = flattened(model)
    assert MARKERS & {node.domain for node in flat.skeleton.graph.node}
    assert all(
        not attribute.HasField("g") for node in flat.skeleton.graph.node for attribute in node.attribute
    )
    computed = [name for node in flat.skeleton.graph.node for name in node.output if name]
    assert len(computed) == len(set(computed))
    back = nested(flat)
    assert back.skeleton == model.skeleton
    assert list(back.weights) == list(model.weights)


def test_models_without_bodies_are_themselves() -> None:
    model = build("(float[2] x) => (float[2] y) { y = Relu(x) }")
    assert flattened(model) is model
    assert nested(model) is model


def test_unusual_owners_stay() -> None:
    model = build(UNUSUAL)
    assert flattened(model) is model


def test_weights_of_bodies_are_weights() -> None:
    flat = flattened(build(BRANCHES))
    assert [weight.array().tolist() for weight in flat.weights.values()] == [[1, 2, 3], [2, 2, 3]]
    assert flat.parameters == build(BRANCHES).parameters == 6


def test_weights_that_change_stay_with_the_main_graph() -> None:
    model = build(BRANCHES)
    flat = flattened(model)
    name = next(iter(flat.weights))
    changed = nested(_with(flat, name, np.float32([7, 8, 9])))
    assert list(changed.weights) == [name]
    bodies = {a.name: a.g for a in changed.skeleton.graph.node[0].attribute}
    assert [len(body.initializer) for body in bodies.values()] == [0, 1]
    inputs = feeds(model) | {"c": np.array(True)}
    np.testing.assert_array_equal(run(changed, inputs)[0], -(inputs["x"] + np.float32([7, 8, 9])))
    inputs["c"] = np.array(False)
    np.testing.assert_array_equal(run(changed, inputs)[0], run(model, inputs)[0])


def test_before_version_4_weights_cannot_leave_their_bodies() -> None:
    proto = build(BRANCHES).to_proto()
    proto.ir_version = 3
    flat = flattened(load(proto))
    name = next(iter(flat.weights))
    changed = nested(_with(flat, name, np.float32([7, 8, 9])))
    assert not changed.weights
    values = [numpy_helper.to_array(a.g.initializer[0]) for a in changed.skeleton.graph.node[0].attribute]
    assert [value.tolist() for value in values] == [[7, 8, 9], [2, 2, 3]]


def test_a_state_that_only_hands_on_what_is_gone_goes_too() -> None:
    model = build(HANDED)
    flat = flattened(model)
    multiply = next(node for node in flat.skeleton.graph.node if node.op_type == "Mul")
    assert multiply.input[1] == "w"
    proto = onnx.ModelProto()
    proto.CopyFrom(flat.skeleton)
    for node in proto.graph.node:
        if node.op_type == "Mul":
            node.input[1] = "other"
    proto.graph.initializer[1].name = "other"
    weights = {("other" if name == "w" else name): weight for name, weight in flat.weights.items()}
    changed = nested(Model(proto, weights))
    (loop,) = changed.skeleton.graph.node
    assert list(loop.input) == ["m", "", "x"]
    assert list(loop.output) == ["y"]
    np.testing.assert_array_equal(run(changed, feeds(model))[0], run(model, feeds(model))[0])


def test_names_must_not_be_assigned_twice_in_a_body() -> None:
    model = build(BRANCHES.replace("p = Neg(r)", "r = Neg(r) p = Neg(r)"))
    with pytest.raises(InvalidModelError, match="a body assigns 'r' twice"):
        flattened(model)


def test_texts_of_a_body_that_are_not_utf8_stay() -> None:
    data = build(BRANCHES.replace("then_branch = t", "then_branch = latin")).to_proto().SerializeToString()
    model = load(data.replace(b"latin", b"l\xe4tin"))
    assert b"l\xe4tin" in nested(flattened(model)).skeleton.SerializeToString()


def _with(model: Model, name: str, value: np.ndarray) -> Model:
    return Model(model.skeleton, {**model.weights, name: Inline.of(value)})


@pytest.mark.parametrize(
    "chain", ["k2 = Identity(k3) k3 = Identity(k2)", "k2 = Identity() k3 = Identity(k2)"]
)
def test_states_that_come_from_nowhere_are_not_followed(chain: str) -> None:
    text = HANDED.replace("float[3] w>", "float[3] w, float[3] k3>").replace(
        "float[3] k) {", "float[3] k2) {"
    )
    text = text.replace("more =", f"{chain} more =")
    flat = flattened(build(text))
    assert [node.op_type for node in flat.skeleton.graph.node].count("Identity") == 3

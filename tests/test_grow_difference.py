from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
from graphs import build
from onnx import helper, numpy_helper
from test_grow_plan import CHAIN

import onnx_grow as og
from onnx_grow.growth.difference import Change, diff
from onnx_grow.model import Model, load

CNN = Path(__file__).parents[1] / "models" / "digits_cnn.onnx"


def test_widened() -> None:
    model = build(CHAIN)
    found = diff(model, og.widen(model, widths={"enc_in": 9}))
    assert found.parameters == Change("parameters", 24 + 30 + 15, 36 + 45 + 15)
    assert [(layer.name, layer.change, layer.weights) for layer in found.layers] == [
        ("enc_in", "changed", (Change("t", (4, 6), (4, 9)),)),
        ("enc_out", "changed", (Change("u", (6, 5), (9, 5)),)),
    ]
    assert found.weights == (Change("t", (4, 6), (4, 9)), Change("u", (6, 5), (9, 5)))
    assert not found.values
    assert [entry["plan"]["operation"] for entry in found.history] == ["widen"]
    assert "changed MatMul enc_in: t (4, 6) -> (4, 9)" in str(found)


def test_deepened() -> None:
    model = load(CNN)
    wide = og.widen(model)
    found = diff(wide, og.deepen(wide))
    added = [layer for layer in found.layers if layer.change == "added"]
    assert found.nodes.after - found.nodes.before == len(added) == len(found.layers)
    assert all(change.before is None for layer in added for change in layer.weights)
    assert (
        sum(int(np.prod(c.after)) for layer in added for c in layer.weights)
        == found.parameters.after - found.parameters.before
    )
    assert [entry["plan"]["operation"] for entry in found.history] == ["deepen"]  # what is new


def test_attributes() -> None:
    text = (
        "(float[1, 4, 5, 5] x) => (float[1, 4, 5, 5] y) <float[4, 1, 1, 1] w, float[4, 4, 1, 1] v> "
        "{ [a] h = Conv <group = 4> (x, w) [b] y = Conv (h, v) }"
    )
    other = text.replace("[4, 1, 1, 1]", "[4, 2, 1, 1]").replace(
        "<group = 4>", "<group = 2, strides = [1, 1]>"
    )
    (layer,) = diff(build(text), build(other)).layers
    assert layer.attributes == (Change("group", 4, 2), Change("strides", None, [1, 1]))
    assert layer.weights == (Change("w", (4, 1, 1, 1), (4, 2, 1, 1)),)


def test_equal_models() -> None:
    found = diff(load(CNN), load(CNN))
    assert found.is_empty
    assert found.to_json()["same"] is True


def test_values() -> None:
    model = build(CHAIN)
    proto = model.to_proto()
    array = numpy_helper.to_array(proto.graph.initializer[1]).copy()
    array[0, 0] += 1
    proto.graph.initializer[1].CopyFrom(numpy_helper.from_array(array, proto.graph.initializer[1].name))
    found = diff(model, load(proto))
    assert found.values == (proto.graph.initializer[1].name,)
    assert not found.layers
    assert not found.is_empty


def unnamed(*operators: str, sizes: tuple[int, ...] = (2, 3)) -> Model:
    names = [f"t{k}" for k in range(len(operators))]
    nodes = [helper.make_node("Constant", [], ["c"], value=numpy_helper.from_array(np.array(sizes)))]
    nodes += [
        helper.make_node(op, [a], [b]) for op, a, b in zip(operators, ["x", *names], names, strict=False)
    ]
    nodes.append(helper.make_node("Reshape", [names[-1], "c"], ["y"]))
    values = [helper.make_tensor_value_info(name, 1, [6]) for name in "xy"]
    return load(helper.make_model(helper.make_graph(nodes, "g", values[:1], values[1:])))


def test_nodes_without_names_and_constants() -> None:
    found = diff(unnamed("Relu", "Tanh"), unnamed("Relu", "Relu", "Tanh", sizes=(3, 2)))
    assert [(layer.operator, layer.change) for layer in found.layers] == [
        ("Constant", "changed"),
        ("Relu", "added"),
        ("Tanh", "changed"),
        ("Reshape", "changed"),
    ]
    assert found.layers[0].attributes == (Change("value", "[2, 3]", "[3, 2]"),)
    assert found.layers[2].inputs == (Change("input 0", "t0", "t1"),)
    back = diff(unnamed("Relu", "Relu", "Tanh"), unnamed("Relu", "Tanh"))
    assert back.layers[-1].change == "removed"


def test_models_that_have_nothing_in_common() -> None:
    found = diff(load(CNN), build(CHAIN))
    assert {layer.change for layer in found.layers} == {"added", "removed"}
    assert Change("image", ("batch", 1, 8, 8), None) in found.interface


def test_attributes_of_every_kind() -> None:
    body = helper.make_graph([], "body", [], [])
    node = helper.make_node(
        "Odd",
        [],
        ["y"],
        "odd",
        domain="d",
        f=1.5,
        fs=[1.0],
        s="text",
        ss=["a", "b"],
        g=body,
        t=numpy_helper.from_array(np.zeros(99, np.float32)),
        texts=helper.make_tensor("n", 8, [1], [b"x"]),
    )
    empty = helper.make_node("Odd", [], ["y"], "odd", domain="d")
    models = []
    for each in (empty, node):
        graph = helper.make_graph([each], "g", [], [helper.make_tensor_value_info("y", 1, [1])])
        proto = helper.make_model(
            graph, opset_imports=[helper.make_opsetid("d", 1), onnx.OperatorSetIdProto(version=17)]
        )
        models.append(load(proto))
    (layer,) = diff(*models).layers
    after = {change.name: change.after for change in layer.attributes}
    assert (after["f"], after["fs"], after["s"], after["ss"]) == (1.5, [1.0], "text", ["a", "b"])
    assert after["g"] == "graph of 0 nodes"
    assert after["t"].startswith("tensor of shape [99], CRC ")
    assert after["texts"].startswith("tensor of shape [1], CRC ")


def test_what_grew_in_a_body_is_told() -> None:
    text = """(float[N,4] x, bool c) => (float[N,3] y) {
        y = If(c) <then_branch = t () => (float[N,3] a) { v = Constant<value = float[4,2] {1,2,3,4,5,6,7,8}>()
                       w = Constant<value = float[2,3] {1,2,3,4,5,6}>() h = MatMul(x, v) r = Relu(h) a = MatMul(r, w) },
                   else_branch = e () => (float[N,3] b) { u = Constant<value = float[4,3] {1,2,3,4,5,6,7,8,9,1,2,3}>() b = MatMul(x, u) }>
    }"""
    model = build(text)
    assert not diff(model, model).layers
    changed = diff(model, og.widen(model)).layers
    assert {layer.operator for layer in changed} == {"Constant"}

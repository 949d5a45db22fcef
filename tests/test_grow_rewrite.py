from __future__ import annotations

import ml_dtypes
import numpy as np
import onnx
import pytest
from graphs import assert_grows, assert_same, between, build, feeds, operators, planned, run
from onnx import GraphProto, TensorProto, helper, numpy_helper

from onnx_grow.axes.equations import Node, Rule
from onnx_grow.axes.table import KINDS
from onnx_grow.errors import NothingToGrowError
from onnx_grow.growth import widening
from onnx_grow.growth.provenance import history
from onnx_grow.growth.recipes import Grown
from onnx_grow.growth.widening import inspect, widen
from onnx_grow.model import Model, load, save
from onnx_grow.operators import RULES

RESIDUAL = """(float[2, 3, 6, 6] x) => (float[2, 4] y)
    <float[6, 3, 3, 3] v, float[6] positive, float[6] s, float[6] t, float[6] m, float[4, 6, 3, 3] k1, float[6, 4, 3, 3] k2,
     float[6, 4] w, float[4] b> {
    [stem] a = Conv <pads=[1, 1, 1, 1]> (x, v) [norm] n = BatchNormalization(a, s, t, m, positive) [relu] r = Relu(n)
    [one] c = Conv <pads=[1, 1, 1, 1]> (r, k1) [act] d = Relu(c) [two] e = Conv <pads=[1, 1, 1, 1]> (d, k2) [add] f = Add(e, r)
    [pool] p = GlobalAveragePool(f) [flat] q = Flatten(p) [head] y = Gemm(q, w, b) }"""


def serialized(model: Model) -> bytes:
    return model.to_proto().SerializeToString(deterministic=True)


def test_only_what_must_change_changes() -> None:
    model = build(RESIDUAL)
    before = serialized(model)
    grown = widen(model, only="one")
    assert serialized(model) == before
    changed = {name for name, weight in grown.weights.items() if weight is not model.weights[name]}
    assert changed == {"k1", "k2"}
    assert list(grown.weights) == list(model.weights)
    assert list(grown.skeleton.graph.node) == list(model.skeleton.graph.node)
    assert list(grown.skeleton.graph.input) == list(model.skeleton.graph.input)
    assert list(grown.skeleton.graph.output) == list(model.skeleton.graph.output)
    old, new = model.to_proto(), grown.to_proto()
    for initializer, other in zip(old.graph.initializer, new.graph.initializer, strict=True):
        assert (initializer == other) == (initializer.name not in changed)


def test_weights_are_computed_when_they_are_read() -> None:
    model = build(RESIDUAL)
    grown = widen(model)
    assert isinstance(grown.weights["k1"], Grown)
    assert grown.weights["k1"].shape == (8, 12, 3, 3)
    assert grown.weights["b"] is model.weights["b"]


def test_declared_shapes_are_corrected() -> None:
    proto = onnx.shape_inference.infer_shapes(build(RESIDUAL).to_proto())
    declared = {info.name for info in proto.graph.value_info}
    assert {"a", "c", "q"} <= declared
    grown = widen(load(proto)).to_proto()
    onnx.checker.check_model(grown, full_check=True)
    shapes = {
        info.name: [d.dim_value for d in info.type.tensor_type.shape.dim] for info in grown.graph.value_info
    }
    assert shapes["c"] == [2, 8, 6, 6]
    assert shapes["a"] == [2, 12, 6, 6]
    assert shapes["q"] == [2, 12]
    assert {info.name for info in grown.graph.value_info} == declared
    fresh = onnx.ModelProto()
    fresh.CopyFrom(grown)
    del fresh.graph.value_info[:]
    inferred = onnx.shape_inference.infer_shapes(fresh, strict_mode=True)
    assert {i.name: i.type for i in inferred.graph.value_info} == {
        i.name: i.type for i in grown.graph.value_info
    }


def test_the_declared_shape_of_a_constant_node_grows_with_its_value() -> None:
    text = between("c = Constant <value = double[6] {1, 2, 3, 4, 5, 6}> () b = Add(a, c)")
    proto = onnx.shape_inference.infer_shapes(build(text).to_proto())
    assert "c" in {info.name for info in proto.graph.value_info}
    onnx.checker.check_model(widen(load(proto)).to_proto(), full_check=True)


def test_open_dimensions_stay_open_in_declarations() -> None:
    proto = build(between("b = Relu(a)")).to_proto()
    proto.graph.value_info.append(helper.make_tensor_value_info("a", TensorProto.DOUBLE, ["N", 6]))
    proto.graph.value_info.append(helper.make_tensor_value_info("b", TensorProto.DOUBLE, ["N", "C"]))
    grown = widen(load(proto)).skeleton.graph
    first, second = (
        [d.dim_param or d.dim_value for d in i.type.tensor_type.shape.dim] for i in grown.value_info
    )
    assert first == ["N", 12]
    assert second == ["N", 0]  # nothing: C channels, as it may be called elsewhere, they are no longer


def test_a_dimension_of_channels_and_rows_stays_open_in_the_results_of_bodies() -> None:
    model = build(
        """(double[N, 4] x, bool c) => (double[] y) <double[4, 6] v, int64[1] flat = {-1}> {
            a = MatMul(x, v) b = Reshape(a, flat)
            d = If (c) <then_branch = t () => (double[K] p) { p = Relu(b) }, else_branch = e () => (double[K] q) { q = Identity(b) }>
            y = ReduceMax <keepdims=0> (d) }"""
    )
    grown = widen(model, widths={"a": 9})
    for n in (2, 5):
        assert_same(model, grown, n)


def test_the_model_tells_what_was_done() -> None:
    proto = build(RESIDUAL).to_proto()
    proto.metadata_props.add(key="author", value="someone")
    proto.producer_name = "exporter"
    grown = widen(load(proto), seed=5)
    assert grown.metadata["author"] == "someone"
    assert grown.skeleton.producer_name == "exporter"
    (entry,) = history(grown)
    assert entry["plan"]["seed"] == 5
    assert entry["source_sha256"] is None
    twice = widen(grown, only="one")
    assert [e["plan"]["axes"][0]["new_size"] for e in history(twice)] == [12, 16]


def test_growing_what_was_grown() -> None:
    model = build(RESIDUAL)
    once = widen(model, factor=1.5, kind=KINDS)
    twice = widen(once, factor=1.5, seed=1)
    thrice = widen(twice, widths={"one": 30}, seed=2)
    assert [growth.new_size for growth in planned(twice).axes] == [14, 9]
    assert thrice.weights["k1"].shape == (30, 14, 3, 3)
    assert_same(model, thrice)


def test_saved_and_loaded(tmp_path: object) -> None:
    path = tmp_path / "m.onnx"  # type: ignore[operator]
    model = build(RESIDUAL)
    grown = widen(model)
    save(grown, path)
    assert serialized(load(path)) == serialized(grown)
    assert_same(model, load(path))
    again = widen(load(path))
    assert len(history(again)[1]["source_sha256"]) == 64
    assert_same(model, again)


def numbers(count: int) -> str:
    """Values of a weight, in text."""
    return ", ".join(str(round(np.sin(k), 3)) for k in range(count))


def test_initializers_that_are_inputs_too() -> None:
    text = f"""<ir_version: 3, opset_import: ["" : 8]>
        g (float[2, 4] x, float[4, 6] v, float[6] s, float[6, 3] w) => (float[2, 3] y)
        <float[4, 6] v = {{{numbers(24)}}}, float[6] s = {{{numbers(6)}}}, float[6, 3] w = {{{numbers(18)}}}> {{
            a = MatMul(x, v) b = Add(a, s) c = Relu(b) y = MatMul(c, w) }}"""
    model = build(text)
    grown = widen(model)
    onnx.checker.check_model(grown.to_proto(), full_check=True)
    shapes = {i.name: [d.dim_value for d in i.type.tensor_type.shape.dim] for i in grown.skeleton.graph.input}
    assert shapes == {"x": [2, 4], "v": [4, 12], "s": [12], "w": [12, 3]}
    assert_same(model, grown)


def test_new_constants_in_old_files_are_nodes() -> None:
    text = f"""<ir_version: 3, opset_import: ["" : 8]> g (float[2, 4] x, float[4, 6] v) => (float[2, 1] y)
        <float[4, 6] v = {{{numbers(24)}}}> {{ a = MatMul(x, v) b = Tanh(a) y = ReduceSum <axes=[1]> (b) }}"""
    model = build(text)
    grown = widen(model, factor=1.5)
    onnx.checker.check_model(grown.to_proto(), full_check=True)
    assert [operator for operator in operators(grown) if operator not in operators(model)] == [
        "Constant",
        "Mul",
    ]
    assert_same(model, grown)


def test_constant_nodes_are_weights() -> None:
    text = f"""(double[N, 4] x) => (double[N, 3] y) <double[6, 3] w> {{
        v = Constant <value = double[4, 6] {{{numbers(24)}}}> () s = Constant <value_floats = [1.0, 2.0, 3.0, 4.0, 5.0, 6.0]> ()
        t = Cast <to=11> (s) a = MatMul(x, v) b = Add(a, t) y = MatMul(b, w) }}"""
    model = build(text)
    assert_grows(model, "a")
    grown = widen(model)
    assert operators(grown) == operators(model)
    assert list(grown.weights) == ["w"]


def test_names_are_kept_and_new_ones_are_new() -> None:
    text = between(
        "b = Tanh(a) c = MatMul(b, w) w_grown = Relu(c) d = MatMul(w_grown, u) e = ReduceL2 <axes=[1]> (b) f = Add(d, e)",
        "double[3, 3] u",
    ).replace("y = MatMul(b, w)", "y = Add(f, w_grown)")
    model = build(text)
    grown = widen(model, factor=1.5)
    assert_same(model, grown)
    outputs = [name for node in grown.skeleton.graph.node for name in node.output]
    names = [*outputs, *grown.weights, *(i.name for i in grown.skeleton.graph.input)]
    assert len(names) == len(set(names))


def branch(name: str, *nodes: onnx.NodeProto) -> GraphProto:
    return helper.make_graph(
        list(nodes), name, [], [helper.make_tensor_value_info(name, TensorProto.DOUBLE, None)]
    )


def test_weights_that_a_body_reads_too() -> None:
    weights = {"v": (4, 6), "w": (6, 3)}
    rng = np.random.default_rng(0)
    graph = helper.make_graph(
        [
            helper.make_node("MatMul", ["x", "v"], ["a"]),
            helper.make_node("Relu", ["a"], ["r"]),
            helper.make_node("MatMul", ["r", "w"], ["p"]),
            helper.make_node(
                "If",
                ["c"],
                ["q"],
                then_branch=branch("then", helper.make_node("ReduceSum", ["w"], ["then"], keepdims=0)),
                else_branch=branch("else", helper.make_node("ReduceMax", ["v"], ["else"], keepdims=0)),
            ),
            helper.make_node("Mul", ["p", "q"], ["y"]),
        ],
        "g",
        [
            helper.make_tensor_value_info("x", TensorProto.DOUBLE, [2, 4]),
            helper.make_tensor_value_info("c", TensorProto.BOOL, []),
        ],
        [helper.make_tensor_value_info("y", TensorProto.DOUBLE, [2, 3])],
        [numpy_helper.from_array(rng.standard_normal(shape), name) for name, shape in weights.items()],
    )
    model = load(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8))
    grown = widen(model, factor=1.5)
    assert grown.weights["w"].shape == (9, 3)
    assert_same(model, grown)


def test_a_weight_that_is_an_output_too() -> None:
    text = "(double[2, 4] x) => (double[2, 3] y, double[6, 3] w) <double[4, 6] v, double[6, 3] w> { a = MatMul(x, v) y = MatMul(a, w) }"
    proto = build(text.replace(", double[6, 3] w)", ")")).to_proto()
    proto.graph.output.append(helper.make_tensor_value_info("w", TensorProto.DOUBLE, [6, 3]))
    model = load(proto)
    grown = widen(model)
    assert_same(model, grown)
    assert grown.weights["v"].shape == (4, 12)


@pytest.mark.parametrize("opset", [7, 9, 11, 12, 13, 15, 17, 18, 21, 24])
def test_operator_sets(opset: int) -> None:
    model = build(RESIDUAL, opset)
    assert_same(model, widen(model, factor=1.5))


DTYPES = {"float16": np.float16, "bfloat16": ml_dtypes.bfloat16, "float": np.float32, "double": np.float64}


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("scheme", ["split", "copy"])
def test_types_of_weights(dtype: str, scheme: str) -> None:
    """Weights keep their type; half precision is computed in single, as its sums would hide small errors."""
    text = f"""(float[3, 4] x) => (float[3, 3] y) <{dtype}[4, 6] v, {dtype}[6] s, {dtype}[6, 3] w> {{
        v1 = Cast <to=1> (v) s1 = Cast <to=1> (s) w1 = Cast <to=1> (w) a = MatMul(x, v1) b = Add(a, s1) y = MatMul(b, w1) }}"""
    model = build(text)
    grown = widen(model, factor=1.5, scheme=scheme)  # type: ignore[arg-type]
    assert grown.weights["w"].array().dtype == DTYPES[dtype]
    assert_same(model, grown, tolerance=1e-6)


def test_half_precision_throughout() -> None:
    text = """(float16[3, 4] x) => (float16[3, 3] y) <float16[4, 6] v, float16[6] s, float16[6, 3] w> {
        a = MatMul(x, v) b = Add(a, s) c = Relu(b) y = MatMul(c, w) }"""
    assert_grows(build(text), "a")


def test_weights_that_are_standardised() -> None:
    text = """(float[2, 3, 4, 4] x) => (float[2, 2, 4, 4] y)
        <float[6, 3, 1, 1] v, float[4, 6, 3, 3] k, float eps = {0.001}, float[2, 4, 1, 1] w> {
        a = Conv(x, v) m = ReduceMean <axes=[1, 2, 3]> (k) d = Sub(k, m) s = Mul(d, d) q = ReduceMean <axes=[1, 2, 3]> (s)
        e = Add(q, eps) r = Sqrt(e) n = Div(d, r) b = Conv <pads=[1, 1, 1, 1]> (a, n) y = Conv(b, w) }"""
    assert_grows(build(text), "~a b")


def test_weights_that_are_normalised() -> None:
    text = """(double[N, 4] x) => (double[N, 3] y) <double[4, 6] v, double[6, 5] u, double[5] g, double[5, 3] w> {
        a = MatMul(x, v) n = ReduceL2 <axes=[0]> (u) d = Div(u, n) s = Mul(d, g) b = MatMul(a, s) y = MatMul(b, w) }"""
    assert_grows(build(text), "a b")


def test_the_same_request_gives_the_same_bytes() -> None:
    model = build(RESIDUAL)
    assert serialized(widen(model, factor=1.5)) == serialized(widen(model, factor=1.5))


def test_copies_compute_the_same_as_their_originals() -> None:
    """What widening adds are copies: hidden channels of the grown network are those of the original, by the map of their axis."""
    proto = build(between("b = Relu(a)")).to_proto()
    proto.graph.output.append(helper.make_tensor_value_info("b", TensorProto.DOUBLE, None))
    seen = load(proto)
    inputs = feeds(seen)
    original = run(seen, inputs)[1]
    grown = widen(build(between("b = Relu(a)")), factor=1.5).to_proto()
    grown.graph.output.append(helper.make_tensor_value_info("b", TensorProto.DOUBLE, None))
    hidden = run(load(grown), inputs)[1]
    np.testing.assert_array_equal(hidden[:, :6], original)
    assert all(any(np.array_equal(hidden[:, j], original[:, i]) for i in range(6)) for j in range(6, 9))


def test_inspecting_a_grown_model_shows_the_same_axes() -> None:
    model = build(RESIDUAL)
    before = {row.name: (row.kind, row.constraint, row.writers, row.readers) for row in inspect(model)}
    after = {row.name: (row.kind, row.constraint, row.writers, row.readers) for row in inspect(widen(model))}
    assert before == after


def test_a_rule_that_forgets_a_size_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    """The last line of defence: shapes of the grown model are inferred afresh and compared with those the algebra predicts."""

    def forgetful(node: Node) -> None:
        node.set(0, node.input(0))

    monkeypatch.setattr(widening, "RULES", {**RULES, ("", "Reshape"): Rule(forgetful)})
    model = build(between("b = Reshape(a, shape) r = Relu(b)", "int64[2] shape = {-1, 6}"))
    with pytest.raises(
        NothingToGrowError, match=r"Reshape 'b' would give shape \[\d+, 6\] where \[7, 12\] is due"
    ):
        widen(model)

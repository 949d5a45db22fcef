from __future__ import annotations

import json

import pytest
from graphs import build, growable

from onnx_grow.axes.table import KINDS, AxisTable
from onnx_grow.growth.widening import inspect
from onnx_grow.model import load


def table(text: str, opset: int = 17) -> AxisTable:
    return inspect(build(text, opset))


def kinds(text: str, opset: int = 17) -> dict[str, str]:
    return {row.name: row.kind for row in table(text, opset).growable}


RESNET = """(float[2, 3, 8, 8] x) => (float[2, 5] y)
    <float[6, 3, 3, 3] v, float[4, 6, 3, 3] t, float[6, 4, 3, 3] u, float[6, 5] w> {
    [stem] a = Conv <pads=[1, 1, 1, 1]> (x, v) [relu] r = Relu(a) [first] b = Conv <pads=[1, 1, 1, 1]> (r, t) [mid] c = Relu(b)
    [second] d = Conv <pads=[1, 1, 1, 1]> (c, u) [add] s = Add(d, r) [pool] p = GlobalAveragePool(s) [flat] f = Flatten(p)
    [head] y = MatMul(f, w) }"""

ATTENTION = """(int64[2, 5] x) => (float[2, 5, 7] y)
    <float[11, 8] table, float[8, 8] wq, float[8, 8] wk, float[8, 8] wv, float[8, 8] wo, float[8, 12] up, float[12, 8] down,
     float[8] s, float[8] t, float[8, 7] head, int64[4] split = {2, 5, 2, 4}, int64[3] merge = {2, 5, 8}> {
    e = Gather(table, x) n = LayerNormalization(e, s, t)
    q0 = MatMul(n, wq) q1 = Reshape(q0, split) q = Transpose <perm=[0, 2, 1, 3]> (q1)
    k0 = MatMul(n, wk) k1 = Reshape(k0, split) k = Transpose <perm=[0, 2, 3, 1]> (k1)
    v0 = MatMul(n, wv) v1 = Reshape(v0, split) v = Transpose <perm=[0, 2, 1, 3]> (v1)
    p0 = MatMul(q, k) p = Softmax(p0) o0 = MatMul(p, v) o1 = Transpose <perm=[0, 2, 1, 3]> (o0) o2 = Reshape(o1, merge)
    o = MatMul(o2, wo) r = Add(e, o) m = MatMul(r, up) g = Relu(m) d = MatMul(g, down) z = Add(r, d) y = MatMul(z, head) }"""


def test_kinds_of_a_residual_network() -> None:
    assert kinds(RESNET) == {"stem": "residual", "first": "hidden"}


def test_kinds_of_a_transformer() -> None:
    assert kinds(ATTENTION) == {
        "e": "residual",
        "q0": "heads",
        "q0:2": "head_dim",
        "v0": "head_dim",
        "m": "hidden",
    }


def test_other_kinds() -> None:
    plain = "(int64[2, 5] x) => (float[2, 5, 7] y) <float[11, 8] t, float[8, 7] w> { a = Gather(t, x) y = MatMul(a, w) }"
    assert kinds(plain) == {"a": "embedding"}
    grouped = """(float[1, 3, 4, 4] x) => (float[1, 2, 4, 4] y) <float[6, 3, 1, 1] v, float[6, 3, 1, 1] t, float[2, 6, 1, 1] w> {
        a = Conv(x, v) b = Conv <group=2> (a, t) y = Conv(b, w) }"""
    assert kinds(grouped) == {"a": "groups", "a:2": "hidden", "b": "hidden"}
    depthwise = grouped.replace("float[6, 3, 1, 1] t", "float[6, 1, 1, 1] t").replace("group=2", "group=6")
    assert kinds(depthwise) == {"a": "hidden"}
    recurrent = """(float[4, 2, 3] x) => (float[1, 2, 2] y) <float[1, 20, 3] w, float[1, 20, 5] r, float[5, 2] u> {
        h, last, cell = LSTM <hidden_size=5> (x, w, r) y = MatMul(last, u) }"""
    assert kinds(recurrent) == {"h": "state"}


def test_a_bias_is_no_skip_connection_nor_is_a_gate() -> None:
    text = """(float[2, 3] x) => (float[2, 2] y) <float[3, 6] v, float[6] b, float[6, 2] w, float[3, 6] u> {
        a = MatMul(x, v) c = Add(a, b) d = Sigmoid(c) e = Mul(a, d) f = Add(e, e) y = MatMul(f, w) }"""
    assert kinds(text) == {"a": "hidden"}


def test_names_are_those_of_the_first_writers_and_unique() -> None:
    text = """(double[N, 4] x) => (double[N, 3] y) <double[4, 6] v, double[6, 5] u, double[5, 3] w> {
        [same] a = MatMul(x, v) [same] b = MatMul(a, u) [same] c = Relu(b) y = MatMul(c, w) }"""
    names = [row.name for row in table(text)]
    assert names == ["same", "same:2", "y"]
    text = text.replace("[same] ", "")
    assert [row.name for row in table(text)] == ["a", "b", "y"]


def test_an_axis_that_no_node_computes_anew_is_named_after_its_weight() -> None:
    text = """(double[N, 4] x) => (double[N, 3] y) <double[4, 4] v, double[4, 3] w> { a = Relu(x) y = MatMul(a, w) }"""
    row = table(text)["w"]
    assert row.writers == ()
    assert row.reasons == ("it is a dimension of the model's input 'x'",)


def test_writers_and_readers() -> None:
    residual = table(RESNET)["stem"]
    assert residual.writers == ("stem", "second")
    assert residual.readers == ("first", "head")
    assert table(RESNET)["first"].readers == ("second",)
    square = """(double[N, 4] x) => (double[N, 3] y) <double[4, 6] v, double[6, 6] u, double[6, 3] w> {
        [one] a = MatMul(x, v) [two] b = MatMul(a, u) [add] c = Add(a, b) [out] y = MatMul(c, w) }"""
    residual = table(square)["one"]
    assert (residual.writers, residual.readers) == (("one", "two"), ("two", "out"))


def test_parameters() -> None:
    found = table(RESNET)
    v, t, u, w = 6 * 3 * 9, 4 * 6 * 9, 6 * 4 * 9, 6 * 5
    assert found["stem"].parameters == v + t + u + w
    assert found["first"].parameters == t + u
    assert found["first"].parameters_per_unit == (t + u) // 4
    assert found.parameters == found.growable_parameters == v + t + u + w


def test_parameters_that_cannot_grow_are_not_counted_as_growable() -> None:
    text = """(double[N, 4] x) => (double[N, 4] y) <double[5, 4] t, double[4, 4] w> {
        k = ReduceMax <axes=[0]> (t) a = MatMul(x, w) y = Add(a, k) }"""
    found = table(text)
    assert growable(found) == ""
    assert (found.parameters, found.growable_parameters) == (5 * 4 + 4 * 4, 0)


def test_reasons_name_nodes() -> None:
    text = """(double[2, 4] x) => (double[2, 3] y) <double[4, 6] v, double[6, 3] w> {
        a = MatMul(x, v) [scan] b = LogSoftmax(a) [top] c = Hardmax(b) y = MatMul(c, w) }"""
    reasons = table(text)["a"].reasons
    assert reasons == (
        "LogSoftmax 'scan': normalises over this dimension, so that every copy would count",
        "Hardmax 'top': normalises over this dimension, so that every copy would count",
    )


def test_views() -> None:
    found = table(ATTENTION)
    assert len(found) == len(list(found)) == len(found.growable) + len(found.frozen)
    lines = str(found).splitlines()
    assert lines[0].split() == ["axis", "kind", "size", "grows", "parameters", "why", "not"]
    assert lines[1].split()[:5] == ["e", "residual", "8", "by", "whole"]
    assert lines[-1].endswith("it is a dimension of the model's output 'y'")
    assert all(line == line.rstrip() for line in lines)
    both = table("""(double[2, 4] x) => (double[2, 3] y) <double[4, 6] v, double[6, 3] w> {
        a = MatMul(x, v) b = LogSoftmax(a) c = Hardmax(b) y = MatMul(c, w) }""")
    assert all(reason in str(both) for reason in both["a"].reasons)
    data = json.loads(json.dumps(found.to_json()))
    assert data["parameters"] == found.parameters
    assert [row["name"] for row in data["axes"]] == [row.name for row in found]
    assert {row["kind"] for row in data["axes"]} <= set(KINDS)
    assert [row["growable"] for row in data["axes"]] == [row.growable for row in found]
    with pytest.raises(KeyError, match="nobody"):
        found["nobody"]


def test_rows_follow_the_graph() -> None:
    assert [row.name for row in table(ATTENTION).growable] == ["e", "q0", "q0:2", "v0", "m"]


def test_a_model_without_weights() -> None:
    found = table("(float[2, 3] x) => (float[2, 3] y) { y = Relu(x) }")
    assert len(found) == 0
    assert (found.parameters, found.growable_parameters, found.refused) == (0, 0, ())
    assert str(found).splitlines()[1:] == []


def test_in_a_notebook() -> None:
    model = build(
        "(float[N, 4] x) => (float[N, 4] y) <float[4, 6] t, float[6, 4] u> { [a] h = MatMul(x, t) y = MatMul(h, u) }"
    )
    proto = model.to_proto()
    proto.graph.node[0].name = "<b>"
    found = inspect(load(proto))
    html = found._repr_html_()
    assert "<th>axis</th>" in html
    assert "<td>&lt;b&gt;</td><td>hidden</td><td>6</td><td>yes</td><td>48</td>" in html

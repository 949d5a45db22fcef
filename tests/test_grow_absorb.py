from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pytest
from graphs import assert_same, build, feeds, operators, run
from onnx import GraphProto, TensorProto, helper, numpy_helper

from onnx_grow.axes.table import KINDS
from onnx_grow.growth.plan import Scheme
from onnx_grow.growth.rewrite import draw_map
from onnx_grow.growth.widening import inspect, widen
from onnx_grow.model import Model, load


@dataclass(frozen=True)
class Case:
    """A graph in which copies are summed without a weight beside them, and what is inserted where no weight takes their share.

    `uneven` is what is inserted where the channels have different numbers of copies.
    """

    name: str
    text: str
    inserted: tuple[str, ...] = ()
    opset: int = 17
    uneven: tuple[str, ...] = ()

    def __str__(self) -> str:
        return self.name


def summed(body: str, weights: str = "", sums: str = "ReduceSum(b, last)") -> str:
    """Text of a graph that sums over the six hidden channels of b, which `body` computes from a."""
    return f"""(double[N, 4] x) => (double[N, 1] y) <double[4, 6] v, int64[1] last = {{-1}}{", " + weights if weights else ""}> {{
        a = MatMul(x, v) {body} y = {sums} }}"""


def attending(queries: str, weights: str = "") -> str:
    """Text of a graph with attention scores of two heads of four channels; `queries` computes q of 2 x 3 x 8 from x."""
    more = f", {weights}" if weights else ""
    return f"""(double[2, 3, 4] x) => (double[2, 2, 3, 3] y)
        <double[4, 8] wq, double[4, 8] wk, double[4, 8] wz, int64[4] split = {{0, 0, 2, 4}}{more}> {{
        {queries} qr = Reshape(q, split) qt = Transpose <perm=[0, 2, 1, 3]> (qr)
        k = Gemm(z, wk) kr = Reshape(k, back) kt = Transpose <perm=[0, 2, 3, 1]> (kr) y = MatMul(qt, kt) }}""".replace(
        "k = Gemm(z, wk) kr = Reshape(k, back)", "k = MatMul(x, wk) kr = Reshape(k, split)"
    )


CASES = [
    Case("a sum behind a matrix", summed("b = Identity(a)")),
    Case("a sum behind a matrix and a bias", summed("b = Add(a, s)", "double[6] s")),
    Case("a sum behind a difference", summed("b = Sub(s, a)", "double[6] s")),
    Case("a sum behind Relu", summed("c = Add(a, s) b = Relu(c)", "double[6] s")),
    Case("a sum behind a product with a vector", summed("c = Relu(a) b = Mul(c, s)", "double[6] s")),
    Case("a sum behind a product with a number", summed("c = Relu(a) b = Mul(c, s)", "double s = {0.7}")),
    Case("a sum behind a quotient", summed("b = Div(a, s)", "double[6] s")),
    Case("a sum behind PRelu", summed("b = PRelu(a, s)", "double[6] s")),
    Case("a sum behind LeakyRelu, Abs, Neg", summed("c = LeakyRelu(a) d = Abs(c) b = Neg(d)")),
    Case("a sum behind Max", summed("b = Max(a, s)", "double[6] s")),
    Case("a sum behind Where", summed("c = Greater(s, t) b = Where(c, a, s)", "double[6] s, double[6] t")),
    Case("a sum behind two branches", summed("c = MatMul(x, u) b = Add(a, c)", "double[4, 6] u")),
    Case("a sum behind a gate", summed("c = MatMul(x, u) g = Sigmoid(c) b = Mul(g, a)", "double[4, 6] u")),
    Case("a sum behind Gemm", summed("c = Relu(a) b = Gemm(c, u, s)", "double[6, 6] u, double[6] s")),
    Case(
        "a sum behind Gemm, transposed",
        summed("c = Relu(a) b = Gemm <transB=1> (c, u, s)", "double[6, 6] u, double[1, 6] s"),
    ),
    Case(
        "a sum behind Transpose and Reshape",
        summed("t = Transpose(a) r = Relu(t) u = Unsqueeze(r, last) s = Squeeze(u, last) b = Transpose(s)"),
    ),
    Case("a sum behind Flatten", summed("u = Unsqueeze(a, last) b = Flatten(u)")),
    Case("a sum behind Concat", summed("c = MatMul(x, u) b = Concat <axis=1> (a, c)", "double[4, 3] u")),
    Case("a sum behind Split", summed("c, d = Split <axis=1> (a) b = Mul(c, d)")),
    Case(
        "a sum behind BatchNormalization",
        """(float[2, 3, 4, 4] x) => (float[2, 1, 4, 4] y)
        <float[6, 3, 1, 1] v, float[6] s, float[6] t, float[6] m, float[6] positive, int64[1] one = {1}> {
        a = Conv(x, v) b = BatchNormalization(a, s, t, m, positive) r = Relu(b) y = ReduceSum(r, one) }""",
    ),
    Case(
        "a sum behind a convolution and pooling",
        """(float[2, 3, 4, 4] x) => (float[2, 1, 3, 3] y)
        <float[6, 3, 1, 1] v, float[6] s, int64[1] one = {1}> {
        a = Conv(x, v, s) b = MaxPool <kernel_shape=[2, 2]> (a) y = ReduceSum(b, one) }""",
    ),
    Case(
        "a sum behind a transposed convolution",
        """(float[2, 3, 4, 4] x) => (float[2, 1, 4, 4] y)
        <float[3, 6, 1, 1] v, float[6] s, int64[1] one = {1}> { a = ConvTranspose(x, v, s) y = ReduceSum(a, one) }""",
    ),
    Case(
        "a sum behind LayerNormalization",
        summed("b = LayerNormalization(a, s, t)", "double[6] s, double[6] t"),
    ),
    Case("a sum of squares", summed("b = Relu(a)", sums="ReduceSumSquare <axes=[1]> (b)")),
    Case("a norm", summed("b = Relu(a)", sums="ReduceL2 <axes=[1]> (b)")),
    Case(
        "a sum of an embedding",
        """(int64[2, 3] x) => (double[2, 3, 1] y) <double[7, 6] v, int64[1] last = {-1}> {
        a = Gather(v, x) y = ReduceSum(a, last) }""",
    ),
    Case(
        "Einsum of two computed operands",
        """(double[2, 4] x) => (double[2, 2] y) <double[4, 6] v, double[4, 6] u> {
        a = MatMul(x, v) b = MatMul(x, u) y = Einsum <equation="ij,kj->ik"> (a, b) }""",
    ),
    Case("scores", attending("q = MatMul(x, wq)")),
    Case("scores with a bias", attending("p = MatMul(x, wq) q = Add(p, s)", "double[8] s")),
    Case(
        "scores, scaled",
        attending("p = MatMul(x, wq) r = Add(s, p) q = Mul(r, root)", "double[8] s, double root = {0.5}"),
    ),
    Case("scores, divided", attending("p = MatMul(x, wq) q = Div(p, root)", "double root = {2}")),
    Case("scores of queries that bend: the keys take it", attending("p = MatMul(x, wq) q = Tanh(p)")),
    Case(
        "scores of fused projections",
        """(double[2, 3, 4] x) => (double[2, 2, 3, 3] y)
        <double[4, 24] w, double[24] s, int64[5] split = {2, 3, 3, 2, 4}, int64 zero = {0}, int64 one = {1}> {
        p = MatMul(x, w) a = Add(p, s) r = Reshape(a, split) t = Transpose <perm=[2, 0, 3, 1, 4]> (r)
        q = Gather(t, zero) k = Gather(t, one) kt = Transpose <perm=[0, 1, 3, 2]> (k) y = MatMul(q, kt) }""",
    ),
    Case(
        "a product with moved weights that are read otherwise, too",
        """(double[N, 4] x) => (double[N, 3] y) <double[4, 6] v, double[3, 6] w> {
            a = MatMul(x, v) t = Transpose(w) m = ReduceMax <axes=[1], keepdims=0> (t) g = Mul(a, m) y = MatMul(g, t) }""",
    ),
    Case(
        "two readers whose paths meet: rotary embedding",
        attending(
            """p = MatMul(x, wq) r = Reshape(p, split) left = Slice(r, none, two, minus) right = Slice(r, two, four, minus)
            back = Neg(right) turned = Concat <axis=3> (back, left) c = Mul(r, cosine) s = Mul(turned, sine) t = Add(c, s)
            q = Reshape(t, flat)""",
            """int64[1] none = {0}, int64[1] two = {2}, int64[1] four = {4}, int64[1] minus = {-1}, double[3, 1, 4] cosine,
            double[3, 1, 4] sine, int64[3] flat = {0, 0, 8}""",
        ),
    ),
    Case(
        "two readers of every other channel",
        attending(
            """p = MatMul(x, wq) r = Reshape(p, split) turned = Slice(r, none, two, minus) rest = Slice(r, two, four, minus)
            even = Slice(turned, none, two, minus, two) odd = Slice(turned, one, two, minus, two)
            e = Mul(even, t) u = Concat <axis=3> (odd, e, rest) q = Reshape(u, flat)""",
            """int64[1] none = {0}, int64[1] one = {1}, int64[1] two = {2}, int64[1] four = {4}, int64[1] minus = {-1}, double[1] t,
            int64[3] flat = {0, 0, 8}""",
        ),
    ),
    Case(
        "a reader of the shape alone",
        """(double[2, 4] x) => (double[2, 1] y) <double[4, 6] v, int64[1] last = {-1}> {
        a = MatMul(x, v) b = Relu(a) n = Size(b) f = Cast <to=11> (n) c = ReduceSum(b, last) y = Mul(c, f) }""",
    ),
    Case("a sum of squares by hand", summed("b = Mul(a, a)")),
    Case("a sum of powers", summed("c = Abs(a) b = Pow(c, s)", "double s = {1.5}")),
    Case("a sum of roots", summed("c = Abs(a) b = Sqrt(c)")),
    Case("a sum of inverses", summed("b = Reciprocal(a)")),
    Case(
        "a sum of means and extremes",
        """(double[N, 4] x) => (double[N] y) <double[4, 30] v, int64[3] split = {0, 5, 6}> {
        a = MatMul(x, v) r = Reshape(a, split) p = ReduceMean <axes=[1]> (r) q = ReduceMax <axes=[1], keepdims=0> (r)
        s = Squeeze <axes=[1]> (p) b = Add(s, q) y = ReduceSum <axes=[1], keepdims=0> (b) }""",
        opset=12,
    ),
    Case(
        "a sum behind padding",
        """(float[2, 3, 4, 4] x) => (float[2, 1, 6, 6] y)
        <float[6, 3, 1, 1] v, float[6] s, int64[1] one = {1}, int64[8] pads = {0, 0, 1, 1, 0, 0, 1, 1}> {
        a = Conv(x, v, s) b = Pad(a, pads) y = ReduceSum(b, one) }""",
    ),
    Case(
        "what is gathered several times, in a sum with weights that are put together",
        """(double[N, 4] x) => (double[N, 3] y)
        <double[4, 5] v, double[3, 3] t, double[3, 3] u, double[6, 3] w, int64[3] places = {3, 1, 0}> {
        a = MatMul(x, v) b = Gather <axis=1> (a, places) c = Concat <axis=1> (t, u) d = MatMul(b, c) y = MatMul(d, w) }""",
    ),
    Case(
        "a sum behind a Gather by many indices",
        """(double[2, 5, 4] x) => (double[2, 3, 3, 1] y)
        <double[4, 6] v, int64[1] last = {-1}, int64[3, 3] places = {0, 1, 2, 1, 2, 3, 2, 3, 4}> {
        a = MatMul(x, v) b = Gather <axis=1> (a, places) y = ReduceSum(b, last) }""",
    ),
    Case(
        "scores of the same queries with two keys",
        attending("q = MatMul(x, wq)", "double[4, 8] wo").replace(
            "y = MatMul(qt, kt)",
            """o = MatMul(x, wo) or = Reshape(o, split) ot = Transpose <perm=[0, 2, 3, 1]> (or)
            s = MatMul(qt, kt) z = MatMul(qt, ot) y = Add(s, z)""",
        ),
    ),
    Case(
        "a sum behind quantization: the integers stand for smaller numbers",
        """(float[N, 4] x) => (float[N, 1] y) <float[4, 6] v, float s = {0.05}, int8 z = {0}, int64[1] last = {-1}> {
        a = MatMul(x, v) q = QuantizeLinear(a, s, z) b = DequantizeLinear(q, s, z) y = ReduceSum(b, last) }""",
        uneven=("Mul",),
    ),
    Case(
        "a sum behind quantization of each channel",
        """(float[N, 4] x) => (float[N, 1] y) <float[4, 6] v, float[6] s = {0.05, 0.04, 0.03, 0.02, 0.05, 0.06},
        int8[6] z = {0, 0, 0, 1, 2, 3}, int64[1] last = {-1}> {
        a = MatMul(x, v) q = QuantizeLinear <axis=1> (a, s, z) b = DequantizeLinear <axis=1> (q, s, z) y = ReduceSum(b, last) }""",
    ),
    Case(
        "a sum behind bounds",
        summed("b = Clip(a, s, t)", "double s = {-0.5}, double t = {0.5}"),
        uneven=("Mul",),
    ),
    Case(
        "padding by what is not zero",
        """(float[2, 3, 4, 4] x) => (float[2, 1, 6, 6] y)
        <float[6, 3, 1, 1] v, float[6] s, float five = {5}, int64[1] one = {1}, int64[8] pads = {0, 0, 1, 1, 0, 0, 1, 1}> {
        a = Conv(x, v, s) b = Pad(a, pads, five) y = ReduceSum(b, one) }""",
        ("Mul",),
    ),
    Case("a number by a tensor", summed("b = Div(s, a)", "double s = {0.7}")),
    Case("a bend that no scale passes", summed("b = Tanh(a)"), ("Mul",)),
    Case(
        "another reader",
        summed(
            "b = Relu(a) e = Exp(b) f = ReduceMax <axes=[1]> (e) c = ReduceSum(b, last)", sums="Add(c, f)"
        ),
        ("Mul",),
    ),
    Case(
        "both operands bend",
        attending("p = MatMul(x, wq) q = Tanh(p)").replace(
            "k = MatMul(x, wk)", "j = MatMul(x, wk) k = Tanh(j)"
        ),
        ("Mul",),
    ),
    Case(
        "a tensor with itself",
        """(double[2, 4] x) => (double[2, 2] y) <double[4, 6] v> {
        a = MatMul(x, v) t = Transpose(a) y = MatMul(a, t) }""",
    ),
    Case(
        "an output of the model, too",
        """(double[2, 4] x) => (double[2, 1] y, double[2, 2] z) <double[4, 6] v, double[6, 2] w> {
        a = MatMul(x, v) y = ReduceL1 <axes=[1]> (a) z = MatMul(a, w) }""",
        ("Mul",),
    ),
]


@pytest.mark.parametrize("case", CASES, ids=str)
def test_scales_move_into_weights(case: Case) -> None:
    model = build(case.text, case.opset)
    for row in inspect(model).growable:
        size = 2 * row.size if row.constraint == "uniform" else row.size + 2
        grown = widen(model, widths={row.name: size})
        added = operators(grown)
        for operator in operators(model):
            added.remove(operator)
        assert tuple(added) in ((), case.inserted, case.uneven)
        assert_same(model, grown)
    grown = widen(model, kind=KINDS)
    assert len(operators(grown)) == len(operators(model)) + len(case.inserted)
    assert_same(model, grown)


def widened(text: str, **widths: int) -> tuple[Model, Model]:
    model = build(text)
    grown = widen(model, widths=widths)
    assert_same(model, grown)
    return model, grown


@pytest.mark.parametrize("scheme", ["copy", "auto"])
def test_weight_and_bias_take_the_scale_together(scheme: Scheme) -> None:
    """Equally, or in parts that are drawn element by element, so that copies learn apart."""
    model = build(summed("b = Add(a, s)", "double[6] s"))
    grown = widen(model, widths={"a": 9}, scheme=scheme)
    assert_same(model, grown)
    g = draw_map("a", 6, 9, 0)
    counts = np.bincount(g)[g]
    for name in ("v", "s"):
        old, new = model.weights[name].array(), grown.weights[name].array()
        equal = np.isclose(new, old[..., g] / counts, rtol=1e-15, atol=0)
        assert equal.all() if scheme == "copy" else (equal == (counts == 1)).all()
        np.testing.assert_array_equal(new @ np.eye(6)[g], old)


def test_queries_are_split_between_copies_element_by_element_and_keys_stay_copies() -> None:
    model = build(attending("p = MatMul(x, wq) q = Add(p, s)", "double[8] s"))
    grown = widen(model, kind="head_dim")
    assert_same(model, grown)
    q, k = (grown.weights[name].array().reshape(-1, 2, 8) for name in ("wq", "wk"))
    np.testing.assert_array_equal(k[..., :4], k[..., 4:])
    np.testing.assert_array_equal((q[..., :4] + q[..., 4:]).reshape(-1, 8), model.weights["wq"].array())
    parts = q[..., :4] / (q[..., :4] + q[..., 4:])
    assert len(np.unique(parts.round(9))) == parts.size


@pytest.mark.parametrize("bend", ["Relu", "Abs", "LayerNormalization"])
def test_what_is_not_linear_on_the_way_is_scaled(bend: str) -> None:
    """Parts of what a Relu takes are no parts of what it gives."""
    how = "q = LayerNormalization(p, s)" if bend == "LayerNormalization" else f"r = Mul(p, s) q = {bend}(r)"
    model = build(attending(f"p = MatMul(x, wq) {how}", "double[8] s"))
    grown = widen(model, kind="head_dim")
    assert_same(model, grown)


def test_a_norm_takes_the_root() -> None:
    model, grown = widened(summed("b = Relu(a)", sums="ReduceL2 <axes=[1]> (b)"), a=9)
    g = draw_map("a", 6, 9, 0)
    counts = np.bincount(g)[g]
    np.testing.assert_allclose(
        grown.weights["v"].array(), model.weights["v"].array()[:, g] / counts**0.5, rtol=1e-15
    )


def test_a_constant_of_one_number_takes_a_value_for_each_channel() -> None:
    _, grown = widened(summed("c = Exp(a) d = Identity(c) b = Mul(d, s)", "double[1] s = {0.7}"), a=9)
    assert grown.weights["s"].shape == (9,)


def test_weights_that_are_only_moved_are_shared_element_by_element() -> None:
    text = """(double[N, 4] x) => (double[N, 3] y) <double[4, 6] v, double[3, 6] w, int64[2] flat = {6, 3}> {
        a = MatMul(x, v) t = Transpose(w) i = Identity(t) r = Reshape(i, flat) y = MatMul(a, r) }"""
    model, grown = widened(text, a=12)
    parts, g = grown.weights["w"].array(), draw_map("a", 6, 12, 0)
    ratio = parts / model.weights["w"].array()[:, g]
    assert ratio.std() > 0.05
    whole = np.stack([parts[:, g == i].sum(axis=1) for i in range(6)], axis=1)
    np.testing.assert_array_equal(whole, model.weights["w"].array())


def test_one_matrix_in_two_roles_becomes_two() -> None:
    text = """(int64[2, 3] x) => (double[2, 3, 7] y) <double[7, 6] v> {
        a = Gather(v, x) b = Tanh(a) t = Transpose(v) y = MatMul(b, t) }"""
    model, grown = widened(text, a=9)
    v, g = model.weights["v"].array(), draw_map("a", 6, 9, 0)
    assert len(grown.weights) == 2
    read, shared = sorted(
        (weight.array() for weight in grown.weights.values()), key=lambda w: -np.abs(w).sum()
    )
    np.testing.assert_array_equal(read, v[:, g])
    np.testing.assert_array_equal(np.stack([shared[:, g == i].sum(axis=1) for i in range(6)], axis=1), v)


def test_what_is_read_twice_is_scaled_once() -> None:
    text = """(double[2, 4] x) => (double[2, 2] y) <double[4, 6] v, double[4, 6] u> {
        a = MatMul(x, v) k = MatMul(x, u) t = Transpose(k) s = MatMul(a, t) r = ReduceL1 <axes=[1]> (a) y = Add(s, r) }"""
    model, grown = widened(text, a=9)
    assert operators(grown) == operators(model)


def test_a_number_takes_one_scale_for_all_channels() -> None:
    shifted = summed("b = Add(a, s)", "double s = {0.7}")
    model, grown = widened(shifted, a=12)
    assert operators(grown) == operators(model)
    assert grown.weights["s"].array() == model.weights["s"].array() / 2
    _, grown = widened(shifted, a=9)
    assert operators(grown).count("Mul") == 1


def test_captured_tensors_grow_in_the_bodies_that_read_them() -> None:
    def body(name: str) -> GraphProto:
        out = helper.make_tensor_value_info(name, TensorProto.DOUBLE, [2, 3])
        return helper.make_graph([helper.make_node("MatMul", ["r", "w"], [name])], name, [], [out])

    weights = {"v": (4, 6), "w": (6, 3), "u": (4, 5), "t": (5, 3)}
    rng = np.random.default_rng(0)
    graph = helper.make_graph(
        [
            helper.make_node("MatMul", ["x", "v"], ["r"]),
            helper.make_node("If", ["c"], ["p"], then_branch=body("then"), else_branch=body("else")),
            helper.make_node("MatMul", ["x", "u"], ["a"]),
            helper.make_node("MatMul", ["a", "t"], ["q"]),
            helper.make_node("Add", ["p", "q"], ["y"]),
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
    assert [row.name for row in inspect(model).growable] == ["r", "a"]
    assert_same(model, widen(model))


def test_deep_chains_end() -> None:
    chain = " ".join(f"h{k + 1} = Relu(h{k})" for k in range(400))
    text = summed(f"h0 = Identity(a) {chain} b = Identity(h400)")
    _, grown = widened(text, a=9)
    assert operators(grown).count("Mul") <= 1


@pytest.mark.parametrize("lengths", ["l, m", "m, l"])
def test_parts_that_are_empty_with_some_data_count(lengths: str) -> None:
    model = build(
        f"""(double[3, 4] x, int64[1] k) => (double[3, 3] y, double[3, 2] z)
        <double[4, 6] v, double[6, 2] w, double[2, 6, 3] e, int64[1] three = {{3}}, int64 zero = {{0}}, int64 one = {{1}}> {{
        a = MatMul(x, v) l = Mul(three, k) m = Sub(three, l) s = Concat <axis=0> ({lengths}) c, d = Split <axis=0> (a, s)
        t = Gather(e, zero) u = Gather(e, one) p = MatMul(c, t) q = MatMul(d, u) y = Concat <axis=0> (p, q)
        z = MatMul(a, w) }}"""
    )
    grown = widen(model, factor=2, kind=KINDS)
    inputs = feeds(model)
    for k in range(2):
        inputs["k"] = np.array([k])
        np.testing.assert_allclose(run(grown, inputs)[0], run(model, inputs)[0], rtol=1e-12)

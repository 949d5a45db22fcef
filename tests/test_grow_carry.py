from __future__ import annotations

import numpy as np
import pytest
from graphs import assert_same, build, operators

from onnx_grow.axes.table import KINDS
from onnx_grow.growth.widening import widen

NORMALISED = """(double[N, 4] x) => (double[N, 3] y) <double[4, 6] v, double[6] s, double[6, 3] w, double tiny = {1e-9}> {
    a = MatMul(x, v) n = ReduceL2 <axes=[1]> (a) b = Div(a, n) c = Mul(b, s) y = MatMul(c, w) }"""

COSINES = """(double[N, 4] x) => (double[N, 1] y) <double[4, 6] v, double[4, 6] u, int64[1] last = {-1}> {
    a = MatMul(x, v) b = MatMul(x, u) ab = Mul(a, b) aa = Mul(a, a) bb = Mul(b, b) s = ReduceSum(ab, last)
    p = ReduceSum(aa, last) q = ReduceSumSquare <axes=[1]> (b) r = Sqrt(p) t = Sqrt(q) d = Mul(r, t) y = Div(s, d) }""".replace(
    "bb = Mul(b, b) ", ""
)

NOTHING_INSERTED = {
    "a norm by which a tensor is divided": NORMALISED,
    "without a gain: the matrix behind takes it": NORMALISED.replace("c = Mul(b, s)", "c = Neg(b)"),
    "a norm with a bound": NORMALISED.replace("b = Div(a, n)", "m = Clip(n, tiny) b = Div(a, m)"),
    "a norm and a small number": NORMALISED.replace("b = Div(a, n)", "m = Add(n, tiny) b = Div(a, m)"),
    "an inverse root": NORMALISED.replace(
        "ReduceL2 <axes=[1]> (a)", "ReduceSumSquare <axes=[1]> (a)"
    ).replace("b = Div(a, n)", "r = Sqrt(n) i = Reciprocal(r) b = Mul(a, i)"),
    "a power": NORMALISED.replace("ReduceL2 <axes=[1]> (a)", "ReduceSumSquare <axes=[1]> (a)")
    .replace("b = Div(a, n)", "i = Pow(n, e) b = Mul(a, i)")
    .replace("tiny = {1e-9}", "e = {-0.5}"),
    "a number by a norm": NORMALISED.replace("b = Div(a, n)", "i = Div(tiny, n) b = Mul(a, i)"),
    "cosines": COSINES,
    "scores of normalised queries and keys": """(double[2, 3, 4] x) => (double[2, 3, 3] y)
        <double[4, 6] v, double[4, 6] u> {
        a = MatMul(x, v) b = MatMul(x, u) n = ReduceL2 <axes=[2]> (a) m = ReduceL2 <axes=[2]> (b) q = Div(a, n) k = Div(b, m)
        t = Transpose <perm=[0, 2, 1]> (k) y = MatMul(q, t) }""",
    "a mixture of experts": """(double[N, 4] x) => (double[N, 5] y) <double[4, 6] v, double[6, 4, 5] w> {
        a = MatMul(x, v) p = Softmax(a) h = Einsum <equation="ni,eio->neo"> (x, w) y = Einsum <equation="ne,neo->no"> (p, h) }""",
    "a mixture of what two layers make": """(double[N, 4] x) => (double[N, 3] y) <double[4, 6] v, double[4, 6] u, double[6, 3] w> {
        a = MatMul(x, v) p = Softmax(a) b = MatMul(x, u) e = Exp(b) g = Mul(p, e) y = MatMul(g, w) }""",
    "an expected value, by a convolution": """(float[2, 3, 5] x) => (float[2, 2, 5] y) <float[6, 3, 1] v, float[2, 6, 1] w, float[2] b> {
        a = Conv(x, v) p = Softmax <axis=1> (a) y = Conv(p, w, b) }""",
    "an expected value, spread out": """(float[2, 3, 5] x) => (float[2, 2, N] y) <float[6, 3, 1] v, float[6, 2, 2] w> {
        a = Conv(x, v) p = Softmax <axis=1> (a) y = ConvTranspose <strides=[2]> (p, w) }""",
    "signs see no factor": NORMALISED.replace("b = Div(a, n)", "o = Neg(n) g = Sign(o) b = Mul(a, g)"),
}

INSERTED = {
    "integers, which are cut off": """(double[N, 4] x) => (double[N, 3] y) <double[4, 6] v, int64[1] last = {-1}, double[6, 3] w> {
        a = MatMul(x, v) b = Tanh(a) s = ReduceSum(b, last) i = Cast<to=7>(s) j = Sign(i) f = Cast<to=11>(j) c = MatMul(b, w)
        y = Add(c, f) }""",
    "a bend": NORMALISED.replace("b = Div(a, n)", "m = Exp(n) b = Div(a, m)"),
    "a sum with what cannot be scaled": NORMALISED.replace(
        "b = Div(a, n)", "e = Exp(a) l = ReduceMax <axes=[1]> (e) m = Add(n, l) b = Div(a, m)"
    ),
    "an output": NORMALISED.replace("double[N, 3] y)", "double[N, 3] y, double[N, 1] n)"),
}


@pytest.mark.parametrize("name", NOTHING_INSERTED)
def test_factors_are_carried_to_constants(name: str) -> None:
    model = build(NOTHING_INSERTED[name])
    grown = widen(model, kind=KINDS)
    assert operators(grown) == operators(model)
    assert_same(model, grown)
    assert_same(model, widen(model, kind=KINDS, factor=3))


@pytest.mark.parametrize("name", INSERTED)
def test_a_factor_that_meets_what_does_not_pass_it_is_undone_at_once(name: str) -> None:
    model = build(INSERTED[name])
    grown = widen(model, kind=KINDS)
    assert len(operators(grown)) == len(operators(model)) + 1
    assert_same(model, grown)


def test_the_gain_of_a_norm_takes_its_root() -> None:
    model = build(NORMALISED)
    grown = widen(model, kind=KINDS)
    np.testing.assert_allclose(
        np.sort(grown.weights["s"].array()), np.repeat(np.sort(model.weights["s"].array() * 2**0.5), 2)
    )


def test_copies_in_uneven_numbers_need_a_factor_each() -> None:
    model = build(NORMALISED)
    grown = widen(model, kind=KINDS, factor=1.5)
    assert operators(grown).count("Mul") == 2
    assert_same(model, grown)


@pytest.mark.parametrize(
    "node",
    [
        "s = Gemm <transB=1> (q, k, g)",
        "h = Reshape(q, as) i = Reshape(k, as) j = Conv(h, i, g) s = Reshape(j, back)",
        "h = Unsqueeze(q, o) i = Unsqueeze(k, o) j = Attention <q_num_heads=1, kv_num_heads=1> (h, i, m) s = Squeeze(j, o)",
        "h = Unsqueeze(q, o) i = Unsqueeze(k, o) j = com.microsoft.MultiHeadAttention <num_heads=1> (h, i, m) s = Squeeze(j, o)",
    ],
)
def test_a_sum_inside_a_node_is_undone_before_it(node: str) -> None:
    """A bias is not summed, and what attention sums are the logits: their results do not grow by the number of copies."""
    model = build(
        f"""(float[3, 4] x) => (float[3, 2] y) <float[4, 6] v, float[4, 6] u, float[3] g, float[1, 3, 3] m, float[3, 2] w,
            int64[3] as = {{3, 6, 1}}, int64[2] back = {{3, 3}}, int64[1] o = {{0}}> {{
            a = MatMul(x, v) q = Tanh(a) b = MatMul(x, u) k = Tanh(b) {node} y = MatMul(s, w) }}""",
        opset=23,
    )
    for factor in (1.5, 2, 3):
        assert_same(model, widen(model, factor=factor, kind=KINDS))

from __future__ import annotations

import numpy as np
import pytest
from graphs import Case, pictured
from single_operators import Computed, Single, check

X = "double[N, 4] x"
Y = "double[N, 3] y"


def hidden(body: str, weights: str = "") -> str:
    """Two matrix products in `body`, from x over a to y."""
    return f"({X}) => ({Y}) <double[4, 5] v, double[5, 3] w{weights}> {{ {body} }}"


MATRICES = [
    Case("matmul", hidden("a = MatMul(x, v) y = MatMul(a, w)")),
    Case(
        "matmul: weight on the left",
        "(double[4, N] x) => (double[3, N] y) <double[5, 4] v, double[3, 5] w> { a = MatMul(v, x) y = MatMul(w, a) }",
    ),
    Case(
        "matmul: vector on the left",
        "(double[4] x) => (double[3] y) <double[4, 5] v, double[5, 3] w> { a = MatMul(x, v) y = MatMul(a, w) }",
    ),
    Case(
        "matmul: vector on the right",
        "(double[4] x) => (double[3] y) <double[5, 4] v, double[3, 5] w> { a = MatMul(v, x) y = MatMul(w, a) }",
    ),
    Case(
        "matmul: vector of weights",
        "(double[N, 4] x) => (double[N] y) <double[4, 5] v, double[5] w> { a = MatMul(x, v) y = MatMul(a, w) }",
    ),
    Case(
        "matmul: dot product",
        "(double[4] x) => (double y) <double[4, 5] v, double[5] w> { a = MatMul(x, v) y = MatMul(a, w) }",
    ),
    Case(
        "matmul: more dimensions",
        "(double[2, N, 4] x) => (double[2, N, 3] y) <double[4, 5] v, double[5, 3] w> { a = MatMul(x, v) y = MatMul(a, w) }",
    ),
    Case(
        "matmul: a matrix for each of a batch",
        """(double[2, N, 4] x) => (double[2, N, 3] y) <double[2, 4, 5] v, double[1, 5, 3] w> {
            a = MatMul(x, v) y = MatMul(a, w) }""",
    ),
    Case("gemm", hidden("a = Gemm(x, v, b) y = Gemm(a, w, c)", ", double[5] b, double[3] c")),
    Case(
        "gemm: transB",
        f"({X}) => ({Y}) <double[5, 4] v, double[5] b, double[3, 5] w> {{"
        "a = Gemm <transB=1> (x, v, b) y = Gemm <transB=1> (a, w) }",
    ),
    Case(
        "gemm: transA",
        """(double[4, N] x) => (double[3, N] y) <double[4, 5] v, double[5, 3] w> {
            a = Gemm <transA=1> (v, x) y = Gemm <transA=1> (w, a) }""",
    ),
    Case(
        "gemm: both",
        """(double[4, N] x) => (double[3, N] y) <double[5, 4] v, double[5, 3] w> {
            a = Gemm <transA=1, transB=1> (x, v) y = Gemm <transA=1, transB=1> (w, a) }""",
    ),
    Case(
        "gemm: alpha and beta",
        hidden(
            "a = Gemm <alpha=0.5, beta=3.0> (x, v, b) y = Gemm <alpha=2.0, beta=0.25> (a, w, c)",
            ", double[5] b, double[3] c",
        ),
    ),
    Case("gemm: bias of one row", hidden("a = Gemm(x, v, b) y = Gemm(a, w)", ", double[1, 5] b")),
    Case("gemm: bias of a single number", hidden("a = Gemm(x, v, b) y = Gemm(a, w)", ", double[1] b")),
    Case("gemm: scalar bias", hidden("a = Gemm(x, v, b) y = Gemm(a, w)", ", double b")),
    Case(
        "gemm: bias of one column",
        "(double[2, 4] x) => (double[2, 3] y) <double[4, 5] v, double[2, 1] b, double[5, 3] w> {"
        "a = Gemm(x, v, b) y = Gemm(a, w) }",
    ),
    Case(
        "gemm: bias of every element",
        "(double[2, 4] x) => (double[2, 3] y) <double[4, 5] v, double[2, 5] b, double[5, 3] w> {"
        "a = Gemm(x, v, b) y = Gemm(a, w) }",
    ),
    Case(
        "einsum",
        hidden(
            'a = Einsum <equation="ni, ij -> nj"> (x, v) y = Einsum <equation="ij,ni->nj"> (w, a)',
        ),
    ),
    Case(
        "einsum: transposed weights",
        f"({X}) => ({Y}) <double[5, 4] v, double[3, 5] w> {{"
        'a = Einsum <equation="ni,ji->nj"> (x, v) y = Einsum <equation="nj,kj->nk"> (a, w) }',
    ),
    Case(
        "einsum: three operands",
        hidden('a = MatMul(x, v) y = Einsum <equation="nj,j,jk->nk"> (a, s, w)', ", double[5] s"),
    ),
    Case(
        "einsum: sum",
        f'({X}) => (double[N] y) <double[4, 5] v> {{ a = MatMul(x, v) y = Einsum <equation="nj->n"> (a) }}',
    ),
    Case("shared bias", hidden("a = Gemm(x, v, b) s = Add(a, b) y = MatMul(s, w)", ", double[5] b")),
    Case(
        "weights behind Transpose",
        f"({X}) => ({Y}) <double[5, 4] v, double[3, 5] w> {{"
        "vt = Transpose(v) wt = Transpose <perm=[1, 0]> (w) a = MatMul(x, vt) y = MatMul(a, wt) }",
    ),
]


PICTURES = [
    Case("conv", pictured("b = Conv(a, k, c)", "float[4, 6, 3, 3] k, float[4] c", channels=4), "a b"),
    Case(
        "conv: strides, pads, dilations",
        pictured(
            "b = Conv <strides=[2, 1], pads=[1, 2, 1, 2], dilations=[1, 2], kernel_shape=[3, 3]> (a, k)",
            "float[4, 6, 3, 3] k",
            channels=4,
        ),
        "a b",
    ),
    Case(
        "conv: one dimension",
        """(float[2, 3, 8] x) => (float[2, 2, T] y) <float[4, 3, 3] v, float[2, 4, 1] w, float[4] c> {
            a = Conv(x, v, c) y = Conv(a, w) }""",
    ),
    Case(
        "conv: three dimensions",
        """(float[1, 3, 4, 5, 6] x) => (float[1, 2, D, H, W] y) <float[4, 3, 3, 3, 3] v, float[2, 4, 1, 1, 1] w> {
            a = Conv(x, v) y = Conv(a, w) }""",
    ),
    Case(
        "conv: the output channels as many as the positions",
        """(float[2, 3, 4, 4] x) => (float[2, 2, 4, 4] y) <float[4, 3, 1, 1] v, float[2, 4, 1, 1] w> {
            a = Conv(x, v) y = Conv(a, w) }""",
    ),
    Case(
        "conv: a kernel as wide as its input sums over it, as over the words of a text",
        """(float[N, 7, 4] x) => (float[N, 3] y) <float[4, 6] v, int64[4] four, float[5, 1, 3, 6] k, float[5] c, float[5, 3] w> {
            a = MatMul(x, v) r = Reshape(a, four) b = Conv <kernel_shape=[3, 6]> (r, k, c) m = GlobalMaxPool(b)
            f = Flatten(m) y = MatMul(f, w) }""",
        "a b",
        values={"four": np.array([0, 1, -1, 6])},
    ),
    Case(
        "conv: a kernel as wide as its input, with groups",
        """(float[N, 7, 4] x) => (float[N, 4, 1] y) <float[4, 6] v, float[8, 7, 1] u, float[4, 2, 6] k, float[4] c> {
            a = MatMul(x, v) b = Conv(a, u) d = Relu(b) y = Conv <group=4, strides=[2]> (d, k, c) }""",
        "a b:2",
    ),
    Case(
        "conv: a kernel as wide as its input with padding",
        """(float[N, 7, 4] x) => (float[N, 5, 1] y) <float[4, 6] v, float[5, 7, 6] k> {
            a = MatMul(x, v) y = Conv <pads=[1, 0], strides=[2]> (a, k) }""",
        "",
        {"a": "keeps this dimension"},
    ),
    Case(
        "conv: a kernel of 1 passes over positions, as in a mixer",
        """(float[N, 7, 4] x) => (float[N, 7, 3] y) <float[4, 6] v, float[9, 7, 1] k, float[7, 9, 1] l, float[6, 3] w> {
            a = MatMul(x, v) b = Conv <kernel_shape=[1]> (a, k) r = Relu(b) d = Conv(r, l) y = MatMul(d, w) }""",
        "a b",
    ),
    Case(
        "conv: a kernel of 1 with a stride",
        """(float[N, 7, 4] x) => (float[N, 9, 3] y) <float[4, 6] v, float[9, 7, 1] k> {
            a = MatMul(x, v) y = Conv <strides=[2]> (a, k) }""",
        "",
        {"a": "keeps this dimension"},
    ),
    Case("conv: depthwise", pictured("b = Conv <group=6> (a, k, c)", "float[6, 1, 3, 3] k, float[6] c")),
    Case(
        "conv: depthwise with a multiplier",
        pictured("b = Conv <group=6> (a, k, c)", "float[12, 1, 3, 3] k, float[12] c", channels=12),
        "a b",
    ),
    Case(
        "conv: groups",
        pictured("b = Conv <group=2> (a, k, c)", "float[4, 3, 3, 3] k, float[4] c", channels=4),
        "a a:2 b",
    ),
    Case(
        "conv: groups of one output",
        pictured("b = Conv <group=2> (a, k, c)", "float[2, 3, 1, 1] k, float[2] c", channels=2),
        "a a:2",
    ),
    Case(
        "conv: groups, shuffled",
        pictured(
            """c = Conv <group=2> (a, k) r = Reshape(c, five) t = Transpose <perm=[0, 2, 1, 3, 4]> (r)
            s = Reshape(t, four) b = Conv <group=3> (s, l)""",
            "float[6, 3, 1, 1] k, float[6, 2, 1, 1] l, int64[5] five = {2, 2, 3, 5, 4}, int64[4] four = {2, 6, 5, 4}",
        ),
        "a a:2 c b",
    ),
    Case("transposed", pictured("b = ConvTranspose(a, k, c)", "float[6, 4, 3, 3] k, float[4] c", 4), "a b"),
    Case(
        "transposed: strides, pads, output padding",
        pictured(
            "b = ConvTranspose <strides=[2, 2], pads=[1, 0, 1, 0], output_padding=[1, 1]> (a, k)",
            "float[6, 4, 3, 3] k",
            4,
        ),
        "a b",
    ),
    Case(
        "transposed: groups",
        pictured("b = ConvTranspose <group=2> (a, k, c)", "float[6, 2, 3, 3] k, float[4] c", 4),
        "a a:2 b",
    ),
    Case(
        "transposed: depthwise",
        pictured("b = ConvTranspose <group=6> (a, k, c)", "float[6, 1, 3, 3] k, float[6] c"),
    ),
    Case(
        "fused activation",
        pictured(
            'b = com.microsoft.FusedConv <activation="Relu"> (a, k, c)', "float[4, 6, 3, 3] k, float[4] c", 4
        ),
        "a b",
    ),
    Case(
        "fused activation and addition",
        pictured(
            'b = com.microsoft.FusedConv <activation="Relu"> (a, k, c, a)', "float[6, 6, 1, 1] k, float[6] c"
        ),
    ),
]

POSITIONS = [
    *(
        Case(
            f"conv: across channels, {name}",
            f"""(float[2, 3, 5, 4] x) => (float[N, 2, H, W] y) <float[6, 3, 1, 1] v, float[2, 6, 1, 1] w,
            float[1, 1, {kernel}] k, float[1] c, int64[3] row = {{-1, 1, 6}}, int64[4] column = {{-1, 6, 1, 1}}> {{
                a = Conv(x, v) p = GlobalAveragePool(a) r = Reshape(p, row) e = Conv <{attributes}> (r, k, c) g = Sigmoid(e)
                s = Reshape(g, column) b = Mul(a, s) y = Conv(b, w) }}""",
        )
        for name, kernel, attributes in (
            ("a kernel of 3", 3, "pads=[1, 1]"),
            ("a kernel of 5", 5, "pads=[2, 2]"),
            ("an even kernel", 4, "pads=[1, 2]"),
            ("pads that are computed", 3, 'auto_pad="SAME_UPPER"'),
            ("dilated", 3, "pads=[2, 2], dilations=[2]"),
        )
    ),
    Case(
        "conv: across channels, in steps",
        """(float[2, 3, 1, 1] x) => (float[N, 2, 1, 1] y) <float[6, 3, 1, 1] v, float[1, 1, 1, 3] k, float[2, 6, 1, 1] w> {
        a = Conv(x, v) t = Transpose <perm=[0, 2, 3, 1]> (a) c = Conv <pads=[0, 3, 0, 4], strides=[1, 2]> (t, k)
        b = Transpose <perm=[0, 3, 1, 2]> (c) y = Conv(b, w) }""",
        "",
        {"a": "Conv 'c': keeps this dimension as it is"},
    ),
    Case(
        "conv: of a picture with one channel",
        """(float[2, 4] x) => (float[N, 3] y) <float[4, 6] v, float[1, 1, 3, 3] k, float[6, 3] w, int64[4] r = {-1, 1, 2, 3},
        int64[2] f = {0, -1}> {
        a = MatMul(x, v) b = Reshape(a, r) c = Conv <pads=[1, 1, 1, 1]> (b, k) d = Reshape(c, f) y = MatMul(d, w) }""",
        "",
        {"a": "Conv 'c': keeps this dimension as it is"},
    ),
    Case(
        "conv: the kernel covers channels of two dimensions",
        """(float[2, 4] x) => (float[2, 2, 1, 1] y) <float[4, 6] v, float[2, 1, 2, 3] k, int64[4] split = {2, 1, 2, 3}> {
            a = MatMul(x, v) r = Reshape(a, split) y = Conv(r, k) }""",
        "a a:2",
    ),
    Case(
        "conv: the kernel of each group covers channels",
        """(float[2, 3, 4] x) => (float[2, 3, 2] y) <float[4, 6] v, float[3, 1, 6] k, float[1, 2] w> {
            a = MatMul(x, v) b = Conv <group=3> (a, k) y = MatMul(b, w) }""",
    ),
    *(
        Case(
            f"conv: a kernel of 1 that does more than pass, {attributes}",
            f"""(float[2, 3, 4] x) => (float[2, 2, 5] y) <float[4, 6] v, float[2, 3, 1] k, float[{left}, 5] w> {{
                a = MatMul(x, v) b = Conv <{attributes}> (a, k) y = MatMul(b, w) }}""",
            "",
            {"a": "Conv 'b': keeps this dimension as it is"},
        )
        for attributes, left in (
            ("strides=[2]", 3),
            ("pads=[1, 0]", 7),
            ("pads=[0, 1]", 7),
            ('auto_pad="SAME_UPPER"', 6),
        )
    ),
]

ATTENTION = [
    Case(
        "two computed matrices",
        """(double[2, 4] x, double[2, 5] z) => (double[2, 2] y) <double[4, 6] v, double[5, 6] w> {
            a = MatMul(x, v) b = MatMul(z, w) t = Transpose(b) y = MatMul(a, t) }""",
    ),
    Case(
        "a matrix with itself",
        """(double[3, 4] x) => (double[3, 3] y) <double[4, 6] v> {
            a = MatMul(x, v) t = Transpose(a) y = MatMul(a, t) }""",
    ),
    Case(
        "neighbours on a graph, whose matrix is an input",
        """(float[N, 4] x, float[N, N] e) => (float[N, 3] y) <float[4, 6] v, float[6, 5] u, float[5, 3] w> {
            a = MatMul(x, v) b = MatMul(e, a) c = Relu(b) d = MatMul(c, u) f = MatMul(e, d) y = MatMul(f, w) }""",
        "a d",
    ),
    Case(
        "heads",
        """(double[2, 3, 4] x) => (double[2, 3, 5] y)
        <double[4, 8] wq, double[8] bq, double[4, 8] wk, double[4, 8] wv, double[8, 5] wo, int64[4] split = {0, 0, 2, 4},
         int64[3] merged = {0, 0, -1}, double root = {0.5}> {
            qx = MatMul(x, wq) qb = Add(qx, bq) qs = Mul(qb, root) qr = Reshape(qs, split) q = Transpose <perm=[0, 2, 1, 3]> (qr)
            kx = MatMul(x, wk) kr = Reshape(kx, split) k = Transpose <perm=[0, 2, 3, 1]> (kr)
            vx = MatMul(x, wv) vr = Reshape(vx, split) v = Transpose <perm=[0, 2, 1, 3]> (vr)
            s = MatMul(q, k) p = Softmax <axis=-1> (s) o = MatMul(p, v)
            t = Transpose <perm=[0, 2, 1, 3]> (o) m = Reshape(t, merged) y = MatMul(m, wo) }""",
        "qx qx:2 vx",
    ),
    Case(
        "heads: fused weights",
        """(double[2, 3, 4] x) => (double[2, 3, 5] y)
        <double[4, 24] wi, double[24] bi, double[8, 5] wo, int64[5] split = {2, 3, 3, 2, 4}, int64 zero = {0}, int64 one = {1},
         int64 two = {2}, int64[3] merged = {2, 3, 8}> {
            i = MatMul(x, wi) ib = Add(i, bi) r = Reshape(ib, split) f = Transpose <perm=[2, 0, 3, 1, 4]> (r)
            q = Gather(f, zero) k = Gather(f, one) v = Gather(f, two) kt = Transpose <perm=[0, 1, 3, 2]> (k)
            s = MatMul(q, kt) p = Softmax <axis=-1> (s) o = MatMul(p, v)
            t = Transpose <perm=[0, 2, 1, 3]> (o) m = Reshape(t, merged) y = MatMul(m, wo) }""",
        "i i:2",
    ),
    Case(
        "heads: einsum",
        """(double[2, 3, 4] x) => (double[2, 3, 5] y)
        <double[4, 2, 3] wq, double[4, 2, 3] wk, double[4, 2, 6] wv, double[2, 6, 5] wo> {
            q = Einsum <equation="bti,ihd->bthd"> (x, wq) k = Einsum <equation="bti,ihd->bthd"> (x, wk)
            v = Einsum <equation="bti,ihd->bhtd"> (x, wv) s = Einsum <equation="bthd,bshd->bhts"> (q, k)
            p = Softmax <axis=-1> (s) o = Einsum <equation="bhts,bhsd->bthd"> (p, v)
            y = Einsum <equation="bthd,hdo->bto"> (o, wo) }""",
        "q q:2 v",
    ),
    Case(
        "grouped queries",
        """(double[2, 3, 4] x) => (double[2, 3, 5] y)
        <double[4, 12] wq, double[4, 6] wk, double[4, 6] wv, double[12, 5] wo, int64[4] queries = {2, 3, 4, 3},
         int64[4] keys = {2, 3, 2, 3}, int64[1] rep = {3}, int64[5] repeated = {2, 3, 2, 2, 3}, int64[3] merged = {2, 3, 12}> {
            qx = MatMul(x, wq) qr = Reshape(qx, queries) q = Transpose <perm=[0, 2, 1, 3]> (qr)
            kx = MatMul(x, wk) kr = Reshape(kx, keys) ku = Unsqueeze(kr, rep) ke = Expand(ku, repeated) km = Reshape(ke, queries)
            k = Transpose <perm=[0, 2, 3, 1]> (km)
            vx = MatMul(x, wv) vr = Reshape(vx, keys) vu = Unsqueeze(vr, rep) ve = Expand(vu, repeated) vm = Reshape(ve, queries)
            v = Transpose <perm=[0, 2, 1, 3]> (vm)
            s = MatMul(q, k) p = Softmax <axis=-1> (s) o = MatMul(p, v)
            t = Transpose <perm=[0, 2, 1, 3]> (o) m = Reshape(t, merged) y = MatMul(m, wo) }""",
        "qx qx:2 qx:3 vx",
    ),
]

FORMS = [
    (Single("Einsum", [Computed(shape) for shape in shapes], {"equation": equation}), axes)
    for equation, shapes, axes in (
        ("...k->...k", [(2, 3)], "m0 m0:2"),
        ("...ij,...jk->...ik", [(2, 3, 4), (1, 4, 6)], "m0 m0:2 m0:3 m1"),
        ("i...,...->i...", [(2, 3, 4), (3, 4)], "m0 m0:2 m0:3"),
        ("ij,jk", [(2, 3), (3, 4)], "m0 m0:2 m1"),
        ("ba", [(2, 3)], "m0 m0:2"),
        ("...b,b...", [(4, 2), (2, 4)], "m0 m0:2"),
        ("ij,jk,kl->il", [(2, 3), (3, 4), (4, 5)], "m0 m0:2 m1 m2"),
        ("ij,ij,ij->", [(2, 3), (2, 3), (2, 3)], "m0 m0:2"),
        ("iij->ij", [(3, 3, 2)], "m0:2"),
        ("ii,ij->j", [(3, 3), (3, 2)], "m1"),
        ("i,j->ij", [(1,), (3,)], "m1"),
    )
]


@pytest.mark.parametrize(("single", "axes"), FORMS, ids=lambda value: value and str(value))
def test_einsum_in_every_form(single: Single, axes: str) -> None:
    assert " ".join(check(single)) == axes


FROZEN = [
    Case(
        "einsum: diagonal",
        """(double[4] x) => (double[3] y) <double[4, 3, 3] v> {
            a = Einsum <equation="i,ijk->jk"> (x, v) y = Einsum <equation="jj->j"> (a) }""",
        "",
        {"a": "takes the diagonal of this dimension with itself"},
    ),
    Case(
        "integers",
        """(int32[N, 4] x) => (int32[N, 2] y)
        <int32[4, 3] v = {1, 2, 3, 4, 5, 6, 7, 8, 9, 1, 2, 3}, int32[3, 2] w = {3, 1, 2, 5, 4, 6}> {
            a = MatMul(x, v) y = MatMul(a, w) }""",
        "",
    ),
]


@pytest.mark.parametrize("case", MATRICES + PICTURES + POSITIONS + ATTENTION + FROZEN, ids=str)
def test_contraction(case: Case) -> None:
    case.check()

from __future__ import annotations

import pytest
from graphs import Case, between, pictured


def reduced(body: str) -> str:
    """Text of a graph in which `body` reduces the hidden channels r of each row to one number b, which a matrix reads."""
    return f"""(double[N, 4] x) => (double[N, 3] y)
        <double[4, 6] v, double[6] s, double[1, 3] w, int64[1] last = {{-1}}> {{
        a = MatMul(x, v) r = Sigmoid(a) {body} y = MatMul(b, w) }}"""


COUNTED = ("ReduceSum", "ReduceL1", "ReduceL2", "ReduceSumSquare")
DEPENDENT = ("ReduceProd", "ReduceLogSum", "ReduceLogSumExp")
AXES = [("ReduceMax", "a"), ("ReduceMin", "a"), ("ReduceMean", "~a"), *((op, "a") for op in COUNTED)]

OVER_CHANNELS = [
    *(Case(f"{op}: attribute", reduced(f"b = {op} <axes=[1]> (r)"), axes, opset=11) for op, axes in AXES),
    *(Case(f"{op}: input", reduced(f"b = {op}(r, last)"), axes, opset=18) for op, axes in AXES),
    *(
        Case(
            f"{op}: dropped",
            reduced(f"d = {op} <keepdims=0> (r, last) b = Unsqueeze(d, last)"),
            axes,
            opset=18,
        )
        for op, axes in AXES
    ),
    *(
        Case(
            op,
            reduced(f"b = {op}(r, last)"),
            "",
            {"a": f"{op} 'b': its result depends on how many there are"},
            opset=18,
        )
        for op in DEPENDENT
    ),
    *(
        Case(
            f"{op}: of channels",
            reduced(
                f"one = Unsqueeze(r, last) t = Transpose <perm=[0, 2, 1]> (one) p = {op}(t) b = Squeeze(p, last)"
            ).replace("double", "float"),
            axes,
        )
        for op, axes in (("GlobalMaxPool", "a"), ("GlobalAveragePool", "~a"))
    ),
    Case(
        "over all axes",
        """(double[2, 4] x) => (double[1, 3] y) <double[4, 6] v, double[1, 3] w> {
        a = MatMul(x, v) b = ReduceSum(a) y = MatMul(b, w) }""",
    ),
    Case(
        "over all axes: mean",
        """(double[2, 4] x) => (double[1, 3] y) <double[4, 6] v, double[1, 3] w> {
        a = MatMul(x, v) b = ReduceMean(a) y = MatMul(b, w) }""",
        "~a",
    ),
    Case(
        "over all axes: an empty list",
        """(double[2, 4] x) => (double[1, 3] y) <double[4, 6] v, double[1, 3] w, int64[0] none = {}> {
        a = MatMul(x, v) b = ReduceMax(a, none) y = MatMul(b, w) }""",
        opset=18,
    ),
    Case("over none", between("b = ReduceSum <noop_with_empty_axes=1> (a, none)", "int64[0] none = {}")),
    Case("spatial mean", pictured("b = ReduceMean <axes=[2, 3]> (a)")),
    Case("spatial sum", pictured("b = ReduceSum(a, both)", "int64[2] both = {2, -1}")),
    Case(
        "sum over channels and positions",
        """(float[2, 3, 4, 4] x) => (float[2, 1, 1, 1] y) <float[6, 3, 1, 1] v> {
        a = Conv(x, v) b = ReduceL2 <axes=[1, 2, 3]> (a) y = Relu(b) }""",
    ),
    Case("sum: of an activation that bends", reduced("c = Exp(r) b = ReduceSum(c, last)")),
    Case("sum: read twice", reduced("c = ReduceSum(a, last) d = ReduceMax <axes=[1]> (a) b = Add(c, d)")),
]

SOFTMAX = [
    Case("softmax", between("b = Softmax <axis=-1> (a)"), "a"),
    Case(
        "softmax: read by two matrices",
        """(double[N, 4] x) => (double[N, 3] y)
        <double[4, 6] v, double[6, 3] w, double[3, 6] u> {
        a = MatMul(x, v) b = Softmax(a) p = MatMul(b, w) q = Gemm <transB=1> (b, u) y = Add(p, q) }""",
        "a",
    ),
    Case("softmax: read by something else", between("c = Softmax(a) b = Exp(c)"), "a"),
    Case("softmax: read by something else, too", between("c = Softmax(a) d = Exp(c) b = Add(c, d)"), "a"),
    Case("softmax: read by a sum", reduced("c = Softmax(a) d = Mul(c, s) b = ReduceSum(d, last)"), "a"),
    Case("softmax: twice", between("c = Softmax(a) b = Softmax(c)"), "a"),
    Case("softmax: of pictures", pictured("b = Softmax <axis=1> (a)"), "a"),
    Case("softmax: other dimensions", pictured("b = Softmax <axis=-1> (a)")),
    Case(
        "softmax: joined",
        """(double[N, 4] x) => (double[N, 3] y) <double[4, 2] v, double[4, 4] u, double[6, 3] w> {
        a = MatMul(x, v) c = MatMul(x, u) j = Concat <axis=1> (a, c) b = Softmax(j) y = MatMul(b, w) }""",
        "a c",
    ),
    Case("softmax: of the past", between("b = Softmax <axis=1> (a)"), "a", opset=11),
    Case(
        "softmax: of the past, over positions too",
        pictured("b = Softmax(a)"),
        "",
        {"a": "Softmax 'b': normalises over this dimension"},
        opset=11,
    ),
    Case("softmax: of the past, over positions only", pictured("b = Softmax <axis=2> (a)"), opset=11),
    Case("log softmax", between("b = LogSoftmax(a)"), "", {"a": "every copy would count"}),
    Case("hardmax", between("b = Hardmax(a)"), "", {"a": "every copy would count"}),
    Case("log softmax: other dimensions", pictured("b = LogSoftmax(a)")),
    Case(
        "softmax between products: attention over channels",
        """(double[2, 3, 4] x) => (double[2, 3, 5] y)
        <double[4, 6] v, double[4, 6] u, double[4, 8] t, double[8, 5] w> {
        a = MatMul(x, v) k = MatMul(x, u) kt = Transpose <perm=[0, 2, 1]> (k) c = MatMul(x, t) g = MatMul(kt, c)
        p = Softmax <axis=1> (g) s = MatMul(a, p) y = MatMul(s, w) }""",
        "a c",
    ),
]

ORDER = [
    *(
        Case(
            f"{op}: channels",
            between(f"i = {op} <axis=1> (a) c = Cast <to=11> (i) b = Mul(a, c)"),
            "",
            {"a": f"{op} 'i': gives indices into this dimension"},
        )
        for op in ("ArgMax", "ArgMin")
    ),
    Case("ArgMax: positions", pictured("i = ArgMax <axis=2> (a) b = Cast <to=1> (i)")),
    Case(
        "ArgMax: dropped",
        """(float[2, 3, 5, 4] x) => (float[2, 2, 4] y) <float[6, 3, 1, 1] v, float[2, 6] w> {
        a = Conv(x, v) i = ArgMax <axis=-2, keepdims=0> (a) b = Cast <to=1> (i) y = MatMul(w, b) }""",
    ),
    Case(
        "TopK: channels",
        between("b, i = TopK(a, k)", "int64[1] k = {6}"),
        "",
        {"a": "TopK 'b': orders this dimension"},
    ),
    Case("TopK: positions", pictured("b, i = TopK <axis=2> (a, k)", "int64[1] k = {2}")),
    Case(
        "CumSum: channels",
        between("b = CumSum(a, one)", "int64 one = {1}"),
        "",
        {"a": "CumSum 'b': accumulates along this dimension"},
    ),
    Case(
        "CumProd: channels",
        between("b = CumProd(a, one)", "int64 one = {1}", dtype="float"),
        "",
        {"a": "CumProd 'b': accumulates along this dimension"},
        opset=26,
    ),
    Case("CumProd: positions", pictured("b = CumProd(a, last)", "int64 last = {-1}"), opset=26),
    Case("CumSum: positions", pictured("b = CumSum(a, last)", "int64 last = {-1}")),
    *(
        Case(op, between(f"n = {op}(a) b = Add(a, n)"), "", {"a": f"{op} 'n': it draws random values"})
        for op in ("RandomNormalLike", "RandomUniformLike")
    ),
    Case(
        "Bernoulli",
        between("p = Sigmoid(a) b = Bernoulli(p)"),
        "",
        {"a": "Bernoulli 'b': it draws random values"},
    ),
    Case(
        "Multinomial",
        between("p = Multinomial <dtype=7> (a) c = Cast <to=11> (p) b = Mul(a, c)"),
        "",
        {"a": "Multinomial 'p': it draws random values"},
    ),
]


@pytest.mark.parametrize("case", [*OVER_CHANNELS, *SOFTMAX, *ORDER], ids=str)
def test_reduction(case: Case) -> None:
    case.check()

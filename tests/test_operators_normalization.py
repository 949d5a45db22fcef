from __future__ import annotations

import pytest
from graphs import Case, between, pictured

VECTORS = "float[6] s, float[6] t, float[6] m, float[6] positive"

CASES = [
    Case("batch", pictured("b = BatchNormalization <epsilon=0.01> (a, s, t, m, positive)", VECTORS)),
    Case(
        "batch: of a matrix",
        between("b = BatchNormalization(a, s, t, m, positive)", VECTORS.replace("float", "double")),
    ),
    *(
        Case(
            f"batch: operator set {opset}",
            pictured("b = BatchNormalization(a, s, t, m, positive)", VECTORS),
            opset=opset,
        )
        for opset in (7, 8, 9, 14)
    ),
    Case(
        "batch: spatial=1, named",
        pictured("b = BatchNormalization <spatial=1> (a, s, t, m, positive)", VECTORS),
        opset=8,
    ),
    Case(
        "batch: one vector for mean and bias",
        pictured("b = BatchNormalization(a, s, t, t, positive)", "float[6] s, float[6] t, float[6] positive"),
    ),
    Case(
        "batch: training mode",
        pictured("b, mean, var = BatchNormalization <training_mode=1> (a, s, t, m, positive)", VECTORS),
        opset=15,
    ),
    Case(
        "batch: training mode, over channels",
        between(
            """r = Reshape(a, split) n, mean, var = BatchNormalization <training_mode=1> (r, s, t, m, positive)
            b = Reshape(n, back)""",
            """float[2] s, float[2] t, float[2] m, float[2] positive, int64[3] split = {0, 2, 3},
            int64[2] back = {0, -1}""",
            dtype="float",
        ),
        "a ~a:2",
        opset=15,
    ),
    Case("instance", pictured("b = InstanceNormalization(a, s, t)", "float[6] s, float[6] t")),
    Case(
        "instance: a group norm in disguise",
        pictured(
            """r = Reshape(a, three) i = InstanceNormalization(r, ones, zeros) f = Shape(a) q = Reshape(i, f)
            m = Mul(q, s) b = Add(m, t)""",
            """int64[3] three = {0, 2, -1}, float[2] ones = {1, 1}, float[2] zeros = {0, 0}, float[6, 1, 1] s,
            float[6, 1, 1] t""",
        ),
        "a ~a:2",
    ),
    Case(
        "group: parameters per channel",
        pictured("b = GroupNormalization <num_groups=2> (a, s, t)", "float[6] s, float[6] t"),
        "a ~a:2",
        opset=21,
    ),
    Case(
        "group: parameters per group",
        pictured("b = GroupNormalization <num_groups=2> (a, s, t)", "float[2] s, float[2] t"),
        "a ~a:2",
        opset=18,
    ),
    Case(
        "group: one",
        pictured("b = GroupNormalization <num_groups=1> (a, s, t)", "float[6] s, float[6] t"),
        "~a",
        opset=21,
    ),
    Case(
        "group: one channel each",
        pictured("b = GroupNormalization <num_groups=6> (a, s, t)", "float[6] s, float[6] t"),
        "a",
        opset=21,
    ),
    Case("layer", between("b = LayerNormalization(a, s, t)", "double[6] s, double[6] t"), "~a"),
    Case("layer: no bias", between("b = LayerNormalization(a, s)", "double[6] s"), "~a"),
    Case(
        "layer: statistics",
        between(
            "c, m, d = LayerNormalization(a, s) e = Mul(c, d) b = Add(e, m)",
            "float[6] s",
            "float",
        ),
        "~a",
    ),
    Case(
        "layer: two axes",
        """(double[2, 3, 4] x) => (double[2, 3, 2] y) <double[4, 6] v, double[6, 2] w, double[3, 6] s, double[3, 6] t> {
            a = MatMul(x, v) b = LayerNormalization <axis=1> (a, s, t) y = MatMul(b, w) }""",
        "~a",
    ),
    Case(
        "layer: over positions only",
        """(double[2, 3, 4] x) => (double[2, 2, 4] y) <double[6, 3] v, double[2, 6] w, double[4] s> {
            a = MatMul(v, x) b = LayerNormalization <axis=-1> (a, s) y = MatMul(w, b) }""",
        "a",
    ),
    Case("root mean square", between("b = RMSNormalization(a, s)", "double[6] s"), "~a", opset=23),
    Case(
        "root mean square: ONNX Runtime's",
        between("b = SimplifiedLayerNormalization(a, s)", "double[6] s"),
        "~a",
    ),
    Case(
        "layer: spelled out",
        between(
            """m = ReduceMean <axes=[-1]> (a) d = Sub(a, m) p = Pow(d, two) v2 = ReduceMean <axes=[-1]> (p)
            e = Add(v2, eps) r = Sqrt(e) n = Div(d, r) g = Mul(n, s) b = Add(g, t)""",
            "double two = {2}, double eps = {0.00001}, double[6] s, double[6] t",
        ),
        "~a",
    ),
    Case("mean and variance", pictured("b = MeanVarianceNormalization(a)")),
    Case("mean and variance: of channels", pictured("b = MeanVarianceNormalization <axes=[1]> (a)"), "~a"),
    *(Case(f"norm {p}", between(f"b = LpNormalization <p={p}> (a)"), "~a") for p in (1, 2)),
    Case(
        "norm: read by something else",
        between("c = LpNormalization(a) d = Exp(c) b = Add(c, d)"),
        "~a",
    ),
    Case("norm: of positions", pictured("b = LpNormalization <axis=2> (a)")),
    *(
        Case(
            f"local response: of {size}, operator set {opset}",
            pictured(f"b = LRN <size={size}, alpha=0.9, bias=0.5> (a)"),
            opset=opset,
        )
        for size in (1, 3, 5)
        for opset in (7, 17)
    ),
    Case(
        "local response: one after the other",
        pictured("c = LRN <size=3> (a) d = Relu(c) b = LRN <size=5> (d)"),
    ),
    Case(
        "batch: statistics per position",
        """(float[2, 3, 2, 2] x) => (float[2, 2, 2, 2] y)
        <float[6, 3, 1, 1] v, float[2, 6, 1, 1] w, float[6, 2, 2] s, float[6, 2, 2] t, float[6, 2, 2] m, float[6, 2, 2] positive> {
            a = Conv(x, v) b = BatchNormalization <spatial=0> (a, s, t, m, positive) y = Conv(b, w) }""",
        opset=8,
    ),
    Case(
        "batch: statistics per position, of a matrix",
        """(float[N, 3] x) => (float[N, 2] y)
        <float[3, 6] v, float[6, 2] w, float[6] s, float[6] t, float[6] m, float[6] positive> {
            a = MatMul(x, v) b = BatchNormalization <spatial=0> (a, s, t, m, positive) y = MatMul(b, w) }""",
        opset=8,
    ),
]


@pytest.mark.parametrize("case", CASES, ids=str)
def test_normalization(case: Case) -> None:
    case.check()

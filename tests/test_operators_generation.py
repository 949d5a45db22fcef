from __future__ import annotations

import pytest
from graphs import Case, between

INDICES = "int64[1] zero = {0}, int64[1] one = {1}, int64[1] two = {2}, int64[1] minus = {-1}, int64 last = {-1}, int64 first = {0}"

SHAPES = [
    Case("shape: into a target", between("s = Shape(a) r = Relu(a) b = Reshape(r, s)")),
    Case(
        "shape: part",
        between("s = Shape <start=1> (a) t = Concat <axis=0> (minus, s) b = Reshape(a, t)", INDICES),
    ),
    Case(
        "shape: part, from behind",
        between("s = Shape <start=-1> (a) t = Concat <axis=0> (minus, s) b = Reshape(a, t)", INDICES),
    ),
    Case(
        "shape: part, to the end",
        between("s = Shape <end=-1> (a) t = Concat <axis=0> (s, minus) b = Reshape(a, t)", INDICES),
    ),
    Case(
        "shape: of the other tensor",
        between("s = Shape(x) n = Gather(s, zero) t = Concat <axis=0> (n, minus) b = Reshape(a, t)", INDICES),
    ),
    Case(
        "size",
        between(
            "n = Size(a) s = Shape(a) k = Gather(s, zero) c = Div(n, k) t = Concat <axis=0> (k, c) b = Reshape(a, t)",
            INDICES,
        ),
    ),
    Case(
        "scale of one over a root",
        between("s = Shape(a) n = Gather(s, last) f = Cast <to=11> (n) r = Sqrt(f) b = Div(a, r)", INDICES),
    ),
    Case(
        "scale of one over a root, multiplied",
        between(
            """s = Shape(a) n = Slice(s, minus, two) f = Cast <to=11> (n) r = Sqrt(f) i = Div(k, r) j = Sqrt(i) c = Mul(a, j)
        b = Mul(c, j)""",
            INDICES + ", double k = {1}",
        ),
    ),
    Case(
        "mean by division",
        between(
            """t = ReduceSum(a, minus) s = Shape(a) n = Gather(s, last) f = Cast <to=11> (n) m = Div(t, f) b = Sub(a, m)""",
            INDICES,
        ),
    ),
    Case(
        "size of a weight",
        between("s = Shape(w) n = Gather(s, first) f = Cast <to=11> (n) r = Sqrt(f) b = Div(a, r)", INDICES),
    ),
    Case(
        "size of a transposed weight",
        between(
            "u = Transpose(w) s = Shape(u) n = Gather(s, last) f = Cast <to=11> (n) r = Sqrt(f) b = Div(a, r)",
            INDICES,
        ),
    ),
    Case(
        "size of a tensor that is compared",
        between(
            "s = Shape(a) n = Gather(s, last) c = Greater(n, seven) b = Where(c, a, k)",
            INDICES + ", int64 seven = {7}, double[6] k",
        ),
    ),
    Case(
        "constant of shape",
        between("s = Shape(a) z = ConstantOfShape <value=double[1] {0.5}> (s) b = Add(a, z)"),
    ),
    Case(
        "constant of literal shape",
        between("z = ConstantOfShape <value=double[1] {0.5}> (s) b = Add(a, z)", "int64[2] s = {1, 6}"),
    ),
    Case(
        "constant of shape: joined",
        """(double[N, 4] x) => (double[N, 3] y) <double[4, 6] v, double[12, 3] w> {
        a = MatMul(x, v) s = Shape(a) z = ConstantOfShape <value=double[1] {0.5}> (s) b = Concat <axis=1> (a, z)
        y = MatMul(b, w) }""",
        "a z",
    ),
    Case(
        "expand by ones of the same shape",
        between(
            """s = Shape(a) n = Shape(s) o = ConstantOfShape <value=int64[1] {1}> (n) e = Equal(s, minus) t = Where(e, o, s)
        c = Expand(k, t) b = Add(a, c)""",
            INDICES + ", double[6] k",
        ),
    ),
    Case(
        "range: positions",
        between(
            "s = Shape(x) n = Gather(s, first) r = Range(first, n, up) f = Cast <to=11> (r) u = Unsqueeze(f, one) b = Add(a, u)",
            INDICES + ", int64 up = {1}",
        ),
    ),
    Case(
        "range: over channels",
        between(
            "s = Shape(a) n = Gather(s, last) r = Range(first, n, up) f = Cast <to=11> (r) b = Add(a, f)",
            INDICES + ", int64 up = {1}",
        ),
        "",
        {"a": "Range 'r': counts"},
    ),
]


@pytest.mark.parametrize("case", SHAPES, ids=str)
def test_generation(case: Case) -> None:
    case.check()

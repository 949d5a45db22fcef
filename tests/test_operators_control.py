from __future__ import annotations

import numpy as np
import pytest
from graphs import Case, assert_same, between, build, feeds, run

from onnx_grow.errors import NothingToGrowError
from onnx_grow.growth.widening import widen
from onnx_grow.model.walk import nested_graphs

GATES = """
    z1 = MatMul(xt, wz) z2 = MatMul(h, rz) z3 = Add(z1, z2) z = Sigmoid(z3)
    n1 = MatMul(xt, wn) n2 = MatMul(h, rn) n3 = Add(n1, n2) n = Tanh(n3)
    one = Constant<value = double {1.0}>() k = Sub(one, z) u1 = Mul(z, h) u2 = Mul(k, n) hn = Add(u1, u2)
"""
CELLS = "double[4, 5] wz, double[5, 5] rz, double[4, 5] wn, double[5, 5] rn"
TAKING = """
    then_branch = t () => (double[N, 6] p) { p0 = MatMul(a, u) p = Relu(p0) },
    else_branch = e () => (double[N, 6] q) { q0 = Add(a, s) q = Neg(q0) }
"""
INSIDE = """
    then_branch = t () => (double[N, 6] p) { p0 = MatMul(a, u) p1 = Relu(p0) p = MatMul(p1, r) },
    else_branch = e () => (double[N, 6] p) { q0 = Neg(a) p = Identity(q0) }
"""
CHOICE = """
    seen = If (yes) <then_branch = t () => (double[N, 5] p) { p0 = Add(hn, h) p = Relu(p0) },
                     else_branch = e () => (double[N, 5] p) { p = Neg(hn) }>
"""
LOOP = f"""
    body = b (int64 i, bool go, double[N, 5] h) => (bool more, double[N, 5] hn, double[N, 5] seen) {{
        xt = Gather<axis = 0>(x, i) {GATES} more = Identity(go) seen = Neg(hn) }}
"""
SCAN = f"b (double[N, 5] h, double[N, 4] xt) => (double[N, 5] hn, double[N, 5] seen) {{ {GATES} seen = Neg(hn) }}"


def looping(after: str = "y = MatMul(hs, w)", outputs: str = "double[T, N, 3] y", weights: str = "") -> str:
    return f"""(double[T, N, 4] x) => ({outputs}) <{CELLS}, double[5, 3] w, int64 zero = {{0}}, int64[1] five = {{5}}{weights}> {{
        s = Shape(x) m = Gather(s, zero) one1 = Constant<value = int64[1] {{1}}>() batch = Gather(s, one1)
        hs0 = Concat<axis = 0>(batch, five) h0 = ConstantOfShape<value = double[1] {{0.0}}>(hs0)
        last, hs = Loop(m, , h0) <{LOOP}> {after} }}"""


def scanning(attributes: str, shape: str = "T, N", after: str = "y = MatMul(hs, w)") -> str:
    return f"""(double[{shape}, 4] x, double[N, 5] h0) => (double[K, L, 3] y) <{CELLS}, double[5, 3] w, double[5, 5] o> {{
        g = MatMul(h0, o) last, hs = Scan<num_scan_inputs = 1, body = {SCAN}, {attributes}>(g, x) {after} }}"""


def choosing(branches: str, weights: str = "") -> str:
    """A graph in which a condition that the caller gives chooses one of two `branches` between two matrices."""
    return between(f"b = If (c) <{branches}>", weights).replace("x)", "x, bool c)", 1)


def growing(state: str) -> str:
    """A graph whose Loop has a state of 6 channels that is longer after each iteration."""
    return f"""(double[3, 4] x) => (double[T, 3] y) <double[4, 6] v, double[6, 3] w, int64 m = {{2}}> {{
        a = MatMul(x, v) b = Loop(m, , a) <
            body = g (int64 i, bool go, double[{state}, 6] h) => (bool more, double[L, 6] l) {{
                r = Relu(h) l = Concat<axis = 0>(h, r) more = Identity(go) }}>
        y = MatMul(b, w) }}"""


CASES = [
    Case("If", choosing(TAKING, "double[6, 6] u, double[6] s"), "a"),
    Case("If with channels of its own", choosing(INSIDE, "double[6, 8] u, double[8, 6] r"), "a p0"),
    Case(
        "If that is known",
        between(f"b = If (c) <{INSIDE}>", "bool c, double[6, 8] u, double[8, 6] r"),
        "a p0",
        values={"c": np.array(False)},
    ),
    Case(
        "If with a constant of a branch",
        choosing(
            """then_branch = t () => (double[6] p) <double[6] p = {1.0, 2.0, 3.0, 4.0, 5.0, 6.0}> {},
               else_branch = e () => (double[6] q) { q = Constant<value = double[6] {6.0, 5.0, 4.0, 3.0, 2.0, 1.0}>() }"""
        )
        .replace("b = If", "k = If")
        .replace("y =", "b = Mul(a, k) y ="),
        "a",
    ),
    Case(
        "branches of different shapes",
        choosing(
            """then_branch = t () => (double[M, 6] p) { p = Concat<axis = 0>(a, a) },
               else_branch = e () => (double[N, 6] q) { q = Relu(a) }"""
        ).replace("double[N, 3] y", "double[M, 3] y"),
        "",
        {"a": "what its branches result in has different shapes"},
    ),
    Case(
        "branch that is not taken, without what the other squeezes",
        """(double[N, 4] x) => (double[N, 3] y) <double[4, 6] v, double[6, 3] w, bool c, int64[1] two = {2}> {
        a = MatMul(x, v) d = Unsqueeze(a, two)
        b = If (c) <then_branch = t () => (double[N, 6, 1] p) { p = Relu(d) },
                    else_branch = e () => (double[N, 6] q) { q = Squeeze(d, two) }> y = MatMul(b, w) }""",
        values={"c": np.array(False)},
    ),
    Case(
        "branch that is not taken and different",
        between(
            """b = If (c) <then_branch = t () => (double[M, 6] p) { p = Concat<axis = 0>(a, a) },
                           else_branch = e () => (double[N, 6] q) { q = Relu(a) }>""",
            "bool c",
        ),
        "",
        {"a": "the branch that is not taken results in another shape"},
        values={"c": np.array(False)},
    ),
    Case(
        "bodies with the same names",
        choosing(
            """then_branch = t () => (double[N, 6] p) <double[6] k = {1.0, 2.0, 3.0, 4.0, 5.0, 6.0}> { v0 = Add(a, k) p = Relu(v0) },
               else_branch = e () => (double[N, 6] p) <double[6] k = {6.0, 2.0, 1.0, 4.0, 5.0, 3.0}> { v0 = Mul(a, k) p = Neg(v0) }"""
        ),
        "a",
    ),
    Case(
        "weight inside and outside",
        choosing(
            """then_branch = t () => (double[N, 3] p) { p = MatMul(a, w) },
               else_branch = e () => (double[N, 3] q) { q0 = Relu(a) q = MatMul(q0, w) }"""
        )
        .replace("b = If", "d = If")
        .replace("y = MatMul(b, w)", "f = MatMul(a, w) y = Add(d, f)"),
        "a",
    ),
    Case(
        "sizes inside",
        choosing(
            """then_branch = t () => (double[N, 6] p) {
                   n = Shape(a) l = Constant<value = int64[2] {-1, 6}>() p0 = Reshape(a, l) p1 = Relu(p0) p = Reshape(p1, n) },
               else_branch = e () => (double[N, 6] q) { q = Neg(a) }"""
        ),
        "a",
    ),
    Case("Loop", looping(), "h0"),
    Case("Loop with its last state", looping("y = MatMul(last, w)", "double[N, 3] y"), "h0"),
    Case(
        "If in a Loop",
        looping()
        .replace(
            "h0 = Const",
            "c = ReduceMax<keepdims = 0>(x) zz = Constant<value = double {0.0}>() yes = Less(c, zz) h0 = Const",
        )
        .replace("seen = Neg(hn)", CHOICE),
        "h0",
    ),
    Case(
        "Loop that begins with constants",
        f"""(double[3, 2, 4] x) => (double[3, 2, 3] y) <{CELLS}, double[5, 3] w, int64 m = {{3}}, double[2, 5] h0> {{
            last, hs = Loop(m, , h0) <{LOOP}> y = MatMul(hs, w) }}""",
        "last:2",
    ),
    Case(
        "Loop as often as channels",
        between(
            """s = Shape(a) m = Gather(s, place) b = Loop(m, , a) <
                   body = l (int64 i, bool go, double[N, 6] h) => (bool more, double[N, 6] k) { k = Tanh(h) more = Identity(go) }>""",
            "int64 place = {1}",
        ),
        "a",
    ),
    Case(
        "Loop that scales what it sums",
        between(
            """b = Loop(m, , a) <body = l (int64 i, bool go, double[N, 6] h) => (bool more, double[N, 6] k) {
                   t = Transpose(h) q = MatMul(h, t) p = Softmax(q) k = MatMul(p, h) more = Identity(go) }>""",
            "int64 m = {2}",
        ),
        "a",
    ),
    Case(
        "Loop whose state goes through a matrix",
        between(
            """b = Loop(m, , a) <body = l (int64 i, bool go, double[N, 6] h) => (bool more, double[N, 6] k) {
                   d = MatMul(h, r) k = Tanh(d) more = Identity(go) }>""",
            "int64 m = {3}, double[6, 6] r",
        ),
        "a",
    ),
    Case(
        "Scan whose state goes through a matrix",
        """(double[5, 2, 4] x, double[2, 4] z) => (double[2, 3] y) <double[4, 6] v, double[6, 6] r, double[4, 6] u, double[6, 3] w> {
            a = MatMul(z, v) b = Scan<num_scan_inputs = 1, body = l (double[2, 6] h, double[2, 4] t) => (double[2, 6] k) {
                d = MatMul(h, r) e = MatMul(t, u) f = Add(d, e) k = Tanh(f) }>(a, x)
            y = MatMul(b, w) }""",
        "a",
    ),
    Case(
        "Loop in a Loop",
        between(
            """b = Loop(m, , a) <body = l (int64 i, bool go, double[N, 6] h) => (bool more, double[N, 6] k) {
                   k = Loop(m, , h) <body = l (int64 j, bool go_, double[N, 6] g) => (bool more, double[N, 6] f) {
                       d = MatMul(g, u) e = Relu(d) f0 = MatMul(e, r) f1 = Add(f0, h) f = Sub(f1, a) more = Identity(go) }>
                   more = Identity(go) }>""",
            "int64 m = {2}, double[6, 5] u, double[5, 6] r",
        ),
        "a d",
    ),
    Case(
        "Loop over channels",
        between(
            """b0 = Loop(m, yes) <body = l (int64 i, bool go) => (bool more, double[N] c) {
                   c = Gather<axis = 1>(a, i) more = Identity(go) }> b = Transpose(b0)""",
            "int64 m = {6}, bool yes",
        ),
        "",
        {"a": "selects from this dimension by index"},
        values={"yes": np.array(True)},
    ),
    Case(
        "Loop that hands its weights on",
        looping(weights=", double[5, 5] o")
        .replace("last, hs = Loop(m, , h0)", "last, kept, hs = Loop(m, , h0, o)")
        .replace("double[N, 5] h)", "double[N, 5] h, double[5, 5] oo)")
        .replace("double[N, 5] hn, double[N, 5] seen", "double[N, 5] hn, double[5, 5] oo, double[N, 5] seen")
        .replace("seen = Neg(hn)", "seen = MatMul(hn, oo)"),
        "h0 seen",
    ),
    Case(
        "Loop whose state grows",
        growing("L"),
        "",
        {"a": "the shape of 'h' is not the same in all iterations"},
    ),
    Case("Scan", scanning("scan_input_axes = [0]"), "g"),
    Case(
        "Scan backwards along another axis",
        scanning(
            "scan_input_axes = [1], scan_input_directions = [1], scan_output_axes = [-2], scan_output_directions = [1]",
            "N, T",
        ),
        "g",
    ),
    Case(
        "Scan over what grows",
        """(double[3, 4] x) => (double[6, 3] y) <double[4, 6] v, double[6, 3] w> {
            a = MatMul(x, v) z = ReduceSum<keepdims = 0>(x) last, b = Scan<num_scan_inputs = 1, scan_input_axes = [1],
                body = b (double h, double[3] s) => (double k, double[3] r) { k = Identity(h) r = Relu(s) }>(z, a)
            y = MatMul(a, w) k = Transpose(b) c = ReduceSum<keepdims = 0>(k) }""".replace(
            "(double[6, 3] y)", "(double[3, 3] y, double c)"
        ),
        "",
        {"a": "it is iterated over"},
    ),
    Case(
        "lists",
        between("c = Relu(a) s = SequenceConstruct(a, c) b = SequenceAt(s, i)", "int64 i = {1}"),
    ),
    Case(
        "lists of unknown length",
        """(double[N, 4] x, int64 k) => (double[N, 3] y) <double[4, 6] v, double[6, 3] w> {
        a = MatMul(x, v) c = Relu(a) s = SequenceConstruct(a, c) b = SequenceAt(s, k) y = MatMul(b, w) }""",
        "",
        {"a": "it works on a list of tensors"},
    ),
]


@pytest.mark.parametrize("case", CASES, ids=str)
def test_what_grows_with_its_bodies(case: Case) -> None:
    case.check()


def test_both_branches_stay_equal() -> None:
    model = build(choosing(INSIDE, "double[6, 8] u, double[8, 6] r"))
    grown = widen(model)
    inputs = feeds(model)
    for condition in (True, False):
        inputs["c"] = np.array(condition)
        (old,), (new,) = run(model, inputs), run(grown, inputs)
        np.testing.assert_allclose(new, old, rtol=1e-12)


def test_names_that_shadow_others_come_back() -> None:
    model = build(
        choosing(
            """then_branch = t () => (double[N, 6] a_) { d = Relu(a) a_ = Neg(d) },
               else_branch = e () => (double[N, 6] a_) { d = Neg(a) a_ = Relu(d) }"""
        )
    )
    grown = widen(model)
    assert [_outputs(body) for body in nested_graphs(grown.skeleton.graph)] == [["d", "a_"], ["d", "a_"]]
    assert_same(model, grown)


def _outputs(graph: object) -> list[str]:
    return [name for node in graph.node for name in node.output]  # type: ignore[attr-defined]


def test_a_condition_on_an_open_size_may_take_either_branch() -> None:
    """The sizes looked at are all longer than 6: at length 5 the mean over the channels is taken, which is of another shape."""
    text = """(double[N, T, 4] x) => (double y) <double[4, 6] v, int64 one = {1}, int64 six = {6}> {
        a = MatMul(x, v) s = Shape(x) t = Gather(s, one) long = Greater(t, six)
        b = If (long) <then_branch = t () => (double[N, T, 6] p) { p = Relu(a) },
                       else_branch = e () => (double[N, T, 1] q) { q = ReduceMean<axes = [2]>(a) }>
        y = ReduceMax<keepdims = 0>(b) }"""
    with pytest.raises(NothingToGrowError, match="different shapes"):
        widen(build(text), widths={"a": 12})

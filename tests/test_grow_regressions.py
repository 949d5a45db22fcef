"""Graphs that widening once got wrong, or refused for no reason: each the smallest of its kind."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
import onnx
import pytest
from graphs import assert_same, build, growable
from onnx import TensorProto, helper, numpy_helper

from onnx_grow.axes.table import KINDS
from onnx_grow.errors import InvalidModelError, NothingToGrowError
from onnx_grow.growth.widening import inspect, plan_widen, widen
from onnx_grow.model import Model, load


@dataclass(frozen=True)
class Case:
    """A graph in text, and the axes of it that can grow; nothing computed may change when they do.

    `refused` is part of the reason why they cannot after all, which shows only when sizes are regenerated.
    """

    name: str
    text: str
    axes: str
    values: Mapping[str, np.ndarray] = field(default_factory=dict)
    opset: int = 17
    refused: str = ""

    def __str__(self) -> str:
        return self.name


X = "double[N, 4] x"

CASES = [
    Case(
        "one index of two dimensions follows the channels before it",
        f"({X}) => (double[N, 1, 1] y) <double[4, 6] v, int64[1, 1] i> {{ a = MatMul(x, v) y = Gather <axis = 1> (a, i) }}",
        "a a:2",
        {"i": np.array([[3]])},
    ),
    Case(
        "weights stored in half precision share exactly",
        """(float[N, 4] x) => (float[N, 3] y) <float[4, 6] v, float16[6, 3] h> {
            a = MatMul(x, v) w = Cast <to = 1> (h) y = MatMul(a, w) }""",
        "a",
    ),
    Case(
        "weights stored in half precision do not take scales",
        """(float[N, 4] x) => (float[N] y) <float16[4, 6] h, int64[1] axes> {
            w = Cast <to = 1> (h) a = MatMul(x, w) b = Relu(a) y = ReduceSum <keepdims = 0> (b, axes) }""",
        "a",
        {"axes": np.array([1])},
    ),
    Case(
        "a mean by division, over channels and two open dimensions",
        """(double[N, T, 4] x) => (double[N, T, 3] y) <double[4, 6] v, double[6, 3] w> {
            a = MatMul(x, v) n = Size(a) d = Cast <to = 11> (n) b = Div(a, d) y = MatMul(b, w) }""",
        "a",
        refused="sizes that vary",
    ),
    Case(
        "a Slice that starts where the length of the input says",
        """(double[N, 4] x) => (double[N] y) <double[4, 12] v, int64[1] zero, int64[1] one, int64[1] end> {
            a = MatMul(x, v) s = Shape(x) n = Slice(s, zero, one) b = Slice(a, n, end, one) y = ReduceSum <keepdims = 0> (b, one) }""",
        "a a:2",
        {"zero": np.array([0]), "one": np.array([1]), "end": np.array([2**62])},
        refused="sizes that the file leaves open",
    ),
    Case(
        "an index that the input's length says, and that may be out of range",
        """(double[N, 4] x) => (double[N] y) <double[4, 5] v, int64 zero> {
            a = MatMul(x, v) s = Shape(x) n = Gather(s, zero) y = Gather <axis = 1> (a, n) }""",
        "a",
        {"zero": np.array(0)},
        refused="sizes that the file leaves open",
    ),
    Case(
        "an Einsum that broadcasts what it sums over",
        """(double[N, 4] x) => (double[N, 3] y) <double[4, 6] v, double[1, 3] w> {
            a = MatMul(x, v) y = Einsum <equation = "nb,bc->nc"> (a, w) }""",
        "a",
    ),
    Case(
        "two factors of one dimension of a weight are summed, and both grow",
        """(double[N, 4] x) => (double[N, 5] y) <double[4, 2, 3] v, double[6, 5] u, int64[3] s> {
            a = Einsum <equation = "nd,dhk->nhk"> (x, v) b = Tanh(a) w = Reshape(u, s) y = Einsum <equation = "nhk,hkd->nd"> (b, w) }""",
        "a a:2",
        {"s": np.array([2, 3, 5])},
    ),
    Case(
        "one half of rotated channels is compared",
        """(float[2, 5, 8] x) => (float[2, 5, 5] y) <float[8, 16] q, float[8, 8] k, int64[4] s, int64[4] t, float[5, 4] c, float[5, 4] d> {
            p = Constant <value = int64[1] {0}> () h = MatMul(x, q) b = Reshape(h, s) e = Transpose <perm = [0, 2, 1, 3]> (b)
            r = com.microsoft.RotaryEmbedding(e, p, c, d) f, g = Split <axis = 3, num_outputs = 2> (r)
            l = MatMul(x, k) m = Reshape(l, t) n = Transpose <perm = [0, 2, 3, 1]> (m) o = Tanh(n)
            z = MatMul(f, o) a = Constant <value = int64[1] {1}> () y = ReduceMax <keepdims = 0> (z, a) }""",
        "h h:2",
        {"s": np.array([0, 0, 2, 8]), "t": np.array([0, 0, 2, 4])},
        opset=18,
    ),
    Case(
        "a repeated constant takes no scale that differs between repetitions",
        """(double[N, 4] x) => (double[N] y) <double[4, 6] v, double[1, 1] c, int64[2] s, int64[1] one> {
            a = MatMul(x, v) t = Tanh(a) k = Tile(c, s) b = Mul(t, k) y = ReduceSum <keepdims = 0> (b, one) }""",
        "a",
        {"s": np.array([1, 6]), "one": np.array([1])},
    ),
    Case(
        "a scale finds its letter among the operands of an Einsum",
        """(double[N, 4] x) => (double[N] y) <double[4, 4, 8] v, double[8] s> {
            a = Einsum <equation = "na,abz,z->bnz"> (x, v, s) b = Relu(a) y = ReduceL2 <axes = [0, 2], keepdims = 0> (b) }""",
        "a a:2",
    ),
    Case(
        "an Einsum does not scale what only has the size of the result",
        """(double[N, 4] x) => (double y) <double[4, 4, 2] v, double[4] s> {
            a = Relu(x) b = Einsum <equation = "na,baz,b->nz"> (a, v, s) y = ReduceL2 <keepdims = 0> (b) }""",
        "b",
    ),
    Case(
        "a sum over channels and the batch in one dimension",
        """(double[N, 4] x) => (double y) <double[4, 6] v, int64[1] axes> {
            a = MatMul(x, v) b = Sin(a) c = Flatten <axis = 0> (b) y = ReduceSum <keepdims = 0> (c, axes) }""",
        "a",
        {"axes": np.array([1])},
    ),
    Case(
        "a sum over channels and the batch in one dimension, scaled before",
        """(double[N, 4] x) => (double y) <double[4, 6] v, double[1, 1] s, int64[1] axes> {
            a = MatMul(x, v) b = Sin(a) c = Flatten <axis = 0> (b) d = Mul(c, s) y = ReduceSum <keepdims = 0> (d, axes) }""",
        "a",
        {"axes": np.array([1])},
    ),
]


@pytest.mark.parametrize("case", CASES, ids=str)
def test_growth_keeps_the_function(case: Case) -> None:
    model = build(case.text, case.opset, **case.values)
    assert growable(inspect(model)) == case.axes, str(inspect(model))
    if case.refused or not case.axes:
        with pytest.raises(NothingToGrowError, match=case.refused):
            widen(model, kind=KINDS)
        return
    for factor, scheme in ((2.0, "split"), (1.5, "split"), (3.0, "copy")):
        try:
            grown = widen(model, factor=factor, kind=KINDS, scheme=scheme)
        except NothingToGrowError:
            assert factor == 1.5
            continue
        for n in (2, 3, 7):
            assert_same(model, grown, n)


def test_bodies_read_the_sizes_of_before() -> None:
    body = [
        helper.make_graph([helper.make_node("Cast", ["n"], [name], to=11)], name, [], [_open(name)])
        for name in "pq"
    ]
    model = _model(
        helper.make_node("MatMul", ["x", "v"], ["a"]),
        helper.make_node("Shape", ["a"], ["s"]),
        helper.make_node("Gather", ["s", "one"], ["n"]),
        helper.make_node("If", ["yes"], ["k"], then_branch=body[0], else_branch=body[1]),
        helper.make_node("MatMul", ["x", "u"], ["b"]),
        helper.make_node("Add", ["a", "k"], ["c"]),
        helper.make_node("MatMul", ["c", "w"], ["d"]),
        helper.make_node("MatMul", ["b", "w"], ["e"]),
        helper.make_node("Add", ["d", "e"], ["y"]),
        v=DRAWN.normal(size=(4, 6)),
        u=DRAWN.normal(size=(4, 6)),
        w=DRAWN.normal(size=(6, 3)),
        one=np.array(1),
        yes=np.array(True),
    )
    assert_same(model, widen(model))


def test_constants_may_be_texts() -> None:
    model = _model(
        helper.make_node("MatMul", ["x", "v"], ["a"]),
        helper.make_node("Greater", ["a", "zero"], ["g"]),
        helper.make_node("Where", ["g", "letters", "none"], ["t"]),
        helper.make_node("Equal", ["t", "c"], ["e"]),
        helper.make_node("Cast", ["e"], ["b"], to=11),
        helper.make_node("MatMul", ["b", "w"], ["y"]),
        v=DRAWN.normal(size=(4, 6)),
        w=DRAWN.normal(size=(6, 3)),
        zero=np.array(0.0),
        letters=np.array(list("abcabc"), object),
        none=np.array("none", object),
        c=np.array(["c"], object),
    )
    grown = widen(model, factor=1.5)
    assert list(grown.weights["letters"].array()[:6]) == list("abcabc")
    assert grown.weights["letters"].shape == (9,)
    assert_same(model, grown)


@pytest.mark.parametrize(
    "node",
    [
        helper.make_node("Transpose", ["a"], ["b"], perm=[0, 2]),
        helper.make_node("Concat", ["a", "k"], ["b"], axis=1),
        helper.make_node("Slice", ["a", "one", "two"], ["b"]),
        helper.make_node("Unsqueeze", ["a", "twice"], ["b"]),
        helper.make_node("QLinearAdd", ["a"], ["b"], domain="com.microsoft"),
    ],
    ids=lambda node: node.op_type,
)
def test_nodes_that_break_their_definition_freeze_what_they_touch(node: onnx.NodeProto) -> None:
    model = _model(
        helper.make_node("MatMul", ["x", "v"], ["a"]),
        node,
        helper.make_node("MatMul", ["x", "u"], ["c"]),
        helper.make_node("MatMul", ["c", "w"], ["y"]),
        v=DRAWN.normal(size=(4, 6)),
        u=DRAWN.normal(size=(4, 5)),
        w=DRAWN.normal(size=(5, 3)),
        k=DRAWN.normal(size=(4, 2, 1)),
        one=np.array([1, 2, 3]),
        two=np.array([1]),
        twice=np.array([1, 1]),
    )
    assert growable(inspect(model)) == "c"


@pytest.mark.parametrize(
    "node",
    [
        helper.make_node("Conv", ["x", "v"], ["y"], group=0),
        helper.make_node("DepthToSpace", ["x"], ["y"], blocksize=0),
        helper.make_node("Einsum", ["x"], ["y"], equation=b"\xff\xfe->x"),
    ],
    ids=lambda node: node.op_type,
)
def test_attributes_that_would_crash_a_library_make_an_invalid_model(node: onnx.NodeProto) -> None:
    with pytest.raises(InvalidModelError, match=f"{node.op_type}.* has the attribute"):
        inspect(_model(node, v=DRAWN.normal(size=(4, 6))))


def test_a_call_that_does_not_fit_its_function_is_an_invalid_model() -> None:
    imports = [helper.make_opsetid("", 19)]
    function = helper.make_function(
        "own", "F", ["a"], ["b"], [helper.make_node("Relu", ["a"], ["b"])], imports
    )
    nodes = [helper.make_node("F", ["x", "x"], ["y"], domain="own")]
    values = [helper.make_tensor_value_info(name, TensorProto.DOUBLE, ["N", 4]) for name in "xy"]
    graph = helper.make_graph(nodes, "g", values[:1], values[1:])
    imports = [*imports, helper.make_opsetid("own", 1)]
    proto = helper.make_model(graph, opset_imports=imports, functions=[function], ir_version=9)
    with pytest.raises(InvalidModelError, match="a call does not fit its function"):
        inspect(load(proto))


def test_an_input_left_empty_that_is_needed_is_an_invalid_model() -> None:
    """ONNX Runtime crashes on this one, and the process with it."""
    node = helper.make_node("Einsum", ["x", ""], ["y"], equation="na,ab->nb")
    with pytest.raises(InvalidModelError, match="has no input 1"):
        inspect(_model(node))


def test_a_node_without_name_and_results_has_a_name_for_people() -> None:
    nodes = [("MatMul", ["x", "v"], ["a"]), ("Relu", ["a"], [""]), ("MatMul", ["a", "w"], ["y"])]
    model = _model(
        *(helper.make_node(*node) for node in nodes), v=DRAWN.normal(size=(4, 6)), w=DRAWN.normal(size=(6, 3))
    )
    assert inspect(model)["a"].readers == ("Relu", "y")


def test_refusals_are_told_in_the_order_of_the_graph() -> None:
    """They came in the order of the axes' places in memory, and the plan, which the file holds, with them."""
    model = build(
        """(double[N, T, 4] x) => (double[N, T, 3] y) <double[4, 20] v, double[4, 6] u, double[6, 3] w, double[2, 3] p, double[3, 3] q,
            double[4, 3] r, double[5, 3] s, double[6, 3] t> {
            h = MatMul(x, u) i = MatMul(h, w) a = MatMul(x, v) n = Size(a) m = Cast <to = 11> (n) k = Div(a, m)
            b, c, d, e, f = Split <axis = 2, split = [2, 3, 4, 5, 6]> (k)
            b1 = MatMul(b, p) c1 = MatMul(c, q) d1 = MatMul(d, r) e1 = MatMul(e, s) f1 = MatMul(f, t)
            y = Sum(b1, c1, d1, e1, f1, i) }""",
        opset=11,
    )
    for _ in range(3):
        plan = plan_widen(model)
        assert [growth.name for growth in plan.axes] == ["h"]
        assert [name for name, _ in plan.skipped] == ["a", "a:2", "a:3", "a:4", "a:5"]


DRAWN = np.random.default_rng(0)


def _model(*nodes: onnx.NodeProto, **weights: np.ndarray) -> Model:
    """Nodes that compute y, of N x 3, from x, of N x 4."""
    x, y = (
        helper.make_tensor_value_info(name, TensorProto.DOUBLE, ["N", n]) for name, n in (("x", 4), ("y", 3))
    )
    initializers = [numpy_helper.from_array(array, name) for name, array in weights.items()]
    graph = helper.make_graph(nodes, "g", [x], [y], initializers)
    return load(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 19)], ir_version=9))


def _open(name: str) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, TensorProto.DOUBLE, None)

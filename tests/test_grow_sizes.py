from __future__ import annotations

import numpy as np
import pytest
from graphs import assert_same, between, build, operators, planned, run

from onnx_grow.errors import NothingToGrowError
from onnx_grow.growth.widening import widen
from onnx_grow.model import Model, load

INDICES = "int64 first = {0}, int64 second = {1}, int64[1] zero = {0}, int64[1] one = {1}, int64[1] two = {2}, int64[1] minus = {-1}"


def grow(text: str, **widths: int) -> tuple[Model, Model]:
    """A model from text and the same with axes `widths` grown, which compute the same at three lengths of the open dimension."""
    model = build(text)
    grown = widen(model, widths=widths or {"a": 9})
    for n in (2, 3, 7):
        assert_same(model, grown, n)
    return model, grown


def literal(model: Model, name: str) -> list[int]:
    return model.weights[name].array().tolist()  # type: ignore[no-any-return]


def test_literals_are_regenerated_in_place_but_not_what_is_inferred_or_copied() -> None:
    text = between(
        "k = Reshape(a, same) r = Reshape(k, split) e = Relu(r) b = Reshape(e, back)",
        "int64[3] same = {0, 0, 1}, int64[3] split = {-1, 2, 3}, int64[2] back = {0, 6}",
    )
    model, grown = grow(text, a=3, **{"a:2": 5})
    assert literal(grown, "same") == [0, 0, 1]
    assert literal(grown, "split") == [-1, 3, 5]
    assert literal(grown, "back") == [0, 15]
    assert list(grown.weights) == list(model.weights)
    assert operators(grown) == operators(model)


def test_a_literal_that_a_staying_tensor_reads_is_kept_for_it() -> None:
    text = """(double[N, 4] x) => (double[N, 6] y) <double[4, 6] v, double[6, 6] w, int64[2] target = {-1, 6}> {
        a = MatMul(x, v) b = Reshape(a, target) c = MatMul(b, w) y = Reshape(c, target) }"""
    model, grown = grow(text)
    assert literal(grown, "target") == [-1, 6]
    assert set(grown.weights) - set(model.weights) == {"target_grown"}
    assert literal(grown, "target_grown") == [-1, 9]


def test_a_literal_in_a_constant_node_stays_there() -> None:
    text = between("back = Constant <value_ints=[-1, 6]> () b = Reshape(a, back)")
    model, grown = grow(text)
    assert operators(grown) == operators(model)
    node = grown.skeleton.graph.node[1]
    assert node.op_type == "Constant"
    assert list(grown.weights) == list(model.weights)


def test_slices_cuts_and_negative_ends() -> None:
    text = """(double[N, 4] x) => (double[N, 3] y) <double[4, 6] v, double[4, 3] t, int64[1] from = {-5},
        int64[1] to = {-1}, int64[1] one = {1}> {
        a = MatMul(x, v) b = Slice(a, from, to, one) y = MatMul(b, t) }"""
    _, grown = grow(text, a=7)
    assert literal(grown, "from") == [-8]
    assert literal(grown, "to") == [-1]


def test_ends_that_move_by_themselves_stay() -> None:
    text = """(double[N, 4] x) => (double[N, 3] y) <double[4, 6] v, double[4, 3] t, int64[1] from = {2},
        int64[1] to = {9223372036854775807}, int64[1] one = {1}> {
        a = MatMul(x, v) b = Slice(a, from, to, one) y = MatMul(b, t) }"""
    _, grown = grow(text, a=3)
    assert literal(grown, "from") == [3]
    assert literal(grown, "to") == [2**63 - 1]


def test_new_sizes_arrive_where_shapes_are_put_together() -> None:
    text = between(
        """s = Shape(x) n = Gather(s, first) m = Unsqueeze(n, zero) split = Concat <axis=0> (m, two, three) r = Reshape(a, split)
        e = Relu(r) back = Concat <axis=0> (m, six) b = Reshape(e, back)""",
        INDICES + ", int64[1] three = {3}, int64[1] six = {6}",
    )
    model, grown = grow(text, **{"a:2": 4})
    assert operators(grown) == operators(model)
    assert (literal(grown, "two"), literal(grown, "three"), literal(grown, "six")) == ([2], [4], [8])


SHARED = (
    between(
        """s = Shape(x) n = Gather(s, zero) back = Concat <axis=0> (n, six) b = Reshape(a, back) f = MatMul(x, u)
    g = Reshape(f, back) h = MatMul(g, r) c = MatMul(b, t)""",
        INDICES + ", int64[1] six = {6}, double[4, 6] u, double[6, 6] t, double[6, 6] r",
    )
    .replace("MatMul(b, w)", "Add(c, h)")
    .replace("double[N, 3] y", "double[N, 6] y")
)


def test_a_literal_that_several_read_is_replaced_where_they_agree() -> None:
    model, grown = grow(SHARED.replace(", r)", ", t)"))
    assert operators(grown) == operators(model)
    assert literal(grown, "six") == [9]
    assert grown.weights.keys() == model.weights.keys()


def test_a_shape_that_others_read_differently_is_replaced_by_one_relative_to_the_data() -> None:
    model, grown = grow(SHARED, a=9)
    assert operators(grown) == operators(model)
    assert literal(grown, "six") == [6]
    assert literal(grown, "back_pinned") == [0, 9]


def test_a_shape_of_several_sizes_that_vary_is_corrected_where_it_is_read() -> None:
    text = SHARED.replace("[N, 4] x", "[N, M, 4] x").replace("[N, 6] y", "[1, N, M, 6] y")
    text = text.replace(
        "n = Gather(s, zero) back = Concat <axis=0> (n, six)",
        "n = Gather(s, both) back = Concat <axis=0> (one, n, six)",
    )
    model, grown = grow(text.replace("zero = {0}", "zero = {0}, int64[2] both = {0, 1}"), a=9)
    assert sorted(set(operators(grown)) - set(operators(model))) == ["Where"]
    kept = [name for name in grown.weights if name not in model.weights and grown.weights[name].dtype == 9]
    assert literal(grown, kept[0]) == [True, True, True, False]


def test_sizes_known_to_be_fixed_become_literals() -> None:
    text = SHARED.replace("[N,", "[2,")
    model, grown = grow(text, a=9)
    assert operators(grown) == operators(model)
    assert literal(grown, "back_pinned") == [2, 9]


def test_arithmetic_with_sizes_keeps_the_old_value() -> None:
    text = between(
        "s = Shape(a) n = Gather(s, second) f = Cast <to=11> (n) r = Sqrt(f) b = Div(a, r)", INDICES
    )
    model, grown = grow(text)
    assert operators(grown) == operators(model)
    pinned = next(node.input[1] for node in grown.skeleton.graph.node if node.op_type == "Div")
    assert grown.weights[pinned].array() == pytest.approx(6**0.5, rel=1e-15)


def test_shapes_that_grow_by_themselves_are_left_alone() -> None:
    text = between("s = Shape(a) r = Relu(a) b = Reshape(r, s)")
    model, grown = grow(text)
    assert operators(grown) == operators(model)
    assert list(grown.weights) == list(model.weights)
    nodes = zip(grown.skeleton.graph.node, model.skeleton.graph.node, strict=True)
    assert all(after == before for after, before in nodes)


def test_one_size_for_a_target_and_for_arithmetic() -> None:
    text = between(
        "s = Shape(a) r = Reshape(a, s) n = Gather(s, second) f = Cast <to=11> (n) c = Div(r, f) b = Reshape(c, s)",
        INDICES,
    )
    grow(text)


def test_lengths_of_parts() -> None:
    text = """(double[N, 4] x) => (double[N, 3] y) <double[4, 6] v, double[2, 3] t, double[4, 3] u, int64[2] parts = {2, 4}> {
        a = MatMul(x, v) c, d = Split <axis=1> (a, parts) p = MatMul(c, t) q = MatMul(d, u) y = Add(p, q) }"""
    _, grown = grow(text, **{"a:2": 7})
    assert literal(grown, "parts") == [2, 7]


def test_attributes_that_hold_sizes() -> None:
    model = build(
        """(float[2, 3, 4, 4] x) => (float[2, 2, 4, 4] y) <float[6, 3, 1, 1] v, float[6, 1, 3, 3] k, float[2, 6, 1, 1] w> {
            a = Conv(x, v) b = Conv <group=6, pads=[1, 1, 1, 1]> (a, k) y = Conv(b, w) }"""
    )
    grown = widen(model, widths={"a": 8})
    attributes = {a.name: a for a in grown.skeleton.graph.node[1].attribute}
    assert attributes["group"].i == 8
    assert list(attributes["pads"].ints) == [1, 1, 1, 1]
    assert_same(model, grown)


def selected(body: str) -> str:
    """A graph in which `body` computes d from b, some rows of a."""
    return f"""(double[N, 4] x) => (double[M, 3] y) <{INDICES}, double[4, 6] v, double[6, 3] w, bool[2] mask = {{1, 0}}> {{
        a = MatMul(x, v) b = Compress <axis=0> (a, mask) {body} y = MatMul(d, w) }}"""


REFUSED = {
    "the model's output would tell": (
        """(double[2, 4] x) => (double[2, 3] y, int64[2] s) <double[4, 6] v, double[6, 3] w> {
            a = MatMul(x, v) s = Shape(a) y = MatMul(a, w) }""",
        "output 's' would tell the new size",
    ),
    "a mean over channels and the batch by division": (
        """(double[N, T, 4] x) => (double[N, T, 3] y) <double[4, 6] v, double[6, 3] w> {
            a = MatMul(x, v) n = Size(a) d = Cast <to=11> (n) b = Div(a, d) y = MatMul(b, w) }""",
        "computes its sizes from sizes that vary",
    ),
    "a mean over channels and rows that only a run would tell": (
        selected("n = Size(b) c = Cast <to=11> (n) d = Div(b, c)"),
        "Div 'd' computes with a size that only a run would tell",
    ),
    "a mean over channels of rows that only a run would tell": (
        selected("n = Shape(b) m = Gather(n, second) c = Cast <to=11> (m) d = Div(b, c)"),
        "Div 'd' computes with a size that only a run would tell",
    ),
    "sizes that only a run would tell, counted down": (
        selected("n = Shape(b) e = Sub(n, one) m = Gather(e, first) c = Cast <to=11> (m) d = Mul(b, c)"),
        "Sub 'e' computes with a size that only a run would tell",
    ),
}


def test_how_many_rows_there_are_may_be_known_from_a_run_alone() -> None:
    grow(selected("n = Shape(b) m = Slice(n, zero, one) c = Cast <to=11> (m) d = Div(b, c)"), a=9)


@pytest.mark.parametrize(("text", "reason"), REFUSED.values(), ids=REFUSED)
def test_what_cannot_be_regenerated_stays(text: str, reason: str) -> None:
    with pytest.raises(NothingToGrowError, match=reason):
        widen(build(text))


def test_only_the_axis_to_blame_stays() -> None:
    text = """(double[2, 4] x) => (double[2, 3] y, int64[2] s) <double[4, 6] v, double[6, 5] u, double[5, 3] w> {
        a = MatMul(x, v) s = Shape(a) b = MatMul(a, u) y = MatMul(b, w) }"""
    model = build(text)
    grown = widen(model)
    assert [growth.name for growth in planned(grown).axes] == ["b"]
    assert planned(grown).skipped == (("a", "output 's' would tell the new size"),)
    assert_same(model, grown)


def test_a_tiny_constant_expanded_to_a_size_that_changes() -> None:
    """Values of a few elements are known, which does not make them sizes."""
    text = """(double[2, 4] x) => (double[2, 3] y) <double[4, 6] v, double[12, 3] w, double[1, 6] u> {
        a = MatMul(x, v) r = Shape(a) z = Expand(u, r) b = Concat <axis=1> (a, z) y = MatMul(b, w) }"""
    _, grown = grow(text)
    assert np.prod(grown.weights["v"].shape) == 36
    grow(text, z=7)
    grow(text, a=8, z=9)


JUMPING = {
    "min": ("d = Min(s, four) e = Div(c, d)", "Min 'd'"),
    "max": ("d = Max(c, s) e = Identity(d)", "Max 'd'"),
    "quotient": ("d = Div(s, c) e = Add(d, c)", "Div 'd'"),
    "comparison": ("less = Less(c, s) e = Where(less, c, four)", "Less 'less'"),
    "remainder": ("d = Mod(s, c) e = Add(d, four)", "Mod 'd'"),
}


@pytest.mark.parametrize("kind", JUMPING)
def test_what_compares_or_rounds_a_growing_size_with_an_open_one_is_refused(kind: str) -> None:
    """At the lengths that are looked at, each of these is a number that does not change."""
    arithmetic, _ = JUMPING[kind]
    text = f"""(double[N, T, 4] x) => (double[N, T, 3] y) <double[4, 6] v, double[6, 3] w, int64 four = {{4}},
        int64 i1 = {{1}}, int64 i2 = {{2}}> {{ a = MatMul(x, v) r = Relu(a) shape = Shape(r) s = Gather(shape, i1)
        c = Gather(shape, i2) {arithmetic} f = Cast<to = 11>(e) b = MatMul(r, w) y = Mul(b, f) }}"""
    with pytest.raises(NothingToGrowError, match=r"sizes that vary"):
        widen(build(text), widths={"a": 9})


@pytest.mark.parametrize(
    ("cut", "reason"),
    [
        ("b = Slice(a, least, end, last)", "cuts it where sizes that the file leaves open say"),
        ("b = Gather<axis = 2>(a, least)", "cuts it where sizes that the file leaves open say"),
        (
            "t = Concat<axis = 0>(zeros, two, minus) b = Reshape(a, t)",
            "how it divides this dimension depends",
        ),
    ],
)
def test_channels_are_not_cut_where_a_limit_may_move_the_cut(cut: str, reason: str) -> None:
    text = f"""(double[N, T, 4] x) => (double y) <double[4, 6] v, int64[1] one = {{1}}, int64[1] three = {{3}},
        int64[1] end = {{99}}, int64[1] last = {{2}}, int64[2] zeros = {{0, 0}}, int64[1] minus = {{-1}}, int64[1] four = {{4}}> {{
        a = MatMul(x, v) shape = Shape(x) s = Gather(shape, one) least = Min(s, three) long = Greater(s, four)
        two = Where(long, last, three) {cut} c = ReduceMax<axes = [0], keepdims = 0>(b) y = ReduceMax<keepdims = 0>(c) }}"""
    with pytest.raises(NothingToGrowError, match=reason):
        widen(build(text), widths={"a": 9})


def test_limits_of_open_sizes_beside_growing_channels_do_not_matter() -> None:
    """A shape as PyTorch expands to it: compared with -1, element by element."""
    text = """(double[N, T, 4] x) => (double[N, T, 3] y) <double[4, 6] v, double[6, 3] w, int64[3] minus = {-1, -1, -1},
        int64[3] ones = {1, 1, 1}, double[1, 1, 6] u> { a = MatMul(x, v) shape = Shape(a) same = Equal(shape, minus)
        to = Where(same, ones, shape) e = Expand(u, to) b = Add(a, e) y = MatMul(b, w) }"""
    model = build(text)
    grown = widen(model, factor=1.5)
    assert grown.parameters > model.parameters
    for n in (1, 2, 3, 7):
        assert_same(model, grown, n)


def test_sizes_of_an_input_without_a_declared_shape_vary() -> None:
    text = """(double[N, T, 4] x) => (double y) <double[4, 6] v, double[6, 3] w> { a = MatMul(x, v) r = Relu(a)
        n = Size(r) f = Cast<to = 11>(n) b = MatMul(r, w) c = Mul(b, f) y = ReduceMax<keepdims = 0>(c) }"""
    proto = build(text).to_proto()
    proto.graph.input[0].type.tensor_type.ClearField("shape")
    with pytest.raises(NothingToGrowError, match="from sizes that vary"):
        widen(load(proto), widths={"a": 9}, shapes={"x": (2, 5, 4)})


HELD = """(double[N, T, 4] x) => (double[N, S, 3] y) <double[2, 1, 4] h, double[4, 6] v, double[6, 3] w, int64 i1 = {1},
    int64 i2 = {2}, int64 four = {4}> { j = Concat<axis = 1>(x, h) a = MatMul(j, v) r = Relu(a) shape = Shape(r)
    c = Gather(shape, i2) t = Gather(shape, i1) p = Mul(c, t) k = Div(SIZE, four) f = Cast<to = 11>(k) b = MatMul(r, w) y = Mul(b, f) }"""


def test_an_open_batch_that_the_graph_holds_at_one_size_does_not_vary() -> None:
    """Another batch than that of `h` fits nowhere."""
    model = build(HELD.replace("SIZE", "c"))
    grown = widen(model, widths={"a": 9})
    for t in (1, 4, 7):
        inputs = {"x": np.random.default_rng(t).standard_normal((2, t, 4))}
        np.testing.assert_allclose(run(grown, inputs)[0], run(model, inputs)[0], rtol=1e-12)


def test_what_is_open_beside_a_batch_that_the_graph_holds_varies() -> None:
    with pytest.raises(NothingToGrowError, match=r"nothing can grow as asked: Div 'k' .*sizes that vary"):
        widen(build(HELD.replace("SIZE", "p")))


def test_the_length_of_a_part_of_an_open_dimension_varies() -> None:
    """The first three of a sequence are two where it is two long, though three at all lengths that are looked at first."""
    text = """(double[N, T, 4] x) => (double[N, S, 3] y) <double[4, 6] v, double[6, 3] w, int64[1] zero = {0},
        int64[1] one = {1}, int64[1] three = {3}, int64 i1 = {1}, int64 i2 = {2}> { a = MatMul(x, v)
        cut = Slice(a, zero, three, one) shape = Shape(cut) s = Gather(shape, i1) c = Gather(shape, i2) n = Mul(s, c)
        f = Cast<to = 11>(n) b = MatMul(cut, w) y = Div(b, f) }"""
    with pytest.raises(NothingToGrowError, match="from sizes that vary"):
        widen(build(text), widths={"a": 9})


def test_a_rank_that_an_open_dimension_decides() -> None:
    """Where T is 1, the Squeeze leaves one dimension only, and the Split has no second one: other sizes are looked at then."""
    model = build(
        """(double[1, T, 8] x) => (double[T, 2] y, double[T, 2] z)
        <double[8, 4] a, double[4, 4] w, int64[2] parts = {1, 3}, double[3, 2] b, double[1, 2] c> {
        t = MatMul(x, a) n = Size(t) f = Cast <to=11> (n) d = Div(t, f) h = MatMul(d, w) q = Squeeze(h)
        u, v = Split <axis=1> (q, parts) y = MatMul(v, b) z = MatMul(u, c) }"""
    )
    assert_same(model, widen(model, factor=2))

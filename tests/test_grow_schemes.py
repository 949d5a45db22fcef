from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from graphs import assert_same, between, build, feeds, planned, run

from onnx_grow.axes.table import KINDS
from onnx_grow.errors import InvalidRequestError
from onnx_grow.growth.plan import WidenPlan
from onnx_grow.growth.recipes import Draw
from onnx_grow.growth.widening import apply_widen, plan_widen, widen
from onnx_grow.model import Inline, Model

PICTURES = """(float[2, 3, 6, 6] x) => (float[2, 4] y)
    <float[8, 3, 3, 3] v, float[8] positive, float[8] s, float[8] t, float[8] m, float[8] c, float[8, 1, 3, 3] d, float[8, 4] w> {
    [stem] a = Conv (x, v, c) [norm] n = BatchNormalization(a, s, t, m, positive) r = Relu(n)
    [depth] e = Conv <group=8, pads=[1, 1, 1, 1]> (r, d) [add] f = Add(e, r) p = GlobalAveragePool(f) q = Flatten(p) y = MatMul(q, w) }"""

SCORES = """(double[2, 3, 4] x) => (double[2, 3, 3] y) <double[4, 6] q, double[4, 6] k, double[6] b> {
    qx = MatMul(x, q) qb = Add(qx, b) kx = MatMul(x, k) kt = Transpose <perm=[0, 2, 1]> (kx) y = MatMul(qb, kt) }"""


def schemes(model: Model) -> dict[str, str | None]:
    return {growth.name: growth.scheme for growth in planned(model).axes}


def test_fresh_channels_change_no_bit_and_are_fed_but_not_heard() -> None:
    model = build(PICTURES)
    grown = widen(model, widths={"stem": 20}, scheme="fresh")
    assert schemes(grown) == {"stem": "fresh"}
    for seed in range(3):
        inputs = feeds(model, seed=seed)
        for old, new in zip(run(model, inputs), run(grown, inputs), strict=True):
            np.testing.assert_array_equal(old, new)
    old, new = ({name: weight.array() for name, weight in m.weights.items()} for m in (model, grown))
    assert all((new[name][:8] == old[name]).all() for name in old)
    assert (new["w"][8:] == 0).all()
    for name in ("positive", "s", "t", "m", "c"):
        assert np.isin(new[name][8:], old[name]).all()
    for name in ("v", "d"):
        rows = new[name].reshape(20, -1)
        assert len(np.unique(rows, axis=0)) == 20
        assert not np.isin(rows[8:], rows[:8]).any()
    assert 0.7 < new["v"][8:].std() / old["v"].std() < 1.4


def test_the_seed_decides_what_is_fresh() -> None:
    model = build(PICTURES)
    one, same, other = (widen(model, scheme="fresh", seed=seed).weights["v"].array() for seed in (0, 0, 1))
    np.testing.assert_array_equal(one, same)
    assert (one[8:] != other[8:]).any()


@pytest.mark.parametrize(
    ("body", "why"),
    [
        ("c = ReduceMax <axes=[1]> (a) b = Add(a, c)", "ReduceMax 'c': its result depends on all of them"),
        ("c = ReduceSum <axes=[1]> (a) b = Add(a, c)", "ReduceSum 'c' sums over it"),
        ("b = Softmax(a)", "Softmax 'b': normalises over this dimension"),
        ("b = LpNormalization(a)", "LpNormalization 'b': its result may depend on all of it"),
        ("c = Abs(a) d = Sqrt(c) b = Add(a, d)", "Sqrt 'd': its result may"),
        ("c = Exp(a) b = Add(a, c)", "Exp 'c': its result may"),
        ("c = Exp(a) d = Neg(c) e = Sub(d, c) b = Div(a, e)", "Exp 'c'"),
        ("c = Tanh(a) d = Clip(a, low) b = Div(c, d)", "Div 'b': divides by it"),
        (
            "c = Floor(a) d = Clip(c, zero, one) i = Cast <to=7> (d) b = Gather(t, i)",
            "Gather 'b'",
        ),
    ],
)
def test_where_channels_must_be_copies(body: str, why: str) -> None:
    weights = "double low, double zero, double one, double[2] t"
    values = {"low": np.array(0.5), "zero": np.array(0.0), "one": np.array(1.0)}
    model = build(between(body, weights), opset=12 if "axes=" in body else 17, **values)
    grown = widen(model, scheme="fresh")
    (growth,) = planned(grown).axes
    assert growth.scheme == "split"
    assert why in growth.because
    assert_same(model, grown)


@pytest.mark.parametrize(
    "body", ["b = Div(a, positive)", "c = Mul(a, a) b = Pow(c, two)", "b = Tanh(a)", "b = Sub(a, s)"]
)
def test_where_channels_may_be_fresh(body: str) -> None:
    model = build(between(body, "double[6] positive, double[6] s, double two"), two=np.array(2.0))
    grown = widen(model, scheme="fresh")
    assert set(schemes(grown).values()) == {"fresh"}
    assert_same(model, grown)


NORMED = """(double[2, 4] x) => (double[2, 3] y) <double[4, 6] v, double[6] s, double[6, 5] u, double[5, 3] w> {
    [a] a = MatMul(x, v) %s n = LayerNormalization(r, s) [b] b = MatMul(n, u) y = MatMul(b, w) }"""


def test_under_norms_fresh_channels_are_padded_where_weights_alone_can_do_it() -> None:
    model = build(NORMED % "r = Neg(a)")
    grown = widen(model, scheme="fresh")
    assert [(growth.name, growth.scheme, growth.because) for growth in planned(grown).axes] == [
        ("a", "pad", ""),
        ("b", "fresh", ""),
    ]
    assert_same(model, grown)
    assert (grown.weights["u"].array()[6:, :5] != 0).all()  # the norm makes zero of what these read
    bent = build(NORMED % "r = Relu(a)")
    mixed = widen(bent, scheme="fresh")
    assert schemes(mixed) == {"a": "split", "b": "fresh"}
    assert_same(bent, mixed)
    assert schemes(widen(bent, scheme="pad")) == {"a": "pad", "b": "split"}  # with nodes before the norm


def test_by_default_norms_are_padded_where_weights_alone_can_do_it_and_all_else_is_split() -> None:
    model = build(NORMED % "r = Neg(a)")
    assert plan_widen(model).scheme == "auto"
    grown = widen(model)
    assert [(growth.name, growth.scheme, growth.because) for growth in planned(grown).axes] == [
        ("a", "pad", ""),
        ("b", "split", ""),
    ]
    assert_same(model, grown)
    bent = build(NORMED % "r = Relu(a)")
    assert [(growth.scheme, growth.because) for growth in plan_widen(bent).axes] == [
        ("split", "Relu 'r' is not linear in it"),
        ("split", ""),
    ]
    assert_same(bent, widen(bent))
    assert set(schemes(widen(model, scheme="split")).values()) == {"split"}


@pytest.mark.parametrize(("factor", "scheme"), [(2, "split"), (4, "pad")])
def test_half_precision_is_padded_where_no_scale_is_rounded(factor: int, scheme: str) -> None:
    """By two, the scale of a norm is multiplied by the root of a half, which half precision does not hold; by four by a half."""
    text = (NORMED % "r = Neg(a)").replace("double", "float16").replace("Layer", "RMS")
    (stream, other) = plan_widen(build(text, opset=23), factor=factor).axes
    assert (stream.scheme, other.scheme) == (scheme, "split")
    assert stream.because == (
        "RMSNormalization 'n' would have its weights rounded to half precision" if scheme == "split" else ""
    )
    assert plan_widen(build(text, opset=23), factor=1.5).axes[0].scheme == "pad"


def test_a_padded_axis_that_somebody_sums_without_a_weight_is_split_after_all() -> None:
    model = build(NORMED % "k = Constant <value_ints=[1]> () t = ReduceSum(a, k) r = Neg(a) z = Mul(n, t)")
    (stream, other) = planned(widen(model)).axes
    assert (stream.scheme, other.scheme) == ("split", "split")
    assert "ReduceSum 't'" in stream.because


def test_of_two_computed_tensors_one_side_is_zero_and_the_other_random() -> None:
    model = build(SCORES)
    grown = widen(model, kind="head_dim", scheme="fresh")
    assert set(schemes(grown).values()) == {"fresh"}
    assert_same(model, grown)
    new = {name: weight.array() for name, weight in grown.weights.items()}
    assert (new["q"][:, 6:] == 0).all()
    assert (new["b"][6:] == 0).all()
    assert (new["k"][:, 6:] != 0).all()


def test_fresh_and_copied_factors_of_one_dimension() -> None:
    """Two axes of one dimension that is summed: one takes copies, as a softmax looks at it, the other is fresh."""
    text = """(double[N, 4] x) => (double[N, 3] y) <double[4, 6] v, double[6, 3] w, int64[3] apart = {0, 2, 3}, int64[2] flat = {0, 6}> {
        a = MatMul(x, v) r = Reshape(a, apart) s = Softmax(r) b = Reshape(s, flat) y = MatMul(b, w) }"""
    model = build(text)
    both = widen(model, widths={"a": 5, "a:2": 9}, scheme="fresh")
    assert sorted(filter(None, schemes(both).values())) == ["fresh", "split"]
    assert_same(model, both)


def test_quantized_weights_are_copied_and_ignored_by_their_zero_point() -> None:
    text = """(float[N, 4] x) => (float[N, 3] y) <int8[4, 6] v, float scale, int8 zero, int8[6, 3] w> {
        d = DequantizeLinear(v, scale, zero) a = MatMul(x, d) e = DequantizeLinear(w, scale, zero) y = MatMul(a, e) }"""
    rng = np.random.default_rng(0)
    values = {
        name: rng.integers(-128, 127, shape).astype(np.int8) for name, shape in (("v", (4, 6)), ("w", (6, 3)))
    }
    model = build(text, scale=np.float32(0.1), zero=np.int8(3), **values)
    grown = widen(model, scheme="fresh")
    assert set(schemes(grown).values()) == {"fresh"}
    assert_same(model, grown)
    assert (grown.weights["w"].array()[6:] == 3).all()
    assert grown.weights["v"].array().dtype == np.int8


def test_a_plan_replays_to_the_same_bytes() -> None:
    model = build(between("c = Softmax(a) d = MatMul(c, s) b = Relu(d)", "double[6, 6] s"))
    plan = plan_widen(model, scheme="fresh")
    assert {growth.scheme for growth in plan.axes} == {"fresh", "split"}
    assert "split: Softmax 'c': normalises over this dimension" in str(plan)
    again = WidenPlan.from_json(plan.to_json())
    assert again == plan
    first, second = widen(model, scheme="fresh"), apply_widen(model, again)
    assert first.to_proto().SerializeToString() == second.to_proto().SerializeToString()
    forced = dataclasses.replace(plan, axes=tuple(dataclasses.replace(g, scheme="fresh") for g in plan.axes))
    with pytest.raises(InvalidRequestError, match="grows by copies only: Softmax 'c'"):
        apply_widen(model, forced)
    with pytest.raises(InvalidRequestError, match="no scheme 'freshly'"):
        WidenPlan.from_json(plan.to_json().replace('"fresh"', '"freshly"', 1))


def test_plans_without_schemes_of_axes_are_read_as_before() -> None:
    text = '{"operation":"widen","axes":[{"name":"a","kind":"hidden","size":6,"new_size":9}],"scheme":"split","seed":0,'
    text += '"noise":0.0,"skipped":[],"inputs":{}}'
    model = build(between("b = Relu(a)"))
    grown = apply_widen(model, WidenPlan.from_json(text))
    assert_same(model, grown)
    assert not np.isin(grown.weights["w"].array(), model.weights["w"].array()).all()


def test_every_weight_that_reads_an_axis_twice() -> None:
    """A recurrent weight has the hidden channels as rows, which are random, and as columns, which are silent."""
    text = """(float[5, 2, 3] x) => (float[5, 1, 2, 4] y) <float[1, 16, 3] w, float[1, 16, 4] r, float[1, 32] b> {
        h, , = LSTM <hidden_size=4> (x, w, r, b) i = Relu(h) y = Identity(i) }"""
    text = text.replace("y = Identity(i)", "y = MatMul(i, o)").replace(
        "float[1, 32] b", "float[1, 32] b, float[4, 4] o"
    )
    model = build(text)
    grown = widen(model, kind=KINDS, scheme="fresh")
    assert "fresh" in schemes(grown).values()
    assert_same(model, grown)
    recurrent = grown.weights["r"].array()
    assert (recurrent[:, :, 4:] == 0).all()
    assert (recurrent[:, 4:8, :4] != 0).all()


@pytest.mark.parametrize("dim", [0, 1, 2])
def test_the_scale_of_what_is_drawn(dim: int) -> None:
    values = np.random.default_rng(0).normal(1.0, 2.0, (5, 6, 7)).astype(np.float32)
    values[(slice(None),) * dim + (2,)] = 0.0
    spread = Draw(dim, np.zeros(0, bool)).spread(values)
    rows = np.moveaxis(values, dim, 0).reshape(values.shape[dim], -1).astype(np.float64)
    kept = np.arange(len(rows)) != 2
    np.testing.assert_allclose(spread[kept], np.sqrt((rows**2).mean(1))[kept])
    assert spread[2] > 1.0


def test_what_is_drawn_of_a_weight_of_zeros() -> None:
    spread = Draw(1, np.zeros(0, bool)).spread(np.zeros((8, 3), np.float16))
    np.testing.assert_allclose(spread, 0.5)


def test_what_is_drawn_fires_where_the_original_is_dead() -> None:
    model = build(
        "(float[64, 32] x) => (float[64, 4] y) <float[32, 16] v, float[16, 4] w> {"
        "p = Abs(x) h = MatMul(p, v) r = Relu(h) y = MatMul(r, w) }"
    )
    rng = np.random.default_rng(0)
    weights = {**model.weights, "v": Inline.of(rng.normal(-1.0, 0.5, (32, 16)).astype(np.float32))}
    grown = widen(dataclasses.replace(model, weights=weights), scheme="fresh").weights["v"].array()
    fires = (np.abs(rng.standard_normal((64, 32))) @ grown > 0).any(axis=0)
    assert not fires[:16].any()
    assert fires[16:].mean() > 0.7

from __future__ import annotations

import dataclasses
import json

import numpy as np
import pytest
from graphs import assert_same, between, build, planned

from onnx_grow.axes.table import KINDS, tabulate
from onnx_grow.errors import InvalidRequestError, NothingToGrowError
from onnx_grow.growth.plan import AxisGrowth, Request, WidenPlan, check_request, solve
from onnx_grow.growth.rewrite import draw_map
from onnx_grow.growth.widening import analyse, apply_widen, inspect, plan_widen, widen
from onnx_grow.model import Model

CHAIN = """(double[N, 4] x) => (double[N, 3] y) <double[4, 6] t, double[6, 5] u, double[5, 3] w> {
    [enc_in] a = MatMul(x, t) [act] r = Relu(a) [enc_out] b = MatMul(r, u) [head] y = MatMul(b, w) }"""

ATTENTION = """(double[2, 3, 4] x) => (double[2, 3, 5] y)
    <double[4, 8] wq, double[4, 8] wk, double[4, 8] wv, double[8, 5] wo, int64[4] split = {2, 3, 2, 4}, int64[3] merged = {2, 3, 8}> {
    qx = MatMul(x, wq) qr = Reshape(qx, split) q = Transpose <perm=[0, 2, 1, 3]> (qr)
    kx = MatMul(x, wk) kr = Reshape(kx, split) k = Transpose <perm=[0, 2, 3, 1]> (kr)
    vx = MatMul(x, wv) vr = Reshape(vx, split) v = Transpose <perm=[0, 2, 1, 3]> (vr)
    s = MatMul(q, k) p = Softmax <axis=-1> (s) o = MatMul(p, v)
    t = Transpose <perm=[0, 2, 1, 3]> (o) m = Reshape(t, merged) y = MatMul(m, wo) }"""

NORM = """(double[N, 4] x) => (double[N, 3] y) <double[4, 6] v, double[6] s, double[6, 5] u, double[5, 3] w> {
    a = MatMul(x, v) h = Tanh(a) n = LayerNormalization(h, s) b = MatMul(n, u) y = MatMul(b, w) }"""

HALVES = """(double[N, 4] x) => (double[N, 3] y) <double[4, 6] v, double[3, 5] t, double[3, 5] u, double[5, 3] w> {
    a = MatMul(x, v) c, d = Split <axis=1> (a) e = MatMul(c, t) f = MatMul(d, u) g = Add(e, f) y = MatMul(g, w) }"""


def sizes(plan: WidenPlan) -> dict[str, int]:
    return {growth.name: growth.new_size for growth in plan.axes}


def plan(text: str, **request: object) -> WidenPlan:
    return plan_widen(build(text), **request)  # type: ignore[arg-type]


def test_a_plan_by_factor() -> None:
    doubled = plan(CHAIN)
    assert doubled.axes == (
        AxisGrowth("enc_in", "hidden", 6, 12, "split"),
        AxisGrowth("enc_out", "hidden", 5, 10, "split"),
    )
    assert (doubled.scheme, doubled.seed, doubled.noise, doubled.skipped) == ("auto", 0, 0.0, ())
    assert doubled.inputs == {"x": (7, 4)}
    assert sizes(plan(CHAIN, factor=1.5)) == {"enc_in": 9, "enc_out": 8}
    assert sizes(plan(CHAIN, factor=1.01)) == {"enc_in": 7, "enc_out": 6}


@pytest.mark.parametrize("factor", [1.0, 0.5, 0, -2, float("nan"), float("inf"), "2"])
def test_factors_that_do_not_grow(factor: float) -> None:
    with pytest.raises(InvalidRequestError, match="must be a number greater than 1"):
        plan(CHAIN, factor=factor)


def test_widths() -> None:
    assert sizes(plan(CHAIN, widths={"enc_in": 7})) == {"enc_in": 7}
    assert sizes(plan(CHAIN, widths={"enc_*": 20})) == {"enc_in": 20, "enc_out": 20}
    assert sizes(plan(CHAIN, widths={"enc_in": 7, "enc_*": 20})) == {"enc_in": 7, "enc_out": 20}
    assert sizes(plan(CHAIN, widths={"enc_in": 7}, only="enc_out")) == {"enc_in": 7, "enc_out": 10}
    for width in (6, 5, 0, -1):
        with pytest.raises(
            InvalidRequestError, match=r"axis 'enc_in' has 6 channels; a width of -?\d would not grow it"
        ):
            plan(CHAIN, widths={"enc_in": width})
    with pytest.raises(InvalidRequestError, match="has 6 channels"):
        plan(CHAIN, widths={"enc_in": 7.5})


def test_only() -> None:
    assert sizes(plan(CHAIN, only="enc_out")) == {"enc_out": 10}
    assert sizes(plan(CHAIN, only=["*_in", "enc_o?t"])) == {"enc_in": 12, "enc_out": 10}


def test_names_that_match_nothing() -> None:
    with pytest.raises(InvalidRequestError, match="no axis is called 'enc_inn'") as caught:
        plan(CHAIN, only="enc_inn")
    assert caught.value.hint == "did you mean 'enc_in'?"
    with pytest.raises(InvalidRequestError) as caught:
        plan(CHAIN, widths={"zzz": 9})
    assert caught.value.hint == "onnx-grow inspect lists them"


def test_a_name_means_its_axis_alone_though_its_node_writes_others() -> None:
    assert sizes(plan(ATTENTION, widths={"qx": 4})) == {"qx": 4}
    assert sizes(plan(ATTENTION, only="qx:2", kind=KINDS)) == {"qx:2": 8}


def test_names_with_special_characters() -> None:
    model = build(CHAIN)
    proto = model.to_proto()
    proto.graph.node[0].name = "/layer.0/conv[1]/MatMul"
    from onnx_grow.model import load

    assert sizes(plan_widen(load(proto), only="/layer.0/conv[1]/MatMul")) == {"/layer.0/conv[1]/MatMul": 12}


def test_a_writer_s_name_means_the_axis() -> None:
    text = """(double[N, 4] x) => (double[N, 3] y) <double[4, 6] v, double[6, 6] u, double[6, 3] w> {
        [one] a = MatMul(x, v) [two] b = MatMul(a, u) c = Add(a, b) y = MatMul(c, w) }"""
    assert sizes(plan(text, only="two")) == {"one": 12}


def test_kinds() -> None:
    assert sizes(plan(ATTENTION, kind="heads")) == {"qx": 4}
    assert sizes(plan(ATTENTION, kind=("head_dim",))) == {"qx:2": 8, "vx": 8}
    assert sizes(plan(ATTENTION)) == {"qx:2": 8, "vx": 8}  # where nothing of the default kinds can grow
    with pytest.raises(
        NothingToGrowError,
        match=r"of the model's output 'y' \(kinds that can: head_dim, heads\)",
    ):
        plan(ATTENTION, kind=("hidden", "residual"))
    with pytest.raises(
        NothingToGrowError, match=r"no axis of the kinds asked for can grow \(kinds that can: hidden\)"
    ):
        plan(CHAIN, kind="groups")
    with pytest.raises(InvalidRequestError, match="there is no kind 'channels'"):
        plan(ATTENTION, kind="channels")


def test_of_several_factors_of_a_dimension_one_grows() -> None:
    both = plan(ATTENTION, kind=("heads", "head_dim"))
    assert sizes(both) == {"qx:2": 8, "vx": 8}
    assert both.skipped == (("qx", "it is a factor of the same dimension as 'qx:2', which grows instead"),)
    assert sizes(plan(ATTENTION, widths={"qx": 4}, only="qx*", kind=KINDS)) == {"qx": 4}
    assert sizes(plan(ATTENTION, widths={"qx": 4, "qx:2": 6})) == {"qx": 4, "qx:2": 6}


def test_the_parts_of_a_sum_are_no_factors() -> None:
    text = """(float[2, 3, 2, 2] x) => (float[2, 2] y) <float[6, 3, 1, 1] v, float[5, 3, 1, 1] u, float[44, 2] w> {
        a = Conv(x, v) c = Conv(x, u) j = Concat <axis=1> (a, c) b = Flatten(j) y = MatMul(b, w) }"""
    doubled = plan(text)
    assert sizes(doubled) == {"a": 12, "c": 10}
    assert doubled.skipped == ()


def test_statistics_need_whole_factors() -> None:
    mixed = plan(NORM, factor=1.5)
    assert sizes(mixed) == {"b": 8}
    assert mixed.skipped == (
        (
            "a",
            "LayerNormalization 'n' takes statistics over it, so it grows by whole factors only, and 9 is no multiple of 6 "
            "(it cannot be padded: Tanh 'h' is not linear in it; with nodes before its norms it can: scheme pad)",
        ),
    )
    assert sizes(plan(NORM)) == {"a": 12, "b": 10}


def test_parts_that_must_stay_equal_grow_together() -> None:
    assert sizes(plan(HALVES)) == {"a": 6, "a:2": 6, "e": 10}
    with pytest.raises(
        NothingToGrowError, match="it is joined with channels that do not grow by the same factor"
    ):
        plan(HALVES, widths={"a": 6})
    assert sizes(plan(HALVES, widths={"a*": 7})) == {"a": 7, "a:2": 7}


def test_what_cannot_grow_is_told_when_asked_for_by_name() -> None:
    told = plan(CHAIN, only=["head", "enc_in"])
    assert told.skipped == (("head", "it is a dimension of the model's output 'y'"),)
    with pytest.raises(NothingToGrowError, match="it is a dimension of the model's output 'y'") as caught:
        plan(CHAIN, only="head")
    assert caught.value.hint == "onnx-grow inspect lists every axis and why it stays"
    with pytest.raises(NothingToGrowError, match="the model has no weights"):
        plan("(float[2] x) => (float[2] y) { y = Relu(x) }")


@pytest.mark.parametrize(
    ("option", "reason"),
    [
        ({"scheme": "splt"}, "there is no scheme 'splt'"),
        ({"seed": -1}, "the seed must be a whole number from 0 on"),
        ({"seed": 1.5}, "the seed must be a whole number from 0 on"),
        ({"scheme": "noise", "noise": -0.1}, "the noise must be a number from 0 on"),
        ({"scheme": "noise", "noise": float("nan")}, "the noise must be a number from 0 on"),
    ],
)
def test_options_that_make_no_sense(option: dict[str, object], reason: str) -> None:
    with pytest.raises(InvalidRequestError, match=reason):
        plan(CHAIN, **option)


def test_json_round_trip() -> None:
    for made in (
        plan(CHAIN),
        plan(NORM, factor=1.5, scheme="noise", noise=0.25, seed=7),
        plan(ATTENTION, kind=KINDS),
    ):
        text = made.to_json()
        assert "\n" not in text
        assert WidenPlan.from_json(text) == made
        assert json.loads(text)["operation"] == "widen"


def edited(**changes: object) -> str:
    return json.dumps({**json.loads(plan(CHAIN).to_json()), **changes})


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{}",
        "[]",
        "null",
        '"widen"',
        edited(operation="deepen"),
        edited(axes=[{"name": "enc_in"}]),
        edited(axes=[{"name": "enc_in", "kind": "hidden", "size": "6", "new_size": 12}]),
        edited(axes=[{"name": "enc_in", "kind": "hidden", "size": 6, "new_size": 3}]),
        edited(axes=3),
        edited(skipped=[["a"]]),
        edited(inputs=None),
        edited(scheme="splt"),
        edited(seed="0"),
        edited(noise="much"),
        edited(colour="blue"),
    ],
)
def test_what_is_no_plan(text: str) -> None:
    with pytest.raises(InvalidRequestError):
        WidenPlan.from_json(text)


def serialized(model: Model) -> bytes:
    return model.to_proto().SerializeToString(deterministic=True)


@pytest.mark.parametrize("scheme", ["split", "copy", "noise"])
def test_replaying_a_plan_gives_the_same_bytes(scheme: str) -> None:
    model = build(NORM)
    request = {"factor": 2, "scheme": scheme, "noise": 0.1, "seed": 3}
    grown = widen(model, **request)  # type: ignore[arg-type]
    made = plan_widen(model, **request)  # type: ignore[arg-type]
    assert planned(grown) == made
    assert serialized(apply_widen(model, WidenPlan.from_json(made.to_json()))) == serialized(grown)
    assert serialized(widen(model, **{**request, "seed": 4})) != serialized(grown)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"name": "b"}, "the plan grows axis 'b' of 6 channels, which this model does not have"),
        ({"name": "nobody"}, "the plan grows axis 'nobody' of 6 channels"),
        ({"name": "y", "size": 3}, "the plan grows axis 'y' of 3 channels"),
        ({"size": 5}, "the plan grows axis 'a' of 5 channels"),
        ({"new_size": 9}, "axis 'a' grows by whole factors only; 9 is no multiple of 6"),
    ],
)
def test_a_plan_for_another_model(changes: dict[str, object], reason: str) -> None:
    made = plan(NORM, only="a")
    other = dataclasses.replace(made, axes=(dataclasses.replace(made.axes[0], **changes),))  # type: ignore[arg-type]
    with pytest.raises(InvalidRequestError, match=reason):
        apply_widen(build(NORM), other)


def test_a_plan_that_tears_equal_parts() -> None:
    made = plan(HALVES)
    torn = dataclasses.replace(made, axes=made.axes[1:])
    with pytest.raises(
        InvalidRequestError, match="the plan cannot grow axis 'a:2' as it says: it is joined with channels"
    ):
        apply_widen(build(HALVES), torn)


def test_a_stream_that_stays_is_told_unasked() -> None:
    model = build(
        "(float[2, 3] x) => (s, y) <float[3, 5] v, float[5, 7] u, float[7, 5] w, float[5, 2] t>"
        "{ a = MatMul(x, v) b = MatMul(a, u) c = Relu(b) d = MatMul(c, w) s = Add(a, d) y = MatMul(s, t) }"
    )
    assert plan_widen(model).skipped == (("a", "it is a dimension of the model's output 's'"),)


def test_leaving_axes_out() -> None:
    model = build(CHAIN)
    made = plan_widen(model)
    kept = tuple(growth for growth in made.axes if growth.name != "enc_in")
    made = dataclasses.replace(made, axes=kept, skipped=(("enc_in", "it was not to"),))
    assert_same(model, apply_widen(model, made))
    assert str(made).splitlines() == ["enc_out (hidden): 5 -> 10", "enc_in stays: it was not to"]


def test_maps_keep_the_originals_and_copy_evenly() -> None:
    for old, new in ((4, 5), (4, 8), (3, 11), (1, 7), (7, 7)):
        g = draw_map("a", old, new, seed=0)
        np.testing.assert_array_equal(g[:old], range(old))
        counts = np.bincount(g, minlength=old)
        assert len(g) == new
        assert counts.max() - counts.min() <= 1
    np.testing.assert_array_equal(draw_map("a", 20, 33, 0), draw_map("a", 20, 33, 0))
    assert not np.array_equal(draw_map("a", 20, 33, 0), draw_map("a", 20, 33, 1))
    assert not np.array_equal(draw_map("a", 20, 33, 0), draw_map("b", 20, 33, 0))


def test_schemes() -> None:
    model = build(between("b = Relu(a)"))
    weight = model.weights["w"].array()
    copied = {scheme: widen(model, scheme=scheme, noise=0.1) for scheme in ("split", "copy", "noise")}  # type: ignore[arg-type]
    assert_same(model, copied["split"])
    assert_same(model, copied["copy"])
    halves = copied["copy"].weights["w"].array()
    np.testing.assert_array_equal(halves[:6], weight / 2)
    assert not np.array_equal(copied["split"].weights["w"].array()[:6], weight / 2)
    g = draw_map("a", 6, 12, 0)
    incoming = copied["noise"].weights["v"].array()
    np.testing.assert_array_equal(incoming[:, :6], model.weights["v"].array())
    assert (incoming[:, 6:] != model.weights["v"].array()[:, g[6:]]).all()
    with pytest.raises(AssertionError):
        assert_same(model, copied["noise"])
    assert_same(model, copied["noise"], tolerance=0.5)


def test_shapes_of_inputs_left_open() -> None:
    made = plan_widen(build(CHAIN), shapes={"x": (2, 4)})
    assert made.inputs == {"x": (2, 4)}
    with pytest.raises(InvalidRequestError):
        inspect(build(CHAIN), shapes={"x": (2, 5)})


@pytest.mark.parametrize("asked", [{"factor": 1e9}, {"widths": {"*": 1 << 21}}])
def test_nobody_means_a_billion_channels(asked) -> None:
    with pytest.raises(InvalidRequestError, match="1,048,576 is the most"):
        plan(CHAIN, **asked)


def test_sizes_that_the_file_leaves_open_and_nobody_can_guess() -> None:
    model = build(
        "(float[N, C, L] x) => (float[N, K] y) <float[20000, 6] w, float[6, 3] v> { r = Flatten(x) h = MatMul(r, w) y = MatMul(h, v) }"
    )
    with pytest.raises(NothingToGrowError) as raised:
        widen(model)
    assert "--shape 'x:?,?,?', in Python with shapes=" in raised.value.hint
    assert plan_widen(model, shapes={"x": (1, 4, 5000)}).axes


@pytest.mark.parametrize("request_", [{"only": []}, {"widths": {}}, {"kind": ()}])
def test_what_is_empty_selects_nothing_and_grows_nothing(request_: dict[str, object]) -> None:
    with pytest.raises(InvalidRequestError, match="is empty"):
        plan(CHAIN, **request_)


def test_a_factor_that_no_axis_can_grow_by() -> None:
    for factor in (1e7, 1e308):
        with pytest.raises(InvalidRequestError, match="no axis can have"):
            plan(CHAIN, factor=factor)
    with pytest.raises(InvalidRequestError, match="'enc_in' would get"):
        plan(CHAIN, factor=2e5)


def test_a_factor_beside_widths_is_for_what_only_selects() -> None:
    with pytest.raises(InvalidRequestError, match="nothing for a factor"):
        plan(CHAIN, widths={"enc_in": 7}, factor=3)
    assert sizes(plan(CHAIN, widths={"enc_in": 7}, only="enc_out", factor=3)) == {"enc_in": 7, "enc_out": 15}


def test_names_are_checked_before_what_stays_is_known() -> None:
    """An axis of one channel that turns out to stay is no longer listed, and was named rightly all the same."""
    analysis = analyse(build(CHAIN), None)
    table = tabulate(analysis)
    with pytest.raises(InvalidRequestError, match="no axis is called 'gone'"):
        check_request(table, Request(only=("gone", "enc_out")))
    growths, _ = solve(analysis, table, Request(only=("gone", "enc_out")))
    assert [growth.name for growth in growths] == ["enc_out"]

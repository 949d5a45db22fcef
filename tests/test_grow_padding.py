from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from graphs import assert_same, build, feeds, operators, planned, reference, run

import onnx_grow as og
from onnx_grow.errors import InvalidRequestError, NothingToGrowError
from onnx_grow.growth.plan import WidenPlan
from onnx_grow.growth.provenance import history
from onnx_grow.growth.widening import apply_widen, plan_widen, widen
from onnx_grow.model import Model, load

N = 20
WEIGHTS = """double[4, N] v, double[N] c, double[N] g, double[N] t, double[N, 7] u, double[7, N] w, double[N] o, double[N] k,
    double[N, 3] h, double eps, double two"""
STREAM = "a0 = MatMul(x, v) a = Add(a0, c)"
BRANCH = "b = MatMul(n, u) r = Tanh(b) d0 = MatMul(r, w) d = Add(d0, o) e = Add(a, d)"
LAYER = "{y} = LayerNormalization <epsilon = EPS> ({x}, {g}{t})"
RMS = "{y} = RMSNormalization <epsilon = EPS> ({x}, {g})"
SPELLED = """{y}m = ReduceMean <axes=[-1]> ({x}) {y}d = Sub({x}, {y}m) {y}s = Pow({y}d, two) {y}v = ReduceMean <axes=[-1]> ({y}s)
    {y}e = Add({y}v, eps) {y}q = Sqrt({y}e) {y}n = Div({y}d, {y}q) {y}g = Mul({y}n, {g}) {y} = Add({y}g, k)"""
BARE = """{y}m = ReduceMean <axes=[-1]> ({x}) {y}d = Sub({x}, {y}m) {y}s = Mul({y}d, {y}d) {y}v = ReduceMean <axes=[-1]> ({y}s)
    {y}e = Add(eps, {y}v) {y}q = Sqrt({y}e) {y}r = Reciprocal({y}q) {y} = Mul({y}d, {y}r)"""
SPELLED_RMS = """{y}s = Mul({x}, {x}) {y}v = ReduceMean <axes=[-1]> ({y}s) {y}e = Add({y}v, eps) {y}q = Sqrt({y}e)
    {y}n = Div({x}, {y}q) {y} = Mul({g}, {y}n)"""
MOMENTS = """{y}m = ReduceMean <axes=[-1]> ({x}) {y}s = Mul({x}, {x}) {y}v = ReduceMean <axes=[-1]> ({y}s) {y}w = Mul({y}m, {y}m)
    {y}u = Sub({y}v, {y}w) {y}e = Add({y}u, eps) {y}q = Sqrt({y}e) {y}r = Reciprocal({y}q) {y}g = Mul({y}r, {g}) {y}d = Sub({x}, {y}m)
    {y}n = Mul({y}d, {y}g) {y} = Add({y}n, k)"""
NORMS = {
    "moments": MOMENTS,
    "layer": LAYER,
    "rms": RMS,
    "spelled": SPELLED,
    "bare": BARE,
    "pooled": BARE.replace("ReduceMean <axes=[-1]>", "GlobalAveragePool"),
    "spelled rms": SPELLED_RMS,
}
TYPES = {"double": np.float64, "float": np.float32, "float16": np.float16}
EPS = 0.75 * 2.0**-16  # by 2/3 and 3/4 exactly in single precision, which attributes are kept in


def network(
    norm: str, *, eps: float = EPS, dtype: str = "double", std: float = 1.0, branch: str = BRANCH
) -> Model:
    """A stream with one branch, normalised before the branch and at the end; `std` is the size of what is normalised."""
    form = NORMS[norm]
    first = form.format(y="n", x="a", g="g", t=", t")
    last = form.format(y="f", x="e", g="k", t="")
    body = f"{STREAM} {first} {branch} {last} y = MatMul(f, h)"
    text = f"(double[2, 3, 4] x) => (double[2, 3, 3] y) <{WEIGHTS}> {{ {body} }}"
    text = (
        text.replace("[N]", f"[{N}]")
        .replace("N]", f"{N}]")
        .replace("[N,", f"[{N},")
        .replace("EPS", repr(eps))
    )
    rng = np.random.default_rng(1)
    values = {
        "v": rng.normal(0, 0.5, (4, N)),
        "c": rng.normal(0.3, 0.5, N),
        "w": rng.normal(0, 0.5, (7, N)),
        "o": rng.normal(0.1, 0.5, N),
    }
    values = {name: value * std for name, value in values.items()} | {
        "g": rng.uniform(0.5, 1.5, N),
        "k": rng.uniform(0.5, 1.5, N),
        "eps": np.array(eps),
        "two": np.array(2.0),
    }
    values = {name: np.asarray(value, TYPES[dtype]) for name, value in values.items()}
    return build(text.replace("double", dtype), opset=23 if norm == "rms" else 17, **values)


def deviation(model: Model, grown: Model, by: object = run) -> float:
    """The largest error relative to the largest output."""
    worst = 0.0
    for seed in range(3):
        inputs = feeds(model, seed=seed)
        (old,), (new,) = by(model, inputs), by(grown, inputs)  # type: ignore[operator]
        worst = max(worst, float(np.abs(new - old).max() / np.abs(old).max()))
    return worst


@pytest.mark.parametrize("std", [1e-3, 1e-2, 0.1, 1.0])
@pytest.mark.parametrize("norm", NORMS)
def test_norms_of_any_width_are_exact(norm: str, std: float) -> None:
    model = network(norm, std=std)
    by = reference if norm in ("pooled", "rms") else run
    for width in (21, 22, 27, 30, 33, 50, 60):
        grown = widen(model, widths={"a0": width}, scheme="pad")
        (growth,) = planned(grown).axes
        assert (growth.new_size, growth.scheme) == (width, "pad")
        # Attributes are kept in single precision: so is an epsilon that does not come out even.
        limit = 1e-7 if norm in ("layer", "rms") and width not in (30,) else 1e-10
        assert deviation(model, grown, by) < limit, width
        inserted = operators(grown)
        assert len(inserted) == len(operators(model))


@pytest.mark.parametrize("norm", ["layer", "spelled", "bare", "pooled", "spelled rms"])
@pytest.mark.parametrize("std", [1e-3, 1.0])
def test_in_single_precision_the_error_is_that_of_rounding(norm: str, std: float) -> None:
    model = network(norm, dtype="float", std=std, eps=1e-5)
    for width in (22, 30, 55):
        report = og.verify(model, widen(model, widths={"a0": width}))
        assert report.ok, str(report)
        assert report.ratio < 3


@pytest.mark.parametrize("norm", ["layer", "spelled"])
def test_epsilon_is_scaled_and_must_be(norm: str) -> None:
    model = network(norm, std=1e-3)
    grown = widen(model, widths={"a0": 30})
    proto = grown.to_proto()
    if norm == "layer":
        for node in proto.graph.node:
            for attribute in node.attribute:
                if attribute.name == "epsilon":
                    assert attribute.f == np.float32(EPS * 2 / 3)
                    attribute.f = EPS
    else:
        (eps,) = (entry for entry in proto.graph.initializer if entry.name == "eps")
        eps.raw_data = np.array(EPS).tobytes()
    assert deviation(model, load(proto)) > 1e-2


def test_new_channels_are_the_mean_and_those_who_read_them_are_free_only_behind_the_norm() -> None:
    read_before = "b = MatMul(n, u) r = Tanh(b) d1 = MatMul(a, p) d2 = Add(r, d1) d0 = MatMul(d2, w) d = Add(d0, o) e = Add(a, d)"
    model = network(
        "layer",
        branch=read_before.replace("MatMul(a, p)", "MatMul(a, u)").replace("MatMul(n, u)", "MatMul(n, u)"),
    )
    grown = widen(model, widths={"a0": 30})
    assert deviation(model, grown) < 1e-10
    old, new = ({name: weight.array() for name, weight in m.weights.items()} for m in (model, grown))
    for name in ("v", "w"):
        np.testing.assert_allclose(new[name][:, N:], np.repeat(old[name].mean(1, keepdims=True), 10, 1))
    for name in ("c", "o"):
        np.testing.assert_allclose(new[name][N:], old[name].mean())
    assert (new["t"][N:] == 0).all()
    np.testing.assert_allclose(new["g"][:N], old["g"] * np.sqrt(2 / 3))
    readers = sorted(
        (weight[N:] for name, weight in new.items() if name.startswith("u")), key=lambda w: np.abs(w).sum()
    )
    assert len(readers) == 2
    assert (readers[0] == 0).all()
    assert (readers[1] != 0).all()
    assert (new["h"][N:] != 0).all()


def test_under_a_root_mean_square_new_channels_are_zero() -> None:
    model = network("spelled rms")
    grown = widen(model, widths={"a0": 25})
    new = {name: weight.array() for name, weight in grown.weights.items()}
    for name in ("v", "w", "c", "o"):
        assert (new[name][..., N:] == 0).all()
    assert (new["u"][N:] != 0).all()


def test_any_factor_pads_by_itself_and_says_so() -> None:
    model = network("layer")
    plan = plan_widen(model, factor=1.5, scheme="split")
    (stream,) = [growth for growth in plan.axes if growth.name == "a0"]
    assert (stream.scheme, stream.new_size) == ("pad", 30)
    assert stream.because == "LayerNormalization 'n' takes statistics over it, and 30 is no multiple of 20"
    again = WidenPlan.from_json(plan.to_json())
    assert again == plan
    first, second = widen(model, factor=1.5, scheme="split"), apply_widen(model, again)
    assert first.to_proto().SerializeToString() == second.to_proto().SerializeToString()
    assert {growth.scheme for growth in plan_widen(model, factor=2, scheme="split").axes} == {"split"}
    assert [
        growth.new_size for growth in plan_widen(model, factor=1.5, multiple_of=8).axes if growth.name == "a0"
    ] == [32]
    forced = plan_widen(model, factor=2, scheme="pad")
    assert {growth.name: growth.scheme for growth in forced.axes} == {"a0": "pad", "b": "split"}
    assert forced.axes[1].because == "no norm takes statistics over it"


def test_a_plan_that_pads_what_cannot_be_padded_is_refused() -> None:
    model = network("layer", branch=BRANCH.replace("Add(a, d)", "Max(a, d)"))
    plan = plan_widen(model, widths={"a0": 40})
    padded = dataclasses.replace(plan, axes=tuple(dataclasses.replace(g, scheme="pad") for g in plan.axes))
    with pytest.raises(InvalidRequestError, match="cannot be padded: Max 'e' is not linear in it"):
        apply_widen(model, padded)


@pytest.mark.parametrize(
    ("branch", "why"),
    [
        (BRANCH.replace("Add(d0, o)", "Relu(d0)"), "Relu 'd' is not linear in it"),
        (BRANCH.replace("Add(d0, o)", "Mul(d0, d0)"), "Mul 'd' multiplies two tensors that are computed"),
        (BRANCH.replace("Add(d0, o)", "Softmax(d0)"), "Softmax 'd': normalises over this dimension"),
        (
            BRANCH.replace("Add(a, d)", "Add(n, d)"),
            "is added to what is normalised again, and its scales differ",
        ),
        (BRANCH.replace("Add(a, d)", "Max(a, d)"), "Max 'e' is not linear in it"),
    ],
)
def test_what_is_not_linear_refuses_and_is_named(branch: str, why: str) -> None:
    model = network("layer", branch=branch)
    with pytest.raises(NothingToGrowError) as refused:
        widen(model, widths={"a0": 30})
    assert why in refused.value.message
    assert "30 is no multiple of 20" in refused.value.message
    assert deviation(model, widen(model, widths={"a0": 40})) < 1e-9


def test_other_statistics_refuse() -> None:
    branch = "z = Softmax(n) b = MatMul(z, u) r = Tanh(b) d0 = MatMul(r, w) d = Add(d0, o) e = Add(a, d)"
    model = network("layer", branch=branch)
    with pytest.raises(NothingToGrowError, match="Softmax 'z': normalises over this dimension"):
        widen(model, widths={"a0": 30})


def test_a_norm_whose_scales_are_equal_may_be_added_to_the_stream() -> None:
    text = """(double[2, 3, 4] x) => (double[2, 3, 3] y) <double[4, 6] v, double[6] g, double[6] t, double[6, 6] u, double[6, 3] h> {
        a = MatMul(x, v) n = LayerNormalization(a, g, t) b = MatMul(n, u) e = Add(n, b) f = LayerNormalization(e, t) y = MatMul(f, h) }"""
    model = build(text, g=np.full(6, 1.25))
    grown = widen(model, widths={"a": 9})
    assert operators(grown) == operators(model)
    assert_same(model, grown)
    biases = [weight.array()[6:] for name, weight in grown.weights.items() if name.startswith("t")]
    (bias,) = [bias for bias in biases if np.ptp(bias) == 0.0 and bias.any()]
    np.testing.assert_allclose(bias, model.weights["t"].array().mean())


def test_a_factor_for_each_channel_on_the_way_is_divided_out() -> None:
    model = network("layer", branch=BRANCH.replace("Add(d0, o)", "Mul(d0, k)"))
    assert deviation(model, widen(model, widths={"a0": 30})) < 1e-10


def test_epsilon_is_split_where_another_norm_has_it_too() -> None:
    """Two norms share one constant, and only one of them is over what grows."""
    branch = BRANCH.replace("Tanh(b)", "Tanh(b5)").replace(
        "r =", SPELLED_RMS.format(y="b5", x="b", g="two") + " r ="
    )
    model = network("spelled", branch=branch)
    grown = widen(model, widths={"a0": 30})
    assert deviation(model, grown) < 1e-10
    epsilons = sorted(float(w.array()) for name, w in grown.weights.items() if name.startswith("eps"))
    np.testing.assert_allclose(epsilons, [EPS * 2 / 3, EPS])


def test_an_epsilon_that_would_vanish_refuses() -> None:
    model = network("spelled rms", dtype="float16", eps=1.2e-7)
    with pytest.raises(NothingToGrowError, match="too small to be scaled"):
        widen(model, widths={"a0": 30})


def test_tied_embeddings_stay_tied() -> None:
    text = """(int64[2, 3] x) => (float[2, 3, 9] y) <float[9, 6] table, float[6] g, float[6, 6] u> {
        a = Gather(table, x) n = LayerNormalization(a, g) b = MatMul(n, u) e = Add(a, b) f = LayerNormalization(e, g)
        h = Transpose <perm = [1, 0]> (table) y = MatMul(f, h) }"""
    model = build(text)
    grown = widen(model, widths={"a": 9})
    assert list(grown.weights) == list(model.weights)
    assert_same(model, grown)


@pytest.mark.parametrize(
    "node",
    [
        "n, , , e = com.microsoft.SkipLayerNormalization <epsilon = 0.01> (a, s, g, t)",
        "n, , , e = com.microsoft.SkipSimplifiedLayerNormalization <epsilon = 0.01> (a, s, g)",
    ],
)
def test_norms_that_add_first(node: str) -> None:
    text = f"""(float[2, 3, 4] x) => (float[2, 3, 3] y)
        <float[4, 6] v, float[4, 6] w, float[6] g, float[6] t, float[6, 6] u, float[6, 3] h> {{
        a = MatMul(x, v) s = MatMul(x, w) {node} b = MatMul(n, u)
        m, , , q = {node.split(" = ", 1)[1].replace("(a, s", "(e, b")}
        y = MatMul(m, h) }}"""
    model = build(text)
    grown = widen(model, widths={"a": 9})
    assert {growth.scheme for growth in planned(grown).axes} == {"pad"}
    assert_same(model, grown)


def test_several_growths_in_a_row() -> None:
    model = network("spelled")
    twice = widen(widen(model, factor=1.5), widths={"a0": 37})
    assert len(history(twice)) == 2
    assert deviation(model, twice) < 1e-10


POST = "b = MatMul(n, u) r = Tanh(b) d0 = MatMul(r, w) d = Add(d0, o) e = Add(n, d)"


@pytest.mark.parametrize(("norm", "nodes"), [("layer", 6), ("spelled", 4), ("bare", 5)])
@pytest.mark.parametrize("std", [1e-3, 1.0])
def test_where_weights_cannot_make_the_mean_nodes_do_on_request(norm: str, nodes: int, std: float) -> None:
    """The result of the first norm is added to what the second one normalises."""
    model = network(norm, branch=POST, std=std)
    with pytest.raises(NothingToGrowError, match="with nodes before its norms it can: scheme pad"):
        widen(model, widths={"a0": 30})
    for width in (22, 30, 50):
        grown = widen(model, widths={"a0": width}, scheme="pad")
        assert len(operators(grown)) == len(operators(model)) + nodes
        assert deviation(model, grown) < (1e-7 if norm == "layer" and width != 30 else 1e-10)
    again = apply_widen(model, WidenPlan.from_json(planned(grown).to_json()))
    assert again.to_proto().SerializeToString() == grown.to_proto().SerializeToString()


def test_under_a_root_mean_square_no_nodes_are_needed_for_that() -> None:
    model = network("spelled rms", branch=POST)
    grown = widen(model, widths={"a0": 30})
    assert operators(grown) == operators(model)
    assert deviation(model, grown) < 1e-10


def test_parameters_that_several_names_share() -> None:
    """Exporters merge equal parameters and give them other names by Identity."""
    branch = "gg = Identity(g) oo = Identity(o) z = LayerNormalization <epsilon = EPS> (a, gg, t) b = MatMul(z, u) "
    branch += "r = Tanh(b) d0 = MatMul(r, w) d1 = Add(d0, oo) kk = Identity(k) d = Mul(d1, kk) e = Add(a, d)"
    model = network("layer", branch=branch)
    assert deviation(model, widen(model, widths={"a0": 30})) < 1e-10


def test_new_channels_that_are_multiplied_with_one_another_would_be_zero_for_ever() -> None:
    """As queries and keys are, where both are normalised by the head."""
    text = """(float[2, 3, 4] x) => (float[2, 3, 3] y) <float[4, 6] q, float[4, 6] k, float[6] s> {
        qx = MatMul(x, q) [qn] qn = RMSNormalization(qx, s) kx = MatMul(x, k) kn = RMSNormalization(kx, s)
        kt = Transpose <perm=[0, 2, 1]> (kn) [scores] y = MatMul(qn, kt) }"""
    model = build(text, opset=23)
    (growth,) = plan_widen(model, kind="head_dim").axes
    assert (growth.scheme, growth.because) == (
        "split",
        "MatMul 'scores' multiplies new channels that are zero with one another, so that neither would ever learn",
    )
    with pytest.raises(NothingToGrowError, match="neither would ever learn"):
        plan_widen(model, kind="head_dim", factor=1.5)


def test_channels_that_a_lookup_picks_refuse() -> None:
    """Copies of positions picked are no mean of what is picked, though the positions themselves have no such channels."""
    body = "p = Gather <axis=-1> (x, at) n = LayerNormalization (p, g, t) y = MatMul(n, h)"
    model = build(
        f"(double[2, 4] x) => (double[2, 3] y) <int64[6] at, double[6] g, double[6] t, double[6, 3] h> {{ {body} }}",
        at=np.array([3, 1, 0, 2, 2, 1]),
    )
    with pytest.raises(NothingToGrowError, match="Gather 'p' picks what each of its channels is"):
        widen(model, factor=1.5)
    assert deviation(model, widen(model, factor=2)) < 1e-9


@pytest.mark.parametrize(
    ("body", "why"),
    [
        ("b = Cast<to=7>(a) e = Cast<to=11>(b) z = LayerNormalization(e, g)", "Cast 'e' is not linear in it"),
        ("b = Cast<to=7>(g) e = Cast<to=11>(b) z = LayerNormalization(a, e)", "has no constant scale"),
        ("e = Pow(a, t) z = RMSNormalization(e, g)", "Pow 'e' is not linear in it"),
        (
            """b = Transpose<perm=[0, 2, 1]>(a) c = Unsqueeze(b, last) d = MatMul(c, s) e = Transpose<perm=[0, 2, 3, 1]>(d)
            z = LayerNormalization(e, g)""",
            "MatMul 'd' is not linear in it",
        ),
    ],
)
def test_what_only_looks_linear_refuses(body: str, why: str) -> None:
    """Rounding to integers, the power zero of zero, and products of channel by channel."""
    weights = "double[4, 6] v, double[6] g, double t, double[6, 1, 5] s, int64[1] last, double[6, 3] h"
    model = build(
        f"(double[2, 3, 4] x) => (y) <{weights}> {{ a = MatMul(x, v) {body} y = MatMul(z, h) }}",
        opset=23,
        g=np.array([1.5, -2.25, 3.5, 1.0, 2.75, -1.25]),
        t=np.array(0.0),
        last=np.array([3]),
    )
    with pytest.raises(NothingToGrowError, match=why):
        widen(model, factor=1.5)
    assert deviation(model, widen(model, factor=2, scheme="copy")) < 1e-9


@pytest.mark.parametrize(
    "body",
    [
        "z = com.microsoft.FastGelu(n, g)",
        "b = com.microsoft.FastGelu(a, g) z = SimplifiedLayerNormalization(b, g)",
        "z = Sign(n)",
        "b = Cast<to=9>(n) z = Cast<to=1>(b)",
        "b, c = Dropout(n) d = Cast<to=1>(c) z = Add(b, d)",
    ],
)
def test_padded_channels_of_a_norm_that_do_not_stay_zero_are_not_heard_of(body: str) -> None:
    """Behind a bias, or a step, which does not forgive what rounding leaves of zero, and in a mask."""
    model = build(
        f"""(float[2, 3, 4] x) => (y) <float[4, 20] v, float[20] g, float[20] t, float[20, 3] h> {{
            a = MatMul(x, v) n = LayerNormalization(a, t) {body} y = MatMul(z, h) }}""",
        opset=17,
    )
    for factor in (2, 3):
        assert deviation(model, widen(model, factor=factor)) < 1e-5


def test_a_weight_that_makes_the_channels_and_transposed_reads_them() -> None:
    """What is normalised is mixed from the columns; the rows of the transpose leave the new channels out."""
    body = """a = MatMul(x, v) q = MatMul(a, w) n = LayerNormalization(q, g) t = Transpose(w) r = MatMul(a, t) e = Add(n, r)
        y = MatMul(e, h)"""
    weights = "double[4, 6] v, double[6, 6] w, double[6] g, double[6, 3] h"
    model = build(f"(double[2, 3, 4] x) => (double[2, 3, 3] y) <{weights}> {{ {body} }}")
    assert deviation(model, widen(model, factor=1.5)) < 1e-9

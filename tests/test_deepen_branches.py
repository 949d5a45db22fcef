"""New layers with an activation of their own: they fit behind any layer, compute nothing at first, and can learn."""

from __future__ import annotations

import numpy as np
import pytest
from deepening import assert_connected, assert_identical
from graphs import build, feeds, operators, run
from onnx.reference import ReferenceEvaluator

from onnx_grow.errors import InvalidRequestError, NothingToGrowError
from onnx_grow.growth.deepen_plan import DeepenPlan, NewBranchLayer, ParametricLayer
from onnx_grow.growth.deepening import apply_deepen, deepen, plan_deepen
from onnx_grow.growth.initial import Drawn
from onnx_grow.model import Draft, Inline, Model, load

IMAGE = "(float[N, 3, 8, 7] x) => (float[N, C, H, W] y)"
ROWS = "(float[N, 5] x) => (float[N, K] y)"
ACTIVE = {
    "sigmoid": ("b = Sigmoid(a)", "Sigmoid"),
    "tanh": ("b = Tanh(a)", "Tanh"),
    "leaky": ("b = LeakyRelu <alpha = 0.2> (a)", "LeakyRelu"),
    "swish in pieces": ("s = Sigmoid(a) b = Mul(s, a)", "Sigmoid+Mul"),
    "gelu in pieces": (
        "d = Div(a, root) e = Erf(d) f = Add(e, one) g = Mul(a, f) b = Mul(g, half)",
        "Div+Erf+Add+Mul",
    ),
    "gelu by a power": (
        "p = Pow(a, three) c = Mul(p, half) d = Add(a, c) t = Tanh(d) f = Add(t, one) b = Mul(a, f)",
        "Pow+Mul+Add+Tanh",
    ),
    "a slope per channel": ("b = PRelu(a, slope)", "PRelu"),
    "with a bias": ("b = com.microsoft.FastGelu(a, slope)", "com.microsoft.FastGelu"),
    "softsign in pieces": ("c = Abs(a) d = Add(one, c) b = Div(a, d)", "Abs+Add+Div"),
}
SCALARS = "float one = {1}, float half = {0.5}, float three = {3}, float root = {1.4142135}"


def curved(body: str, channels: int = 6) -> Model:
    """Two matrices with an activation between them."""
    return build(
        f"{ROWS} <float[5, {channels}] v, float[{channels}, 4] w, float[{channels}] slope, {SCALARS}> "
        f"{{ [one] a = MatMul(x, v) {body} [two] y = MatMul(b, w) }}"
    )


@pytest.mark.parametrize("name", ACTIVE)
@pytest.mark.parametrize("scheme", ["residual-new", "parametric", None])
def test_any_activation_takes_a_layer_that_computes_nothing_at_first(name: str, scheme: str | None) -> None:
    model = curved(ACTIVE[name][0])
    plan = plan_deepen(model, scheme=scheme, every=1)  # type: ignore[arg-type]
    (layer,) = plan.layers
    assert layer.scheme == (scheme or "residual-new")
    assert isinstance(layer, NewBranchLayer | ParametricLayer)
    assert layer.function.operator == ACTIVE[name][1]
    deep = apply_deepen(model, plan)
    assert_identical(model, deep)
    assert_connected(model, deep)
    assert deep.parameters - model.parameters == layer.parameters


PLACES = {
    "convolution": (
        f"{IMAGE} <float[4, 3, 3, 3] w, float[2, 4, 1, 1] u> "
        "{ [one] a = Conv <pads = [1, 1, 1, 1]> (x, w) b = Sigmoid(a) y = Conv(b, u) }",
        "Conv Sigmoid Conv Sigmoid Conv Add Conv",
    ),
    "an even kernel with a stride": (
        f"{IMAGE} <float[4, 3, 2, 4] w, float[2, 4, 1, 1] u> "
        "{ [one] a = Conv <strides = [2, 2]> (x, w) b = Tanh(a) y = Conv(b, u) }",
        "Conv Tanh Conv Tanh Conv Add Conv",
    ),
    "depthwise": (
        f"{IMAGE} <float[3, 1, 3, 3] w, float[2, 3, 1, 1] u> {{ [one] a = Conv <group = 3> (x, w) b = Tanh(a) y = Conv(b, u) }}",
        "Conv Tanh Conv Tanh Conv Add Conv",
    ),
    "transposed convolution": (
        f"{IMAGE} <float[3, 4, 2, 2] w, float[2, 4, 1, 1] u> "
        "{ [one] a = ConvTranspose <strides = [2, 2]> (x, w) b = Elu(a) y = Conv(b, u) }",
        "ConvTranspose Elu Conv Elu Conv Add Conv",
    ),
    "batch normalization": (
        f"{IMAGE} <float[4, 3, 3, 3] w, float[4] s, float[4] c, float[4] m, float[4] positive, float[2, 4, 1, 1] u> "
        "{ [one] a = Conv(x, w) d = BatchNormalization(a, s, c, m, positive) b = LeakyRelu(d) y = Conv(b, u) }",
        "Conv BatchNormalization LeakyRelu Conv LeakyRelu Conv Add Conv",
    ),
    "a norm of groups in pieces": (
        f"{IMAGE} <float[4, 3, 3, 3] w, float[2] s, float[2] c, int64[3] halves = {{0, 2, -1}}, float[4, 1, 1] scale, float[2, 4, 1, 1] u> "
        "{ [one] a = Conv(x, w) n = Shape(a) r = Reshape(a, halves) i = InstanceNormalization(r, s, c) d = Reshape(i, n) "
        "e = Mul(d, scale) b = Tanh(e) y = Conv(b, u) }",
        "Conv Shape Reshape InstanceNormalization Reshape Mul Tanh Conv Tanh Conv Add Conv",
    ),
    "channels moved to the end behind a convolution": (
        f"{IMAGE} <float[4, 3, 3, 3] w, float[4, 2] u> "
        "{ [one] a = Conv(x, w) t = Transpose <perm = [0, 2, 3, 1]> (a) b = Sigmoid(t) y = MatMul(b, u) }",
        "Conv Transpose Sigmoid Transpose Conv Sigmoid Conv Transpose Add MatMul",
    ),
    "channels moved away behind a matrix": (
        "(float[N, 4, 5] x) => (float[N, 2, H, W] y) <float[5, 6] w, int64[1] axis = {3}, float[2, 6, 1, 1] u> "
        "{ [one] a = MatMul(x, w) t = Transpose <perm = [0, 2, 1]> (a) q = Unsqueeze(t, axis) b = Sigmoid(q) y = Conv(b, u) }",
        "MatMul Transpose Unsqueeze Sigmoid Squeeze Transpose MatMul Add Sigmoid MatMul Add Transpose Unsqueeze Add Conv",
    ),
    "a weight on the left": (
        "(float[N, 5, 3] x) => (float[N, H, W] y) <float[6, 5] w, float[2, 6] u> "
        "{ [one] a = MatMul(w, x) b = Sigmoid(a) y = MatMul(u, b) }",
        "MatMul Sigmoid MatMul Add Sigmoid MatMul Add Add MatMul",
    ),
    "gemm": (
        f"{ROWS} <float[6, 5] v, float[6] c, float[6, 4] w> {{ [one] a = Gemm <transB = 1> (x, v, c) b = Tanh(a) y = Gemm(b, w) }}",
        "Gemm Tanh Gemm Tanh Gemm Add Gemm",
    ),
    "a matrix for every expert": (
        "(float[N, 3, 2, 5] x) => (float[N, A, B, C] y) <float[3, 5, 6] v, float[6, 4] w> "
        "{ [one] a = MatMul(x, v) b = Tanh(a) y = MatMul(b, w) }",
        "MatMul Tanh MatMul Add Tanh MatMul Add Add MatMul",
    ),
    "einsum": (
        "(float[N, 3, 5] x) => (float[N, A, B] y) <float[5, 6] v, float[6, 4] w> "
        '{ [one] a = Einsum <equation = "btc, ck -> btk"> (x, v) b = Tanh(a) y = MatMul(b, w) }',
        "Einsum Tanh MatMul Add Tanh MatMul Add Add MatMul",
    ),
    "a recurrent layer's sequence": (
        "(float[7, N, 5] x) => (float[A, B, C, D] y) <float[2, 16, 5] v, float[2, 16, 4] r, float[4, 3] w> "
        '{ [one] a = LSTM <hidden_size = 4, direction = "bidirectional"> (x, v, r) y = MatMul(a, w) }',
        "LSTM MatMul Add Tanh MatMul Add Add MatMul",
    ),
    "a recurrent layer's sequence, squeezed": (
        "(float[7, N, 5] x) => (float[A, B, C] y) <float[1, 12, 5] v, float[1, 12, 4] r, int64[1] axis = {1}, float[4, 3] w> "
        "{ [one] s = GRU <hidden_size = 4> (x, v, r) t = Squeeze(s, axis) a = Transpose <perm = [1, 0, 2]> (t) y = MatMul(a, w) }",
        "GRU Squeeze Transpose MatMul Add Tanh MatMul Add Add MatMul",
    ),
    "a recurrent layer's last state, the model's output": (
        "(float[7, N, 5] x) => (float[A, B, C] y) <float[1, 4, 5] v, float[1, 4, 4] r> { [one] s, y = RNN <hidden_size = 4> (x, v, r) }",
        "RNN MatMul Add Tanh MatMul Add Add",
    ),
    "fused with its activation": (
        f"{IMAGE} <float[4, 3, 3, 3] w, float[4] c, float[2, 4, 1, 1] u> "
        '{ [one] b = com.microsoft.FusedConv <activation = "Sigmoid"> (x, w, c) y = Conv(b, u) }',
        "FusedConv Conv Sigmoid Conv Add Conv",
    ),
    "gemm fused with its activation": (
        f"{ROWS} <float[5, 6] v, float[6] c, float[6, 4] w> "
        '{ [one] b = com.microsoft.FusedGemm <activation = "Tanh"> (x, v, c) y = Gemm(b, w) }',
        "FusedGemm MatMul Add Tanh MatMul Add Add Gemm",
    ),
}


@pytest.mark.parametrize("name", PLACES)
def test_places(name: str) -> None:
    text, wanted = PLACES[name]
    model = build(text)
    deep = deepen(model, scheme="residual-new", every=1)
    assert operators(deep) == wanted.split()
    assert_identical(model, deep)
    assert_connected(model, deep)
    assert_identical(model, deepen(model, scheme="residual-new", every=1, expansion=2))
    assert [layer.scheme for layer in plan_deepen(model).layers] == ["residual-new"]


def test_channels_are_those_that_the_layer_writes() -> None:
    channels = {"einsum": 6, "a weight on the left": 6, "a recurrent layer's sequence": 4}
    for name, wanted in channels.items():
        (layer,) = plan_deepen(build(PLACES[name][0]), scheme="residual-new").layers
        assert isinstance(layer, NewBranchLayer)
        assert layer.linear.channels == wanted


@pytest.mark.parametrize(
    "name", [name for name in PLACES if "recurrent" not in name and "output" not in name]
)
def test_parametric_places(name: str) -> None:
    model = build(PLACES[name][0])
    deep = deepen(model, scheme="parametric", every=1)
    assert_identical(model, deep)
    assert_connected(model, deep)


def test_relu_fused_into_a_layer_takes_an_identity_layer() -> None:
    model = build(
        f"{IMAGE} <float[4, 3, 3, 3] w, float[4] c, float[2, 4, 1, 1] u> {{ b = com.microsoft.FusedConv "
        '<activation = "Clip", activation_params = [0.0, 6.0]> (x, w, c) y = com.microsoft.FusedConv <activation = "Relu"> (b, u) }'
    )
    deep = deepen(model, scheme="identity", every=1)
    assert operators(deep) == [
        "FusedConv",
        "Conv",
        "Constant",
        "Max",
        "Constant",
        "Min",
        "FusedConv",
        "Conv",
        "Relu",
    ]
    assert_identical(model, deep)
    assert_connected(model, deep)


def test_a_branch_learns_while_one_that_is_all_zero_could_not() -> None:
    deep = deepen(curved("b = Tanh(a)"), scheme="residual-new")
    hidden = next(weight for name, weight in deep.weights.items() if name.endswith("hidden.weight"))
    output = next(weight for name, weight in deep.weights.items() if name.endswith("output.weight"))
    assert hidden.array().all()
    assert not output.array().any()


def test_slopes_per_channel_become_their_mean() -> None:
    deep = deepen(curved("b = PRelu(a, slope)"), scheme="residual-new", expansion=2)
    (name,) = (name for name in deep.weights if name.endswith("activation.parameter"))
    assert deep.weights[name].array() == pytest.approx(deep.weights["slope"].array().mean())
    assert_identical(curved("b = PRelu(a, slope)"), deep)


def test_slopes_stored_in_another_precision_become_a_mean_in_that_of_the_layer() -> None:
    model = build(
        f"{ROWS} <float[5, 6] v, float[6, 4] w, float16[6] stored> "
        "{ a = MatMul(x, v) slope = Cast <to = 1> (stored) b = PRelu(a, slope) y = MatMul(b, w) }"
    )
    assert_identical(model, deepen(model, scheme="residual-new"))


def test_an_activation_that_has_no_value_for_some_numbers_is_not_used_elsewhere() -> None:
    for body in ("c = Mul(a, a) d = Add(c, one) s = Sqrt(d) b = Mul(a, s)", "c = Pow(a, half) b = Mul(a, c)"):
        with pytest.raises(NothingToGrowError, match="feeds no activation"):
            deepen(curved(body), scheme="parametric")


@pytest.mark.parametrize(("body", "variance"), [("b = LeakyRelu(a)", 2 / 400), ("b = Tanh(a)", 2 / 800)])
def test_the_first_weight_keeps_the_variance_of_what_it_reads(body: str, variance: float) -> None:
    model = curved(body, 400)
    deep = deepen(model, scheme="residual-new", seed=3)
    weights = next(weight for name, weight in deep.weights.items() if name.endswith("hidden.weight")).array()
    assert weights.shape == (400, 400)
    assert np.var(weights) == pytest.approx(variance, rel=0.02)
    assert abs(np.mean(weights)) < 1e-3


@pytest.mark.parametrize("gate", [0.0, 0.25, 2.0])
def test_a_gate_that_has_moved_mixes_the_layer_in(gate: float) -> None:
    model = build(
        f"{ROWS} <float[5, 4] v, float[4, 3] w> {{ a = MatMul(x, v) b = Sigmoid(a) y = MatMul(b, w) }}"
    )
    deep = deepen(model, scheme="parametric")
    draft = Draft(deep)
    (kept,) = (name for name in deep.weights if name.endswith("/kept"))
    draft.weights[kept] = Inline.of(np.full(4, gate, np.float32))
    inputs = feeds(model)
    v, w = (model.weights[name].array() for name in "vw")
    b = 1 / (1 + np.exp(-inputs["x"] @ v))
    wanted = (gate * b + (1 - gate) / (1 + np.exp(-b))) @ w
    np.testing.assert_allclose(run(draft.freeze(), inputs)[0], wanted, rtol=1e-4, atol=1e-5)


def test_expansion_counts_hidden_channels_in_whole_groups() -> None:
    model = build(PLACES["depthwise"][0])
    (layer,) = plan_deepen(model, scheme="residual-new", expansion=1.5).layers
    assert isinstance(layer, NewBranchLayer)
    assert layer.hidden == 6
    assert_identical(model, deepen(model, scheme="residual-new", expansion=1.5))
    (layer,) = plan_deepen(curved("b = Tanh(a)"), scheme="residual-new", expansion=0.1).layers
    assert isinstance(layer, NewBranchLayer)
    assert layer.hidden == 1
    with pytest.raises(InvalidRequestError, match="0 times"):
        deepen(model, scheme="residual-new", expansion=0)


def test_seeds_and_places_draw_different_weights_and_plans_the_same() -> None:
    model = build(
        f"{ROWS} <float[5, 6] v, float[6, 6] w, float[6, 6] u> "
        "{ a = MatMul(x, v) b = Tanh(a) c = MatMul(b, w) d = Tanh(c) y = MatMul(d, u) }"
    )
    plan = plan_deepen(model, every=1, seed=1)
    assert DeepenPlan.from_json(plan.to_json()) == plan
    first, again = (apply_deepen(model, entry) for entry in (plan, DeepenPlan.from_json(plan.to_json())))
    assert first.to_proto().SerializeToString() == again.to_proto().SerializeToString()
    other = deepen(model, every=1, seed=2)
    drawn = [
        weight.array().tobytes()
        for deep in (first, other)
        for name, weight in deep.weights.items()
        if name.endswith("hidden.weight")
    ]
    assert len(set(drawn)) == 4


def test_a_drawn_weight_is_the_same_in_pieces() -> None:
    weight = Drawn(1, (5000, 1000), 0.5, (1, 2))
    assert b"".join(weight.chunks()) == weight.array().tobytes()
    assert weight.nbytes == 20_000_000
    assert np.std(weight.array()) == pytest.approx(0.5, rel=1e-3)


LINEAR = {
    "regression": "y = MatMul(x, v)",
    "logistic regression": "a = MatMul(x, v) y = Sigmoid(a)",
    "several classes": "a = Gemm(x, v) y = Softmax(a)",
}


@pytest.mark.parametrize("name", LINEAR)
def test_a_linear_model_is_deepened_only_with_an_activation_that_somebody_asks_for(name: str) -> None:
    model = build(f"{ROWS} <float[5, 6] v> {{ {LINEAR[name]} }}")
    with pytest.raises(NothingToGrowError, match="has no") as raised:
        deepen(model)
    assert "activation Relu" in (raised.value.hint or "")
    with pytest.raises(NothingToGrowError) as raised:
        deepen(build(f"{ROWS} {{ y = Identity(x) }}"), activation="Relu")
    assert not raised.value.hint
    deep = deepen(model, activation="Relu")
    assert operators(deep)[1:5] in (["MatMul", "Add", "Relu", "MatMul"], ["Gemm", "Relu", "Gemm", "Add"])
    assert_identical(model, deep)
    assert_connected(model, deep)
    with pytest.raises(InvalidRequestError, match="no activation 'Softmax'"):
        deepen(model, activation="Softmax")


def test_the_last_activation_stays_last_and_a_gate_a_gate() -> None:
    model = build(
        f"{ROWS} <float[5, 6] v, float[5, 6] g, float[6, 3] w> {{ [one] a = MatMul(x, v) b = Tanh(a) [gate] h = MatMul(x, g) "
        "k = Sigmoid(h) m = Mul(b, k) [last] c = MatMul(m, w) y = Sigmoid(c) }"
    )
    plan = plan_deepen(model, scheme="residual-new", every=1)
    assert [layer.name for layer in plan.layers] == ["one"]
    deep = deepen(model, scheme="residual-new", after=["gate", "last"])
    assert operators(deep)[-1] == "Sigmoid"
    assert_identical(model, deep)


def test_parametric_needs_an_activation_that_changes_its_own_values() -> None:
    model = curved("b = Relu(a)")
    with pytest.raises(NothingToGrowError, match="the gate would get no gradient"):
        deepen(model, scheme="parametric")
    assert_identical(model, deepen(model, scheme="residual-new"))


@pytest.mark.parametrize("scheme", ["residual-new", "parametric"])
@pytest.mark.parametrize("opset", [7, 9, 13, 20])
@pytest.mark.parametrize("dtype", ["float16", "double", "bfloat16"])
def test_types_and_opsets(scheme: str, opset: int, dtype: str) -> None:
    if dtype == "bfloat16" and opset < 13:
        pytest.skip("Tanh takes bfloat16 from opset 13")
    model = build(
        f"({dtype}[N, 5] x) => ({dtype}[N, 4] y) <{dtype}[5, 6] v, {dtype}[6, 4] w> "
        "{ a = MatMul(x, v) b = Tanh(a) y = MatMul(b, w) }",
        opset=opset,
        ir=4 if opset == 7 else 8,
    )
    deep = deepen(model, scheme=scheme)  # type: ignore[arg-type]
    if dtype != "bfloat16":
        assert_identical(model, deep)
        return
    inputs = feeds(model)
    old, new = (ReferenceEvaluator(entry.to_proto()).run(None, inputs)[0] for entry in (model, deep))
    np.testing.assert_array_equal(new, old)


def test_dynamic_quantization_is_deepened_in_floating_point() -> None:
    model = build(
        f"{ROWS} <int8[5, 6] v, float scale = {{0.02}}, float[6] c, float[6, 4] w> "
        "{ q, s, z = DynamicQuantizeLinear(x) [one] i = MatMulInteger(q, v, z) f = Cast <to = 1> (i) t = Mul(s, scale) "
        "m = Mul(f, t) a = Add(m, c) b = Relu(a) y = MatMul(b, w) }",
        v=np.arange(-15, 15, dtype=np.int8).reshape(5, 6),
    )
    plan = plan_deepen(model)
    assert [(layer.name, layer.output, layer.scheme) for layer in plan.layers] == [
        ("one", "b", "residual-new")
    ]
    assert_identical(model, apply_deepen(model, plan))


INTEGERS = """(float[N, 3, 6, 6] x) => (float[N, 4] y)
    <float sx = {0.1}, uint8 zx = {9}, float si = {0.2}, uint8 zi = {0}, float sv = {0.1}, uint8 zv = {2},
    uint8[5, 3, 3, 3] v, uint8[5, 5, 3, 3] u, uint8[5, 4] w, uint8[4, 4] t> {
    q = QuantizeLinear(x, sx, zx)
    [one] i = QLinearConv(q, sx, zx, v, sv, zv, si, zi)
    [two] j = QLinearConv(i, si, zi, u, sv, zv, si, zi)
    d = DequantizeLinear(j, si, zi) g = GlobalAveragePool(d) f = Flatten(g) p = QuantizeLinear(f, sx, zx)
    [three] k = QLinearMatMul(p, sx, zx, w, sv, zv, sx, zx)
    [four] l = QLinearMatMul(k, sx, zx, t, sv, zv, sx, zx)
    y = DequantizeLinear(l, sx, zx)
}"""


@pytest.mark.parametrize("opset", [10, 13, 21])
def test_layers_of_integers_get_branches_of_floating_point_numbers(opset: int) -> None:
    rng = np.random.default_rng(0)
    shapes = {"v": (5, 3, 3, 3), "u": (5, 5, 3, 3), "w": (5, 4), "t": (4, 4)}
    weights = {name: rng.integers(0, 6, shape).astype(np.uint8) for name, shape in shapes.items()}
    model = build(INTEGERS, opset=opset, **weights)
    plan = plan_deepen(model, every=1)
    assert [layer.name for layer in plan.layers] == ["one", "two", "three"]
    assert {layer.scheme for layer in plan.layers} == {"residual-new"}
    deep = apply_deepen(model, DeepenPlan.from_json(plan.to_json()))
    assert_identical(model, deep)
    draft = Draft(deep)
    for name in [name for name in deep.weights if name.endswith("output.weight")]:
        draft.weights[name] = Inline.of(np.ones(deep.weights[name].shape, np.float32))
    assert not np.array_equal(run(model, feeds(model))[0], run(draft.freeze(), feeds(model))[0])


def test_integers_are_refused_with_the_reason() -> None:
    model = build(
        "(float[N, 5] x, float s) => (float[N, 6] y) <float sx = {0.1}, uint8 zx = {9}, uint8[5, 6] v, float sv = {0.1}, uint8 zv = {2}> "
        "{ q = QuantizeLinear(x, sx, zx) [one] i = QLinearMatMul(q, sx, zx, v, sv, zv, s, zx) y = DequantizeLinear(i, s, zx) }",
        v=np.ones((5, 6), np.uint8),
    )
    with pytest.raises(NothingToGrowError, match="one: QLinearMatMul does not compute in floating point"):
        deepen(model)


def test_a_product_with_a_vector_leaves_no_channels_behind_which_a_layer_fits() -> None:
    model = build("(float[N, 5] x) => (float[N] y) <float[5] v> { a = MatMul(x, v) y = Relu(a) }")
    with pytest.raises(NothingToGrowError, match="no dimension of its own"):
        deepen(model)


def test_deepening_again_and_a_plan_for_another_model() -> None:
    model = curved("b = Tanh(a)")
    deep = model
    for _ in range(3):
        deep = deepen(deep, every=1)
    assert_identical(model, deep)
    with pytest.raises(InvalidRequestError, match="does not fit this model"):
        apply_deepen(build(f"{ROWS} <float[5, 6] v> {{ y = MatMul(x, v) }}"), plan_deepen(model))


def test_a_plan_says_which_scheme_was_taken_and_why() -> None:
    model = build(
        f"{ROWS} <float[5, 6] v, float[6, 6] u, float[6, 6] w> "
        "{ a = MatMul(x, v) b = Relu(a) c = MatMul(b, u) d = Tanh(c) y = MatMul(d, w) }"
    )
    plan = plan_deepen(model, every=1)
    assert [layer.scheme for layer in plan.layers] == ["identity", "residual-new"]
    assert any(note.startswith("identity:") for note in plan.notes)
    assert any(note.startswith("residual-new:") for note in plan.notes)
    assert not plan_deepen(model, every=1, scheme="residual-new").notes


def test_what_lies_in_other_control_flow_is_named() -> None:
    model = load(
        build(
            "(seq(float[N, 5]) s) => (seq(float[N, 5]) y) <float[5, 5] w> { [choice] y = SequenceMap (s) "
            "<body = g (float[N, 5] x) => (float[N, 5] t) { a = MatMul(x, w) t = Tanh(a) }> }"
        ).to_proto()
    )
    with pytest.raises(NothingToGrowError, match="'choice'"):
        deepen(model)


INDIRECT = {
    "maxout": "c = Reshape(a, pairs) d = ReduceMax <axes = [2], keepdims = 0> (c) y = MatMul(d, w)",
    "a softmax between layers": "c = Softmax(a) d = Slice(c, zero, three, last) y = MatMul(d, w)",
}


@pytest.mark.parametrize("name", INDIRECT)
def test_networks_without_a_usable_activation_get_relu_between_their_layers(name: str) -> None:
    model = build(
        f"{ROWS} <float[5, 6] v, float[3, 4] w, int64[3] pairs = {{-1, 3, 2}}, int64[1] zero = {{0}}, int64[1] three = {{3}}, "
        f"int64[1] last = {{1}}> {{ [one] a = MatMul(x, v) {INDIRECT[name]} }}"
    )
    (layer,) = plan_deepen(model).layers
    assert isinstance(layer, NewBranchLayer)
    assert (layer.name, layer.function.operator) == ("one", "Relu")
    assert_identical(model, deepen(model))


def test_layers_behind_matrices_times_a_vector() -> None:
    model = build(
        "(float[5] x) => (float[4] y) <float[6, 5] v, float[6] c, float[4, 6] w> "
        "{ a = MatMul(v, x) s = Add(a, c) b = Relu(s) y = MatMul(w, b) }"
    )
    for scheme in ("identity", "residual-new"):
        deep = deepen(model, scheme=scheme)  # type: ignore[arg-type]
        assert deep.parameters > model.parameters
        assert_identical(model, deep)


def test_activations_before_layers_make_a_model_no_linear_one() -> None:
    model = build(
        "(float[N, 3, 6, 6] x) => (float[N, 7, 6, 6] y) <float[3] s, float[4, 3, 3, 3] w> "
        "{ n = BatchNormalization(x, s, s, s, s) a = Relu(n) [conv] c = Conv<pads = [1, 1, 1, 1]>(a, w) y = Concat<axis = 1>(x, c) }",
        s=np.arange(1, 4, dtype=np.float32),
    )
    plan = plan_deepen(model)
    assert [(layer.name, layer.scheme) for layer in plan.layers] == [("conv", "residual-new")]
    assert_identical(model, apply_deepen(model, plan))

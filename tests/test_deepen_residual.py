"""Copies of residual branches: found without architecture knowledge, zero at first, independent of the original."""

from __future__ import annotations

import numpy as np
import pytest
from deepening import assert_connected, assert_identical
from graphs import build, feeds, operators, run

from onnx_grow.errors import NothingToGrowError
from onnx_grow.growth.dataflow import Dataflow
from onnx_grow.growth.deepen_plan import ResidualLayer
from onnx_grow.growth.deepening import deepen, plan_deepen
from onnx_grow.growth.skips import Refused, Skip, find_skips, layers
from onnx_grow.model import Draft, Inline, Model
from onnx_grow.shapes import infer

IMAGE = "(float[N, 4, 8, 7] x) => (float[N, 4, H, W] y)"
KERNELS = "float[4, 4, 3, 3] w1, float[4, 4, 3, 3] w2"
ROWS = "(float[N, 6] x) => (float[N, 6] y)"
NORM = "float[4] s, float[4] b, float[4] m, float[4] positive"

BLOCKS = {
    "resnet, folded": (
        f"{IMAGE} <{KERNELS}> {{ a = Conv <pads = [1, 1, 1, 1]> (x, w1) c = Relu(a) d = Conv <pads = [1, 1, "
        f"1, 1]> (c, w2) "
        "e = Add(d, x) y = Relu(e) }",
        "w2",
    ),
    "resnet": (
        f"{IMAGE} <float[4, 4, 3, 3] w1, {NORM}> {{ a = Conv <pads = [1, 1, 1, 1]> (x, w1) "
        "c = BatchNormalization(a, s, b, m, positive) e = Add(x, c) y = Relu(e) }",
        "b s",
    ),
    "before the activation": (
        f"{IMAGE} <{NORM}, float[4, 4, 1, 1] w> {{ a = BatchNormalization(x, s, b, m, positive) c = Relu(a) d "
        f"= Conv(c, w) y = Add(d, x) }}",
        "w",
    ),
    "relu6 behind an identity": (
        f"{IMAGE} <float[4, 4, 1, 1] w, float low = {{0}}, float high = {{6}}> "
        "{ a = Conv(x, w) e = Add(x, a) i = Identity(e) y = Clip(i, low, high) }",
        "w",
    ),
    "an activation that is not idempotent behind the sum": (
        f"{ROWS} <float[6, 6] v, float[6, 6] w> {{ p = MatMul(x, v) s = LeakyRelu(p) a = MatMul(s, w) e = "
        f"Add(s, a) y = LeakyRelu(e) }}",
        "w",
    ),
    "squeeze and excitation": (
        f"{IMAGE} <{KERNELS}, float[4, 4, 1, 1] v> {{ a = Conv <pads = [1, 1, 1, 1]> (x, w1) g = "
        f"GlobalAveragePool(a) h = Conv(g, v) "
        "k = Sigmoid(h) m = Mul(k, a) y = Add(x, m) }",
        "w1",
    ),
    "gelu and layer scale": (
        f"{ROWS} <float[6, 9] w1, float[9] b1, float[9, 6] w2, float[6] b2, float[6] gamma, float root = "
        f"{{1.4142135}}, float one = {{1}}> "
        "{ a = MatMul(x, w1) c = Add(a, b1) d = Div(c, root) e = Erf(d) f = Add(e, one) g = Mul(c, f) h = "
        "MatMul(g, w2) i = Add(b2, h) "
        "k = Mul(gamma, i) y = Add(x, k) }",
        "b2 w2",
    ),
    "the branch ends in a smooth activation": (
        f"{ROWS} <float[6, 6] w, float[6] b> {{ a = Gemm(x, w, b) c = Sigmoid(a) d = Mul(c, a) y = Add(x, d) }}",
        "b w",
    ),
    "the branch ends in gelu": (
        f"{ROWS} <float[6, 6] w, float root = {{1.4142135}}, float one = {{1}}> "
        "{ a = MatMul(x, w) d = Div(a, root) e = Erf(d) f = Add(one, e) g = Mul(f, a) y = Add(x, g) }",
        "w",
    ),
    "the branch ends in a rectifier": (
        f"{ROWS} <float[6, 6] w> {{ a = Gemm(x, w) c = Relu(a) y = Add(x, c) }}",
        "",
    ),
    "the branch ends in a norm": (
        f"{ROWS} <float[6, 6] w, float[6] s, float[6] b> {{ a = Gemm(x, w) c = LayerNormalization(a, s, b) y "
        f"= Add(x, c) }}",
        "b s",
    ),
    "the branch ends in a norm in pieces": (
        f"{ROWS} <float[6, 6] w, float[6] s, float[6] b, float eps = {{0.001}}> "
        "{ a = MatMul(x, w) m = ReduceMean <axes = [1]> (a) c = Sub(a, m) q = Mul(c, c) v = ReduceMean <axes "
        "= [1]> (q) "
        "u = Add(v, eps) r = Sqrt(u) n = Div(c, r) p = Mul(n, s) t = Add(p, b) y = Add(x, t) }",
        "b s",
    ),
    "two paths that are joined": (
        f"{IMAGE} <float[2, 4, 1, 1] w1, float[2, 4, 3, 3] w2> "
        "{ a = Conv(x, w1) c = Conv <pads = [1, 1, 1, 1]> (x, w2) d = Concat <axis = 1> (a, c) y = Add(d, x) }",
        "w1 w2",
    ),
    "two paths that are added": (
        f"{IMAGE} <float[4, 4, 1, 1] w1, float[4, 4, 3, 3] w2> "
        "{ a = Conv(x, w1) c = Conv <pads = [1, 1, 1, 1]> (x, w2) d = Add(a, c) y = Add(x, d) }",
        "w1 w2",
    ),
    "subtracted": (f"{ROWS} <float[6, 6] w> {{ a = MatMul(x, w) y = Sub(x, a) }}", "w"),
    "summed": (f"{ROWS} <float[6, 6] w> {{ a = MatMul(x, w) y = Sum(a, x) }}", "w"),
    "skipped through nodes that do nothing": (
        f"{ROWS} <float[6, 6] w> {{ i = Identity(x) d = Dropout(i) a = MatMul(x, w) y = Add(d, a) }}",
        "w",
    ),
    "weights behind a transpose": (
        f"{ROWS} <float[6, 6] w> {{ t = Transpose(w) a = MatMul(x, t) c = Tanh(a) y = Add(x, c) }}",
        "w",
    ),
    "one weight used twice": (
        f"{ROWS} <float[6, 6] w> {{ a = MatMul(x, w) c = Tanh(a) u = Transpose(w) d = MatMul(c, u) y = Add(x, d) }}",
        "",
    ),
    "a kernel that depends on the input": (
        "(float[1, 4, 8, 7] x) => (float[1, 4, H, W] y) <float[16, 4, 1, 1] w, float[4] b, "
        "int64[4] kernel = {4, 4, 1, 1}> "
        "{ g = GlobalAveragePool(x) k = Conv(g, w) v = Reshape(k, kernel) a = Conv(x, v, b) y = Add(x, a) }",
        "",
    ),
    "a product of two activations": (
        "(float[N, 4, 6] x) => (float[N, 4, 6] y) <float[6, 6] q, float[6, 6] v> "
        "{ a = MatMul(x, q) t = Transpose <perm = [0, 2, 1]> (a) c = MatMul(a, t) p = Softmax(c) d = MatMul(x, v) "
        "e = MatMul(p, d) y = Add(x, e) }",
        "v",
    ),
    "padded and split": (
        f"{IMAGE} <float[8, 4, 3, 3] w, int64[8] pads = {{0, 0, 1, 1, 0, 0, 1, 1}}, int64[2] parts = {{4, 4}}> "
        "{ a = Conv(x, w) p = Pad(a, pads) c, d = Split <axis = 1> (p, parts) y = Add(x, d) }",
        "w",
    ),
    "quantised weights": (
        f"{ROWS} <int8[6, 6] w = {{{', '.join(str(n * n % 13 - 6) for n in range(36))}}}, float scale = {{0.1}}, "
        "int8 zero = {0}> { d = DequantizeLinear(w, scale, zero) a = MatMul(x, d) y = Add(x, a) }",
        "",
    ),
    "standardised weights": (
        f"{IMAGE} <float[4, 4, 3, 3] w> {{ m = ReduceMean <axes = [1, 2, 3]> (w) n = Sub(w, m) "
        "a = Conv <pads = [1, 1, 1, 1]> (x, n) y = Add(x, a) }",
        "",
    ),
    "attention": (
        "(float[N, 5, 6] x) => (float[N, 5, 6] y) <float[6, 6] q, float[6, 6] k, float[6, 6] v, float[6, 6] "
        "o, int64[4] heads = {0, 0, 2, 3}, "
        "int64[3] joined = {0, 0, 6}> { a = MatMul(x, q) b = MatMul(x, k) c = MatMul(x, v) "
        "ah = Reshape(a, heads) bh = Reshape(b, heads) ch = Reshape(c, heads) at = Transpose <perm = [0, 2, "
        "1, 3]> (ah) "
        "bt = Transpose <perm = [0, 2, 3, 1]> (bh) ct = Transpose <perm = [0, 2, 1, 3]> (ch) d = MatMul(at, "
        "bt) e = Softmax(d) "
        "f = MatMul(e, ct) g = Transpose <perm = [0, 2, 1, 3]> (f) h = Reshape(g, joined) i = MatMul(h, o) y "
        "= Add(x, i) }",
        "o",
    ),
    "switched off by a single number in a Constant node": (
        f"{ROWS} <float[6, 6] w> {{ off = Constant <value = float[1] {{0}}> () a = MatMul(x, w) "
        "b = Mul(a, off) y = Add(x, b) }",
        "off",
    ),
    "context from elsewhere": (
        "(float[N, 6] x, float[N, 6] mask) => (float[N, 6] y) <float[6, 6] w1, float[6, 6] w2> "
        "{ a = MatMul(x, w1) c = Mul(a, mask) d = MatMul(c, w2) y = Add(x, d) }",
        "w2",
    ),
    "double precision": (
        "(double[N, 6] x) => (double[N, 6] y) <double[6, 6] w> { a = MatMul(x, w) y = Add(x, a) }",
        "w",
    ),
    "half precision": (
        "(float16[N, 6] x) => (float16[N, 6] y) <float16[6, 6] w> { a = MatMul(x, w) y = Add(x, a) }",
        "w",
    ),
}


@pytest.mark.parametrize("name", BLOCKS)
def test_a_copy_changes_nothing_and_every_new_weight_can_learn(name: str) -> None:
    text, zeroed = BLOCKS[name]
    model = build(text)
    plan = plan_deepen(model, scheme="residual-copy")
    (layer,) = plan.layers
    assert isinstance(layer, ResidualLayer)
    assert " ".join(layer.branches[0].zeroed) == zeroed
    deep = deepen(model, scheme="residual-copy")
    assert layer.parameters == deep.parameters - model.parameters > 0
    assert_identical(model, deep)
    assert_connected(model, deep)
    deeper = deepen(deep, scheme="residual-copy")
    assert_identical(model, deeper)
    assert_connected(deep, deeper)


def test_the_copy_holds_the_weights_of_the_branch_except_what_makes_it_zero() -> None:
    model = build(BLOCKS["resnet, folded"][0])
    deep = deepen(model)
    first, last = (deep.weights[name].array() for name in deep.weights if name not in model.weights)
    assert (first == model.weights["w1"].array()).all()
    assert last.shape == model.weights["w2"].shape
    assert not last.any()
    assert operators(deep) == ["Conv", "Relu", "Conv", "Add", "Relu", "Conv", "Relu", "Conv", "Add", "Relu"]


def test_the_copy_reads_the_layers_output_and_not_its_input() -> None:
    model = build(BLOCKS["resnet, folded"][0])
    nodes = deepen(model).skeleton.graph.node
    assert nodes[5].input[0] == nodes[4].output[0]
    assert nodes[4].output[0] in nodes[8].input


def test_integers_are_shared_and_floats_are_not() -> None:
    deep = deepen(build(BLOCKS["attention"][0]))
    assert sum(weight.dtype == 7 for weight in deep.weights.values()) == 2
    assert sum(weight.dtype == 1 for weight in deep.weights.values()) == 8


POST_NORM = (
    "(float[N, 6] x) => (float[N, 3] y) <float[6, 6] w1, float[6] s1, float[6] b1, float[6, 9] v2, "
    "float[9, 6] w2, float[6] s2, float[6] b2, "
    "float[6, 6] w3, float[6] s3, float[6] b3, float[6, 9] v4, float[9, 6] w4, float[6] s4, float[6] b4, "
    "float[6, 3] head> "
    "{ a1 = MatMul(x, w1) c1 = Add(x, a1) n1 = LayerNormalization(c1, s1, b1) "
    "a2 = MatMul(n1, v2) g2 = Tanh(a2) f2 = MatMul(g2, w2) c2 = Add(n1, f2) n2 = LayerNormalization(c2, s2, b2) "
    "a3 = MatMul(n2, w3) c3 = Add(n2, a3) n3 = LayerNormalization(c3, s3, b3) "
    "a4 = MatMul(n3, v4) g4 = Tanh(a4) f4 = MatMul(g4, w4) c4 = Add(n3, f4) n4 = LayerNormalization(c4, "
    "s4, b4) y = MatMul(n4, head) }"
)


def test_two_kinds_of_branches_in_turn_are_one_layer_and_a_norm_behind_the_sum_is_copied() -> None:
    model = build(POST_NORM)
    plan = plan_deepen(model)
    (layer,) = plan.layers
    assert isinstance(layer, ResidualLayer)
    assert [branch.total for branch in layer.branches] == ["c3", "c4"]
    assert layer.inside
    deep = deepen(model)
    copies = operators(deep)[16:-1]
    assert copies == [
        "MatMul",
        "Add",
        "LayerNormalization",
        "MatMul",
        "Tanh",
        "MatMul",
        "Add",
        "LayerNormalization",
    ]
    assert_identical(model, deep)
    assert_connected(model, deep)
    assert_identical(model, deepen(model, every=1))


def found(text: str) -> list[Skip | Refused]:
    model = build(text)
    return find_skips(Dataflow(model), infer(model))


def test_a_projection_is_no_skip_connection() -> None:
    text = f"{IMAGE} <float[4, 4, 1, 1] w1, float[4, 4, 1, 1] w2> {{ a = Conv(x, w1) b = Conv(x, w2) y = Add(a, b) }}"
    assert found(text) == []
    with pytest.raises(NothingToGrowError, match="has no skip connection"):
        deepen(build(text), scheme="residual-copy")


def test_branches_without_weights_are_none() -> None:
    assert (
        found(
            f"{ROWS} <float c = {{0.044715}}> {{ a = Mul(x, x) b = Mul(a, x) d = Mul(c, b) y = Add(x, d) }}"
        )
        == []
    )


def test_what_is_subtracted_from_the_branch_is_no_skip_connection() -> None:
    assert found(f"{ROWS} <float[6, 6] w> {{ a = MatMul(x, w) y = Sub(a, x) }}") == []


def test_reading_only_the_shape_is_no_branch() -> None:
    text = f"{ROWS} <float[1, 6] w, float[6, 6] v> {{ s = Shape(x) p = Expand(w, s) q = MatMul(p, v) y = Add(x, q) }}"
    assert found(text) == []


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        ("a = MatMul(x, w) b = RandomNormalLike(a) y = Add(x, b)", "random (RandomNormalLike"),
        ("a = MatMul(x, w) b = Dropout(a, half, on) y = Add(x, b)", "random (Dropout"),
        ("a = MatMul(x, w) b = ReduceMean <axes = [0]> (a) y = Add(x, b)", "another shape"),
        (
            "a = Sigmoid(x) s = ReduceMax(a) b = Div(a, s) c = MatMul(b, w) y = Add(x, c)",
            "divides by what may be zero",
        ),
    ],
)
def test_branches_that_cannot_be_copied_are_refused(body: str, reason: str) -> None:
    (entry,) = found(f"{ROWS} <float[6, 6] w, bool on = {{1}}, float half = {{0.5}}> {{ {body} }}")
    assert isinstance(entry, Refused)
    assert reason in entry.reason


def test_a_sum_fused_with_its_norm_is_refused_where_its_statistics_are_read_and_another_scheme_taken() -> (
    None
):
    model = build(
        "(float[N, 4, 6] x) => (float[N, 4, 6] y, float[N, 4, 1] mean) <float[6, 6] v, float[6, 6] w, float[6] g, float[6] b> "
        "{ [one] a = MatMul(x, v) h = Tanh(a) c = MatMul(h, w) [sum] y, mean = com.microsoft.SkipLayerNormalization(c, x, g, b) }"
    )
    with pytest.raises(NothingToGrowError, match="sum: its sum is fused with a norm"):
        deepen(model, scheme="residual-copy")
    assert [layer.name for layer in plan_deepen(model).layers] == ["one"]


def test_control_flow_in_a_branch_is_refused() -> None:
    (entry,) = found(
        f"{ROWS} <float[6, 6] w, float[6, 6] v, float zero = {{0}}> {{ a = MatMul(x, w) r = ReduceMax "
        f"<keepdims = 0> (a) "
        "positive = Greater(r, zero) b = If(positive) <then_branch = t () => (float[N, 6] p) { p = Identity(a) }, "
        "else_branch = e () => (float[N, 6] q) { q = Neg(a) }> c = MatMul(b, v) y = Add(x, c) }"
    )
    assert isinstance(entry, Refused)
    assert "control flow (If" in entry.reason


def test_a_cache_of_the_callers_is_refused() -> None:
    (entry,) = found(
        "(float[N, T, 6] x, float[N, P, 6] past) => (float[N, T, 6] y, float[N, Q, 6] present) <float[6, 6] "
        "w, float[6, 6] v> "
        "{ k = MatMul(x, w) present = Concat <axis = 1> (past, k) s = ReduceMean <axes = [1]> (present) c = "
        "Mul(x, s) d = MatMul(c, v) y = Add(x, d) }"
    )
    assert isinstance(entry, Refused)
    assert "keeps state" in entry.reason


CHAIN = "a = MatMul(x, w1) b = Add(x, a) c = MatMul(b, w2) d = Add(b, c) e = MatMul(d, w3) y = Add(x, e)"


def test_a_skip_connection_around_others_is_a_stage() -> None:
    entries = found(f"{ROWS} <float[6, 6] w1, float[6, 6] w2, float[6, 6] w3> {{ {CHAIN} }}")
    assert [type(entry) for entry in entries] == [Skip, Skip, Refused]


def test_a_skip_connection_on_another_stream_belongs_to_the_branch_around_it() -> None:
    entries = found(
        f"{ROWS} <float[6, 3] w1, float[3, 3] w2, float[3, 6] w3> "
        "{ a = MatMul(x, w1) b = MatMul(a, w2) c = Add(a, b) d = MatMul(c, w3) y = Add(x, d) }"
    )
    (skip,) = entries
    assert isinstance(skip, Skip)
    assert len(skip.nodes) == 4


def row(kinds: str, shared: str = "") -> Model:
    """A chain of branches; a digit is the width inside of one."""
    weights, body, stream = [], [], "x"
    for number, kind in enumerate(kinds):
        weights.append(f"float[6, {kind}] v{number}, float[{kind}, 6] w{number}")
        body.append(
            f"a{number} = MatMul({stream}, v{number}) b{number} = MatMul(a{number}, w{number}) s{number} = "
            f"Add({stream}, b{number})"
        )
        stream = f"s{number}"
    return build(
        f"(float[N, 6] x) => (float[N, 6] y) <{', '.join(weights)}> {{ {' '.join(body)} y = Neg({stream}) }}"
    )


@pytest.mark.parametrize(
    ("kinds", "groups"),
    [
        ("4", "4"),
        ("444", "4 4 4"),
        ("4949", "49 49"),
        ("949", "9 49"),
        ("459459", "459 459"),
        ("45945", "4 5 945"),
        ("4595", "4 5 9 5"),
        ("49", "4 9"),
        ("74949", "7 49 49"),
        ("777949", "7 7 7 9 4 9"),
    ],
)
def test_layers_are_periods_of_branches(kinds: str, groups: str) -> None:
    model = row(kinds)
    flow = Dataflow(model)
    skips = [entry for entry in find_skips(flow, infer(model)) if isinstance(entry, Skip)]
    names = ("".join(str(np.prod(skip.signature[0]) // 6) for skip in group) for group in layers(flow, skips))
    assert " ".join(names) == groups


ATTENTION = (
    "q{n} = MatMul({x}, u{n}) p{n} = Transpose <perm = [0, 2, 1]> (q{n}) g{n} = MatMul(q{n}, p{n}) o{n} = MatMul(g{n}, {x}) "
    "d{n} = MatMul(o{n}, v{n}) s{n} = Add({x}, d{n})"
)
NETWORK = "h{n} = MatMul({x}, w{n}) r{n} = Tanh(h{n}) e{n} = MatMul(r{n}, z{n}) t{n} = Add({x}, e{n})"
MATRICES = "float[6, 6] u{n}, float[6, 6] v{n}, float[6, 9] w{n}, float[9, 6] z{n}"


def groups_of(model: Model) -> list[int]:
    """The sizes of the layers."""
    plan = plan_deepen(model, scheme="residual-copy", every=1)
    return [len(layer.branches) for layer in plan.layers if isinstance(layer, ResidualLayer)]


def test_attention_and_what_follows_it_are_one_layer_even_where_there_is_only_one() -> None:
    model = build(
        f"(float[N, 4, 6] x) => (float[N, 4, 6] t0) <{MATRICES.format(n=0)}> "
        f"{{ {ATTENTION.format(n=0, x='x')} {NETWORK.format(n=0, x='s0')} }}"
    )
    assert groups_of(model) == [2]
    deep = deepen(model)
    assert_identical(model, deep)
    assert_connected(model, deep)


def test_layers_whose_branches_stand_on_other_shapes_of_the_same_elements() -> None:
    back = "int64[3] cube = {-1, 4, 6}, int64[2] rows = {-1, 6}"
    model = build(
        f"(float[N, 4, 6] x) => (float[M, 6] t1) <{MATRICES.format(n=0)}, {MATRICES.format(n=1)}, {back}> "
        f"{{ {ATTENTION.format(n=0, x='x')} f0 = Reshape(s0, rows) {NETWORK.format(n=0, x='f0')} b0 = Reshape(t0, cube) "
        f"{ATTENTION.format(n=1, x='b0')} f1 = Reshape(s1, rows) {NETWORK.format(n=1, x='f1')} }}"
    )
    assert groups_of(model) == [2, 2]
    deep = deepen(model, every=1)
    assert operators(deep).count("Shape") == 2
    assert_identical(model, deep)
    assert_connected(model, deep)
    assert_identical(model, deepen(deep, every=1))
    plan = plan_deepen(model, every=2)
    assert [layer.output for layer in plan.layers] == ["t1"]


def test_a_norm_between_branches_ends_where_the_next_begins() -> None:
    norm = "m{n} = Mul({x}, k{n}) y{n} = Add(m{n}, c{n})"
    weights = ", ".join(f"float[6, 6] w{n}, float[6] k{n}, float[6] c{n}" for n in range(3))
    model = build(
        f"(float[N, 6] x) => (float[N, 6] y2) <{weights}, float[6] start> {{ z = Mul(x, start) "
        f"a0 = MatMul(z, w0) s0 = Add(z, a0) {norm.format(n=0, x='s0')} a1 = MatMul(y0, w1) s1 = Add(y0, a1) "
        f"{norm.format(n=1, x='s1')} a2 = MatMul(y1, w2) s2 = Add(y1, a2) {norm.format(n=2, x='s2')} }}"
    )
    plan = plan_deepen(model, scheme="residual-copy", every=1)
    assert [layer.output for layer in plan.layers][:2] == ["y0", "y1"]
    assert_identical(model, deepen(model, every=1))


def test_a_cast_behind_the_sum_to_another_type_is_no_place_for_the_next_branch() -> None:
    model = build(
        """(float[N, 6] x) => (float[N, 6] y) <float16[6, 8] v, float16[8, 6] w> {
        s = Cast <to = 10> (x) a = MatMul(s, v) b = Relu(a) c = MatMul(b, w) d = Add(s, c) y = Cast <to = 1> (d) }"""
    )
    assert_identical(model, deepen(model, scheme="residual-copy"))


def test_outputs_and_subgraphs_see_the_longer_chain() -> None:
    model = build(
        "(float[N, 6] x, bool flag) => (float[N, 6] s, float[N, 6] y) <float[6, 6] w> { a = MatMul(x, w) s = "
        "Add(x, a) "
        "y = If(flag) <then_branch = t () => (float[N, 6] p) { p = Neg(s) }, else_branch = e () => (float[N, "
        "6] q) { q = Abs(s) }> }"
    )
    deep = deepen(model)
    assert_identical(model, deep)
    inputs = feeds(model)
    name = next(name for name in deep.weights if name not in model.weights)
    draft = Draft(deep)
    draft.weights[name] = Inline.of(np.ones((6, 6), np.float32))
    moved = run(draft.freeze(), inputs)
    assert all((old != new).any() for old, new in zip(run(deep, inputs), moved, strict=True))

"""Skip connections that ONNX Runtime fused with the norm behind them are copied, and stay fused."""

from __future__ import annotations

import pytest
from deepening import assert_connected, assert_identical
from graphs import build, operators

from onnx_grow.growth import apply
from onnx_grow.growth.deepen_plan import ResidualLayer
from onnx_grow.growth.deepening import deepen, plan_deepen
from onnx_grow.growth.fusion import fused, unfused
from onnx_grow.model import Model

STREAM = "(float[N, 4, 6] x) => (float[N, 4, 3] y)"
SKIP = "com.microsoft.SkipLayerNormalization"
SIMPLE = "com.microsoft.SkipSimplifiedLayerNormalization"
WEIGHTS = "float[6, 6] v, float[6, 9] w1, float[9, 6] w2, float[6] g, float[6] h, float[6] b, float[6] c, float[6, 3] head"
MODELS = {
    "norms behind the sums": (
        f"{STREAM} <{WEIGHTS}> {{ p = MatMul(x, v) s = {SKIP} <epsilon = 0.001> (p, x, g, b, c) "
        f"q = MatMul(s, w1) t = Tanh(q) r = MatMul(t, w2) [last] z = {SKIP} (s, r, h, b) y = MatMul(z, head) }}"
    ),
    "norms before the branches": (
        f"{STREAM} <{WEIGHTS}> {{ n = LayerNormalization(x, g, b) p = MatMul(n, v) "
        f"s, m, i, stream = {SKIP} <epsilon = 0.001> (x, p, h, b, c) "
        f"q = MatMul(s, w1) t = Tanh(q) r = MatMul(t, w2) z = {SKIP} (stream, r, g, b) y = MatMul(z, head) }}"
    ),
    "root mean squares": (
        f"{STREAM} <{WEIGHTS}, float high = {{1}}> {{ p = MatMul(x, v) s, m, i, stream = {SIMPLE} (x, p, h) "
        f"q = MatMul(s, w1) u = Clip(q, , high) t = Tanh(u) r = MatMul(t, w2) z, j, k, end = {SIMPLE} (stream, r, g, b) "
        "f = Add(end, z) y = MatMul(f, head) }"
    ),
}


@pytest.mark.parametrize(
    ("name", "opset", "copies"),
    [
        ("norms behind the sums", 14, 2),
        ("norms behind the sums", 17, 2),
        ("norms before the branches", 17, 1),  # the first norm is not fused with any sum
        ("root mean squares", 14, 1),
    ],
)
def test_copies_are_fused_nodes_that_change_nothing(name: str, opset: int, copies: int) -> None:
    model = fused_model(name, opset)
    deep = deepen(model, every=1)
    assert skips(deep) == skips(model) + copies
    assert_identical(model, deep)
    assert_connected(model, deep)
    deeper = deepen(deep, every=1)
    assert skips(deeper) > skips(deep)
    assert_identical(model, deeper)


@pytest.mark.parametrize("name", MODELS)
def test_what_is_taken_apart_is_put_together_again(name: str) -> None:
    model = fused_model(name)
    apart = unfused(model)
    assert not skips(apart)
    again = fused(apart)
    assert operators(again) == operators(model)
    assert_identical(model, again)


def test_a_plan_replays() -> None:
    model = fused_model("norms behind the sums")
    plan = plan_deepen(model, after="last")
    assert [layer.name for layer in plan.layers if isinstance(layer, ResidualLayer)] == ["last"]
    assert apply(model, plan).to_proto() == deepen(model, after="last").to_proto()


def skips(model: Model) -> int:
    return sum(op.startswith("Skip") for op in operators(model))


def fused_model(name: str, opset: int = 17) -> Model:
    """One of the models, with outputs that nobody reads left out, as ONNX Runtime writes it."""
    model = build(MODELS[name], opset=opset)
    for node in model.skeleton.graph.node:
        if len(node.output) == 4:
            node.output[1:3] = ["", ""]
    return model

from __future__ import annotations

import re

import numpy as np
import pytest
from graphs import build
from verifying import with_weights

import onnx_grow as og
from onnx_grow.verification import EXACT, doubled, prove
from onnx_grow.verification.proof import Unprovable, run_in_float64

NET = """(float[2,3,8,8] x) => (float[2,5] y)
    <float[4,3,3,3] w, float[4] b, float[64,5] v> {
    c = Conv<pads=[1,1,1,1]>(x, w, b)
    r = Gelu(c)
    p = MaxPool<kernel_shape=[2,2], strides=[2,2]>(r)
    f = Flatten(p)
    y = MatMul(f, v)
}"""


def feed(*shape: int) -> dict[str, np.ndarray]:
    return {"x": np.random.default_rng(0).standard_normal(shape).astype(np.float32)}


def test_a_correct_growth_is_exact_in_float64() -> None:
    model = build(NET, opset=20)
    proof = prove(model, og.widen(model, factor=1.5), feed(2, 3, 8, 8))
    assert proof.ok
    assert proof.error is not None
    assert proof.error < 1e-14


def test_an_error_below_the_noise_of_float32_shows() -> None:
    model = build(NET, opset=20)
    weight = model.weights["v"].array().copy()
    weight[0] *= np.float32(1 + 3e-7)
    proof = prove(model, with_weights(model, v=weight * np.float32(1.00001)), feed(2, 3, 8, 8))
    assert not proof.ok
    assert proof.error is not None
    assert proof.error > EXACT


def test_rounded_weights_are_told_from_errors() -> None:
    model = build(NET, opset=20)
    thirds = prove(model, og.widen(model, factor=3, scheme="copy"), feed(2, 3, 8, 8))
    assert thirds.ok
    assert thirds.error is not None
    assert EXACT < thirds.error < 1e-6
    exact = doubled(model)
    assert prove(exact, og.widen(exact, factor=3, scheme="copy"), feed(2, 3, 8, 8)).error < EXACT  # type: ignore[operator]


def test_half_precision_and_bodies_are_evaluated() -> None:
    model = build("""(float16[2,4] x, bool c) => (float16[2,3] y) <float16[4,3] w> {
        h = MatMul(x, w)
        y = If(c) <then_branch = t () => (float16[2,3] a) { a = Relu(h) },
                   else_branch = e () => (float16[2,3] a) { a = Softplus(h) }>
    }""")
    x = np.random.default_rng(0).standard_normal((2, 4)).astype(np.float16)
    y = run_in_float64(model, {"x": x, "c": np.array(False)})["y"]
    h = x.astype(np.float64) @ model.weights["w"].array().astype(np.float64)
    assert y.dtype == np.float64
    np.testing.assert_allclose(y, np.log1p(np.exp(h)), rtol=1e-14)


@pytest.mark.parametrize("opset", [10, 13, 18, 21])
def test_quantised_layers_are_evaluated_in_every_operator_set(opset: int) -> None:
    axis = "<axis = 0>" if opset > 10 else ""
    shape = "[4]" if opset > 10 else ""
    net = f"""(float[2, 3] x) => (float[2, 5] y)
        <float s = {{0.05}}, uint8 z = {{120}}, int8[4, 3] w, float{shape} t, int8{shape} n, float[4, 5] v> {{
        q = QuantizeLinear(x, s, z) d = DequantizeLinear(q, s, z) k = DequantizeLinear{axis}(w, t, n)
        m = Transpose(k) h = MatMul(d, m) r = Relu(h) y = MatMul(r, v) }}"""
    small = np.arange(1, 5, dtype=np.float32) / 64
    t, n = (small, np.arange(4, dtype=np.int8)) if opset > 10 else (small[0], np.int8(3))
    w = np.arange(-6, 6, dtype=np.int8).reshape(4, 3)
    model = build(net, opset=opset, w=w, t=t, n=n)
    proof = prove(model, og.widen(model, factor=2), feed(2, 3), expected=None)
    assert proof.error is not None, proof.detail
    assert proof.error < 1e-13
    (exact,) = run_in_float64(model, feed(2, 3)).values()
    x = np.clip(np.rint(feed(2, 3)["x"].astype(np.float64) / np.float32(0.05)) + 120, 0, 255) - 120
    weight = (w.astype(np.float64) - np.reshape(n, (-1, 1))) * np.reshape(t, (-1, 1)).astype(np.float64)
    by_hand = np.maximum(x * np.float64(np.float32(0.05)) @ weight.T, 0) @ model.weights["v"].array().astype(
        np.float64
    )
    np.testing.assert_allclose(exact, by_hand, rtol=1e-12, atol=1e-13)


def test_what_has_no_implementation_is_named_and_fails_nothing() -> None:
    model = build("""<ir_version: 8, opset_import: ["": 17, "com.microsoft": 1]> g (float[2,3,8,8] x) => (float[2,4,8,8] y)
        <float[4,3,1,1] w> {
        y = com.microsoft.FusedConv<activation="Relu">(x, w)
    }""")
    proof = prove(model, model, feed(2, 3, 8, 8))
    assert proof.ok
    assert proof.error is None
    assert "node 'y' (FusedConv)" in proof.detail


def test_random_numbers_are_no_proof() -> None:
    model = build("(float[2,8] x) => (float[2,8] y) { r = RandomNormalLike(x) y = Add(x, r) }")
    with pytest.raises(Unprovable, match="RandomNormalLike"):
        run_in_float64(model, feed(2, 8))


def test_an_evaluation_that_onnx_runtime_contradicts_counts_for_nothing() -> None:
    model = build(NET, opset=20)
    proof = prove(model, model, feed(2, 3, 8, 8), expected={"y": np.ones((2, 5), np.float32)})
    assert proof.error is None
    assert "'y'" in proof.detail


def test_verify_proves_small_models_and_others_on_request() -> None:
    model = build(NET, opset=20)
    grown = og.widen(model)
    assert (og.verify(model, grown).float64 or 1) < 1e-14
    assert og.verify(model, grown, proof=False).float64 is None
    assert "float64" in [check.name for check in og.verify(model, grown, proof=True).checks]


def test_what_is_allowed_is_not_taken_for_what_rounding_does() -> None:
    model = build(NET, opset=20)
    weight = model.weights["v"].array()
    proof = prove(model, with_weights(model, v=weight * np.float32(1.01)), feed(2, 3, 8, 8), tolerance=1e6)
    assert proof.ok
    times, allowed = re.findall(r"([\d.e+]+) times", proof.detail)
    assert 1000 < float(times) < float(allowed) == 1e6

"""Growth upon growth: many steps in a row, compared with the original at the end."""

from __future__ import annotations

import random

import numpy as np
import pytest
from graphs import build, feeds, run

import onnx_grow as og
from onnx_grow.axes.table import KINDS
from onnx_grow.errors import NothingToGrowError
from onnx_grow.growth import history
from onnx_grow.model import HISTORY, Model, load

CNN = """(float[N, 3, 6, 6] x) => (float[N, 5] y)
    <float[6, 3, 3, 3] w0, float[6] s0_positive, float[6] b0, float[6] m0, float[6] v0_positive, float[8, 6, 3, 3] w1, float[8] c1,
    float[6, 8, 3, 3] w2, float[6] s1_positive, float[6] b1, float[6] m1, float[6] v1_positive, float[5, 6] w3, float[5] b3> {
    [stem] a = Conv <pads = [1, 1, 1, 1]> (x, w0)
    [bn] b = BatchNormalization (a, s0_positive, b0, m0, v0_positive) [act] r = Relu(b)
    [one] c = Conv <pads = [1, 1, 1, 1]> (r, w1, c1) [act1] d = Relu(c) [two] e = Conv <pads = [1, 1, 1, 1]> (d, w2)
    [bn1] f = BatchNormalization (e, s1_positive, b1, m1, v1_positive) [add] g = Add(r, f) [act2] h = Relu(g)
    [pool] p = GlobalAveragePool(h) [flat] q = Flatten(p) [head] y = Gemm <transB = 1> (q, w3, b3) }"""

MLP = """(float[N, 6] x) => (float[N, 4] y) <float[6, 7] w0, float[7] b0, float[7, 5] w1, float[5] b1, float[5, 4] w2> {
    [one] a = Gemm(x, w0, b0) [act] r = Relu(a) [two] b = Gemm(r, w1, b1) [act1] s = Tanh(b) [head] y = MatMul(s, w2) }"""

LSTM = """(float[T, N, 4] x) => (float[N, 3] y) <float[1, 20, 4] w, float[1, 20, 5] r, float[1, 40] b, float[5, 3] h, int64[1] zero = {0}> {
    [rnn] o, s, c = LSTM <hidden_size = 5> (x, w, r, b) [squeeze] q = Squeeze (s, zero) [head] y = MatMul(q, h) }"""

TRANSFORMER = """(int64[N, 5] x) => (float[N, 5, 9] y)
    <float[9, 8] table, float[8] g0_positive, float[8] b0, float[8, 8] wq, float[8, 8] wk, float[8, 8] wv, float[8, 8] wo,
    float[8] g1_positive, float[8] b1, float[8, 12] w1, float[12] c1, float[12, 8] w2, float[8] g2_positive, float[8] b2, float[8, 9] wy,
    int64[4] heads = {0, 5, 2, 4}, int64[3] merged = {0, 5, 8}, float scale = {0.5}> {
    [embed] e = Gather(table, x) [ln0] n = LayerNormalization(e, g0_positive, b0)
    [q] qx = MatMul(n, wq) qr = Reshape(qx, heads) qt = Transpose <perm = [0, 2, 1, 3]> (qr)
    [k] kx = MatMul(n, wk) kr = Reshape(kx, heads) kt = Transpose <perm = [0, 2, 3, 1]> (kr)
    [v] vx = MatMul(n, wv) vr = Reshape(vx, heads) vt = Transpose <perm = [0, 2, 1, 3]> (vr)
    [scores] sc = MatMul(qt, kt) ss = Mul(sc, scale) [soft] p = Softmax <axis = -1> (ss)
    [mix] o = MatMul(p, vt) ot = Transpose <perm = [0, 2, 1, 3]> (o) om = Reshape(ot, merged) [out] ao = MatMul(om, wo)
    [add0] h = Add(e, ao) [ln1] hn = LayerNormalization(h, g1_positive, b1) [up] u = MatMul(hn, w1) ub = Add(u, c1) [gelu] ug = Gelu(ub)
    [down] d = MatMul(ug, w2) [add1] z = Add(h, d) [ln2] zn = LayerNormalization(z, g2_positive, b2) [head] y = MatMul(zn, wy) }"""

SCHEMES = ("split", "copy", "fresh")
DEEPER = (None, "identity", "residual-copy", "residual-new", "parametric")


def stepped(model: Model, rng: random.Random, parameters: int, nodes: int) -> Model:
    """The model after one random growth that exists and leaves it small; the same model where there is none."""
    for _ in range(12):
        seed = rng.randrange(99)
        try:
            if rng.random() < 0.3 and len(model.skeleton.graph.node) < nodes:
                return og.deepen(model, scheme=rng.choice(DEEPER), seed=seed)
            factor, scheme = rng.choice((1.1, 1.2, 1.3, 2.0)), rng.choice(SCHEMES)
            grown = og.widen(model, factor=factor, kind=rng.choice(KINDS), scheme=scheme, seed=seed)
        except NothingToGrowError:
            continue
        if grown.parameters <= parameters:
            return grown
    return model


@pytest.mark.parametrize("text", [CNN, MLP, LSTM, TRANSFORMER], ids=["cnn", "mlp", "lstm", "transformer"])
def test_twenty_steps(text: str) -> None:
    original = grown = build(text, opset=20)
    rng = random.Random(len(text))
    for step in range(20):
        grown = stepped(grown, rng, parameters=60_000, nodes=60)
        if step % 7 == 6:
            grown = load(grown.to_proto())  # as people do between trainings
    report = og.verify(original, grown, provider="cpu", seeds=2)
    assert report.ok, str(report)
    assert len(history(grown)) >= 10
    assert len(grown.metadata[HISTORY]) < 50_000
    assert max(map(len, (*grown.weights, *(node.name for node in grown.skeleton.graph.node)))) < 64


@pytest.mark.parametrize("dtype", ["float16", "float", "double"])
def test_twenty_splits_of_the_same_weights_sum_to_them_exactly(dtype: str) -> None:
    """Down to the smallest numbers of half precision, where parts are no longer normal."""
    text = (
        f"({dtype}[N, 6] x) => ({dtype}[N, 4] y) <{dtype}[6, 8] v, {dtype}[8, 4] w> "
        "{ [one] a = MatMul(x, v) r = Relu(a) y = MatMul(r, w) }"
    )
    original = grown = build(text)
    for seed in range(20):
        size = grown.weights["w"].shape[0]
        grown = load(og.widen(grown, widths={"one": size + 1 + size // 4}, seed=seed).to_proto())
    kept, parts = (model.weights["w"].array().astype(np.float64) for model in (original, grown))
    assert len(parts) > 600
    assert (parts != 0).all() or dtype == "float16"
    assert np.abs(parts.sum(axis=0) - kept.sum(axis=0)).max() < 1e-13
    inputs = feeds(original)
    before, after = (run(model, inputs)[0].astype(np.float64) for model in (original, grown))
    tolerance = {"float16": 2e-3, "float": 2e-6, "double": 1e-13}[dtype]
    assert np.linalg.norm(after - before) < tolerance * np.linalg.norm(before)

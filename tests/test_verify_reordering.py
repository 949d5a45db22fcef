import numpy as np
import pytest
from graphs import build

from onnx_grow.model import Model, save
from onnx_grow.verification.providers import choose
from onnx_grow.verification.reordering import reordered
from onnx_grow.verification.sessions import opened

LSTM = """(float[S, N, 3] x, float[2, N, 4] h0) => (float[S, 2, N, 4] y, float[2, N, 4] h, float[2, N, 4] c)
  <float[2, 16, 3] w, float[2, 16, 4] r, float[2, 32] b, float[2, 12] p> {
  y, h, c = LSTM<hidden_size = 4, direction = "bidirectional">(x, w, r, b, , h0, h0, p)
}"""
GRU = """(float[S, N, 3] x) => (float[S, 1, N, 4] y) <float[1, 12, 3] w, float[1, 12, 4] r, float[1, 24] b> {
  y = GRU<hidden_size = 4, linear_before_reset = 1>(x, w, r, b)
}"""
RNN = """(float[S, N, 3] x) => (float[1, N, 4] h) <float[1, 4, 3] w, float[1, 4, 4] r> { , h = RNN<hidden_size = 4>(x, w, r) }"""


def results(model: Model, folder, feeds) -> dict[str, np.ndarray]:
    with opened(save(model, folder / "model.onnx", force=True), choose("cpu"), optimised=False) as session:
        return session.run(feeds)


@pytest.mark.parametrize(
    ("text", "shapes", "changed"),
    [
        (
            "(float[N, 5, 6] x) => (float[N, 5, 7] y) <float[6, 7] w> { y = MatMul(x, w) }",
            {"x": (2, 5, 6)},
            "w",
        ),
        (
            "(float[N, 6] x) => (float[N, 7] y) <float[6, 7] w, float[7] b> { y = Gemm(x, w, b) }",
            {"x": (2, 6)},
            "w",
        ),
        (
            "(float[6, N] x) => (float[N, 7] y) <float[7, 6] w> { y = Gemm<transA = 1, transB = 1>(x, w) }",
            {"x": (6, 2)},
            "w",
        ),
        (
            "(float[N, 6, 5, 5] x) => (float[N, 7, 3, 3] y) <float[7, 6, 3, 3] w> { y = Conv(x, w) }",
            {"x": (2, 6, 5, 5)},
            "w",
        ),
        (
            "(float[N, 6, 5] x) => (float[N, 7, 7] y) <float[6, 7, 3] w> { y = ConvTranspose(x, w) }",
            {"x": (2, 6, 5)},
            "w",
        ),
        (
            "(float[N, 6, 5] x) => (float[N, 6, 3] y) <float[6, 1, 3] w> { y = Conv<group = 6>(x, w) }",
            {"x": (2, 6, 5)},
            "",
        ),
        (
            "(float[N, 6] x) => (float[N, 6] y) <float[6, 6] w> { a = MatMul(x, w) y = MatMul(a, w) }",
            {"x": (2, 6)},
            "",
        ),
        (LSTM, {"x": (5, 2, 3), "h0": (2, 2, 4)}, "wrbp"),
        (GRU, {"x": (5, 2, 3)}, "wrb"),
        (RNN, {"x": (5, 2, 3)}, "wr"),
    ],
)
def test_only_the_order_changes(text, shapes, changed, tmp_path):
    model = build(text)
    other = reordered(model, 1)
    rng = np.random.default_rng(0)
    feeds = {name: rng.standard_normal(shape).astype(np.float32) for name, shape in shapes.items()}
    expected, found = results(model, tmp_path, feeds), results(other, tmp_path, feeds)
    assert list(found) == list(expected)
    for name, array in expected.items():
        np.testing.assert_allclose(found[name], array, rtol=1e-4, atol=1e-6)
    moved = {
        name
        for name in model.weights
        if not np.array_equal(model.weights[name].array(), other.weights[name].array())
    }
    assert moved == set(changed)


def test_old_files_get_their_orders_as_constants(tmp_path):
    model = build("(float[N, 6] x, float[6, 7] w) => (float[N, 7] y) { y = MatMul(x, w) }", ir=3)
    assert list(reordered(model, 1).weights) == []
    values = ", ".join(map(str, range(42)))
    model = build(
        f"(float[N, 6] x, float[6, 7] w) => (float[N, 7] y) <float[6, 7] w = {{{values}}}> {{ y = MatMul(x, w) }}",
        ir=3,
    )
    other = reordered(model, 1)
    assert list(other.weights) == ["w"]
    x = np.ones((2, 6), np.float32)
    assert np.array_equal(results(other, tmp_path, {"x": x})["y"], results(model, tmp_path, {"x": x})["y"])


def test_seeds_give_different_orders_and_the_same_seed_the_same():
    model = build("(float[N, 60] x) => (float[N, 7] y) <float[60, 7] w> { y = MatMul(x, w) }")
    first, again, other = (reordered(model, seed).weights["w"].array() for seed in (1, 1, 2))
    assert np.array_equal(first, again)
    assert not np.array_equal(first, other)

import ml_dtypes
import numpy as np
import pytest
from graphs import build
from onnx import TensorProto, numpy_helper

from onnx_grow.model import load, save
from onnx_grow.verification import noise
from onnx_grow.verification.noise import jittered, jittered_array, jittered_feed

FLOATS = (np.float16, ml_dtypes.bfloat16, np.float32, np.float64)


@pytest.mark.parametrize("dtype", FLOATS)
def test_every_other_value_moves_by_one_unit(dtype):
    array = np.random.default_rng(0).standard_normal(4096).astype(dtype)
    moved = jittered_array(array, np.random.default_rng(1))
    assert moved.dtype == array.dtype
    relative = (moved.astype(np.float64) - array.astype(np.float64)) / array.astype(np.float64)
    eps = float(ml_dtypes.finfo(dtype).eps)
    assert 0.45 < np.mean(relative != 0) < 0.55
    assert np.abs(relative).max() <= eps * 1.01
    assert np.sqrt(np.mean(relative**2)) == pytest.approx(eps / 2, rel=0.15)
    assert abs(np.mean(relative)) < eps / 20


@pytest.mark.parametrize("dtype", FLOATS)
def test_what_is_meant_exactly_stays(dtype):
    exact = np.array([0, -0.0, 1, -1, 2, 127, np.inf, -np.inf, np.nan], dtype)
    for seed in range(8):
        assert jittered_array(exact, np.random.default_rng(seed)).tobytes() == exact.tobytes()


@pytest.mark.parametrize("dtype", FLOATS)
def test_the_ends_of_the_range_stay_finite(dtype):
    limits = ml_dtypes.finfo(dtype)
    ends = np.array(
        [limits.max, limits.min, limits.smallest_subnormal, -limits.smallest_subnormal] * 64, dtype
    )
    moved = jittered_array(ends, np.random.default_rng(0))
    assert np.isfinite(moved.astype(np.float64)).all()
    assert np.array_equal(
        np.sign(moved.astype(np.float64)) * np.sign(ends.astype(np.float64)) >= 0, np.full(256, True)
    )


def test_models_move_in_weights_and_constants_only():
    model = build(
        """(float[N, 4] x) => (float[N, 4] y) <float[4, 4] w, int64[2] shape, float[1] scalar> {
          c = Constant<value = float[2] {0.1, 0.3}>()
          a = MatMul(x, w) b = Mul(a, scalar) y = Identity(b)
        }""",
        shape=np.array([2, 2]),
    )
    moved = jittered(model, 1)
    assert not np.array_equal(moved.weights["w"].array(), model.weights["w"].array())
    np.testing.assert_allclose(moved.weights["w"].array(), model.weights["w"].array(), rtol=2e-7)
    assert moved.weights["shape"] is model.weights["shape"]
    assert moved.weights["scalar"] is model.weights["scalar"]
    constants = [numpy_helper.to_array(each.skeleton.graph.node[0].attribute[0].t) for each in (model, moved)]
    assert any(
        not np.array_equal(
            constants[0], numpy_helper.to_array(jittered(model, seed).skeleton.graph.node[0].attribute[0].t)
        )
        for seed in range(4)
    )
    np.testing.assert_allclose(*constants, rtol=2e-7)
    assert model.skeleton.graph.node[0].attribute[0].t.dims == [2]


def test_sizes_do_not_move():
    model = build(
        """(float[1, 1, 4, 4] x) => (float[1, 1, H, W] y) <float[4] scales, float[0] roi> {
          y = Resize<mode = "nearest">(x, roi, scales)
        }""",
        scales=np.array([1, 1, 2.3, 2.7], np.float32),
    )
    assert all(jittered(model, seed).weights["scales"] is model.weights["scales"] for seed in range(4))


def test_the_same_seed_moves_the_same_way_however_it_is_read(tmp_path):
    array = np.random.default_rng(0).standard_normal((3, 700_000)).astype(np.float32)  # more than a piece
    model = build(
        "(float[N, 3] x) => (float[N, 700000] y) <float[3, 700000] w> { y = MatMul(x, w) }", w=array
    )
    first, again, other = jittered(model, 5), jittered(model, 5), jittered(model, 6)
    assert first.weights["w"].shape == (3, 700_000)
    assert first.weights["w"].dtype == TensorProto.FLOAT
    assert b"".join(first.weights["w"].chunks()) == again.weights["w"].array().tobytes()
    assert not np.array_equal(first.weights["w"].array(), other.weights["w"].array())
    stored = load(save(first, tmp_path / "moved.onnx"))
    assert np.array_equal(stored.weights["w"].array(), first.weights["w"].array())


def test_feeds_move_in_floating_point_only():
    feed = {
        "x": np.linspace(0.1, 0.9, 64, dtype=np.float32),
        "ids": np.arange(4),
        "text": np.array(["a"], object),
    }
    moved = jittered_feed(feed, 1)
    assert not np.array_equal(moved["x"], feed["x"])
    assert moved["ids"] is feed["ids"]
    assert moved["text"] is feed["text"]


def test_a_small_weight_draws_no_more_noise_than_it_has_elements(monkeypatch: pytest.MonkeyPatch) -> None:
    drawn = []
    honest = noise._steps
    monkeypatch.setattr(noise, "_steps", lambda rng, count: drawn.append(count) or honest(rng, count))
    model = build("(float[N, 4] x) => (float[N, 3] y) <float[4, 3] w> { y = MatMul(x, w) }")
    jittered(model, 1).weights["w"].array()
    assert drawn == [12]

"""Statistics from a forward pass, and BatchNormalization that is the identity with them."""

from __future__ import annotations

from pathlib import Path

import ml_dtypes
import numpy as np
import onnxruntime
import pytest
from graphs import build
from onnx import TensorProto, helper, numpy_helper

from onnx_grow.errors import InvalidRequestError
from onnx_grow.growth.deepen_plan import IdentityLayer, Statistics
from onnx_grow.growth.deepening import deepen, plan_deepen
from onnx_grow.growth.normalization import identity_normalization
from onnx_grow.model import Model

NORM = "float[4] s, float[4] b, float[4] m, float[4] positive"
TEXT = (
    f"(float[N, 3, 6, 5] image) => (float[N, C, H, W] y) <float[4, 3, 3, 3] w, {NORM}> "
    "{ a = Conv(image, w) c = BatchNormalization(a, s, b, m, positive) y = Relu(c) }"
)


def statistics(model: Model, **arguments: object) -> Statistics:
    (layer,) = plan_deepen(model, **arguments).layers  # type: ignore[arg-type]
    assert isinstance(layer, IdentityLayer)
    assert layer.statistics
    return layer.statistics


def outputs(model: Model, image: np.ndarray) -> np.ndarray:
    session = onnxruntime.InferenceSession(
        model.to_proto().SerializeToString(), providers=["CPUExecutionProvider"]
    )
    return session.run(None, {"image": image})[0]  # type: ignore[no-any-return]


def images(count: int, seed: int = 7) -> np.ndarray:
    return np.random.default_rng(seed).uniform(0, 3, (count, 3, 6, 5)).astype(np.float32)


@pytest.mark.parametrize("count", [1, 31, 32, 33, 100])
def test_statistics_are_those_of_all_samples_whatever_the_batches(count: int) -> None:
    model, data = build(TEXT), images(count)
    found = statistics(model, calibration={"image": data})
    expected = outputs(model, data).astype(np.float64)
    np.testing.assert_allclose(found.mean, expected.mean(axis=(0, 2, 3)), rtol=1e-6)
    np.testing.assert_allclose(found.variance, expected.var(axis=(0, 2, 3)), rtol=1e-5)


def test_every_channel_of_the_new_layer_has_its_own_statistics() -> None:
    model, data = build(TEXT), images(50)
    deep = deepen(model, calibration={"image": data})
    mean, variance = (
        next(weight.array() for name, weight in deep.weights.items() if name.endswith(f"deeper_1/{part}"))
        for part in ("mean", "variance")
    )
    values = outputs(model, data).astype(np.float64)
    np.testing.assert_allclose(mean, values.mean(axis=(0, 2, 3)), rtol=1e-6)
    np.testing.assert_allclose(variance, values.var(axis=(0, 2, 3)), rtol=2e-3)  # it may move by a thousandth
    assert np.ptp(values.var(axis=(0, 2, 3))) > 0.01


def test_a_fixed_batch_size_is_kept_and_the_rest_left_out() -> None:
    model, data = build(TEXT.replace("float[N, 3, 6", "float[4, 3, 6")), images(10)
    expected = outputs(build(TEXT), data[:8]).astype(np.float64)
    np.testing.assert_allclose(
        statistics(model, calibration={"image": data}).mean, expected.mean(axis=(0, 2, 3)), rtol=1e-6
    )


def test_data_come_from_files_and_folders(tmp_path: Path) -> None:
    model, data = build(TEXT), images(40)
    expected = statistics(model, calibration={"image": data})
    np.save(tmp_path / "1.npy", data[:32])
    np.savez(tmp_path / "2.npz", image=data[32:])
    assert statistics(model, calibration=tmp_path) == expected
    np.savez(tmp_path / "all.npz", image=data)
    assert statistics(model, calibration=str(tmp_path / "all.npz")) == expected


def test_statistics_in_double_precision_do_not_cancel() -> None:
    """A mean a thousand times the deviation, where squares in single precision leave nothing."""
    model = build(TEXT, b=np.full(4, 3000, np.float32), s=np.full(4, 1, np.float32))
    data = images(64)
    expected = outputs(model, data).astype(np.float64)
    np.testing.assert_allclose(
        statistics(model, calibration={"image": data}).variance, expected.var(axis=(0, 2, 3)), rtol=1e-5
    )


def test_without_data_the_plan_says_so_and_the_seed_decides() -> None:
    model = build(TEXT)
    plan = plan_deepen(model, seed=3)
    assert "random inputs (seed 3)" in plan.notes[0]
    assert plan == plan_deepen(model, seed=3)
    assert plan.layers != plan_deepen(model, seed=4).layers
    notes = plan_deepen(model, calibration={"image": images(2)}).notes
    assert not any("statistics" in note for note in notes)


def test_nothing_runs_where_no_batch_normalization_is_repeated(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(onnxruntime, "InferenceSession", None)
    plan = plan_deepen(
        build("(float[N, 5] x) => (float[N, 6] y) <float[5, 6] w> { a = MatMul(x, w) y = Relu(a) }")
    )
    assert not any("statistics" in note for note in plan.notes)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ({"imag": images(1)}, "did you mean 'image'"),
        ({}, "no array for input 'image'"),
        ({"image": images(1)[:, :2]}, "has shape [1, 2, 6, 5], and the model takes [N, 3, 6, 5]"),
        ({"image": images(1)[0]}, "has shape [3, 6, 5]"),
        ({"image": images(0)}, "0 samples"),
        ({"image": images(2) * np.nan}, "no finite statistics at 'y'"),
    ],
)
def test_data_that_do_not_fit_are_told_apart(data: dict[str, np.ndarray], message: str) -> None:
    with pytest.raises(InvalidRequestError) as raised:
        deepen(build(TEXT), calibration=data)
    assert message in str(raised.value)


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    (tmp_path / "text.npz").write_text("no array")
    (tmp_path / "cut.npz").write_bytes(b"PK\x03\x04 and no more")
    (tmp_path / "empty").mkdir()
    np.save(tmp_path / "objects.npy", np.array([{}], object), allow_pickle=True)
    for name in ("missing.npz", "text.npz", "cut.npz", "empty", "objects.npy"):
        with pytest.raises(InvalidRequestError, match=r"cannot be read|holds no"):
            deepen(build(TEXT), calibration=tmp_path / name)


def test_one_array_for_two_inputs(tmp_path: Path) -> None:
    two = build(
        TEXT.replace("image) =>", "image, float[N, C, H, W] more) =>").replace(
            "y = Relu(c)", "y = Relu(c) z = Neg(more)"
        )
    )
    np.save(tmp_path / "one.npy", images(1))
    with pytest.raises(InvalidRequestError, match="2 inputs"):
        deepen(two, calibration=tmp_path / "one.npy")


def normalized(x: np.ndarray, epsilon: float, *parameters: np.ndarray) -> np.ndarray:
    tensors = [numpy_helper.from_array(array, name) for name, array in zip("sbmv", parameters, strict=True)]
    kind = helper.np_dtype_to_tensor_dtype(x.dtype)
    graph = helper.make_graph(
        [helper.make_node("BatchNormalization", ["x", *"sbmv"], ["y"], epsilon=epsilon)],
        "g",
        [helper.make_tensor_value_info("x", kind, x.shape)],
        [helper.make_tensor_value_info("y", kind, x.shape)],
        tensors,
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 15)], ir_version=8)
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    return session.run(None, {"x": x})[0]  # type: ignore[no-any-return]


@pytest.mark.parametrize("epsilon", [1e-3, 1e-5, 0.0])
@pytest.mark.parametrize(
    ("values", "parameters", "error"),
    [
        ("float32", "float32", 0.0),
        ("float64", "float64", 0.0),
        ("float16", "float32", 0.0),
        ("float16", "float16", 1e-3),
    ],
)
def test_batch_normalization_is_the_identity_at_any_statistics(
    values: str, parameters: str, error: float, epsilon: float
) -> None:
    rng = np.random.default_rng(0)
    channels = 512
    mean = rng.exponential(1, channels) * 10 ** rng.uniform(-3, 2, channels)
    variance = 10 ** rng.uniform(-8, 4, channels)
    mean[:8], variance[4:12] = 0, 0
    x = np.maximum(0, mean + rng.standard_normal((64, channels)) * np.sqrt(variance)).astype(values)
    kind = helper.np_dtype_to_tensor_dtype(np.dtype(parameters))
    found = identity_normalization(mean, variance, epsilon, kind, kind)
    y = normalized(x, epsilon, found.scale, found.bias, found.mean, found.variance)
    scale = np.sqrt(variance + mean**2) + 1e-3
    assert (np.abs(y.astype(np.float64) - x) / scale).max() <= error
    moved = 0.05 if parameters == "float16" else 2e-3
    np.testing.assert_allclose(found.variance.astype(float), np.maximum(variance, 1e-6), rtol=moved)
    np.testing.assert_allclose(found.mean.astype(float), mean, rtol=moved, atol=1e-4)


def test_batch_normalization_in_bfloat16_stays_near_the_statistics() -> None:
    mean, variance = np.array([0.0, 0.37, 12.0]), np.array([0.0, 1.7, 40.0])
    found = identity_normalization(mean, variance, 1e-5, TensorProto.BFLOAT16, TensorProto.BFLOAT16)
    assert found.scale.dtype == found.mean.dtype == ml_dtypes.bfloat16
    deviation = np.sqrt(found.variance.astype(np.float64) + 1e-5)
    np.testing.assert_allclose(found.scale.astype(np.float64) / deviation, 1, rtol=1e-3)
    np.testing.assert_allclose(found.variance.astype(np.float64)[1:], variance[1:], rtol=0.2)


def test_variances_beyond_half_precision_stay_finite() -> None:
    half = TensorProto.FLOAT16
    found = identity_normalization(np.array([3e5]), np.array([1e9]), 1e-5, half, half)
    assert all(np.isfinite(weight.array()).all() for _, weight in found.weights())

from pathlib import Path

import numpy as np
import onnx
import pytest
from graphs import build
from verifying import with_weights

import onnx_grow
from onnx_grow.errors import (
    DeviceUnavailableError,
    InvalidModelError,
    InvalidRequestError,
    VerificationFailedError,
)
from onnx_grow.model import Model, save
from onnx_grow.verification import reference, verification, verify
from onnx_grow.verification.providers import cuda_problem

CONV = """(float[N, 3, 12, 12] x) => (float[N, 5] y) <float[8, 3, 3, 3] v, float[8] b, float[8, 8, 3, 3] w, float[8, 5] c> {
  p = Conv<pads = [1, 1, 1, 1]>(x, v, b) q = Relu(p)
  r = Conv(q, w) s = Relu(r)
  t = GlobalAveragePool(s) u = Flatten(t) y = MatMul(u, c)
}"""
TOKENS = """(int64[N, S] ids) => (float[N, S, 7] y) <float[20, 6] table, float[6, 7] w> {
  a = Gather(table, ids) b = Tanh(a) y = MatMul(b, w)
}"""
CLASSES = """(float[N, 6] x) => (int64[N] label, float[N, 4] y) <float[6, 4] w> {
  a = MatMul(x, w) y = Softmax(a) label = ArgMax<axis = 1, keepdims = 0>(y)
}"""


def widened(model: Model, factor: int = 2) -> Model:
    """CONV with its first hidden channels copied, and the weights that read them split unevenly."""
    v, b, w = (model.weights[name].array() for name in "vbw")
    g = np.tile(np.arange(8), factor)
    split = np.random.default_rng(0).dirichlet(np.ones(factor), 8).T.reshape(1, -1, 1, 1)
    return with_weights(model, v=v[g], b=b[g], w=(w[:, g] * split).astype(np.float32))


def one_percent(model: Model, name: str, dtype=np.float32) -> Model:
    array = model.weights[name].array().copy()
    flat = array.reshape(-1)
    flat[np.argsort(np.abs(flat.astype(np.float64)))[flat.size // 2]] *= dtype(1.01)
    return with_weights(model, **{name: array})


@pytest.mark.parametrize("text", [CONV, TOKENS, CLASSES])
def test_a_model_equals_itself(text):
    model = build(text)
    report = verify(model, model, provider="cpu")
    assert report.ok
    assert report.ratio == 0
    assert not report.warnings
    assert report.seconds > 0


@pytest.mark.parametrize("factor", [2, 3])
def test_a_correct_growth_stays_within_the_noise(factor):
    model = build(CONV)
    report = verify(model, widened(model, factor), provider="cpu")
    assert report.ok, str(report)
    assert 0 < report.ratio < 3
    (output,) = report.outputs
    assert output.name == "y"
    assert 0 < output.error_l2 < 1e-5
    assert output.top1 == 1


def test_both_ways_of_running_are_compared():
    model = build("(float[N, 4] x) => (float[N, 4] y) { a = Identity(x) b = Identity(a) y = Sin(b) }")
    (run,) = (check for check in verify(model, model, provider="cpu").checks if check.name == "runs")
    assert "without graph optimisation (3 nodes " in run.detail
    assert "with graph optimisation (1 node " in run.detail


def test_a_second_look_tells_bad_luck_from_a_fault(monkeypatch):
    """Without a measurement of the noise everything seems to fail, until it is measured after all."""
    monkeypatch.setattr(reference, "DRAWS", (0, 0))
    text = """(float[N, 64] x) => (float[N, 5] y) <float[64, 64] v, float[64, 5] w> { a = MatMul(x, v) b = Tanh(a) y = MatMul(b, w) }"""
    model = build(text)
    g = np.random.default_rng(0).permutation(64)
    v, w = model.weights["v"].array(), model.weights["w"].array()
    permuted = with_weights(model, v=v[:, g], w=w[g])
    assert verify(model, permuted, provider="cpu").ok
    monkeypatch.setattr(verification, "SECOND_LOOK", 0)
    assert not verify(model, permuted, provider="cpu", proof=False).ok


@pytest.mark.parametrize(
    ("text", "name"), [(CONV, "v"), (CONV, "b"), (CONV, "w"), (CONV, "c"), (TOKENS, "table"), (TOKENS, "w")]
)
def test_one_weight_off_by_one_percent_is_caught(text, name):
    model = build(text)
    report = verify(model, one_percent(model, name), provider="cpu")
    assert not report.ok
    assert report.ratio > 30
    with pytest.raises(VerificationFailedError, match="output 'y' deviates by"):
        report.raise_if_failed()


def test_swapped_channels_are_caught():
    model = build(CONV)
    assert not verify(
        model, with_weights(model, v=model.weights["v"].array()[[1, 0, *range(2, 8)]]), provider="cpu"
    ).ok


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "double"])
def test_every_floating_point_type(dtype):
    text = """(float[N, 16] x) => (float[N, 5] y) <float[16, 24] v, float[24, 5] w> {
      a = MatMul(x, v) b = Relu(a) y = MatMul(b, w)
    }"""
    text = text.replace("float", dtype)
    model = build(text)
    v, w = (model.weights[name].array() for name in "vw")
    third = np.asarray(1 / 3, w.dtype)
    split = np.concatenate([w * third, w - w * third])
    report = verify(model, with_weights(model, v=np.concatenate([v, v], axis=1), w=split), provider="cpu")
    assert report.ok, str(report)
    assert any("bfloat16" in warning for warning in report.warnings) == (dtype == "bfloat16")
    assert not verify(model, with_weights(model, w=w[::-1]), provider="cpu").ok


def test_ties_may_fall_either_way_and_faults_may_not():
    text = """(float[64, 32] x) => (int64[64] best) <float[32, 16] v, float[16, 9] w> {
      a = MatMul(x, v) b = Relu(a) c = MatMul(b, w) best = ArgMax<axis = 1, keepdims = 0>(c)
    }"""
    rng = np.random.default_rng(0)
    w = rng.standard_normal((16, 9)).astype(np.float32)
    w[:, 5] = w[:, 3]  # two classes that always tie
    model = build(text, w=w)
    g = rng.permutation(16)
    v = model.weights["v"].array()
    report = verify(model, with_weights(model, v=v[:, g], w=w[g]), provider="cpu")
    assert report.ok, str(report)
    assert report.outputs[0].exact
    assert any("no output is a floating-point number" in warning for warning in report.warnings)
    assert not verify(model, with_weights(model, w=w[:, [1, 0, *range(2, 9)]]), provider="cpu").ok


def test_a_dead_network_proves_nothing():
    model = build(
        "(float[N, 4] x) => (float[N, 3] y) <float[4, 3] w> { a = Exp(x) b = Neg(a) c = Relu(b) y = MatMul(c, w) }"
    )
    report = verify(model, one_percent(model, "w"), provider="cpu")
    assert any("output 'y' is the same for different inputs" in warning for warning in report.warnings)
    lost = build(
        "(float[N, 4] x) => (float[N, 4] y) <float zero> { y = Div(x, zero) }", zero=np.array(0, np.float32)
    )
    report = verify(lost, lost, provider="cpu")
    assert not report.ok
    (failed,) = [check for check in report.checks if not check.ok]
    assert "nothing was compared" in failed.detail
    assert any("NaN or infinite" in warning for warning in report.warnings)


def test_one_number_among_nan_is_enough_to_compare():
    model = build(
        "(float[N, 4] x) => (float[N, 4] y, float[N, 4] z) <float w> { y = Div(x, w) z = Relu(x) }",
        w=np.float32(0),
    )
    assert verify(model, model, provider="cpu").ok
    root = build("(float[N, 4] x) => (float[N, 4] y) { y = Sqrt(x) }")
    assert not verify(root, root, inputs={"x": -np.ones((1, 4), np.float32)}, provider="cpu").ok
    assert verify(root, root, inputs={"x": np.array([[-1, -1, -1, 4]], np.float32)}, provider="cpu").ok


def test_a_chaotic_model_is_said_to_prove_little():
    model = build(
        "(float[N, 4] x) => (float[N, 4] y) <float big> { a = Mul(x, big) y = Sin(a) }",
        big=np.array(1e8, np.float32),
    )
    report = verify(model, model, provider="cpu")
    assert any("through rounding alone" in warning for warning in report.warnings)


def test_nan_in_other_places_is_not_equal():
    text = "(float[N, 4] x) => (float[N, 4] y) <float[4] w> { a = Mul(x, w) y = Sqrt(a) }"
    model = build(text, w=np.ones(4, np.float32))
    assert verify(model, model, provider="cpu").ok
    report = verify(model, with_weights(model, w=np.array([1, 1, -1, 1], np.float32)), provider="cpu")
    assert not report.ok
    assert report.outputs[0].ratio == float("inf")


def test_unrelated_models_give_a_report_and_not_an_error(tmp_path):
    first, second = save(build(CONV), tmp_path / "a.onnx"), save(build(TOKENS), tmp_path / "b.onnx")
    report = verify(first, second, provider="cpu")
    assert not report.ok
    assert report.outputs == ()
    assert "inputs x became ids" in str(report)
    same_inputs = build(
        "(float[N, 3, 12, 12] x) => (float[N, 5] z, float[N, 3, 12, 12] y) { z = Flatten(x) y = Relu(x) }"
    )
    report = verify(first, same_inputs, provider="cpu")
    assert not report.ok
    assert [output.ratio for output in report.outputs] == [float("inf")]


def test_a_grown_model_that_does_not_run_is_a_failure():
    model = build(CONV)
    report = verify(model, with_weights(model, c=np.zeros((9, 5), np.float32)), provider="cpu")
    assert not report.ok
    assert report.outputs == ()
    assert any(check.name == "runs" and not check.ok for check in report.checks)


def test_promises_are_checked():
    model = build(CONV)
    grown = widened(model)
    assert verify(model, grown, provider="cpu", expect={"parameters": grown.parameters}).ok
    assert not verify(model, model, provider="cpu", expect={"parameters": grown.parameters}).ok


def test_inputs_and_shapes_of_the_caller(tmp_path):
    model = build(CONV)
    report = verify(model, model, provider="cpu", shapes={"x": (2, 3, 12, 12)}, seeds=4)
    assert report.inputs == tuple(
        f"seed {seed}, scale {scale}: x 2x3x12x12" for seed, scale in enumerate(("1", "0.015625", "16", "1"))
    )
    np.savez(tmp_path / "data.npz", x=np.ones((1, 3, 12, 12)))
    assert verify(model, model, provider="cpu", inputs=tmp_path / "data.npz").inputs == ("data.npz",)


def test_arguments_that_make_no_sense(tmp_path):
    model = build(TOKENS)
    with pytest.raises(InvalidRequestError, match="seeds"):
        verify(model, model, seeds=0)
    with pytest.raises(InvalidRequestError, match="tolerance"):
        verify(model, model, tolerance=float("nan"))
    with pytest.raises(InvalidRequestError, match="provider"):
        verify(model, model, provider="tpu")
    with pytest.raises(InvalidRequestError, match="no input 'id'"):
        verify(model, model, shapes={"id": (1, 2)})
    with pytest.raises(InvalidModelError, match=r"missing\.onnx"):
        verify(model, tmp_path / "missing.onnx")


def test_nothing_is_printed_and_nothing_is_left_behind(tmp_path, capfd, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    model = build(CONV)
    verify(model, widened(model))
    captured = capfd.readouterr()
    assert captured.out + captured.err == ""
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("text", "runs"),
    [
        ("() => (float[2] y) <float[2] w> { y = Relu(w) }", 1),
        ("(float x) => (float y) { y = Relu(x) }", 9),
        ("(float[N, 0] x) => (float[N, 0] y) { y = Relu(x) }", 9),
        ("(string[N] s) => (string[N] y) { y = Identity(s) }", 9),
        ("(float[N, 3] x) => (bool[N, 3] y, uint8[N, 3] z) { y = Greater(x, x) z = Cast<to = 2>(x) }", 9),
        ("(float[N, 3] x, int64[K] k) => (float[N, M] y, int64[N, M] i) { y, i = TopK(x, k) }", 9),
        ("(float[N, 3] x) => (seq(float[N, 3]) y) { y = SequenceConstruct(x, x) }", 9),
    ],
)
def test_odd_models(text, runs):
    model = build(text)
    report = verify(model, model, provider="cpu")
    assert report.ok, str(report)
    assert len(report.inputs) == runs


@pytest.mark.skipif(not cuda_problem(), reason="CUDA answers here")
def test_cuda_where_there_is_none_is_an_error():
    model = build(TOKENS)
    with pytest.raises(DeviceUnavailableError):
        verify(model, model, provider="cuda")
    assert str(verify(model, model)).startswith("equal on CPU (CUDA does not answer: ")


@pytest.mark.gpu
@pytest.mark.skipif(bool(cuda_problem()), reason=f"CUDA does not answer: {cuda_problem()}")
def test_cuda_tells_right_from_wrong():
    model = build(CONV)
    report = verify(model, widened(model), provider="cuda")
    assert report.ok, str(report)
    assert report.provider == "cuda"
    assert any("CUDAExecutionProvider" in check.detail for check in report.checks)
    assert not verify(model, one_percent(model, "w"), provider="cuda").ok


SHARED = Path(onnx_grow.__file__).resolve().parents[2] / "shared" / "models"


@pytest.mark.parametrize("name", ["cifar_resnet_2b", "mnist_cntk", "oww_alexa"])
def test_real_models_equal_themselves_and_notice_one_percent(name):
    path = SHARED / f"{name}.onnx"
    if not path.exists():
        pytest.skip(f"{path} is not here")
    model = onnx_grow.model.load(path)
    assert verify(path, path, provider="cpu").ok
    last = [
        name
        for name, weight in model.weights.items()
        if weight.dtype == onnx.TensorProto.FLOAT and weight.shape
    ][-1]
    assert not verify(path, one_percent(model, last), provider="cpu").ok


def test_a_deviation_that_is_not_there_in_float64_is_rounding():
    """Sums over very many values of one sign lose the more, the more there are; no shaking of the original shows that."""
    model = build(
        """(float[1, 8192, 8] x) => (float[1] y) <float[8, 6] w, int64[2] axes = {1, 2}> {
            h = MatMul(x, w) r = Relu(h) y = ReduceSumSquare<keepdims = 0>(r, axes) }""",
        opset=18,
    )
    grown = onnx_grow.widen(model, factor=3)
    report = verify(model, grown, provider="cpu")
    assert report.ok, str(report)
    assert report.ratio > 3
    assert any("equal in float64" in warning for warning in report.warnings)
    assert not verify(model, grown, provider="cpu", proof=False).ok
    assert not verify(model, one_percent(grown, "w"), provider="cpu").ok

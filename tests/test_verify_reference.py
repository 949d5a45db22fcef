import numpy as np
import pytest
from graphs import build

from onnx_grow.errors import InvalidModelError, InvalidRequestError
from onnx_grow.model import load, save
from onnx_grow.verification.providers import choose
from onnx_grow.verification.reference import Stage, measure

MLP = """(float[N, 32] x) => (float[N, 8] y) <float[32, 64] v, float[64] b, float[64, 8] w> {
  a = MatMul(x, v) c = Add(a, b) d = Relu(c) y = MatMul(d, w)
}"""


@pytest.fixture
def stage(tmp_path):
    return Stage(choose("cpu"), tmp_path)


def test_the_noise_is_what_rounding_does(stage):
    """Against the same network in float64: what is measured is the size of the true error, within a factor of a few."""
    model = build(MLP)
    reference = measure(model, stage)
    v, b, w = (model.weights[name].array().astype(np.float64) for name in "vbw")
    for run, feed in enumerate(reference.feeds):
        plain = reference.plain[run]["y"]
        exact = np.maximum(feed.arrays["x"].astype(np.float64) @ v + b, 0) @ w
        true = np.linalg.norm(plain - exact) / np.linalg.norm(exact)
        assert true / 3 < reference.gauges["y"].found[run].l2 < 10 * true


def test_noise_only_grows(stage):
    reference = measure(build(MLP), stage)
    before = list(reference.gauges["y"].found)
    reference.shake()
    assert all((new | old) == new for new, old in zip(reference.gauges["y"].found, before, strict=True))


def test_the_models_own_file_is_opened(stage, tmp_path):
    path = save(build(MLP), tmp_path / "own.onnx")
    assert stage.file(load(path), "original") == path
    assert stage.file(build(MLP), "original") == tmp_path / "original.onnx"


def test_inputs_given_are_used(stage):
    x = np.ones((3, 32), np.float32)
    reference = measure(build(MLP), stage, inputs=[{"x": x}, {"x": 2 * x}])
    assert [feed.label for feed in reference.feeds] == ["inputs[0]", "inputs[1]"]
    with pytest.raises(
        InvalidRequestError, match=r"inputs: input 'x' is 3 x 5, and the model takes any x 32"
    ):
        measure(build(MLP), stage, inputs={"x": np.ones((3, 5), np.float32)})
    with pytest.raises(InvalidRequestError, match=r"is 32, and"):
        measure(build(MLP), stage, inputs={"x": np.ones(32, np.float32)})
    one = build("(float[1, 4] x) => (float[1, 4] y) { y = Relu(x) }")
    with pytest.raises(InvalidRequestError, match=r"2 x 4, and the model takes 1 x 4") as raised:
        measure(one, stage, inputs={"x": np.ones((2, 4), np.float32)})
    assert "give sets of 1" in raised.value.hint


def test_a_model_that_does_not_load_is_an_error_in_one_line(stage):
    unknown = '<ir_version: 8, opset_import: ["" : 17, "nobody" : 1]> g (float[N] x) => (float[N] y) { y = nobody.Thing(x) }'
    with pytest.raises(InvalidModelError, match=r"does not load in ONNX Runtime: .*nobody") as raised:
        measure(build(unknown), stage)
    assert "\n" not in str(raised.value)


def test_files_that_onnxruntime_is_too_new_for_are_told_the_way(stage):
    old = '<ir_version: 3, opset_import: ["" : 6]> g (float[2, 2] x) => (float[2, 2] y) { y = Gemm<broadcast = 1>(x, x, x) }'
    with pytest.raises(InvalidModelError, match="does not load") as raised:
        measure(build(old), stage)
    assert "version_converter" in raised.value.hint
    assert not build(old.replace(": 6", ": 7")).upgrade


@pytest.mark.parametrize(
    "body", ["y = Add(x)", "y = Equal(x)", "y = OneHot(x)", "i = Identity() y = Gather(i, x)"]
)
def test_a_malformed_node_is_onnxruntimes_to_refuse(stage, body):
    with pytest.raises(InvalidModelError, match="does not load in ONNX Runtime"):
        measure(build(f"(int64[N] x) => (int64[N] y) {{ {body} }}"), stage)


def test_small_models_are_looked_at_longer(stage):
    assert len(measure(build(MLP), stage).feeds) == 9
    assert len(measure(build(MLP), stage, seeds=2).feeds) == 2
    tall = build("(float[1, 3, 300, 300] x) => (float[1, 3, 300, 300] y) { y = Relu(x) }")
    assert len(measure(tall, stage).feeds) == 3
    large = build("(float[N, 1100] x) => (float[N, 1100] y) <float[1100, 1100] w> { y = MatMul(x, w) }")
    assert len(measure(large, stage).feeds) == 3

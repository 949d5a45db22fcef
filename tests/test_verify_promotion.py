import ml_dtypes
import numpy as np
import pytest
from graphs import build
from onnx import TensorProto

from onnx_grow.model import save
from onnx_grow.verification.promotion import promoted, uses_bfloat16
from onnx_grow.verification.providers import choose
from onnx_grow.verification.sessions import opened

MIXED = """(float[N, 4] x, bool pick) => (float[N, 3] y) <bfloat16[4, 3] w, bfloat16[3] b> {
  a = Cast<to = 16>(x)
  c = MatMul(a, w)
  d = If(pick) <
    then_branch = one () => (bfloat16[N, 3] e) { e = Add(c, b) },
    else_branch = two () => (bfloat16[N, 3] f) { k = Constant<value = bfloat16[1] {16128}>() f = Add(c, k) }
  >
  y = Cast<to = 1>(d)
}"""


@pytest.mark.parametrize(
    ("text", "used"),
    [
        ("(bfloat16[N] x) => (bfloat16[N] y) { y = Relu(x) }", True),
        ("(float[N] x) => (float[N] y) { a = Cast<to = 16>(x) y = Cast<to = 1>(a) }", True),
        ("(float[N] x) => (float[N] y) { a = Cast<to = 10>(x) y = Cast<to = 1>(a) }", False),
        (MIXED, True),
    ],
)
def test_bfloat16_is_found_wherever_it_is(text, used):
    assert uses_bfloat16(build(text)) == used
    assert not uses_bfloat16(promoted(build(text)))


def test_the_promoted_model_runs_with_the_same_values(tmp_path):
    model = build(MIXED)
    wide = promoted(model)
    assert wide.weights["w"].dtype == TensorProto.FLOAT
    assert wide.weights["w"].nbytes == 4 * 12
    assert model.weights["w"].dtype == TensorProto.BFLOAT16
    w, b = (model.weights[name].array().astype(np.float32) for name in "wb")
    assert w.astype(ml_dtypes.bfloat16).tobytes() == model.weights["w"].array().tobytes()
    x = np.random.default_rng(0).standard_normal((5, 4)).astype(np.float32)
    with opened(save(wide, tmp_path / "wide.onnx"), choose("cpu"), optimised=False) as session:
        np.testing.assert_allclose(
            session.run({"x": x, "pick": np.array(True)})["y"], x @ w + b, rtol=1e-5, atol=1e-6
        )
        np.testing.assert_allclose(
            session.run({"x": x, "pick": np.array(False)})["y"], x @ w + 0.5, rtol=1e-5, atol=1e-6
        )

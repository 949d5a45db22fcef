import gc
import weakref

import numpy as np
import onnxruntime
import pytest
from graphs import build

from onnx_grow.model import save
from onnx_grow.verification.providers import choose
from onnx_grow.verification.sessions import RunError, Session, opened

CPU = choose("cpu")


def written(tmp_path, text, **values):
    return save(build(text, **values), tmp_path / "model.onnx")


def test_outputs_come_by_name(tmp_path):
    path = written(tmp_path, "(float[N] x) => (float[N] y, float[N] z) { y = Relu(x) z = Neg(x) }")
    with opened(path, CPU, optimised=False) as session:
        results = session.run({"x": np.array([-1, 2], np.float32)})
        assert session.placement == {"CPUExecutionProvider": 2}
    assert results["y"].tolist() == [0, 2]
    assert results["z"].tolist() == [1, -2]


def test_optimisation_is_all_or_nothing(tmp_path):
    path = written(tmp_path, "(float[N] x) => (float[N] y) { a = Identity(x) b = Identity(a) y = Relu(b) }")
    assert sum(Session(path, CPU, optimised=False).placement.values()) == 3
    assert sum(Session(path, CPU, optimised=True).placement.values()) == 1


def test_the_session_is_gone_after_the_context(tmp_path):
    path = written(tmp_path, "(float[N] x) => (float[N] y) { y = Relu(x) }")
    with opened(path, CPU, optimised=False) as session:
        inner = weakref.ref(session._session)
    gc.collect()
    assert inner() is None


def test_sequences_and_maps_become_arrays(tmp_path):
    text = """<ir_version: 8, opset_import: ["" : 17, "ai.onnx.ml" : 2]>
    g (float[N, 3] x) => (seq(map(int64, float)) scores, seq(float[N, 3]) both) {
      scores = ai.onnx.ml.ZipMap<classlabels_int64s = [5, 6, 7]>(x)
      both = SequenceConstruct(x, x)
    }"""
    x = np.arange(6, dtype=np.float32).reshape(2, 3)
    with opened(written(tmp_path, text), CPU, optimised=False) as session:
        results = session.run({"x": x})
    assert list(results) == ["scores[keys]", "scores", "both[0]", "both[1]"]
    assert results["scores"].dtype == np.float32
    assert np.array_equal(results["scores"], x)
    assert results["scores[keys]"].tolist() == ["5", "6", "7"] * 2
    assert np.array_equal(results["both[1]"], x)


def test_failures_are_one_line_and_make_no_noise(tmp_path, capfd):
    path = written(tmp_path, "(float[N, 3] x) => (float[N, 2] y) <float[3, 2] w> { y = MatMul(x, w) }")
    with opened(path, CPU, optimised=False) as session, pytest.raises(RunError) as raised:
        session.run({"x": np.zeros((2, 4), np.float32)})
    assert "\n" not in str(raised.value)
    assert "ONNXRuntimeError" not in str(raised.value)
    unknown = written(
        tmp_path / "..",
        '<ir_version: 8, opset_import: ["" : 17, "nobody" : 1]> g (float[N] x) => (float[N] y) { y = nobody.Thing(x) }',
    )
    with pytest.raises(RunError, match="nobody"):
        Session(unknown, CPU, optimised=True)
    captured = capfd.readouterr()
    assert captured.out + captured.err == ""


def test_warnings_of_the_runtime_are_not_the_users(tmp_path, capfd):
    """Without silence ONNX Runtime warns of every initializer that a caller could override."""
    text = "(float[N, 2] x, float[2, 1] w) => (float[N, 1] y) <float[2, 1] w = {1, 2}> { y = MatMul(x, w) }"
    onnxruntime.set_default_logger_severity(2)
    Session(written(tmp_path, text), CPU, optimised=True)
    captured = capfd.readouterr()
    assert captured.out + captured.err == ""

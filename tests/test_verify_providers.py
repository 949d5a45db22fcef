import os

import numpy as np
import onnxruntime
import pytest
from graphs import build

from onnx_grow.errors import DeviceUnavailableError, InvalidRequestError
from onnx_grow.verification import providers
from onnx_grow.verification.providers import CUDA_OPTIONS, choose, cuda_problem
from onnx_grow.verification.sessions import Session

needs_cuda = pytest.mark.skipif(bool(cuda_problem()), reason=f"CUDA does not answer: {cuda_problem()}")


@pytest.fixture
def no_cuda(monkeypatch):
    monkeypatch.setattr(providers, "cuda_problem", lambda: "no NVIDIA driver")


def test_the_cpu_is_there_when_asked_for():
    device = choose("cpu")
    assert (device.name, str(device)) == ("cpu", "CPU (asked for)")
    assert device.providers == ["CPUExecutionProvider"]


@pytest.mark.usefixtures("no_cuda")
def test_auto_falls_back_and_says_why():
    assert str(choose("auto")) == "CPU (CUDA does not answer: no NVIDIA driver)"


@pytest.mark.usefixtures("no_cuda")
def test_cuda_is_never_replaced_in_silence():
    with pytest.raises(DeviceUnavailableError, match="CUDA does not answer: no NVIDIA driver") as raised:
        choose("cuda")
    assert raised.value.exit_code == 4


def test_other_providers_are_unknown():
    with pytest.raises(InvalidRequestError, match="unknown provider 'tensorrt'"):
        choose("tensorrt")


def test_cuda_is_asked_for_without_tf32_and_with_the_cpu_as_a_second_choice(monkeypatch):
    monkeypatch.setattr(providers, "cuda_problem", lambda: "")
    device = choose("auto")
    assert str(device) == "CUDA (it answers)"
    assert device.providers == [("CUDAExecutionProvider", CUDA_OPTIONS), "CPUExecutionProvider"]
    assert CUDA_OPTIONS["use_tf32"] == "0"


def test_a_listed_provider_that_does_not_run_does_not_count(monkeypatch, capfd):
    """Where there is a driver but CUDA does not open: the probe itself has to find out, and stay quiet."""
    if not cuda_problem():
        pytest.skip("CUDA answers here")
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: ["CUDAExecutionProvider"])
    monkeypatch.setattr(providers, "_driver_problem", lambda: "")
    problem = cuda_problem.__wrapped__()
    assert problem
    assert "\n" not in problem
    captured = capfd.readouterr()
    assert captured.out + captured.err == ""


def test_a_build_without_cuda_is_named(monkeypatch):
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: ["CPUExecutionProvider"])
    assert cuda_problem.__wrapped__() == "this onnxruntime is built without it"


@pytest.mark.gpu
@needs_cuda
def test_cuda_runs_the_nodes(tmp_path):
    from onnx_grow.model import save

    model = build("(float[N, 64] x) => (float[N, 64] y) <float[64, 64] w> { a = MatMul(x, w) y = Relu(a) }")
    path = save(model, tmp_path / "model.onnx")
    session = Session(path, choose("cuda"), optimised=False)
    x = np.random.default_rng(0).standard_normal((32, 64)).astype(np.float32)
    y = session.run({"x": x})["y"]
    exact = np.maximum(x.astype(np.float64) @ model.weights["w"].array().astype(np.float64), 0)
    assert np.linalg.norm(y - exact) / np.linalg.norm(exact) < 1e-6  # TF32 would give 3e-4
    assert session.placement["CUDAExecutionProvider"] == 2
    assert os.environ["NVIDIA_TF32_OVERRIDE"] == "0"

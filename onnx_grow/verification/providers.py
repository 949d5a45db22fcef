"""Where models run: CUDA when it really answers, else the CPU, and never one in place of the other without a word.

ONNX Runtime lists CUDA on machines without a GPU and falls back to the CPU without telling. So CUDA counts only if a
tiny model runs on it alone, with the CPU neither listed nor allowed as a fallback.
"""

from __future__ import annotations

import contextlib
import ctypes
import io
import os
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from typing import Any

from onnx_grow.errors import DeviceUnavailableError, InvalidRequestError
from onnx_grow.model.names import one_line

__all__ = ["CUDA_OPTIONS", "Device", "choose", "session_options"]

CUDA_OPTIONS = {"use_tf32": "0", "cudnn_conv_algo_search": "HEURISTIC", "prefer_nhwc": "0"}
"""TF32 keeps 10 bits of 23, an exhaustive search varies by 1e-6 from run to run, NHWC changes the order of sums."""

SILENT = 4
"""ONNX Runtime's severity "fatal": whatever goes wrong below it comes back as an exception."""


@dataclass(frozen=True)
class Device:
    """The execution provider that runs the models, `cuda` or `cpu`, and why it was chosen."""

    name: str
    reason: str

    @property
    def providers(self) -> list[Any]:
        """The providers of a session, in the form ONNX Runtime wants."""
        gpu = [("CUDAExecutionProvider", CUDA_OPTIONS)] if self.name == "cuda" else []
        return [*gpu, "CPUExecutionProvider"]

    def __str__(self) -> str:
        return f"{self.name.upper()} ({self.reason})"


def choose(provider: str = "auto") -> Device:
    """The device for `provider`: `cpu`, `cuda`, or `auto`, which is CUDA if it answers.

    Raises DeviceUnavailableError if CUDA is asked for and does not answer, InvalidRequestError for any other name.
    """
    if provider == "cpu":
        return Device("cpu", "asked for")
    if provider not in ("auto", "cuda"):
        raise InvalidRequestError(f"unknown provider {provider!r}", hint="use auto, cuda or cpu")
    problem = cuda_problem()
    if not problem:
        return Device("cuda", "asked for" if provider == "cuda" else "it answers")
    if provider == "cuda":
        raise DeviceUnavailableError(
            f"CUDA does not answer: {problem}", hint="use --provider cpu (provider='cpu') or auto"
        )
    return Device("cpu", f"CUDA does not answer: {problem}")


def session_options(*, optimised: bool) -> Any:
    """Silent, deterministic session options, with all of ONNX Runtime's graph optimisation or none."""
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.log_severity_level = SILENT
    options.use_deterministic_compute = True
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    levels = ort.GraphOptimizationLevel
    options.graph_optimization_level = levels.ORT_ENABLE_ALL if optimised else levels.ORT_DISABLE_ALL
    return options


@cache
def cuda_problem() -> str:
    """Why CUDA does not answer, in one line; empty if it does. Asked once per process."""
    import onnxruntime as ort

    if "CUDAExecutionProvider" not in ort.get_available_providers():
        return "this onnxruntime is built without it"
    if problem := _driver_problem():
        return problem
    # Read by CUDA's libraries when they start, whatever any session asks for later.
    os.environ["NVIDIA_TF32_OVERRIDE"] = "0"
    with _silence():
        if hasattr(ort, "preload_dlls"):
            ort.preload_dlls()
        options = session_options(optimised=False)
        options.add_session_config_entry("session.disable_cpu_ep_fallback", "1")
        try:
            session = ort.InferenceSession(
                _probe(), options, providers=[("CUDAExecutionProvider", CUDA_OPTIONS)]
            )
            session.run(None, {})
        except Exception as error:  # onnxruntime has no common error class; any failure is the answer "no"
            missing = "assigned to the default CPU EP" in str(error)
            return (
                "its libraries do not load (CUDA and cuDNN)"
                if missing
                else one_line(error, 200) or type(error).__name__
            )
    return ""


def _probe() -> bytes:
    """A model that is nothing but y = relu(1)."""
    from onnx import TensorProto, helper

    value = helper.make_tensor("x", TensorProto.FLOAT, [1], [1.0])
    y = helper.make_tensor_value_info("y", TensorProto.FLOAT, [1])
    graph = helper.make_graph([helper.make_node("Relu", ["x"], ["y"])], "probe", [], [y], [value])
    model = helper.make_model(graph, ir_version=8, opset_imports=[helper.make_opsetid("", 14)])
    return bytes(model.SerializeToString())


def _driver_problem() -> str:
    """What the NVIDIA driver says, so that nothing large is loaded where there is no GPU at all."""
    try:
        driver = ctypes.CDLL("nvcuda.dll" if sys.platform == "win32" else "libcuda.so.1")
    except OSError:
        return "no NVIDIA driver"
    count = ctypes.c_int(0)
    if code := driver.cuInit(0) or driver.cuDeviceGetCount(ctypes.byref(count)):
        return f"the NVIDIA driver reports error {code}"
    return "" if count.value else "no NVIDIA GPU"


@contextlib.contextmanager
def _silence() -> Iterator[None]:
    """Keep what loading CUDA prints, on stdout and in the default log, from the user's screen."""
    import onnxruntime as ort

    ort.set_default_logger_severity(SILENT)
    with contextlib.redirect_stdout(io.StringIO()):
        try:
            yield
        finally:
            ort.set_default_logger_severity(2)  # warning, its default

"""On a GPU: the README's main job, where nodes run, and that wrong is told from right. Skips where CUDA does not answer."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from verifying import with_weights

import onnx_grow as og
from onnx_grow.verification.providers import CUDA_OPTIONS, cuda_problem

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(bool(cuda_problem()), reason=f"CUDA does not answer: {cuda_problem()}"),
]

MODELS = Path(__file__).parent.parent / "models"


def test_the_main_job_runs_on_cuda(tmp_path: Path) -> None:
    words = [
        "widen",
        str(MODELS / "digits_cnn.onnx"),
        "-o",
        str(tmp_path / "wide.onnx"),
        "--provider",
        "cuda",
        "--json",
    ]
    done = subprocess.run(
        [sys.executable, "-m", "onnx_grow", *words], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    verification = json.loads(done.stdout)["verification"]
    assert verification["provider"] == "cuda"
    assert any("CUDAExecutionProvider" in check["detail"] for check in verification["checks"])


@pytest.mark.parametrize("name", ["digits_cnn", "digits_keras", "digits_jax"])
def test_shipped_models_grow_and_faults_show(name: str) -> None:
    model = og.load(MODELS / f"{name}.onnx")
    for grown in (og.widen(model, factor=1.5), og.deepen(model)):
        assert og.verify(model, grown, provider="cuda", proof=False).ok
    key, weight = next((k, w) for k, w in model.weights.items() if len(w.shape) > 1)
    wrong = with_weights(model, **{key: weight.array() * np.float32(1.01)})
    assert not og.verify(model, wrong, provider="cuda", proof=False).ok


def test_tf32_is_off() -> None:
    assert CUDA_OPTIONS["use_tf32"] == "0"
    assert os.environ["NVIDIA_TF32_OVERRIDE"] == "0"


def test_running_twice_gives_the_same_bits() -> None:
    model = og.load(MODELS / "digits_cnn.onnx")
    report = og.verify(model, model, provider="cuda", proof=False)
    assert all(output.error_l2 == 0 for output in report.outputs)

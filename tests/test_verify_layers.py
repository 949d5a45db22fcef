from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import onnxruntime
import pytest
from verifying import build, with_weights

import onnx_grow as og
from onnx_grow.model import Inline, Model
from onnx_grow.verification import memory
from onnx_grow.verification.proof import run_in_float64

NET = """(int64[N, 3] ids) => (float[N, 3, 40] y, int64[N, 3] top) <float[50, 8] table, float[8, 6] v, float[6, 40] w> {
    e = Gather(table, ids) a = MatMul(e, v) r = Relu(a) y = MatMul(r, w) top = ArgMax<axis = -1, keepdims = 0>(y) }"""


@pytest.fixture
def model() -> Model:
    return build(NET)


@pytest.fixture
def scarce(monkeypatch: pytest.MonkeyPatch) -> None:
    """Less memory than the weights take, and no session of a whole model."""
    monkeypatch.setattr(memory, "available_memory", lambda: 1000)
    whole = onnxruntime.InferenceSession

    def session(source: Any, *more: Any, **options: Any) -> Any:
        assert not isinstance(source, str), "a whole model"
        return whole(source, *more, **options)

    monkeypatch.setattr(onnxruntime, "InferenceSession", session)


@pytest.mark.usefixtures("scarce")
@pytest.mark.parametrize("scheme", ["split", "copy", "fresh"])
def test_a_correct_growth_that_does_not_fit_in_memory(model: Model, scheme: Any) -> None:
    report = og.verify(model, og.widen(model, scheme=scheme))
    assert report.ok, str(report)
    assert report.float64 is not None
    assert report.float64 < 1e-7
    assert "node by node" in str(report)
    assert {output.name: output.dtype for output in report.outputs} == {"y": "float64", "top": "int64"}


@pytest.mark.usefixtures("scarce")
def test_a_wrong_growth_that_does_not_fit_in_memory(model: Model) -> None:
    grown = og.widen(model)
    weight = np.array(grown.weights["w"].array())
    weight[3] *= np.float32(1.01)
    report = og.verify(model, with_weights(grown, w=weight))
    assert not report.ok
    assert report.beyond[0].name == "y"


@pytest.mark.usefixtures("scarce")
def test_a_model_that_does_not_run_names_the_node(model: Model) -> None:
    grown = og.widen(model)
    broken = with_weights(grown, w=np.zeros((3, 40), np.float32))
    report = og.verify(model, broken)
    assert not report.ok
    assert any("MatMul" in check.detail for check in report.checks if not check.ok), str(report)


@pytest.mark.usefixtures("scarce")
def test_inputs_and_shapes_of_the_caller(model: Model) -> None:
    grown = og.widen(model)
    given = {"ids": np.array([[1, 2, 3], [-1, -50, 49]])}
    assert og.verify(model, grown, inputs=given).ok
    report = og.verify(model, grown, shapes={"ids": (7, 3)}, seeds=2)
    assert report.ok
    assert len(report.inputs) == 2


def test_enough_memory_means_sessions(model: Model) -> None:
    report = og.verify(model, og.widen(model))
    assert report.ok
    assert "node by node" not in str(report)


def test_of_a_table_only_the_rows_that_are_looked_up_are_read(model: Model) -> None:
    class Rows(Inline):
        read: list[int] = []  # noqa: RUF012

        def array(self) -> np.ndarray:
            raise AssertionError("all of the table")

        def rows(self) -> Callable[[np.ndarray], np.ndarray]:
            def taken(index: np.ndarray) -> np.ndarray:
                self.read.extend(index.tolist())
                return self._array[index]

            return taken

    table = Rows(model.weights["table"].array())
    ids = np.array([[1, 2, 49], [-1, 1, -50]])
    expected = run_in_float64(model, {"ids": ids})
    found = run_in_float64(Model(model.skeleton, {**model.weights, "table": table}), {"ids": ids})
    np.testing.assert_array_equal(found["y"], expected["y"])
    assert table.read == [0, 1, 2, 49]

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import onnxruntime
import pytest
from graphs import build
from verifying import with_weights

import onnx_grow as og
from onnx_grow.model import Inline, Model
from onnx_grow.verification import memory, pieces
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
def test_what_noise_would_hide_is_told(model: Model) -> None:
    """Of a growth that nobody recorded, one weight is off by less than rounding moves the others."""
    grown = og.widen(model)
    del grown.skeleton.metadata_props[:]
    assert not any("exact growths" in warning for warning in og.verify(model, grown).warnings)
    weight = np.array(grown.weights["w"].array())
    weight[3, 3] *= np.float32(1 + 3e-7)
    report = og.verify(model, with_weights(grown, w=weight))
    assert report.ok
    assert any("exact growths by some 1e-15" in warning for warning in report.warnings)


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


class Rows(Inline):
    """A weight that must not be read whole."""

    def __init__(self, array: np.ndarray) -> None:
        super().__init__(array)
        self.read: list[int] = []

    def array(self) -> np.ndarray:
        raise AssertionError("all of the weight")

    def rows(self) -> Callable[[np.ndarray], np.ndarray]:
        def taken(index: np.ndarray) -> np.ndarray:
            self.read.extend(index.tolist())
            return self._array[index]

        return taken


def in_rows(model: Model, *names: str) -> Model:
    return Model(
        model.skeleton, {**model.weights, **{name: Rows(model.weights[name].array()) for name in names}}
    )


def test_of_a_table_only_the_rows_that_are_looked_up_are_read(model: Model) -> None:
    ids = np.array([[1, 2, 49], [-1, 1, -50]])
    expected = run_in_float64(model, {"ids": ids})
    some = in_rows(model, "table")
    found = run_in_float64(some, {"ids": ids})
    np.testing.assert_array_equal(found["y"], expected["y"])
    assert some.weights["table"].read == [0, 1, 2, 49]


def test_one_number_out_of_a_vector_is_looked_up() -> None:
    model = build(
        "(double[N, 4] x) => (double[N, 4] y) <double[2] e = {3, 5}, int64 i = {-1}> { s = Gather(e, i) y = Mul(x, s) }"
    )
    np.testing.assert_array_equal(run_in_float64(model, {"x": np.ones((1, 4))})["y"], np.full((1, 4), 5.0))


TIED = """(int64[N, 3] ids) => (float[N, 3, 50] y, float[M, 30] z) <float[50, 40] table, float[40, 40] v, float[30, 40] w, float[30] bias> {
    e = Gather(table, ids) a = MatMul(e, v) flat = Constant<value_ints = [-1, 40]>() rows = Reshape(a, flat)
    z = Gemm<transB = 1, alpha = 0.5, beta = 3.0>(rows, w, bias) turned = Transpose(table) y = MatMul(a, turned) }"""


@pytest.mark.parametrize("piece", [1, 20, 1000])
def test_products_with_large_matrices_are_computed_in_pieces(
    piece: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = build(TIED)
    ids = {"ids": np.array([[1, 2, 49], [-1, 1, -50]])}
    expected = run_in_float64(model, ids)
    monkeypatch.setattr(pieces, "LARGE", 0)
    monkeypatch.setattr(pieces, "PIECE", piece)
    found = run_in_float64(in_rows(model, "table", "v", "w"), ids)
    for name in "yz":
        np.testing.assert_allclose(found[name], expected[name], rtol=1e-12)


@pytest.mark.parametrize(
    ("said", "instead"),
    [
        ("y = MatMul(a, turned)", "y = MatMul(a, turned) shape = Shape(turned)"),
        (
            "turned = Transpose(table) y = MatMul(a, turned)",
            "same = Transpose <perm = [0, 1]> (v) y = MatMul(a, same)",
        ),
        ("y = MatMul(a, turned)", "c = MatMul(v, turned) y = MatMul(a, c)"),
        (
            "y = MatMul(a, turned)",
            """no = Constant<value = bool {0}>() y = If(no) <then_branch = t () => (float[N, 3, 50] p) { p = MatMul(a, turned) },
            else_branch = f () => (float[N, 3, 50] q) { r = MatMul(a, turned) q = Neg(r) }>""",
        ),
        ("beta = 3.0>(rows, w, bias)", "beta = 0.0>(rows, w, endless)"),
    ],
    ids=["its shape is read", "it is not turned", "by a weight", "in a branch", "a bias that counts nothing"],
)
def test_what_is_not_a_plain_product_is_computed_as_ever(
    said: str, instead: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = TIED.replace("> {", ", float[30] endless> {", 1).replace(said, instead)
    model = build(text, endless=np.full(30, np.inf, np.float32))
    ids = {"ids": np.array([[1, 2, 49]])}
    expected = run_in_float64(model, ids)
    monkeypatch.setattr(pieces, "LARGE", 0)
    found = run_in_float64(model, ids)
    for name in "yz":
        np.testing.assert_allclose(found[name], expected[name], rtol=1e-12)


@pytest.mark.usefixtures("scarce")
def test_large_weights_are_never_whole_while_verifying(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nor are they while noise moves them; and what is wrong with one shows."""
    monkeypatch.setattr(pieces, "LARGE", 0)
    model = build(TIED)
    grown = og.widen(model)
    large = [name for name, weight in grown.weights.items() if len(weight.shape) == 2]
    assert any(grown.weights[name].shape == (50, 80) for name in large)
    before = in_rows(model, "table", "v", "w")
    assert og.verify(before, in_rows(grown, *large)).ok
    for name in large:
        values = np.array(grown.weights[name].array())
        values[2] *= np.float32(1.5)
        wrong = in_rows(with_weights(grown, **{name: values}), *large)
        assert not og.verify(before, wrong, inputs={"ids": np.array([[7, 2, 3]])}).ok

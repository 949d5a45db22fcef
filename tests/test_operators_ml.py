from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from graphs import Case, build
from single_operators import Computed, Single, check

import onnx_grow as og
from onnx_grow.errors import NothingToGrowError

ML = '<ir_version: 8, opset_import: ["" : 17, "ai.onnx.ml" : 3]> g '
HEAD = "(float[N, 4] x) => (float[N, 3] y) <float[4, 6] v, float[6, 3] w>"


def between(body: str) -> str:
    """Text of a graph in which `body` computes b from a, both of N x 6 hidden channels."""
    return f"{ML} {HEAD} {{ a = MatMul(x, v) {body} y = MatMul(b, w) }}"


RNG = np.random.default_rng(0)


def drawn(count: int) -> list[float]:
    return [float(value) for value in RNG.uniform(-1, 1, count)]


def alone(op: str, outputs: int = 1, **attributes: Any) -> Single:
    return Single(op, [Computed((3, 4))], attributes, domain="ai.onnx.ml", outputs=outputs)


def machine(op: str, kernel: str, outputs: int = 1, **attributes: Any) -> Single:
    return alone(op, outputs, kernel_type=kernel, kernel_params=[0.5, 0.1, 3.0], rho=[0.2], **attributes)


VECTORS = {"coefficients": drawn(5), "support_vectors": drawn(20)}
LISTS = [
    (alone("Scaler", offset=drawn(4), scale=drawn(4)), "m0 m0:2"),
    (alone("Imputer", imputed_value_floats=drawn(4), replaced_value_float=9.0), "m0 m0:2"),
    (alone("Normalizer", norm="MAX"), "m0 m0:2"),
    (alone("Normalizer", norm="L1"), "m0 ~m0:2"),
    (alone("Normalizer", norm="L2"), "m0 ~m0:2"),
    (alone("LinearRegressor", coefficients=drawn(4), intercepts=[0.1]), "m0 m0:2"),
    (alone("LinearRegressor", coefficients=drawn(8), intercepts=drawn(2), targets=2), "m0 m0:2"),
    *(
        (
            alone(
                "LinearClassifier",
                outputs=2,
                coefficients=drawn(4 * classes),
                intercepts=drawn(classes),
                classlabels_ints=list(range(classes)),
                post_transform=transform,
            ),
            "m0 m0:2",
        )
        for classes, transform in ((3, "SOFTMAX"), (2, "LOGISTIC"))
    ),
    *(
        (machine("SVMRegressor", kernel, n_supports=5, **VECTORS), axes)
        for kernel, axes in (
            ("LINEAR", "m0 m0:2"),
            ("POLY", "m0 m0:2"),
            ("SIGMOID", "m0 m0:2"),
            ("RBF", "m0"),
        )
    ),
    (machine("SVMRegressor", "LINEAR", n_supports=0, coefficients=drawn(4)), "m0 m0:2"),
    (
        machine("SVMClassifier", "LINEAR", 2, vectors_per_class=[2, 3], classlabels_ints=[0, 1], **VECTORS),
        "m0 m0:2",
    ),
    (machine("SVMClassifier", "LINEAR", 2, coefficients=drawn(8), classlabels_ints=[0, 1]), "m0 m0:2"),
]

CASES = [
    Case("scaler: one for all", between("b = ai.onnx.ml.Scaler <offset=[0.5], scale=[2.0]> (a)")),
    Case("binarizer", between("b = ai.onnx.ml.Binarizer <threshold=0.2> (a)")),
    Case(
        "imputer: one for all",
        between("b = ai.onnx.ml.Imputer <imputed_value_floats=[0.5], replaced_value_float=9.0> (a)"),
    ),
    Case(
        "extractor",
        f"""{ML} (float[N, 4] x) => (float[N, 2] y) <float[4, 6] v, int64[2] i = {{3, 1}}> {{
            a = MatMul(x, v) y = ai.onnx.ml.ArrayFeatureExtractor(a, i) }}""",
        "",
        {"a": "selects from this dimension by index"},
    ),
]


@pytest.mark.parametrize("case", CASES, ids=str)
def test_operators_of_ai_onnx_ml(case: Case) -> None:
    case.check()


@pytest.mark.parametrize(("single", "axes"), LISTS, ids=map(str, range(len(LISTS))))
def test_attributes_that_are_weights(single: Single, axes: str) -> None:
    assert " ".join(check(single)) == axes, str(single)


def test_what_has_weights_is_named_and_not_what_has_none() -> None:
    model = build(
        f"""{ML} (float[N,4] x) => (int64[N] label, float[N,3] scores) {{
        label, scores = ai.onnx.ml.LinearClassifier<coefficients = {drawn(12)}, intercepts = {drawn(3)}, classlabels_ints = [0, 1, 2]>(x)
        bag = ai.onnx.ml.ZipMap<classlabels_int64s = [0, 1, 2]>(scores)
    }}"""
    )
    with pytest.raises(NothingToGrowError) as caught:
        og.widen(model)
    assert "LinearClassifier" in caught.value.message
    assert "ZipMap" not in caught.value.message

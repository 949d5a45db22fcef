from __future__ import annotations

import pytest
from graphs import Case

ML = '<ir_version: 8, opset_import: ["" : 17, "ai.onnx.ml" : 3]> g '
HEAD = "(float[N, 4] x) => (float[N, 3] y) <float[4, 6] v, float[6, 3] w>"


def between(body: str) -> str:
    """Text of a graph in which `body` computes b from a, both of N x 6 hidden channels."""
    return f"{ML} {HEAD} {{ a = MatMul(x, v) {body} y = MatMul(b, w) }}"


CASES = [
    Case("scaler: one for all", between("b = ai.onnx.ml.Scaler <offset=[0.5], scale=[2.0]> (a)")),
    Case(
        "scaler: one for each",
        between(
            "b = ai.onnx.ml.Scaler <offset=[0.1, 0.2, 0.3, 0.4, 0.5, 0.6], scale=[1.0, 2.0, 3.0, 4.0, 5.0, 6.0]> (a)"
        ),
        "",
        {"a": "has an offset and a scale for each of these"},
    ),
    Case("binarizer", between("b = ai.onnx.ml.Binarizer <threshold=0.2> (a)")),
    Case(
        "imputer: one for all",
        between("b = ai.onnx.ml.Imputer <imputed_value_floats=[0.5], replaced_value_float=9.0> (a)"),
    ),
    Case(
        "normalizer",
        between('b = ai.onnx.ml.Normalizer <norm="L2"> (a)'),
        "",
        {"a": "normalises over this dimension"},
    ),
    Case(
        "linear regressor",
        f"""{ML} (float[N, 4] x) => (float[N, 1] y) <float[4, 6] v> {{
            a = MatMul(x, v) y = ai.onnx.ml.LinearRegressor <coefficients=[1.0, 2.0, 3.0, 4.0, 5.0, 6.0], intercepts=[0.1]> (a) }}""",
        "",
        {"a": "its coefficients are attributes"},
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

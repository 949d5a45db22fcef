from __future__ import annotations

import numpy as np
import pytest
from graphs import build

from onnx_grow.growth.widening import inspect, widened
from onnx_grow.operators import RULES
from onnx_grow.operators.costs import _COSTS

CASES = {
    "a grouped convolution": (
        "(float[2, 6, 9, 9] x) => (float[2, 8, 7, 7] y) <float[8, 3, 3, 3] w> { y = Conv <group = 2> (x, w) }",
        2 * 8 * 7 * 7 * 3 * 9,
    ),
    "a strided one": (
        "(float[1, 4, 9, 9] x) => (float[1, 8, 4, 4] y) <float[8, 4, 3, 3] w> { y = Conv <strides = [2, 2]> (x, w) }",
        8 * 4 * 4 * 4 * 9,
    ),
    "a transposed one": (
        "(float[1, 4, 5, 5] x) => (float[1, 6, 11, 11] y) <float[4, 3, 3, 3] w> "
        "{ y = ConvTranspose <group = 2, strides = [2, 2]> (x, w) }",
        4 * 5 * 5 * 3 * 9,
    ),
    "a matrix product": (
        "(float[2, 3, 4] x) => (float[2, 3, 5] y) <float[4, 5] w> { y = MatMul(x, w) }",
        2 * 3 * 4 * 5,
    ),
    "a vector": ("(float[4] x) => (float[5] y) <float[4, 5] w> { y = MatMul(x, w) }", 20),
    "one transposed": (
        "(float[4, 3] x) => (float[3, 5] y) <float[5, 4] w> { y = Gemm <transA = 1, transB = 1> (x, w) }",
        60,
    ),
    "a recurrent layer in two directions": (
        "(float[7, 3, 4] x) => (float[7, 2, 3, 5] y) <float[2, 20, 4] w, float[2, 20, 5] r> "
        '{ y = LSTM <hidden_size = 5, direction = "bidirectional"> (x, w, r) }',
        7 * 3 * 2 * 20 * (4 + 5),
    ),
    "attention": (
        "(float[2, 4, 3, 6] q, float[2, 2, 5, 6] k, float[2, 2, 5, 7] v) => (float[2, 4, 3, 7] y) { y = Attention(q, k, v) }",
        2 * 4 * 3 * 5 * (6 + 7),
    ),
    "attention with projections": (
        "(float[2, 3, 8] x) => (float[2, 3, 8] y) <float[8, 24] w, float[24] b> "
        "{ y = com.microsoft.Attention <num_heads = 2> (x, w, b) }",
        2 * 3 * 8 * 24 + 2 * (2 * 2 * 3 * 3 * 4),
    ),
    "an einsum": (
        '(float[2, 3, 4] x) => (float[3, 2, 5] y) <float[4, 5] w> { y = Einsum <equation = "abc, cd -> bad"> (x, w) }',
        2 * 3 * 4 * 5,
    ),
    "an einsum with an ellipsis": (
        '(float[2, 3, 4] x) => (float[2, 3, 5] y) <float[4, 5] w> { y = Einsum <equation = "...c,cd->...d"> (x, w) }',
        2 * 3 * 4 * 5,
    ),
    "integers": (
        "(uint8[2, 4] x) => (int32[2, 5] y) <int8[4, 5] i> { y = MatMulInteger(x, i) }",
        2 * 4 * 5,
    ),
    "a quantized convolution": (
        "(uint8[1, 4, 5, 5] x) => (uint8[1, 6, 3, 3] y) <float a, uint8 o, int8[6, 4, 3, 3] k, int8 n> "
        "{ y = QLinearConv(x, a, o, k, a, n, a, o) }",
        6 * 3 * 3 * 4 * 9,
    ),
    "nothing that multiplies": ("(float[2, 4] x) => (float[2, 4] y) { y = Relu(x) }", 0),
}


@pytest.mark.parametrize("case", CASES)
def test_multiply_accumulates(case: str) -> None:
    text, macs = CASES[case]
    integers = {
        "i": np.ones((4, 5), np.int8),
        "k": np.ones((6, 4, 3, 3), np.int8),
        "o": np.uint8(0),
        "n": np.int8(0),
    }
    assert inspect(build(text, opset=24, **integers)).macs == macs


def test_one_sample_is_counted_whatever_their_number() -> None:
    text = (
        "(float[N, 4] x, float[N, 4] z) => (float[N, 5] y) <float[4, 5] w> { a = Add(x, z) y = MatMul(a, w) }"
    )
    table = inspect(build(text))
    assert table.inputs["x"][0] > 1
    assert table.macs == 20
    assert inspect(build(text), shapes={"x": (3, 4), "z": (3, 4)}).macs == 20
    assert inspect(build(text.replace("N", "3"))).macs == 60


def test_what_growth_costs() -> None:
    model = build(
        "(float[N, 4] x) => (float[N, 3] y) <float[4, 6] v, float[6, 3] w> { a = MatMul(x, v) y = MatMul(a, w) }"
    )
    plan, grown = widened(model, factor=1.5)
    assert [axis.new_size for axis in plan.axes] == [9]
    assert (inspect(model).macs, inspect(grown).macs) == (42, 63)


def test_every_cost_is_of_an_operator_with_a_rule() -> None:
    assert _COSTS.keys() <= RULES.keys()

from __future__ import annotations

from zlib import crc32

import numpy as np
import pytest
from graphs import Case, build, operators, run
from ml_dtypes import int4

from onnx_grow.growth.widening import widen


def drawn(name: str, dtype: type, *shape: int) -> np.ndarray:
    """Integers or scales, the same for the same name."""
    rng = np.random.default_rng(crc32(name.encode()))
    if np.dtype(dtype).kind == "f":
        return rng.uniform(0.01, 0.02, shape).astype(dtype)
    low, high = (0, 255) if np.dtype(dtype) == np.uint8 else (-100, 100)
    return rng.integers(low, high, shape).astype(dtype)


def scalar(value: float, dtype: type) -> np.ndarray:
    return np.asarray(value, dtype)


W8, K8 = drawn("w", np.int8, 6, 3), drawn("k", np.int8, 5, 6)
SCALE, ZERO = scalar(0.02, np.float32), scalar(3, np.int8)
FLOATS = "(float[N, 4] x) => (float[N, 3] y) <float[4, 6] v"

CASES = [
    Case(
        "weights behind DequantizeLinear",
        f"{FLOATS}, int8[6, 3] q, float s, int8 z> {{ a = MatMul(x, v) w = DequantizeLinear(q, s, z) y = MatMul(a, w) }}",
        values={"q": W8, "s": SCALE, "z": ZERO},
    ),
    Case(
        "weights behind DequantizeLinear, a scale for every column",
        f"{FLOATS}, int8[6, 3] q, float[3] s> {{"
        "a = MatMul(x, v) w = DequantizeLinear <axis=1> (q, s) y = MatMul(a, w) }",
        values={"q": W8, "s": drawn("s", np.float32, 3)},
    ),
    Case(
        "weights behind DequantizeLinear, a zero point for every column",
        f"{FLOATS}, int8[6, 3] q, float[3] s, int8[3] z> {{"
        "a = MatMul(x, v) w = DequantizeLinear <axis=1> (q, s, z) y = MatMul(a, w) }",
        values={"q": W8, "s": drawn("s", np.float32, 3), "z": np.int8([1, 2, 3])},
    ),
    Case(
        "a scale for every channel",
        """(float[N, 4] x) => (float[N, 3] y) <int8[4, 6] p, float[6] r, int8[6] o, int8[6, 3] q, float[6] s, int8[6] z> {
            v = DequantizeLinear <axis=-1> (p, r, o) a = MatMul(x, v)
            w = DequantizeLinear <axis=0> (q, s, z) y = MatMul(a, w) }""",
        values={
            "p": drawn("p", np.int8, 4, 6),
            "r": drawn("r", np.float32, 6),
            "o": drawn("o", np.int8, 6),
            "q": W8,
            "s": drawn("s", np.float32, 6),
            "z": np.full(6, 2, np.int8),
        },
    ),
    Case(
        "quantized activations between layers",
        f"""{FLOATS}, float r, uint8 o, int8[6, 3] q, float s, int8 z> {{
            a = MatMul(x, v) i = QuantizeLinear(a, r, o) b = DequantizeLinear(i, r, o)
            w = DequantizeLinear(q, s, z) y = MatMul(b, w) }}""",
        values={"r": scalar(0.05, np.float32), "o": scalar(120, np.uint8), "q": W8, "s": SCALE, "z": ZERO},
    ),
    Case(
        "float weights that are quantized in the graph",
        f"""{FLOATS}, float[6, 3] w, float s, int8 z> {{
            a = MatMul(x, v) q = QuantizeLinear(w, s, z) u = DequantizeLinear(q, s, z) y = MatMul(a, u) }}""",
        values={"s": scalar(0.05, np.float32), "z": ZERO},
    ),
    Case(
        "four bits",
        f"{FLOATS}, int4[6, 3] q, float s, int4 z> {{ a = MatMul(x, v) w = DequantizeLinear(q, s, z) y = MatMul(a, w) }}",
        opset=21,
        values={"q": (W8 // 16).astype(int4), "s": scalar(0.3, np.float32), "z": scalar(3, int4)},
    ),
    Case(
        "two computed matrices in integers",
        """(float[2, 4] x, float[2, 5] t) => (float[2, 2] y) <float[4, 6] v, float[5, 6] w, float s> {
            a = MatMul(x, v) i, r, o = DynamicQuantizeLinear(a) b = MatMul(t, w) c = Transpose(b)
            j, p, n = DynamicQuantizeLinear(c) m = MatMulInteger(i, j, o, n) f = Cast <to=1> (m) y = Mul(f, s) }""",
        "",
        {"a": "sums over this dimension in integers"},
        values={"s": SCALE},
    ),
    Case(
        "transposed behind DequantizeLinear",
        f"""{FLOATS}, int8[3, 6] q, float s, int8 z> {{
            a = MatMul(x, v) u = DequantizeLinear(q, s, z) w = Transpose <perm=[1, 0]> (u) y = MatMul(a, w) }}""",
        values={"q": W8.T.copy(), "s": SCALE, "z": ZERO},
    ),
    *(
        Case(
            f"a product with quantized operands, transB={transposed}",
            f"""{FLOATS}, float r, uint8 o, uint8[{shape[0]}, {shape[1]}] q, float s, uint8 z, int32[5] c, float[5, 3] w> {{
                a = MatMul(x, v) i = QuantizeLinear(a, r, o)
                b = com.microsoft.QGemm <transB={transposed}> (i, r, o, q, s, z, c) y = MatMul(b, w) }}""",
            "a b",
            values={
                "r": scalar(0.05, np.float32),
                "o": scalar(120, np.uint8),
                "q": drawn("q", np.uint8, *shape),
                "s": SCALE,
                "z": scalar(110, np.uint8),
                "c": drawn("c", np.int32, 5),
            },
        )
        for transposed, shape in ((0, (6, 5)), (1, (5, 6)))
    ),
    Case(
        "blocks of scales",
        f"{FLOATS}, int8[6, 3] q, float[3, 3] s> {{"
        "a = MatMul(x, v) w = DequantizeLinear <axis=0, block_size=2> (q, s) y = MatMul(a, w) }",
        "",
        {"a": "quantizes this dimension in blocks"},
        opset=21,
        values={"q": W8, "s": drawn("s", np.float32, 3, 3)},
    ),
    Case(
        "dynamic, integer products",
        f"""{FLOATS}, uint8[6, 5] q, uint8 z, float s, float[5, 3] w> {{
            a = MatMul(x, v) i, r, o = DynamicQuantizeLinear(a) m = MatMulInteger(i, q, o, z) f = Cast <to=1> (m)
            t = Mul(r, s) b = Mul(f, t) y = MatMul(b, w) }}""",
        "a m",
        values={"q": drawn("q", np.uint8, 6, 5), "z": scalar(128, np.uint8), "s": SCALE},
    ),
    Case(
        "dynamic, a zero point for every column",
        f"""{FLOATS}, int8[6, 5] q, int8[5] z, float[5] s, float[5, 3] w> {{
            a = MatMul(x, v) i, r, o = DynamicQuantizeLinear(a) m = MatMulInteger(i, q, o, z) f = Cast <to=1> (m)
            t = Mul(r, s) b = Mul(f, t) y = MatMul(b, w) }}""",
        "m",
        {"a": "sums over this dimension in integers"},
        values={"q": drawn("q", np.int8, 6, 5), "z": drawn("z", np.int8, 5), "s": drawn("s", np.float32, 5)},
    ),
    Case(
        "quantized products",
        """(float[N, 4] x) => (float[N, 3] y)
        <float s, uint8 z, uint8[4, 6] p, float[6] r, uint8[6] o, uint8[6, 3] q> {
            i = QuantizeLinear(x, s, z) a = QLinearMatMul(i, s, z, p, r, o, s, z)
            b = QLinearMatMul(a, s, z, q, s, z, s, z) y = DequantizeLinear(b, s, z) }""",
        values={
            "s": scalar(0.05, np.float32),
            "z": scalar(120, np.uint8),
            "p": drawn("p", np.uint8, 4, 6),
            "r": drawn("r", np.float32, 6),
            "o": np.full(6, 9, np.uint8),
            "q": drawn("q", np.uint8, 6, 3),
        },
    ),
    Case(
        "quantized convolutions",
        """(float[2, 3, 5, 4] x) => (float[2, 2, 5, 4] y)
        <float s, uint8 z, int8[6, 3, 1, 1] p, float[6] r, int8[6] o, int32[6] c, int8[2, 6, 3, 3] q, float t, int8 n> {
            i = QuantizeLinear(x, s, z) a = QLinearConv(i, s, z, p, r, o, s, z, c)
            b = QLinearConv <pads=[1, 1, 1, 1]> (a, s, z, q, t, n, s, z) y = DequantizeLinear(b, s, z) }""",
        values={
            "s": scalar(0.05, np.float32),
            "z": scalar(120, np.uint8),
            "p": drawn("p", np.int8, 6, 3, 1, 1),
            "r": drawn("r", np.float32, 6),
            "o": np.zeros(6, np.int8),
            "c": np.arange(6, dtype=np.int32) * 40,
            "q": drawn("q", np.int8, 2, 6, 3, 3),
            "t": SCALE,
            "n": ZERO,
        },
    ),
    Case(
        "integer convolution",
        """(float[2, 3, 5, 4] x) => (float[2, 2, 5, 4] y) <float[6, 3, 1, 1] v, uint8[2, 6, 3, 3] q, uint8 n> {
            a = Conv(x, v) i, r, o = DynamicQuantizeLinear(a) m = ConvInteger <pads=[1, 1, 1, 1]> (i, q, o, n)
            f = Cast <to=1> (m) y = Mul(f, r) }""",
        values={"q": drawn("q", np.uint8, 2, 6, 3, 3), "n": scalar(100, np.uint8)},
    ),
    Case(
        "integer products with scales",
        """(float[N, 4] x) => (float[N, 3] y) <float[4, 6] v, uint8[6, 5] q, float[5] s, float[5] c, float[5, 3] w> {
            a = MatMul(x, v) i, r, o = DynamicQuantizeLinear(a)
            b = com.microsoft.MatMulIntegerToFloat(i, q, r, s, o, , c) y = MatMul(b, w) }""",
        "a b",
        values={"q": drawn("q", np.uint8, 6, 5), "s": drawn("s", np.float32, 5)},
    ),
    Case(
        "dynamically quantized product",
        f"""{FLOATS}, int8[6, 5] q, float s, int8 z, float[5] c, float[5, 3] w> {{
            a = MatMul(x, v) b = com.microsoft.DynamicQuantizeMatMul(a, q, s, z, c) y = MatMul(b, w) }}""",
        "a b",
        values={"q": drawn("q", np.int8, 6, 5), "s": SCALE, "z": ZERO},
    ),
    Case(
        "products of packed blocks",
        """(float[N, 32] x) => (float[N, 3] y) <uint8[6, 2, 8] q, float[12] s, uint8[6] z, float[6, 3] w> {
            a = com.microsoft.MatMulNBits <K=32, N=6, bits=4, block_size=16> (x, q, s, z) y = MatMul(a, w) }""",
        values={
            "q": drawn("q", np.uint8, 6, 2, 8),
            "s": drawn("s", np.float32, 12),
            "z": drawn("z", np.uint8, 6),
        },
    ),
    Case(
        "products of packed blocks: what is summed over",
        """(float[N, 4] x) => (float[N, 3] y) <float[4, 32] v, uint8[3, 2, 8] q, float[3, 2] s> {
            a = MatMul(x, v) y = com.microsoft.MatMulNBits <K=32, N=3, bits=4, block_size=16> (a, q, s) }""",
        values={"q": drawn("q", np.uint8, 3, 2, 8), "s": drawn("s", np.float32, 3, 2)},
    ),
    Case(
        "quantized sums and functions",
        """(float[N, 4] x) => (float[N, 3] y) <float[4, 6] v, float[6] c, float s, uint8 z, float[6, 3] w> {
            a = MatMul(x, v) i = QuantizeLinear(a, s, z) j = QuantizeLinear(c, s, z)
            k = com.microsoft.QLinearAdd(i, s, z, j, s, z, s, z) l = com.microsoft.QLinearMul(k, s, z, i, s, z, s, z)
            m = com.microsoft.QLinearLeakyRelu <alpha=0.1> (l, s, z, s, z)
            n = com.microsoft.QLinearSigmoid(m, s, z, s, z) b = DequantizeLinear(n, s, z) y = MatMul(b, w) }""",
        values={"s": scalar(0.02, np.float32), "z": scalar(100, np.uint8)},
    ),
    Case(
        "quantized pictures",
        """(float[2, 3, 4, 4] x) => (float[2, 2, 1, 1] y)
        <float[6, 3, 1, 1] v, float[5, 3, 1, 1] u, float s, uint8 z, float[2, 11, 1, 1] w> {
            a = Conv(x, v) i = QuantizeLinear(a, s, z) b = Conv(x, u) j = QuantizeLinear(b, s, z)
            k = com.microsoft.QLinearConcat <axis=1> (s, z, i, s, z, j, s, z)
            l = com.microsoft.QLinearAveragePool <kernel_shape=[2, 2]> (k, s, z, s, z)
            m = com.microsoft.QLinearGlobalAveragePool(l, s, z, s, z) n = DequantizeLinear(m, s, z) y = Conv(n, w) }""",
        "a b",
        values={"s": scalar(0.02, np.float32), "z": scalar(100, np.uint8)},
    ),
    Case(
        "quantized softmax",
        """(float[N, 4] x) => (float[N, 3] y) <float[4, 6] v, float s, uint8 z, float t, uint8 o, float[6, 3] w> {
            a = MatMul(x, v) i = QuantizeLinear(a, s, z)
            p = com.microsoft.QLinearSoftmax <axis=-1, opset=13> (i, s, z, t, o)
            b = DequantizeLinear(p, t, o) y = MatMul(b, w) }""",
        "",
        {"a": "normalises over this dimension, in integers"},
        values={
            "s": SCALE,
            "z": scalar(100, np.uint8),
            "t": scalar(1 / 256, np.float32),
            "o": scalar(0, np.uint8),
        },
    ),
]


@pytest.mark.parametrize("case", CASES, ids=str)
def test_quantized_operators_grow(case: Case) -> None:
    case.check()


def test_the_first_copy_keeps_its_integer_and_the_others_become_the_zero_point() -> None:
    model = build(CASES[0].text, **CASES[0].values)
    grown = widen(model, widths={"a": 15})
    weight = grown.weights["q"].array()
    assert weight.shape == (15, 3)
    assert (weight[:6] == W8).all()
    assert (weight[6:] == 3).all()
    assert operators(grown) == operators(model)


def test_sums_of_integers_are_bit_for_bit_the_same() -> None:
    model = build(
        """(uint8[N, 4] x) => (int32[N, 3] y) <uint8 z, uint8[4, 6] p, int8[6, 3] q, float s, float t> {
            m = MatMulInteger(x, p, z) f = Cast <to=1> (m) g = Mul(f, s) h = QuantizeLinear(g, t, z)
            y = MatMulInteger(h, q, z) }""",
        z=scalar(7, np.uint8),
        p=drawn("p", np.uint8, 4, 6),
        q=W8,
        s=scalar(0.01, np.float32),
        t=scalar(0.2, np.float32),
    )
    x = np.arange(12, dtype=np.uint8).reshape(3, 4) * 20
    old, new = run(model, {"x": x}), run(widen(model, factor=1.7), {"x": x})
    assert (old[0] == new[0]).all()
    assert np.ptp(old[0]) > 0

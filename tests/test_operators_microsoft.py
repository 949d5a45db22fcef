from __future__ import annotations

import numpy as np
import pytest
from graphs import Case, build, growable

from onnx_grow.growth.widening import inspect, widen

X = "(float[2, 3, 4] x) => (float[2, 3, 5] y)"


def ms(body: str, weights: str = "", head: str = X) -> str:
    """A graph whose operators without a domain are `com.microsoft`'s where `ms.` stands before them."""
    return f"{head} <{weights}> {{ {body} }}".replace("ms.", "com.microsoft.")


HIDDEN = "float[4, 6] v, float[6, 5] w"
CASES = [
    *(
        Case(
            f"matmul {ta}{tb}",
            ms(
                f"a = ms.FusedMatMul <alpha=0.5, transB={tb}> (x, v) t = Transpose <perm={'[0, 2, 1]' if ta else '[0, 1, 2]'}> (a)"
                f" y = ms.FusedMatMul <transA={ta}> (t, w)",
                f"float[{'6, 4' if tb else '4, 6'}] v, float[6, 5] w",
            ),
        )
        for ta in (0, 1)
        for tb in (0, 1)
    ),
    Case(
        "matmul of two computed matrices",
        ms(
            "a = MatMul(x, v) c = MatMul(x, u) s = ms.FusedMatMul <transB=1, alpha=0.4> (a, c) y = MatMul(s, w)",
            "float[4, 6] v, float[4, 6] u, float[3, 5] w",
        ),
    ),
    Case(
        "transposing matmul",
        ms(
            "a = ms.TransposeMatMul(x, v) y = ms.TransposeMatMul <transB=1> (a, w)",
            "float[4, 6] v, float[5, 6] w",
        ),
    ),
    Case(
        "gemm with an activation",
        ms(
            'a = ms.FusedGemm <activation="Relu", transB=1> (x, v, c) y = MatMul(a, w)',
            "float[6, 4] v, float[6] c, float[6, 5] w",
            "(float[N, 4] x) => (float[N, 5] y)",
        ),
    ),
    Case(
        "sum and norm",
        ms(
            """a = MatMul(x, v) c = MatMul(x, u) b, , , s = ms.SkipLayerNormalization(a, c, g, h, k)
            d = Add(b, s) y = MatMul(d, w)""",
            "float[4, 6] v, float[4, 6] u, float[6] g, float[6] h, float[6] k, float[6, 5] w",
        ),
        "~a",
    ),
    Case(
        "sum and norm: one row for all",
        ms(
            "a = MatMul(x, v) b = ms.SkipLayerNormalization(a, p, g) y = MatMul(b, w)",
            f"{HIDDEN}, float[3, 6] p, float[6] g",
        ),
        "~a",
    ),
    Case(
        "sum and root mean square",
        ms(
            """a = MatMul(x, v) c = MatMul(x, u) b, , , s = ms.SkipSimplifiedLayerNormalization(a, c, g)
            d = Add(b, s) y = MatMul(d, w)""",
            "float[4, 6] v, float[4, 6] u, float[6] g, float[6, 5] w",
        ),
        "~a",
    ),
    Case(
        "embedding and norm",
        ms(
            """b, n, s = ms.EmbedLayerNormalization(i, j, words, places, parts, g, h, mask) c = MatMul(b, w)
            d = MatMul(s, w) y = Add(c, d)""",
            """int32[2, 3] j, int32[2, 3] mask, float[7, 6] words, float[9, 6] places, float[2, 6] parts, float[6] g, float[6] h,
            float[6, 5] w""",
            "(int32[2, 3] i) => (float[2, 3, 5] y)",
        ),
        "~b",
        values={"j": np.int32([[0, 1, 1], [0, 0, 1]]), "mask": np.int32([[1, 1, 1], [1, 1, 0]])},
    ),
]


@pytest.mark.parametrize("case", CASES, ids=str)
def test_fused_operators_grow(case: Case) -> None:
    case.check()


def test_halves_of_a_gated_gelu_grow_alike() -> None:
    """ONNX Runtime has no kernel for BiasSplitGelu on processors."""
    model = build(
        ms(
            "a = MatMul(x, v) b = ms.BiasSplitGelu(a, g) y = MatMul(b, w)",
            "float[4, 12] v, float[12] g, float[6, 5] w, float[2, 3, 6] b",
        )
    )
    assert growable(inspect(model)) == "a"
    grown = widen(model, factor=2)
    old, new = (np.split(m.weights["v"].array(), 2, axis=1) for m in (model, grown))
    for half, original in zip(new, old, strict=True):
        assert (half[:, :6] == original).all()
        assert half.shape == (4, 12)
    assert grown.weights["w"].shape == (12, 5)
    assert grown.weights["g"].shape == (24,)


def test_a_result_of_unknown_shape_holds_everything() -> None:
    model = build(
        ms(
            "a = MatMul(x, v) b = ms.BiasSplitGelu(a, g) y = MatMul(b, w)",
            "float[4, 12] v, float[12] g, float[6, 5] w",
        )
    )
    table = inspect(model)
    assert growable(table) == ""
    assert "the shape of 'b' is not known" in table["a"].reasons[0]

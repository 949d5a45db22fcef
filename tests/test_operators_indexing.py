from __future__ import annotations

import numpy as np
import pytest
from graphs import Case, between, build, pictured

from onnx_grow.growth.widening import inspect

ROWS = "(double[5, 4] x) => (double[R, 3] y) <double[4, 6] v, double[6, 3] w, {}> {{ a = MatMul(x, v) {} y = MatMul(b, w) }}"


def rows(body: str, weights: str) -> str:
    """Five rows of 6 hidden channels; `body` computes b from a."""
    return ROWS.format(weights, body)


def grid(*shape: int, below: int) -> np.ndarray:
    return np.arange(np.prod(shape)).reshape(shape) * 3 % below


CASES = [
    Case(
        "GatherElements: rows of every channel",
        rows("b = GatherElements <axis=0> (a, i)", "int64[2, 6] i"),
        values={"i": grid(2, 6, below=5)},
    ),
    Case(
        "GatherElements: among the channels",
        "(double[5, 4] x) => (double[5, 2] y) <double[4, 6] v, int64[5, 2] i> {"
        "a = MatMul(x, v) y = GatherElements <axis=1> (a, i) }",
        "",
        {"a": "selects from this dimension by index"},
        values={"i": grid(5, 2, below=6)},
    ),
    Case(
        "GatherElements: of some channels",
        "(double[5, 4] x) => (double[2, 4] y) <double[4, 6] v, int64[2, 4] i> {"
        "a = MatMul(x, v) y = GatherElements <axis=0> (a, i) }",
        "",
        {"a": "takes a part of this dimension"},
        values={"i": grid(2, 4, below=5)},
    ),
    Case(
        "ScatterElements",
        rows("b = ScatterElements <axis=0> (a, i, u)", "int64[2, 6] i, double[2, 6] u"),
        values={"i": np.stack([np.arange(6) % 5, (np.arange(6) + 1) % 5])},
    ),
    Case(
        "ScatterElements: sums",
        rows('b = ScatterElements <axis=0, reduction="add"> (a, i, u)', "int64[2, 6] i, double[2, 6] u"),
        values={"i": grid(2, 6, below=5)},
        opset=18,
    ),
    Case(
        "ScatterElements: among the channels",
        rows("b = ScatterElements <axis=1> (a, i, u)", "int64[5, 2] i, double[5, 2] u"),
        "",
        {"a": "writes to this dimension by index"},
        values={"i": np.tile([1, 4], (5, 1))},
    ),
    Case(
        "Scatter",
        rows("b = Scatter <axis=0> (a, i, u)", "int64[1, 6] i, double[1, 6] u"),
        values={"i": grid(1, 6, below=5)},
        opset=9,
    ),
    Case(
        "GatherND: rows",
        rows("b = GatherND(a, i)", "int64[2, 1] i"),
        values={"i": np.array([[3], [1]])},
    ),
    Case(
        "GatherND: in each of a batch",
        """(double[2, 5, 4] x) => (double[2, 3] y) <double[4, 6] v, double[6, 3] w, int64[2, 1] i> {
            a = MatMul(x, v) b = GatherND <batch_dims=1> (a, i) y = MatMul(b, w) }""",
        values={"i": np.array([[3], [1]])},
    ),
    Case(
        "GatherND: elements",
        "(double[5, 4] x) => (double[2] y) <double[4, 6] v, int64[2, 2] i> { a = MatMul(x, v) y = GatherND(a, i) }",
        "",
        {"a": "selects from this dimension by index"},
        values={"i": np.array([[3, 5], [1, 0]])},
    ),
    Case(
        "ScatterND: rows",
        rows("b = ScatterND(a, i, u)", "int64[2, 1] i, double[2, 6] u"),
        values={"i": np.array([[3], [1]])},
    ),
    Case(
        "ScatterND: elements",
        rows("b = ScatterND(a, i, u)", "int64[2, 2] i, double[2] u"),
        "",
        {"a": "writes to this dimension by index"},
        values={"i": np.array([[3, 5], [1, 0]])},
    ),
    Case(
        "OneHot",
        """(float[5, 4] x) => (float[5, 7, 3] y)
        <float[4, 6] v, float[6, 3] w, int64 depth = {7}, float[2] values = {0.5, 2.0}> {
            a = MatMul(x, v) i = Cast <to=7> (a) h = OneHot <axis=1> (i, depth, values) y = MatMul(h, w) }""",
    ),
    Case(
        "Compress: rows",
        rows("b = Compress <axis=0> (a, c)", "bool[5] c"),
        values={"c": np.array([True, False, True, True, False])},
    ),
    Case(
        "Compress: channels",
        "(double[5, 4] x) => (double[5, C] y) <double[4, 6] v, bool[6] c> { a = MatMul(x, v) y = Compress <axis=1> (a, c) }",
        "",
        {"a": "selects from this dimension by a mask"},
        values={"c": np.array([True, False, True, True, False, True])},
    ),
    Case(
        "ReverseSequence",
        """(double[3, 2, 4] x) => (double[3, 2, 3] y) <double[4, 6] v, double[6, 3] w, int64[2] n = {2, 3}> {
            a = MatMul(x, v) b = ReverseSequence <time_axis=0, batch_axis=1> (a, n) y = MatMul(b, w) }""",
    ),
    Case(
        "Trilu",
        """(double[5, 2, 4] x) => (double[3, 5, 2] y) <double[4, 6] v, double[3, 6] w, int64[3] flat = {6, 5, 2},
        int64[2] two = {6, 10}, int64[3] three = {3, 5, 2}> {
            a = MatMul(x, v) t = Transpose <perm=[2, 0, 1]> (a) l = Trilu <upper=0> (t) f = Reshape(l, two)
            m = MatMul(w, f) y = Reshape(m, three) }""",
    ),
    Case(
        "Trilu: channels",
        between("b = Trilu(a)"),
        "",
        {"a": "keeps a triangle of these two dimensions"},
    ),
    Case(
        "CenterCropPad",
        pictured("b = CenterCropPad <axes=[2, 3]> (a, s)", "int64[2] s = {3, 6}"),
        opset=18,
    ),
    Case(
        "Col2Im",
        """(float[1, 6, 4] x) => (float[1, 2, 5, 5] y)
        <float[36, 6, 1] v, float[2, 6, 1, 1] w, int64[2] picture = {5, 5}, int64[2] block = {2, 3}> {
            a = Conv(x, v) b = Col2Im <strides=[3, 2]> (a, picture, block) y = Conv(b, w) }""",
        "a",
        opset=18,
    ),
    Case(
        "NonZero",
        "(double[N, 4] x) => (int64[2, M] y) <double[4, 6] v> { a = MatMul(x, v) y = NonZero(a) }",
        "",
        {"a": "it gives the indices of elements"},
    ),
    Case(
        "Unique",
        "(double[N, 4] x) => (double[M] y) <double[4, 6] v> { a = MatMul(x, v) y = Unique(a) }",
        "",
        {"a": "it drops what occurs twice"},
    ),
]


@pytest.mark.parametrize("case", CASES, ids=str)
def test_indexing_operators_grow(case: Case) -> None:
    case.check()


def test_caches_that_are_written_to() -> None:
    """ONNX Runtime has no kernel for TensorScatter on processors; what may grow is all that can be said."""
    model = build(
        """(float[2, 3, 4] x, int64[2] n) => (float[2, 7, 3] y) <float[4, 6] v, float[7, 6] z, float[6, 3] w,
        int64[3] all = {2, 7, 6}> {
            a = MatMul(x, v) c = Expand(z, all) b = TensorScatter <axis=1> (c, a, n) y = MatMul(b, w) }""",
        opset=24,
        ir=10,
    )
    assert [row.name for row in inspect(model).growable] == ["a"]


@pytest.mark.parametrize(("groups", "axes"), [(1, ["a", "b"]), (2, ["b"])])
def test_deformable_convolutions(groups: int, axes: list[str]) -> None:
    model = build(
        pictured(
            f"b = DeformConv <offset_group={groups}, pads=[1, 1, 1, 1]> (a, k, o, c)",
            f"float[4, 6, 3, 3] k, float[2, {18 * groups}, 5, 4] o, float[4] c",
            channels=4,
        ),
        opset=19,
        ir=9,
    )
    assert [row.name for row in inspect(model).growable] == axes

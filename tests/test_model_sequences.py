from __future__ import annotations

import numpy as np
import pytest
from graphs import assert_same, between, build, feeds, operators, run
from test_operators_movement import parted

import onnx_grow as og
from onnx_grow.model import unlisted

SPLIT = "int64 zero = {0}, int64 one = {1}, int64[1] first = {0}, int64 last = {-1}, int64[2] lengths = {3, 3}, int64 three = {3}"


def halves(split: str, first: str = "zero", second: str = "one") -> str:
    return parted(
        f"s = SplitToSequence <axis=-1> ({split}) c = SequenceAt(s, {first}) d = SequenceAt(s, {second})",
        SPLIT,
    )


WRITTEN = [
    ("lengths", halves("a, lengths"), "MatMul Constant Split MatMul MatMul Add"),
    ("from behind", halves("a, lengths", "zero", "last"), "MatMul Constant Split MatMul MatMul Add"),
    (
        "one read twice",
        halves("a, lengths", "zero", "zero"),
        "MatMul Constant Split Identity MatMul MatMul Add",
    ),
    (
        "attributes of old operator sets",
        halves("a, lengths"),
        "MatMul Split MatMul MatMul Add",
    ),
    (
        "equal parts of a declared size",
        """(double[3, 5] x) => (double[3, 3] y) <double[2, 6] v, double[1, 6] u, double[6, 3] w, int64 two = {2}, int64 one = {1}> {
            s = SplitToSequence <axis=1> (x, two) b = SequenceAt(s, one) c = SequenceAt(s, two) d = MatMul(b, v)
            e = MatMul(c, u) f = Add(d, e) y = MatMul(f, w) }""",
        "Constant Split MatMul MatMul Add MatMul",
    ),
    (
        "unbound",
        """(double[2, 3, 4] x) => (double[3, 3] y) <double[4, 6] v, double[6, 3] w, int64 one = {1}, int64 zero = {0}> {
            s = SplitToSequence <axis=0, keepdims=0> (x) a = SequenceAt(s, one) b = SequenceAt(s, zero) c = Add(a, b)
            d = MatMul(c, v) y = MatMul(d, w) }""",
        "Constant Gather Constant Gather Add MatMul MatMul",
    ),
    (
        "made of tensors",
        between(
            "c = Relu(a) s = SequenceConstruct(a, c) d = SequenceAt(s, one) b = Neg(d)", "int64 one = {1}"
        ),
        "MatMul Relu Identity Neg MatMul",
    ),
    (
        "put in and taken out",
        between(
            """c = Relu(a) d = Neg(a) e = SequenceEmpty <dtype=11> () f = SequenceInsert(e, c) g = SequenceInsert(f, d, zero)
            h = SequenceInsert(g, a, minus) i = SequenceErase(h, zero) j = Identity(i) k = SequenceErase(j)
            b = SequenceAt(k, zero)""",
            "int64 zero = {0}, int64 minus = {-1}",
        ),
        "MatMul Relu Neg Identity MatMul",
    ),
    (
        "concatenated",
        "(double[N, 4] x) => (double[N, 3] y) <double[4, 6] v, double[12, 3] w> {"
        "a = MatMul(x, v) c = Relu(a) s = SequenceConstruct(a, c) b = ConcatFromSequence <axis=1> (s) y = MatMul(b, w) }",
        "MatMul Relu Concat MatMul",
    ),
    (
        "stacked",
        between(
            "c = Relu(a) s = SequenceConstruct(a, c) d = ConcatFromSequence <axis=-2, new_axis=1> (s) b = ReduceSum <keepdims=0> (d, at)",
            "int64[1] at = {1}",
        ),
        "MatMul Relu Constant Unsqueeze Unsqueeze Concat ReduceSum MatMul",
    ),
    (
        "counted",
        between(
            "s = SequenceConstruct(a, a, a) n = SequenceLength(s) m = CastLike(n, a) b = Mul(a, m)",
        ),
        "MatMul Constant CastLike Mul MatMul",
    ),
]


@pytest.mark.parametrize(("name", "text", "wanted"), WRITTEN, ids=[name for name, *_ in WRITTEN])
def test_lists_of_known_length_are_written_out(name: str, text: str, wanted: str) -> None:
    model = build(text, opset=11 if "old" in name else 17)
    written = unlisted(model)
    assert " ".join(operators(written)) == wanted
    assert_same(model, written, 3, 0.0, run)
    grown = og.widen(model, factor=2)
    assert grown.parameters > model.parameters
    assert_same(model, grown, 3, None, run)


@pytest.mark.parametrize(
    "text",
    [
        pytest.param(
            between(
                "s = SplitToSequence <axis=1> (a, six) b = SequenceAt(s, zero)",
                "int64 six = {6}, int64 zero = {0}",
            ),
            id="a size that is not declared",
        ),
        pytest.param(
            """(double[N, 4] x, int64 k) => (double[N, 3] y) <double[4, 6] v, double[6, 3] w> {
            a = MatMul(x, v) c = Neg(a) s = SequenceConstruct(a, c) b = SequenceAt(s, k) y = MatMul(b, w) }""",
            id="a position that is computed",
        ),
    ],
)
def test_lists_of_unknown_length_stay(text: str) -> None:
    model = build(text)
    assert operators(unlisted(model)) == operators(model)


def test_a_list_that_others_read_too_stays_beside_what_it_holds() -> None:
    model = build(
        """(double[N, 4] x, int64 k) => (double[N, 3] y) <double[4, 6] v, double[3, 3] w, int64[2] lengths = {3, 3},
            int64 zero = {0}> { a = MatMul(x, v) s = SplitToSequence <axis=1> (a, lengths) c = SequenceAt(s, zero)
            d = SequenceAt(s, k) b = Add(c, d) y = MatMul(b, w) }"""
    )
    written = unlisted(model)
    assert operators(written) == [
        "MatMul",
        "Constant",
        "Split",
        "SplitToSequence",
        "SequenceAt",
        "Add",
        "MatMul",
    ]
    inputs = feeds(model)
    for k in (0, 1):
        inputs["k"] = np.array(k, np.int64)
        for a, b in zip(run(model, inputs), run(written, inputs), strict=True):
            np.testing.assert_array_equal(a, b)


def test_a_model_without_lists_is_itself() -> None:
    model = build(between("b = Relu(a)"))
    assert unlisted(model) is model


def test_names_of_new_tensors_are_free() -> None:
    model = build(
        parted(
            "s_0 = Relu(a) s = SplitToSequence <axis=1> (s_0, lengths) c = SequenceAt(s, zero) d = SequenceAt(s, one)",
            SPLIT,
        )
    )
    assert_same(model, unlisted(model), 3, 0.0, run)

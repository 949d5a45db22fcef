from __future__ import annotations

from fractions import Fraction

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import helper

from onnx_grow.growth.splitting import FORMATS, cut

TYPES = [np.float16, ml_dtypes.bfloat16, np.float32, np.float64]


def halves(values: np.ndarray, left: int, drawn: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    kind = helper.np_dtype_to_tensor_dtype(values.dtype)
    words = values.view(FORMATS[kind].word)[None]

    def draw(table: np.ndarray, columns: int) -> np.ndarray:
        assert columns == values.size
        return table[drawn % len(table)][None]

    part, rest = cut(words, kind, np.array([left]), draw)
    np.testing.assert_array_equal(cut(words, kind, np.array([left]), draw, goes=False)[1], rest)
    among = cut(
        np.repeat(words, 2, 0), kind, np.array([[left], [left + 1]]), lambda t, n: np.repeat(draw(t, n), 2, 0)
    )
    np.testing.assert_array_equal([among[0][0], among[1][0]], [part[0], rest[0]])
    return part[0].view(values.dtype), rest[0].view(values.dtype)


@pytest.mark.parametrize("dtype", TYPES, ids=lambda d: np.dtype(d).name)
@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_parts_of_any_bits_sum_exactly(dtype: type, data: st.DataObject) -> None:
    """Of every number that there is: subnormal, the largest, the smallest."""
    word = np.dtype(f"u{np.dtype(dtype).itemsize}")
    words = np.array(data.draw(st.lists(st.integers(0, np.iinfo(word).max), min_size=1, max_size=40)), word)
    values = words.view(dtype)
    values = values[np.isfinite(values)]
    drawn = np.array(
        data.draw(st.lists(st.integers(0, 1 << 16), min_size=len(values), max_size=len(values))), np.int64
    )
    piece, rest = halves(values, data.draw(st.integers(2, 300)), drawn)
    for v, p, r in zip(values.tolist(), piece.tolist(), rest.tolist(), strict=True):
        assert Fraction(p) + Fraction(r) == Fraction(v)
        assert min(p * v, r * v) >= 0


@pytest.mark.parametrize("dtype", TYPES[:2], ids=lambda d: np.dtype(d).name)
@pytest.mark.parametrize("left", [2, 3, 7])
def test_parts_of_all_numbers_of_16_bits_sum_exactly(dtype: type, left: int) -> None:
    values = np.arange(1 << 16, dtype=np.uint16).view(dtype)
    values = values[np.isfinite(values)]
    wide = values.astype(np.float64)
    for seed in range(3):
        drawn = np.random.default_rng(seed).integers(0, 1 << 16, values.size)
        piece, rest = (part.astype(np.float64) for part in halves(values, left, drawn))
        np.testing.assert_array_equal(piece + rest, wide)
        assert (np.maximum(abs(piece), abs(rest)) <= abs(wide)).all()


@pytest.mark.parametrize("dtype", TYPES, ids=lambda d: np.dtype(d).name)
@pytest.mark.parametrize("left", range(2, 12))
def test_the_part_is_about_one_in_so_many(dtype: type, left: int) -> None:
    rng = np.random.default_rng(0)
    values = rng.standard_normal(20_000).astype(dtype)
    drawn = rng.integers(0, 1 << 16, values.size)
    piece, _ = halves(values, left, drawn)
    ratio = piece.astype(np.float64) / values.astype(np.float64)
    assert ratio.mean() == pytest.approx(1 / left, rel=0.2)
    assert ratio.std() > 0.2 / left
    assert ratio.min() >= 0.3 / left
    assert ratio.max() <= (0.85 if left == 2 else 2.5 / left)


@pytest.mark.parametrize("dtype", TYPES, ids=lambda d: np.dtype(d).name)
def test_what_is_not_finite_stays_so(dtype: type) -> None:
    values = np.array([np.inf, -np.inf, np.nan, 1.0], dtype)
    piece, rest = halves(values, 2, np.array([0, 255, 7, 9]))
    np.testing.assert_array_equal((piece + rest).astype(np.float64), values.astype(np.float64))


def test_both_orders_come_when_two_are_left() -> None:
    values = np.ones(1000, np.float32)
    drawn = np.random.default_rng(1).integers(0, 1 << 16, 1000)
    piece, rest = halves(values, 2, drawn)
    assert 400 < (piece < rest).sum() < 600
    piece, rest = halves(values, 5, drawn)
    assert (piece < rest).all()

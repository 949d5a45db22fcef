from __future__ import annotations

import numpy as np
import pytest

from onnx_grow.growth import draws
from onnx_grow.growth.draws import SEGMENT, Stream, uniform


def test_rows_are_the_same_whoever_asks(monkeypatch: pytest.MonkeyPatch) -> None:
    for reach in (draws.REACH, 10):
        monkeypatch.setattr(draws, "REACH", reach)
        stream = Stream("s")
        whole = stream.rows(np.arange(50), uniform(), 37)
        assert whole.shape == (50, 37)
        some = np.array([49, 3, 3, 17])
        np.testing.assert_array_equal(stream.rows(some, uniform(), 37), whole[some])
        far = np.array([2**40])
        np.testing.assert_array_equal(Stream("s").rows(far, uniform(), 8), stream.rows(far, uniform(), 8))
        assert stream.rows(some[:0], uniform(), 8).shape == (0, 8)
        assert stream.rows(some, uniform(), 0).shape == (4, 0)


def test_other_rows_and_other_seeds_are_others() -> None:
    rows = np.arange(200)
    a, b = (Stream(seed).rows(rows, uniform(), 64) for seed in "ab")
    assert len({row.tobytes() for row in a} | {row.tobytes() for row in b}) > 395
    far = Stream("a").rows(rows + 2**33, uniform(), 64)
    assert not (far == a).all(axis=1).any()


def test_numbers_are_uniform_and_do_not_follow_each_other() -> None:
    drawn = Stream("s").rows(np.arange(1000), uniform(), 1000)
    assert drawn.dtype == np.float32
    for found in (uniform(), drawn):
        assert found.min() >= 0
        assert found.max() < 1
        counts = np.bincount((found.reshape(-1) * 256).astype(np.int64), minlength=256)
        off = (counts - found.size / 256) ** 2 / (found.size / 256)
        assert off.sum() < 350 * (
            1 if found.ndim == 1 else drawn.size / uniform().size
        )  # chi-square of 255 degrees of freedom
    centred = drawn.astype(np.float64) - drawn.mean()
    for a, b in (
        (centred[1:], centred[:-1]),
        (centred[:, 1:], centred[:, :-1]),
        (centred[:, 4:], centred[:, :-4]),
    ):
        assert abs((a * b).mean()) / centred.var() < 0.01


def test_normal_numbers_by_position() -> None:
    stream = Stream("s")
    whole = stream.normal(0, 3 * SEGMENT)
    for start, stop in ((0, 1), (5, 5), (SEGMENT - 3, SEGMENT + 4), (10, 2 * SEGMENT + 1)):
        np.testing.assert_array_equal(stream.normal(start, stop), whole[start:stop])
    assert abs(whole.mean()) < 0.02
    assert abs(whole.std() - 1) < 0.02

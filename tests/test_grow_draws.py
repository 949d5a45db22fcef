from __future__ import annotations

import numpy as np

from onnx_grow.growth.draws import SEGMENT, Stream


def test_rows_are_the_same_whoever_asks() -> None:
    stream = Stream("s")
    whole = stream.bytes(np.arange(50), 37)
    assert whole.shape == (50, 37)
    some = np.array([49, 3, 3, 17])
    np.testing.assert_array_equal(stream.bytes(some, 37), whole[some])
    np.testing.assert_array_equal(Stream("s").bytes(np.array([2**40]), 8), stream.bytes(np.array([2**40]), 8))


def test_other_rows_and_other_seeds_are_others() -> None:
    rows = np.arange(200)
    a, b = Stream("a").bytes(rows, 64), Stream("b").bytes(rows, 64)
    assert len({row.tobytes() for row in a} | {row.tobytes() for row in b}) == 400
    far = Stream("a").bytes(rows + 2**33, 64)
    assert not (far == a).all(axis=1).any()


def test_bytes_are_uniform_and_do_not_follow_each_other() -> None:
    drawn = Stream("s").bytes(np.arange(1000), 1000).astype(np.float64)
    counts = np.bincount(drawn.astype(np.int64).reshape(-1), minlength=256)
    assert ((counts - 1e6 / 256) ** 2 / (1e6 / 256)).sum() < 350  # chi-square of 255 degrees of freedom
    centred = drawn - drawn.mean()
    for a, b in (
        (centred[1:], centred[:-1]),
        (centred[:, 1:], centred[:, :-1]),
        (centred[:, 4:], centred[:, :-4]),
    ):
        assert abs((a * b).mean()) / centred.var() < 0.005


def test_normal_numbers_by_position() -> None:
    stream = Stream("s")
    whole = stream.normal(0, 3 * SEGMENT)
    for start, stop in ((0, 1), (5, 5), (SEGMENT - 3, SEGMENT + 4), (10, 2 * SEGMENT + 1)):
        np.testing.assert_array_equal(stream.normal(start, stop), whole[start:stop])
    assert abs(whole.mean()) < 0.02
    assert abs(whole.std() - 1) < 0.02

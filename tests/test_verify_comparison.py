import math

import ml_dtypes
import numpy as np
import pytest

from onnx_grow.verify.comparison import Deviation, allowed, deviation, is_exact, same_top

NORMAL = np.random.default_rng(0).standard_normal((8, 50)).astype(np.float32)


def test_measures_are_relative_to_the_reference():
    a = np.array([3.0, 4.0], np.float32)
    found = deviation(a, np.array([3.0, 4.5], np.float32))
    assert found.l2 == pytest.approx(0.1)
    assert found.peak == pytest.approx(0.5 / math.sqrt(12.5))


def test_scale_does_not_matter():
    wrong = NORMAL * np.float32(1.001)
    large, small = np.float32(2.0**40), np.float32(2.0**-40)
    expected = deviation(NORMAL, wrong)
    assert deviation(NORMAL * large, wrong * large) == expected
    assert deviation(NORMAL * small, wrong * small) == expected
    assert deviation(NORMAL.astype(np.float64) * 1e-200, wrong.astype(np.float64) * 1e-200).l2 == pytest.approx(expected.l2)


def test_equal_arrays_do_not_deviate():
    strange = np.array([np.nan, np.inf, -np.inf, 0.0, -1.0], np.float32)
    assert deviation(strange, strange.copy()) == Deviation(0, 0)
    assert deviation(np.zeros((0, 3), np.float32), np.zeros((0, 3), np.float32)) == Deviation(0, 0)
    assert deviation(np.zeros(3, np.float32), np.zeros(3, np.float32)) == Deviation(0, 0)


@pytest.mark.parametrize(
    ("a", "b"),
    [
        ([1.0, 2.0], [1.0, 2.0, 3.0]),
        ([1.0, np.nan], [1.0, 2.0]),
        ([1.0, 2.0], [np.inf, 2.0]),
        ([1.0, np.inf], [1.0, -np.inf]),
        ([1.0, np.inf], [1.0, np.nan]),
        ([0.0, 0.0], [0.0, 1e-30]),
    ],
)
def test_what_cannot_be_compared_is_infinitely_far(a, b):
    assert deviation(np.array(a, np.float32), np.array(b, np.float32)) == Deviation(math.inf, math.inf)


def test_a_number_is_not_an_index():
    assert deviation(np.ones(2, np.float32), np.ones(2, np.int64)) == Deviation(math.inf, math.inf)


def test_integers_booleans_and_strings_are_counted():
    assert deviation(np.array([1, 2, 3, 4]), np.array([1, 2, 3, 5])) == Deviation(0.25, 0.25)
    assert deviation(np.array([True, False]), np.array([True, True])) == Deviation(0.5, 0.5)
    assert deviation(np.array(["a", "b"], object), np.array(["a", "c"], object)) == Deviation(0.5, 0.5)
    assert is_exact(np.array(["a"], object))
    assert not is_exact(np.zeros(1, ml_dtypes.bfloat16))


def test_noise_allows_as_much_as_the_worse_measure_says():
    assert Deviation(2e-6, 9e-6).over(Deviation(1e-6, 3e-6)) == pytest.approx(3)
    assert Deviation(0, 0).over(Deviation(0, 0)) == 0
    assert Deviation(1e-9, 0).over(Deviation(0, 0)) == math.inf
    assert Deviation(math.inf, math.inf).over(Deviation(math.inf, math.inf)) == 0


def test_noise_is_pooled_over_runs_without_one_run_speaking_for_all():
    noise = [Deviation(each, each) for each in (1e-6, 4e-6, 2e-6, math.inf, 2e-6)]
    assert [each.l2 for each in allowed([NORMAL] * 5, noise)] == [4e-6, 4e-6, 4e-6, math.inf, 4e-6]


def test_flips_in_one_run_are_noise_in_all():
    labels = [np.arange(4)] * 3
    assert [each.l2 for each in allowed(labels, [Deviation(0, 0), Deviation(0.25, 0.25), Deviation(0, 0)])] == [0.25] * 3


@pytest.mark.parametrize(
    ("dtype", "half"), [(np.float32, 2**-24), (np.float64, 2**-53), (np.float16, 2**-11), (ml_dtypes.bfloat16, 2**-8)]
)
def test_saturated_outputs_may_be_rounded_the_other_way(dtype, half):
    one_hot = np.zeros((1, 100), dtype)
    one_hot[0, 7] = 1
    (unit,) = allowed([one_hot], [Deviation(0, 0)])
    assert unit.l2 == half
    assert unit.peak == pytest.approx(half * 10)
    nearly = one_hot.copy()
    nearly[0, 7] = 1 - half
    assert 0 < deviation(one_hot, nearly).over(unit) <= 1.01
    nearly[0, 7] = 1 - 8 * half
    assert deviation(one_hot, nearly).over(unit) > 3


def test_top_class_is_compared_where_there_are_classes():
    scores = np.eye(4, dtype=np.float32)
    assert same_top(scores, scores) == 1
    assert same_top(scores, np.roll(scores, 1, axis=1)) == 0
    assert same_top(scores[:, :1], scores[:, :1]) is None
    assert same_top(scores.reshape(2, 2, 4), scores.reshape(2, 2, 4)) is None
    assert same_top(scores.astype(int), scores.astype(int)) is None

import math

import ml_dtypes
import numpy as np
import pytest

from onnx_grow.verification.comparison import Deviation, difference, gauge, is_exact, same_top

NORMAL = np.random.default_rng(0).standard_normal((8, 50)).astype(np.float32)


def test_measures_are_relative_to_the_reference():
    a = np.array([3.0, 4.0], np.float32)
    found = difference(a, np.array([3.0, 4.5], np.float32))
    assert found.l2 == pytest.approx(0.1)
    assert found.peak == pytest.approx(0.5 / math.sqrt(12.5))


def test_scale_does_not_matter():
    wrong = NORMAL * np.float32(1.001)
    large, small = np.float32(2.0**40), np.float32(2.0**-40)
    expected = difference(NORMAL, wrong)
    assert difference(NORMAL * large, wrong * large) == expected
    assert difference(NORMAL * small, wrong * small) == expected
    assert difference(
        NORMAL.astype(np.float64) * 1e-200, wrong.astype(np.float64) * 1e-200
    ).l2 == pytest.approx(expected.l2)


def test_equal_arrays_do_not_deviate():
    strange = np.array([np.nan, np.inf, -np.inf, 0.0, -1.0], np.float32)
    assert difference(strange, strange.copy()) == Deviation(0, 0)
    assert difference(np.zeros((0, 3), np.float32), np.zeros((0, 3), np.float32)) == Deviation(0, 0)
    assert difference(np.zeros(3, np.float32), np.zeros(3, np.float32)) == Deviation(0, 0)


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
    assert difference(np.array(a, np.float32), np.array(b, np.float32)) == Deviation(math.inf, math.inf)


def test_a_number_is_not_an_index():
    assert difference(np.ones(2, np.float32), np.ones(2, np.int64)) == Deviation(math.inf, math.inf)


def test_integers_booleans_and_strings_are_compared_one_by_one():
    assert difference(np.array([1, 2, 3]), np.array([1, 5, 3])).tolist() == [False, True, False]
    assert difference(np.array([True, False]), np.array([True, True])).tolist() == [False, True]
    assert difference(np.array(["a", "b"], object), np.array(["a", "c"], object)).tolist() == [False, True]
    assert is_exact(np.array(["a"], object))
    assert not is_exact(np.zeros(1, ml_dtypes.bfloat16))


def test_noise_allows_as_much_as_the_worse_measure_says():
    assert Deviation(2e-6, 9e-6).over(Deviation(1e-6, 3e-6)) == pytest.approx(3)
    assert Deviation(0, 0).over(Deviation(0, 0)) == 0
    assert Deviation(1e-9, 0).over(Deviation(0, 0)) == math.inf
    assert Deviation(math.inf, math.inf).over(Deviation(math.inf, math.inf)) == 0


def learned(reference, *draws):
    """A gauge that has seen, per draw, what each run differed by."""
    result = gauge(reference)
    for draw in draws:
        for run, found in enumerate(draw):
            result.learn(run, found)
    return result


def test_noise_is_pooled_over_runs_without_one_run_speaking_for_all():
    found = [Deviation(each, each) for each in (1e-6, 4e-6, 2e-6, math.inf, 2e-6)]
    wide = learned([NORMAL] * 5, found)
    errors = [Deviation(6e-6, 0)] * 5
    verdict = wide.judge([[error] for error in errors])
    assert (verdict.noise.l2, verdict.ratio) == (4e-6, 1.5)
    assert wide.noise() == 1e-6


def test_the_worst_run_and_the_worst_way_count():
    verdict = learned([NORMAL] * 2, [Deviation(1e-6, 1e-6)] * 2).judge(
        [[Deviation(1e-6, 0), Deviation(0, 0)], [Deviation(0, 0), Deviation(5e-6, 0)]]
    )
    assert verdict.run == 1
    assert verdict.ratio == pytest.approx(5)


def test_elements_that_flip_in_the_original_may_flip():
    labels = np.arange(100)
    flips = lambda *where: np.isin(labels, where)  # noqa: E731
    ties = learned([labels], [flips(1, 2)], [flips(2, 3)], [flips()], [flips(1, 2, 3)])
    assert ties.judge([[flips(1, 2, 3)]]).ratio == 0
    assert ties.judge([[flips(1), flips(3)]]).ratio == 0
    assert ties.judge([[flips(1, 50)]]).ratio == math.inf
    assert ties.judge([[flips(1, 50)]]).error.l2 == 0.02
    assert ties.noise() == 0.03


def test_rare_flips_are_judged_by_their_number():
    labels = np.arange(1000)
    few = learned(
        [labels], *([labels // 10 == draw] for draw in range(4))
    )  # ten elements each that no other draw flips
    assert few.judge([[labels >= 990]]).ratio == 1
    assert few.judge([[labels >= 900]]).ratio == 10


def test_outputs_of_other_shapes_cannot_be_compared():
    labels = [np.arange(4)]
    wrong = [[difference(labels[0], np.arange(5))]]
    assert learned(labels, [np.zeros(4, bool)]).judge(wrong).ratio == math.inf
    unsteady = learned(labels, [difference(labels[0], np.arange(5))])
    assert unsteady.judge(wrong).ratio == 0


@pytest.mark.parametrize(
    ("dtype", "ulp"),
    [(np.float32, 2**-23), (np.float64, 2**-52), (np.float16, 2**-10), (ml_dtypes.bfloat16, 2**-7)],
)
def test_saturated_outputs_may_be_rounded_the_other_way(dtype, ulp):
    def unit(array):
        return gauge([array]).judge([[Deviation(1, 1)]]).noise

    one_hot = np.zeros((1, 100), dtype)
    one_hot[0, 7] = 1
    assert unit(one_hot).l2 == pytest.approx(ulp)
    assert unit(one_hot).peak == pytest.approx(ulp * 10)
    nearly = one_hot.copy()
    nearly[0, 7] = 1 - ulp
    assert 0 < difference(one_hot, nearly).over(unit(one_hot)) <= 1.01
    nearly[0, 7] = 1 - 4 * ulp
    assert difference(one_hot, nearly).over(unit(one_hot)) > 3
    assert unit(np.ones((4, 25), dtype)) == Deviation(ulp / 2, ulp)
    assert unit(np.zeros(0, dtype)).l2 > 0


def test_top_class_is_compared_where_there_are_classes():
    scores = np.eye(4, dtype=np.float32)
    assert same_top(scores, scores) == 1
    assert same_top(scores, np.roll(scores, 1, axis=1)) == 0
    assert same_top(scores[:, :1], scores[:, :1]) is None
    assert same_top(scores.reshape(2, 2, 4), scores.reshape(2, 2, 4)) is None
    assert same_top(scores.astype(int), scores.astype(int)) is None

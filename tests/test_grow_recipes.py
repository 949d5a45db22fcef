from __future__ import annotations

from fractions import Fraction

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from onnx_grow.growth import recipes
from onnx_grow.growth.recipes import Draw, Grown, Mix, Scale, Share, Step
from onnx_grow.model import Inline

FLOATS = [np.float16, ml_dtypes.bfloat16, np.float32, np.float64]
HALVES = np.array([0, 1, 2, 0, 1, 0])  # three copies of 0, two of 1, one of 2


def drawn(dtype: type, *shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape).astype(dtype)


def exact_sums(parts: np.ndarray, classes: np.ndarray, dim: int) -> list[Fraction]:
    """The sums of all copies, without rounding."""
    rows = np.moveaxis(parts, dim, 0)
    return [
        sum((Fraction(float(row.flat[k])) for row in rows[classes == c]), Fraction(0))
        for c in range(classes.max() + 1)
        for k in range(rows[0].size)
    ]


def exact(values: np.ndarray, dim: int) -> list[Fraction]:
    return [Fraction(float(v)) for v in np.moveaxis(values, dim, 0).reshape(-1)]


def grown(
    values: np.ndarray,
    maps: list[np.ndarray | None],
    *steps: Share | Scale,
    seed: str = "s",
    noise: float = 0,
) -> np.ndarray:
    return Grown(Inline.of(values), maps, steps, seed=seed, noise=noise).array()


@st.composite
def copies(draw: st.DrawFn, n: int = 3) -> np.ndarray:
    """A map with one to nine copies of each of n indices, in any order."""
    counts = [draw(st.integers(1, 9)) for _ in range(n)]
    return np.array(draw(st.permutations([i for i, c in enumerate(counts) for _ in range(c)])))


@pytest.mark.parametrize("dtype", FLOATS, ids=lambda d: np.dtype(d).name)
@settings(max_examples=40, deadline=None)
@given(data=st.data())
def test_unequal_parts_sum_exactly_to_the_original(dtype: type, data: st.DataObject) -> None:
    g = data.draw(copies())
    dim = data.draw(st.integers(0, 2))
    shape = [2, 4, 3]
    shape[dim] = 3
    numbers = st.floats(-1e4, 1e4, width=16) | st.sampled_from([0.0, -0.0, 6e-8, 1e-5, 1.0, 3.0, -65504.0])
    values = data.draw(arrays(np.float64, shape, elements=numbers)).astype(dtype)
    parts = grown(values, [g if k == dim else None for k in range(3)], Share(dim, g, "unequal"))
    assert parts.dtype == values.dtype
    assert exact_sums(parts, g, dim) == exact(values, dim)


def test_unequal_parts_differ_and_have_one_sign() -> None:
    values = drawn(np.float32, 3, 100)
    parts = grown(values, [HALVES, None], Share(0, HALVES, "unequal"))
    for c in (0, 1):
        mine = parts[c == HALVES]
        assert len({row.tobytes() for row in mine}) == len(mine)
        ratio = mine / values[c]
        assert (ratio >= 0).all()
        assert (ratio <= 1).all()
        spread = ratio.std(axis=1)
        assert (spread > 0.05).all(), "every element is split on its own"
        np.testing.assert_allclose(ratio.mean(axis=1), 1 / len(mine), atol=0.08)
    np.testing.assert_array_equal(parts[HALVES == 2][0], values[2])


def test_equal_parts() -> None:
    values = drawn(np.float64, 2, 3)
    parts = grown(values, [None, HALVES], Share(1, HALVES, "equal"))
    np.testing.assert_array_equal(parts, (values / [3, 2, 1])[:, HALVES])


def test_the_first_copy_takes_integers_whole() -> None:
    values = np.arange(1, 7, dtype=np.int8).reshape(2, 3)
    parts = grown(values, [None, HALVES], Share(1, HALVES, "first", fill=-5))
    np.testing.assert_array_equal(parts, [[1, 2, 3, -5, -5, -5], [4, 5, 6, -5, -5, -5]])


def test_classes_keep_copies_apart_that_are_not_summed() -> None:
    """Two groups of two inputs each: groups are copied, inputs are shared within each."""
    values = drawn(np.float64, 4, 5)
    g = np.array([0, 1, 0, 2, 3, 2, 0, 1, 0])  # groups 0, 1, 0 of inputs 0, 1, 0
    classes = np.array([0, 1, 0, 2, 3, 2, 4, 5, 4])
    parts = grown(values, [g, None], Share(0, classes, "unequal"))
    assert exact_sums(parts, classes, 0) == exact(values[[0, 1, 2, 3, 0, 1]], 0)


def test_scale() -> None:
    values = drawn(np.float32, 3, 4)
    factors = np.array([[0.5, 1.0, 2.0, 1 / 3]])
    scaled = grown(values, [None, None], Scale(factors))
    np.testing.assert_array_equal(scaled, (values.astype(np.float64) * factors).astype(np.float32))
    rows = grown(values, [np.array([0, 1, 2, 0]), None], Scale(np.array([[0.5], [1.0], [1.0], [0.25]])))
    np.testing.assert_array_equal(rows, values[[0, 1, 2, 0]] * np.float32([[0.5], [1], [1], [0.25]]))


def test_several_steps_on_several_dimensions() -> None:
    values = drawn(np.float64, 3, 3)
    factors = np.array([0.5, 1.0, 1.0, 0.5])
    g = np.array([0, 1, 2, 0])
    both = grown(values, [HALVES, g], Share(0, HALVES, "unequal"), Scale(factors[None, :]))
    sums = np.stack([both[c == HALVES].sum(axis=0) for c in range(3)])
    np.testing.assert_allclose(sums, values[:, g] * factors, rtol=1e-15)


def test_the_same_seed_gives_the_same_bytes_another_seed_others() -> None:
    values = drawn(np.float32, 3, 50)
    share = Share(0, HALVES, "unequal")
    one = grown(values, [HALVES, None], share, seed="0/w")
    np.testing.assert_array_equal(one, grown(values, [HALVES, None], share, seed="0/w"))
    assert not np.array_equal(one, grown(values, [HALVES, None], share, seed="1/w"))
    assert not np.array_equal(one, grown(values, [HALVES, None], share, seed="0/u"))


def test_noise_is_on_copies_only_and_of_the_size_asked_for() -> None:
    values = drawn(np.float64, 3, 4000)
    noisy = grown(values, [HALVES, None], noise=0.01)
    np.testing.assert_array_equal(noisy[:3], values)
    relative = noisy[3:] / values[HALVES[3:]] - 1
    assert relative.std() == pytest.approx(0.01, rel=0.05)
    assert abs(relative.mean()) < 1e-3
    columns = grown(values.T.copy(), [None, HALVES], noise=0.01)
    np.testing.assert_array_equal(columns[:, :3], values.T)
    assert not np.array_equal(columns[:, 3:], values.T[:, HALVES[3:]])


@pytest.mark.parametrize(
    "dtype", [*FLOATS, np.int8, ml_dtypes.int4, np.bool_], ids=lambda d: np.dtype(d).name
)
def test_chunks_are_the_bytes_of_the_array(dtype: type, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(recipes, "BLOCK", 8)
    values = (3 * drawn(np.float64, 3, 6)).astype(dtype)
    g = np.array([0, 1, 2, 2, 1, 0, 0])
    weight = Grown(Inline.of(values), [g, None])
    assert b"".join(bytes(chunk) for chunk in weight.chunks()) == b"".join(
        bytes(c) for c in Inline.of(values[g]).chunks()
    )
    assert weight.nbytes == sum(len(bytes(chunk)) for chunk in weight.chunks())
    assert weight.shape == (7, 6)
    assert weight.dtype == Inline.of(values).dtype
    np.testing.assert_array_equal(weight.array(), values[g])


COLUMNS = np.array([0, 1, 2, 3, 1, 3, 1])
BLOCKS: dict[str, tuple[list[np.ndarray | None], list[Step], float]] = {
    "rows shared": ([HALVES, None], [Share(0, HALVES, "unequal")], 0.0),
    "columns shared": ([None, COLUMNS], [Share(1, COLUMNS, "unequal")], 0.0),
    "both": ([HALVES, COLUMNS], [Share(0, HALVES, "unequal"), Share(1, COLUMNS, "unequal")], 0.0),
    "equal": ([HALVES, COLUMNS], [Share(0, HALVES), Share(1, COLUMNS)], 0.0),
    "first": ([HALVES, COLUMNS], [Share(0, HALVES, "first"), Share(1, COLUMNS, "first")], 0.0),
    "silent": (
        [HALVES, COLUMNS],
        [Share(0, HALVES, "unequal", silent=np.arange(6) > 3), Draw(1, np.arange(7) > 3)],
        0.0,
    ),
    "noise": ([HALVES, COLUMNS], [], 0.1),
    "rows drawn": ([HALVES, COLUMNS], [Draw(0, np.arange(6) > 2)], 0.0),
    "columns drawn": ([HALVES, COLUMNS], [Draw(1, np.arange(7) > 3)], 0.0),
    "mixed": ([HALVES, COLUMNS], [Mix(0, np.full(3, 1 / 3)), Mix(1, np.full(4, 0.25))], 0.0),
    "scaled": ([HALVES, COLUMNS], [Scale(np.arange(1.0, 7)[:, None]), Scale(np.full((1, 1), 1 / 3))], 0.0),
}


@pytest.mark.parametrize("dtype", [np.float16, np.float32], ids=lambda d: np.dtype(d).name)
@pytest.mark.parametrize("case", BLOCKS)
def test_bytes_do_not_depend_on_the_size_of_blocks(
    case: str, dtype: type, monkeypatch: pytest.MonkeyPatch
) -> None:
    maps, steps, noise = BLOCKS[case]
    values = drawn(dtype, 3, 4, 5)
    weight = Grown(Inline.of(values), [*maps, None], [_with_a_third(s) for s in steps], noise=noise, seed="s")
    whole = weight.array()
    for block in (1, 40, 100):
        monkeypatch.setattr(recipes, "BLOCK", block)
        assert weight.array().tobytes() == whole.tobytes()
        assert b"".join(bytes(compute()) for _, compute in weight.parts()) == whole.tobytes()
        backwards = [compute() for _, compute in list(weight.parts())[::-1]]
        assert b"".join(map(bytes, backwards[::-1])) == whole.tobytes()
    some = np.array([len(whole) - 1, 0, 2])
    assert weight.rows()(some).tobytes() == whole[some].tobytes()


def _with_a_third(step: Step) -> Step:
    return Scale(step.factors[..., None]) if isinstance(step, Scale) else step


def test_large_rows_are_computed_in_blocks_of_their_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(recipes, "ROW", 20)
    monkeypatch.setattr(recipes, "BLOCK", 10)
    values = drawn(np.float32, 2, 6, 5)
    g = np.array([0, 1, 2, 3, 4, 5, 3, 3, 1])
    experts = np.array([0, 1, 0])
    steps = [Share(1, g, "unequal"), Scale(np.array([1.0, 2.0, 4.0])[:, None, None])]
    weight = Grown(Inline.of(values), [experts, g, None], steps)
    sizes = [size for size, _ in weight.parts()]
    assert max(sizes) == 2 * 5 * 4
    whole = weight.array()
    assert b"".join(bytes(compute()) for _, compute in weight.parts()) == whole.tobytes()
    for j, i in enumerate(experts):
        assert exact_sums(whole[j] / 2.0**j, g, 0) == exact(values[i], 0)
    for some in (np.array([2, 0]), np.array([], np.int64)):  # what grows once more is asked for rows
        assert weight.rows()(some).shape == whole[some].shape
        assert weight.rows()(some).tobytes() == whole[some].tobytes()
    monkeypatch.setattr(recipes, "BLOCK", 10**6)
    assert weight.array().tobytes() == whole.tobytes()


def test_growing_what_has_grown_takes_rows_of_it_alone() -> None:
    class Watched(Grown):
        def array(self) -> np.ndarray:
            raise AssertionError("all at once")

    values = drawn(np.float32, 3, 4)
    share = Share(0, HALVES, "unequal")
    once = grown(values, [HALVES, None], share)
    again = np.array([0, 1, 2, 3, 4, 5, 5, 0])
    twice = Grown(Watched(Inline.of(values), [HALVES, None], [share], seed="s"), [again, None])
    np.testing.assert_array_equal(twice.array(), once[again])


def test_a_scalar_and_no_copies() -> None:
    assert grown(np.float32(2.5).reshape(()), []) == 2.5
    assert grown(np.float32(3).reshape(()), [], Scale(np.array(0.5))) == 1.5
    values = drawn(np.float32, 2, 3)
    np.testing.assert_array_equal(grown(values, [None, None]), values)


def test_the_original_is_left_alone() -> None:
    values = drawn(np.float32, 3, 4)
    before = values.copy()
    for split in ("equal", "unequal", "first"):
        grown(values, [HALVES, None], Share(0, HALVES, split), Scale(np.full((1, 1), 2.0)), noise=0.1)
    np.testing.assert_array_equal(values, before)

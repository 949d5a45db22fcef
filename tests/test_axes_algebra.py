from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from onnx_grow.axes.algebra import (
    MOST_REASONS,
    Algebra,
    Axis,
    Dim,
    Indices,
    Maps,
    Sum,
    axis,
    concat,
    grown_size,
    index_map,
    leaves,
    resolve,
    segments,
    size,
)

MANY = settings(max_examples=60, deadline=None)
SIZES = st.sampled_from([4, 6, 8, 12, 24, 30, 36])


@dataclass(frozen=True)
class Term:
    """A dimension as it was made; what unification makes of it is checked against moving labels."""

    factors: tuple[Axis | tuple[Term, ...], ...]

    @property
    def dim(self) -> Dim:
        return tuple(f if isinstance(f, Axis) else Sum(part.dim for part in f) for f in self.factors)

    def axes(self) -> list[Axis]:
        return [
            found
            for factor in self.factors
            for found in (
                [factor] if isinstance(factor, Axis) else [a for part in factor for a in part.axes()]
            )
        ]

    def moved(self, maps: Maps) -> Indices:
        """The map of the whole, when its axes are taken apart by reshaping an array of labels and each is indexed by its own map."""
        lengths = [f.size if isinstance(f, Axis) else sum(size(part.dim) for part in f) for f in self.factors]
        labels = np.arange(int(np.prod(lengths))).reshape(lengths)
        for k, factor in enumerate(self.factors):
            if isinstance(factor, Axis):
                labels = labels.take(found(index_map((factor,), maps), factor.size), k)
                continue
            cuts = np.cumsum([size(part.dim) for part in factor])[:-1]
            pieces = np.split(np.arange(lengths[k]), cuts)
            taken = [piece[part.moved(maps)] for piece, part in zip(pieces, factor, strict=True)]
            labels = labels.take(np.concatenate(taken), k)
        return labels.reshape(-1)


def found(g: Indices | None, n: int) -> Indices:
    return np.arange(n) if g is None else g


@st.composite
def terms(draw: st.DrawFn, n: int, depth: int = 3) -> Term:
    """A random term of size n: an axis, a product of two terms, or a sum of some."""
    if n == 1:
        return Term(())
    divisors = [d for d in range(2, n) if n % d == 0]
    kind = draw(st.sampled_from(["axis", "product", "sum"])) if depth else "axis"
    if kind == "product" and divisors:
        d = draw(st.sampled_from(divisors))
        return Term(draw(terms(d, depth - 1)).factors + draw(terms(n // d, depth - 1)).factors)
    if kind == "sum":
        cuts = sorted(draw(st.sets(st.integers(1, n - 1), min_size=1, max_size=3)))
        bounds = zip([0, *cuts], [*cuts, n], strict=True)
        return Term((tuple(draw(terms(stop - start, depth - 1)) for start, stop in bounds),))
    return Term((Axis(n),))


@st.composite
def equal_terms(draw: st.DrawFn) -> list[Term]:
    """Two to four random terms of one size."""
    n = draw(SIZES)
    return draw(st.lists(terms(n), min_size=2, max_size=4))


def growth(algebra: Algebra, dims: Sequence[Dim], seed: int) -> Maps:
    """Random maps for the free axes of `dims`, as far as the algebra lets them grow."""
    rng = np.random.default_rng(seed)
    maps: dict[Axis, Indices] = {}
    for leaf in (leaf for dim in dims for leaf in leaves(dim)):
        if leaf.frozen or leaf in maps:
            continue
        if leaf.uniform:
            copies = int(rng.integers(1, 4))
            maps[leaf] = rng.permutation(np.tile(np.arange(leaf.size), copies))
        else:
            maps[leaf] = rng.permutation(
                np.r_[np.arange(leaf.size), rng.integers(0, leaf.size, rng.integers(0, 4))]
            )
    for tie in algebra.ties:
        if len({grown_size(part, maps) / size(part) for part in segments(tie)}) > 1:
            return {leaf: g for leaf, g in maps.items() if not leaf.uniform}
    return maps


def unified(made: Sequence[Term], algebra: Algebra | None = None) -> Algebra:
    algebra = algebra or Algebra()
    for other in made[1:]:
        algebra.unify(made[0].dim, other.dim, "Reshape 'r'")
    return algebra


@MANY
@given(equal_terms(), st.integers(0, 9))
def test_unified_dimensions_have_one_map_whatever_grows(made: list[Term], seed: int) -> None:
    algebra = unified(made)
    maps = growth(algebra, [term.dim for term in made], seed)
    n = size(made[0].dim)
    expected = found(index_map(made[0].dim, maps), n)
    for term in made:
        np.testing.assert_array_equal(found(index_map(term.dim, maps), n), expected)
        assert grown_size(term.dim, maps) == len(expected)


@MANY
@given(equal_terms(), st.integers(0, 9))
def test_a_map_is_what_moving_labels_gives(made: list[Term], seed: int) -> None:
    algebra = unified(made)
    maps = growth(algebra, [term.dim for term in made], seed)
    for term in made:
        np.testing.assert_array_equal(found(index_map(term.dim, maps), size(term.dim)), term.moved(maps))


@MANY
@given(equal_terms(), st.data())
def test_what_is_known_of_an_axis_holds_for_what_it_is_bound_to(
    made: list[Term], data: st.DataObject
) -> None:
    algebra = Algebra()
    axes = [a for term in made for a in term.axes()]
    assume(axes)
    some = st.lists(st.sampled_from(axes), unique=True, max_size=2)
    stay, level = data.draw(some), data.draw(some)
    late = data.draw(st.booleans())
    if late:
        unified(made, algebra)
    for leaf in stay:
        algebra.freeze((leaf,), "graph input")
    for leaf in level:
        algebra.uniform((leaf,), "LayerNormalization 'n'")
    if not late:
        unified(made, algebra)
    maps = growth(algebra, [term.dim for term in made], data.draw(st.integers(0, 9)))
    for leaf in stay:
        np.testing.assert_array_equal(found(index_map((leaf,), maps), leaf.size), np.arange(leaf.size))
    for leaf in level:
        counts = np.bincount(found(index_map((leaf,), maps), leaf.size))
        assert len(set(counts)) == 1
        assert all(free.uniform for free in leaves((leaf,)))


@MANY
@given(
    st.permutations([2, 2, 3, 4, 6]), st.integers(1, 4), st.randoms(use_true_random=False), st.integers(0, 9)
)
def test_axes_on_both_sides(sizes: list[int], used: int, random: object, seed: int) -> None:
    """Transposed products, such as a channel shuffle chained with itself, end and get one map."""
    axes = [Axis(n) for n in sizes[:used]] * 2
    other = list(axes)
    random.shuffle(other)  # type: ignore[attr-defined]
    algebra = Algebra()
    algebra.unify(tuple(axes), tuple(other), "r")
    maps = growth(algebra, [tuple(axes)], seed)
    n = size(tuple(axes))
    np.testing.assert_array_equal(
        found(index_map(tuple(axes), maps), n), found(index_map(tuple(other), maps), n)
    )


@MANY
@given(equal_terms())
def test_saying_it_again_changes_nothing(made: list[Term]) -> None:
    algebra = unified(made)
    before = [free(term.dim) for term in made]
    unified(made, algebra)
    assert [free(term.dim) for term in made] == before


def free(dim: Dim) -> list[Axis]:
    return [leaf for leaf in leaves(dim) if not leaf.frozen]


@given(SIZES.flatmap(terms))
def test_a_dimension_is_itself(term: Term) -> None:
    dim = term.dim
    Algebra().unify(dim, dim, "r")
    assert all(leaf.bound is None and not leaf.reasons for leaf in term.axes())


@MANY
@given(SIZES.flatmap(terms), st.data())
def test_cut(term: Term, data: st.DataObject) -> None:
    n = size(term.dim)
    at = data.draw(st.integers(1, n - 1))
    algebra = Algebra()
    first, second = algebra.cut(term.dim, at)
    assert (size(first), size(second)) == (at, n - at)
    maps = growth(algebra, [term.dim], data.draw(st.integers(0, 9)))
    joined = np.r_[found(index_map(first, maps), at), found(index_map(second, maps), n - at) + at]
    np.testing.assert_array_equal(found(index_map(term.dim, maps), n), joined)


ALIGNED = {
    "an axis and a product": ([6], [2, 3]),
    "products": ([4, 6], [2, 12]),
    "a short factor splits a long one": ([2, 3, 4], [6, 4]),
    "sums": ([([2], [4])], [([3], [3])]),
    "a sum and an axis": ([([2], [4])], [6]),
    "three equal parts and three rows": ([([4], [4], [4])], [3, 4]),
    "heads of two kinds": ([([4], [2])], [3, 2]),
    "parts that are parts themselves": ([([3, 4], [([2], [2])])], [4, 4]),
    "a sum of products": ([([2, 3], [3]), 5], [9, 5]),
    "parts that cut a row of a product": ([([2, 3], [4])], [([4], [6])]),
    "rows that cut a part": ([([2], [6], [2])], [2, 5]),
    "a sum in a sum": ([([([1], [2])], [3])], [([1], [5])]),
}


def made_of(sizes: list[object]) -> Dim:
    """A dimension: a list is a product, a number an axis, a tuple a sum."""
    return tuple(
        factor
        for n in sizes
        for factor in (axis(n) if isinstance(n, int) else (Sum(made_of(part) for part in n),))
    )


@pytest.mark.parametrize(("left", "right"), ALIGNED.values(), ids=ALIGNED)
def test_what_aligns_stays_free(left: list[object], right: list[object]) -> None:
    for a, b in ((made_of(left), made_of(right)), (made_of(right), made_of(left))):
        Algebra().unify(a, b, "r")
        assert set(leaves(a)) == set(leaves(b))
        assert not any(leaf.frozen for leaf in leaves(a))


def test_a_product_cut_inside_a_row_is_a_sum_of_rows() -> None:
    rows, inner = Axis(5), Axis(4)
    first, second = Algebra().cut((rows, inner), 10)
    assert [size(part) for half in (first, second) for part in segments(half[0])] == [8, 2, 2, 8]  # type: ignore[arg-type]
    assert [leaf.size for leaf in leaves((rows,))] == [2, 2]
    assert [leaf.size for leaf in leaves((inner,))] == [2, 2]


def test_single_channels_that_are_cut_off_grow_but_not_a_row_that_is_cut_inside() -> None:
    rows, inner = Axis(3), Axis(2)
    first, second = Algebra().cut((rows, inner), 3)
    above, below = leaves((rows,))
    assert (above.size, below.size) == (1, 1)
    maps = {above: np.zeros(2, np.int64)}
    np.testing.assert_array_equal(index_map(first, maps), [0, 1, 0, 1, 2])
    assert index_map(second, maps) is None
    np.testing.assert_array_equal(index_map((rows, inner), maps), [0, 1, 0, 1, 2, 3, 4, 5])


def test_a_single_channel_that_meets_nothing_stays_single() -> None:
    for other in ((Axis(6),), (Axis(1), Axis(6)), (Sum([(Axis(2),), (Axis(4),)]),)):
        single, rest = Axis(1), Axis(6)
        Algebra().unify((single, rest), other, "r")
        maps = {leaf: np.zeros(2, np.int64) for leaf in leaves((single,))}
        assert grown_size(other, maps) == grown_size((single, rest), maps)
        Algebra().unify((single, rest), (rest,), "r")
        assert not list(leaves((single,)))


def test_misaligned_products_freeze_with_a_reason() -> None:
    a, b = (Axis(2), Axis(3)), (Axis(3), Axis(2))
    Algebra().unify(a, b, "Reshape 'r'")
    reasons = {reason for leaf in (*a, *b) for reason in leaf.reasons}
    assert reasons == {"the channels on the two sides of Reshape 'r' do not align"}
    assert all(leaf.frozen for leaf in (*a, *b))


def test_what_stands_before_a_misalignment_stays_free() -> None:
    a, b = (Axis(5), Axis(2), Axis(3)), (Axis(5), Axis(3), Axis(2))
    Algebra().unify(a, b, "r")
    assert resolve(a)[0] is resolve(b)[0]
    assert [leaf.frozen for leaf in leaves(a)] == [False, True, True]


def test_size_one_is_the_empty_product() -> None:
    assert axis(1) == ()
    assert size(()) == 1
    assert concat([(), axis(3)])[0].size == 4
    assert concat([axis(3)]) != concat([axis(3), ()])
    np.testing.assert_array_equal(found(index_map((), {}), 1), [0])


def test_empty_parts_of_a_sum_add_nothing() -> None:
    a, b = axis(3), axis(2)
    assert concat([axis(0), a]) is a
    (joined,) = concat([axis(0), a, axis(0), b])
    assert joined.parts == (a, b)
    assert size(concat([axis(0), axis(0)])) == 0


def test_empty_products_align_between_their_empty_factors() -> None:
    a, empty, b = Axis(6), Axis(0), Axis(4)
    c, d = Axis(2), Axis(3)
    Algebra().unify((a, empty, b), (c, d, Axis(0), Axis(2), Axis(2)), "r")
    assert resolve((a,)) == (c, d)
    assert not any(leaf.frozen for leaf in leaves((a, b)))
    assert empty.frozen


def test_empty_products_that_do_not_align_freeze() -> None:
    a, b = Axis(6), Axis(4)
    Algebra().unify((a, Axis(0)), (Axis(0), b), "r")
    assert list(a.reasons) == list(b.reasons) == ["the channels on the two sides of r do not align"]


def test_nothing_grows_means_no_map() -> None:
    a, b = Axis(3), Axis(2)
    assert index_map((a, b), {}) is None
    np.testing.assert_array_equal(index_map((a, b), {b: np.array([0, 1, 0])}), [0, 1, 0, 2, 3, 2, 4, 5, 4])


def test_few_reasons_are_kept() -> None:
    leaf = Axis(3)
    for k in range(2 * MOST_REASONS):
        Algebra().freeze((leaf,), f"reason {k}")
    assert list(leaf.reasons) == [f"reason {k}" for k in range(MOST_REASONS)]


def test_parts_over_which_statistics_are_taken_are_tied() -> None:
    a, b = Axis(2), Axis(4)
    algebra = Algebra()
    whole = Axis(6)
    algebra.uniform((whole,), "n")
    algebra.unify((whole,), (Sum([(a,), (b,)]),), "Concat 'c'")
    assert a.uniform
    assert b.uniform
    assert [segments(tie) for tie in algebra.ties] == [[(a,), (b,)]]


def test_long_chains_do_not_recurse() -> None:
    algebra = Algebra()
    chain = [Axis(6) for _ in range(5000)]
    for left, right in pairwise(chain):
        algebra.unify((left,), (right,), "r")
    algebra.unify((chain[0],), (Axis(2), Axis(3)), "r")
    assert [leaf.size for leaf in leaves((chain[-1],))] == [2, 3]
    nested: Dim = (Axis(2),)
    for _ in range(2000):
        nested = (Sum([nested, (Axis(2),)]),)
    assert len(list(leaves(nested))) == 2001
    assert index_map(nested, {leaves(nested)[0]: np.array([0, 1, 1])}).shape == (4003,)

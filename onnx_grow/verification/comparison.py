"""How far two results lie apart, and how far they may.

Floating-point outputs are measured as a whole, never element by element, because close to zero a correct result can be
wrong in every digit: with a the reference and d = b - a,

    l2   = norm(d) / norm(a)         error of the output as a vector
    peak = max|d| / rms(a)           error of its worst element, in units of a typical one

What is allowed is k times the *noise*: the same measure between runs of the original that differ by rounding alone. The
noise of a few numbers in one run is a matter of luck, so each run is judged by the largest noise of all runs, as far as
that is less than twice the median (a run may be noisy on its own account, where values overflow), or by its own if that
is larger. Under that lies a floor: every element off by half a unit in the last place, or the largest one by a whole unit.
Saturated outputs (a one-hot softmax, a clipped image) show no noise, yet may be rounded the other way.

Integers, booleans and strings do not round; they flip, where two classes tie or a value lies on the edge of a step. The
original shows which elements do: those that flip in any of its noisy runs are free to. Of the others k times as many may
differ as a noisy run of the original flips that no other noisy run flips.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import reduce
from operator import or_
from statistics import median
from typing import Any, Protocol

import ml_dtypes
import numpy as np

__all__ = [
    "Deviation",
    "Difference",
    "Gauge",
    "Verdict",
    "difference",
    "gauge",
    "is_exact",
    "quotient",
    "same_top",
]

Array = np.ndarray[Any, Any]


@dataclass(frozen=True)
class Deviation:
    """The two measures of one output in one run; infinite where the results cannot be compared."""

    l2: float
    peak: float

    def __or__(self, other: Deviation) -> Deviation:
        """The larger of each."""
        return Deviation(max(self.l2, other.l2), max(self.peak, other.peak))

    def over(self, noise: Deviation) -> float:
        """This error in units of `noise`: the worse of the two measures.

        Where the original itself is not comparable between its own runs nothing can be said, and the answer is 0.
        """
        return max(quotient(self.l2, noise.l2), quotient(self.peak, noise.peak))


NOTHING = Deviation(0.0, 0.0)
INCOMPARABLE = Deviation(math.inf, math.inf)

Difference = Deviation | Array
"""What separates two results: a deviation, or for exact outputs the mask of the elements that differ."""


@dataclass(frozen=True)
class Verdict:
    """The worst run of one output: its error, the noise, and their ratio. For exact outputs both are shares of elements."""

    error: Deviation
    noise: Deviation
    ratio: float
    run: int


class Gauge(Protocol):
    """What rounding does to one output, learnt from runs of the original."""

    def learn(self, run: int, found: Difference) -> None:
        """Take in how a noisy run of the original differs from the reference."""

    def judge(self, found: Sequence[Sequence[Difference]]) -> Verdict:
        """The verdict on another model, given for every run how its results differ from the reference."""

    def noise(self) -> float:
        """The least noise of any run: relative, or the share of elements that flip."""


def gauge(reference: Sequence[Array]) -> Gauge:
    """The gauge of an output that came as `reference` in the runs of the original."""
    return _Flips(reference) if any(is_exact(array) for array in reference) else _Rounding(reference)


def difference(a: Array, b: Array | None) -> Difference:
    """How `b` differs from the reference `a`.

    Infinitely if it is missing, if shapes or kinds differ, or if the two are not NaN or the same infinity at the same places.
    """
    if b is None or a.shape != b.shape or is_exact(a) != is_exact(b):
        return INCOMPARABLE
    if is_exact(a):
        return np.asarray(a != b)
    x, y = _wide(a), _wide(b)
    if not np.array_equal(finite := np.isfinite(x), np.isfinite(y)):
        return INCOMPARABLE
    if not finite.all():
        if not np.array_equal(x[~finite], y[~finite], equal_nan=True):
            return INCOMPARABLE
        x, y = x[finite], y[finite]
    distance = np.abs(y - x)
    peak = float(distance.max(initial=0.0))
    if peak == 0:
        return NOTHING
    rms = _rms(x)
    return Deviation(quotient(_rms(distance), rms), quotient(peak, rms))


def is_exact(array: Array) -> bool:
    """Whether values are compared exactly: integers, booleans, strings."""
    return array.dtype.kind not in "fc" and array.dtype != np.dtype(ml_dtypes.bfloat16)


def same_top(a: Array, b: Array) -> float | None:
    """The share of samples whose largest class is the same, where an output looks like class scores.

    That is: floating point, two dims (samples, classes), at least two classes. None for anything else.
    """
    if a.shape != b.shape or a.ndim != 2 or a.shape[1] < 2 or not a.size or is_exact(a):
        return None
    return float(np.mean(_wide(a).argmax(axis=1) == _wide(b).argmax(axis=1)))


class _Rounding:
    """The gauge of a floating-point output."""

    def __init__(self, reference: Sequence[Array]) -> None:
        self.floors = [_floor(array) for array in reference]
        self.found = [NOTHING for _ in reference]

    def learn(self, run: int, found: Difference) -> None:
        assert isinstance(found, Deviation)
        self.found[run] |= found

    def judge(self, found: Sequence[Sequence[Difference]]) -> Verdict:
        errors = [reduce(or_, each, NOTHING) for each in found]
        typical = Deviation(
            _typical([each.l2 for each in self.found]), _typical([each.peak for each in self.found])
        )
        units = [own | typical | floor for own, floor in zip(self.found, self.floors, strict=True)]
        ratios = [error.over(unit) for error, unit in zip(errors, units, strict=True)]
        worst = ratios.index(max(ratios))
        return Verdict(errors[worst], units[worst], ratios[worst], worst)

    def noise(self) -> float:
        return min(each.l2 for each in self.found)


class _Flips:
    """The gauge of an exact output: how often every element flipped."""

    def __init__(self, reference: Sequence[Array]) -> None:
        self.counts = [np.zeros(array.shape, np.uint16) for array in reference]
        self.draws = 0
        self.unsteady = False

    def learn(self, run: int, found: Difference) -> None:
        self.draws += run == 0  # a noisy run covers all inputs
        if isinstance(found, Deviation):
            self.unsteady = True
        else:
            self.counts[run] += found

    def judge(self, found: Sequence[Sequence[Difference]]) -> Verdict:
        differing: list[Array] = []
        for run, each in enumerate(found):
            masks = [difference for difference in each if not isinstance(difference, Deviation)]
            if len(masks) < len(each):
                return Verdict(INCOMPARABLE, self._share(run), 0.0 if self.unsteady else math.inf, run)
            differing.append(np.logical_or.reduce(masks))
        unexplained = [
            int(np.sum(mask & (counts == 0))) for mask, counts in zip(differing, self.counts, strict=True)
        ]
        expected = sum(int(np.sum(counts == 1)) for counts in self.counts) / max(self.draws, 1)
        worst = unexplained.index(max(unexplained))
        share = float(np.mean(differing[worst])) if differing[worst].size else 0.0
        return Verdict(
            Deviation(share, share), self._share(worst), quotient(sum(unexplained), expected), worst
        )

    def noise(self) -> float:
        return min(self._share(run).l2 for run in range(len(self.counts)))

    def _share(self, run: int) -> Deviation:
        """The share of elements that flipped in any noisy run."""
        share = float(np.mean(self.counts[run] > 0)) if self.counts[run].size else 0.0
        return Deviation(share, share)


def _typical(noise: Sequence[float]) -> float:
    return min(max(noise), 2 * median(noise))


def _floor(a: Array) -> Deviation:
    """Half a unit in the last place for every element, or a whole one for the largest."""
    ulp = float(ml_dtypes.finfo(a.dtype).eps)  # type: ignore[no-untyped-call]
    x = _wide(a)
    x = x[np.isfinite(x)]
    rms = _rms(x)
    peak = float(np.abs(x).max(initial=0.0)) / rms if rms else 1.0
    return Deviation(ulp * max(0.5, peak / math.sqrt(max(x.size, 1))), ulp * peak)


def _rms(x: Array) -> float:
    """Root mean square, scaled so that nothing under- or overflows."""
    largest = float(np.abs(x).max(initial=0.0))
    return largest * float(np.sqrt(np.mean(np.square(x / largest)))) if largest else 0.0


def _wide(a: Array) -> Array:
    return a if a.dtype == np.float64 or a.dtype.kind == "c" else a.astype(np.float64)


def quotient(error: float, unit: float) -> float:
    """`error` in units of `unit`; 0 where that is infinite, infinite where it is 0 and the error is not."""
    if error == 0 or unit == math.inf:
        return 0.0
    return error / unit if unit else math.inf

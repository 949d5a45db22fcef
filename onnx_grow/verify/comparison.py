"""How far two results lie apart, and how far they may.

Floating-point outputs are measured as a whole, never element by element, because close to zero a correct result can be
wrong in every digit: with a the reference and d = b - a,

    l2   = norm(d) / norm(a)         error of the output as a vector
    peak = max|d| / rms(a)           error of its worst element, in units of a typical one

Integers, booleans and strings have no rounding; their measure is the share of elements that differ.

What is allowed is k times the *noise*: the same measure between runs of the original that differ by rounding alone. The
noise of a few numbers in one run is a matter of luck, so each run is judged by the largest noise of all runs, as far as
that is less than twice the median (a run may be noisy on its own account, where values overflow), or by its own if that
is larger. Under that lies a floor of half a unit in the last place: of the whole output for l2, of its largest element for
peak. Saturated outputs (a one-hot softmax, a clipped image) show no noise, yet may be rounded the other way.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any

import ml_dtypes
import numpy as np

__all__ = ["Deviation", "allowed", "deviation", "is_exact", "same_top"]

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
        return max(_quotient(self.l2, noise.l2), _quotient(self.peak, noise.peak))


NOTHING = Deviation(0.0, 0.0)
INCOMPARABLE = Deviation(math.inf, math.inf)


def is_exact(array: Array) -> bool:
    """Whether values are compared exactly: integers, booleans, strings."""
    return not _is_float(array.dtype)


def deviation(a: Array, b: Array) -> Deviation:
    """How far `b` lies from the reference `a`.

    Infinite if shapes or kinds differ, or if the two are not NaN or the same infinity at the same places.
    """
    if a.shape != b.shape or is_exact(a) != is_exact(b):
        return INCOMPARABLE
    if not a.size:
        return NOTHING
    if is_exact(a):
        share = float(np.mean(a != b))
        return Deviation(share, share)
    x, y = _wide(a), _wide(b)
    if not np.array_equal(finite := np.isfinite(x), np.isfinite(y)):
        return INCOMPARABLE
    if not finite.all():
        if not np.array_equal(x[~finite], y[~finite], equal_nan=True):
            return INCOMPARABLE
        x, y = x[finite], y[finite]
    difference = np.abs(y - x)
    peak = float(difference.max(initial=0.0))
    if peak == 0:
        return NOTHING
    rms = _rms(x)
    return Deviation(_quotient(_rms(difference), rms), _quotient(peak, rms))


def allowed(reference: Sequence[Array], noise: Sequence[Deviation]) -> list[Deviation]:
    """What counts as one unit of noise for one output in each of its runs.

    `reference` holds the original's results, `noise` what was measured for each. Flips of exact outputs are rare events, so
    there the worst run stands for all.
    """
    exact = any(is_exact(array) for array in reference)
    typical = Deviation(
        *(_typical(found, exact) for found in zip(*((each.l2, each.peak) for each in noise), strict=True))
    )
    return [
        own | typical | (NOTHING if exact else _floor(array))
        for array, own in zip(reference, noise, strict=True)
    ]


def same_top(a: Array, b: Array) -> float | None:
    """The share of samples whose largest class is the same, where an output looks like class scores.

    That is: floating point, two dims (samples, classes), at least two classes. None for anything else.
    """
    if a.shape != b.shape or a.ndim != 2 or a.shape[1] < 2 or not a.size or is_exact(a):
        return None
    return float(np.mean(_wide(a).argmax(axis=1) == _wide(b).argmax(axis=1)))


def _typical(noise: Sequence[float], exact: bool) -> float:
    return max(noise) if exact else min(max(noise), 2 * median(noise))


def _floor(a: Array) -> Deviation:
    """Half a unit in the last place: of the output as a whole, and of its largest element."""
    if not a.size:
        return NOTHING
    half = 0.5 * float(ml_dtypes.finfo(a.dtype).eps)  # type: ignore[no-untyped-call]
    x = _wide(a)
    x = x[np.isfinite(x)]
    rms = _rms(x)
    return Deviation(half, half * float(np.abs(x).max(initial=0.0)) / rms if rms else half)


def _rms(x: Array) -> float:
    """Root mean square, scaled so that nothing under- or overflows."""
    largest = float(np.abs(x).max(initial=0.0))
    return largest * float(np.sqrt(np.mean(np.square(x / largest)))) if largest else 0.0


def _wide(a: Array) -> Array:
    return a if a.dtype == np.float64 or a.dtype.kind == "c" else a.astype(np.float64)


def _is_float(dtype: np.dtype[Any]) -> bool:
    return dtype.kind in "fc" or dtype == np.dtype(ml_dtypes.bfloat16)


def _quotient(error: float, unit: float) -> float:
    if error == 0 or unit == math.inf:
        return 0.0
    return error / unit if unit else math.inf

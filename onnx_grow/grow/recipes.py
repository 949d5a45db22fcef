"""Grown weights: index maps and shares over the original, computed only when they are written.

    W'[.., j, ..] = share[j] W[.., g(j), ..]

`g` maps new to old indices. Where copies are summed by the operator that reads the weight, their shares are numbers that sum to one for
every old index: the second equation of Net2WiderNet (Chen et al., 2016), in its general form.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import ml_dtypes  # noqa: F401 - registers bfloat16 with numpy
import numpy as np
from numpy.typing import NDArray

from onnx_grow.axes.algebra import Indices
from onnx_grow.model import Inline, Weight, raw_length

Array = np.ndarray[Any, Any]
Split = Literal["equal", "unequal"]


@dataclass(frozen=True, eq=False)
class Share:
    """Copies along dimension `dim` share what was one value: `classes[j]` is the old index that j is a copy of.

    "equal": every copy gets the same part. "unequal": every element is split at random between its copies, so that their gradients
    differ from the first step on (LEMON, arXiv 2310.07999); the parts sum to the element exactly, not only to rounding.
    """

    dim: int
    classes: Indices
    split: Split = "equal"

    def apply(self, values: Array, rng: np.random.Generator) -> Array:
        """Divide `values`, already copied along `dim`, between the copies."""
        if self.split == "equal":
            return Scale(self.dim, 1.0 / _counts(self.classes)).apply(values)
        rows = np.ascontiguousarray(np.moveaxis(values, self.dim, 0))
        return np.ascontiguousarray(np.moveaxis(_split_rows(rows, self.classes, rng), 0, self.dim))


@dataclass(frozen=True, eq=False)
class Scale:
    """A factor for every index of dimension `dim`."""

    dim: int
    factors: NDArray[np.float64]

    def apply(self, values: Array, rng: np.random.Generator | None = None) -> Array:
        """Multiply, in double precision, and round once."""
        shape = [1] * values.ndim
        shape[self.dim] = -1
        return (values.astype(np.float64) * self.factors.reshape(shape)).astype(values.dtype)


class Grown:
    """A weight that is another weight, copied along its dimensions by `maps` (None: not), then changed by `steps`.

    `noise` is the relative standard deviation of what is added to the copies (not to the originals), Net2Net's own way to break their
    symmetry; `seed` seeds all that is random, together with the steps' dimensions.
    """

    def __init__(
        self,
        base: Weight,
        maps: Sequence[Indices | None],
        steps: Sequence[Share | Scale] = (),
        *,
        noise: float = 0.0,
        seed: str = "",
    ) -> None:
        self.base = base
        self.maps = tuple(maps)
        self.steps = tuple(steps)
        self.noise = noise
        self.seed = seed
        self.dtype = base.dtype
        self.shape = tuple(n if g is None else len(g) for n, g in zip(base.shape, self.maps, strict=True))

    @property
    def nbytes(self) -> int:
        """Bytes in ONNX's raw layout."""
        return raw_length(self.dtype, self.shape)

    def array(self) -> Array:
        """The grown values."""
        values = self.base.array()
        for dim, g in enumerate(self.maps):
            if g is not None:
                values = np.take(values, g, axis=dim)
        if self.noise:
            values = self._noisy(values)
        for k, step in enumerate(self.steps):
            values = step.apply(values, _generator(f"{self.seed}/{k}"))
        return values

    def chunks(self) -> Iterator[bytes | memoryview]:
        """The raw bytes of the grown values."""
        return Inline.of(self.array()).chunks()

    def __repr__(self) -> str:
        return f"Grown({list(self.base.shape)} -> {list(self.shape)})"

    def _noisy(self, values: Array) -> Array:
        copied = np.zeros(self.shape, bool)
        for dim, g in enumerate(self.maps):
            if g is not None:
                shape = [1] * copied.ndim
                shape[dim] = -1
                copied |= (np.arange(len(g)) >= self.base.shape[dim]).reshape(shape)
        drawn = _generator(f"{self.seed}/noise").standard_normal(self.shape)
        return (values * (1.0 + self.noise * drawn * copied)).astype(values.dtype)


def _generator(seed: str) -> np.random.Generator:
    return np.random.default_rng(list(hashlib.sha256(seed.encode()).digest()))


def _counts(classes: Indices) -> NDArray[np.int64]:
    """How many indices are of the same class, for every index."""
    return np.bincount(classes)[classes]


def _split_rows(rows: Array, classes: Indices, rng: np.random.Generator) -> Array:
    """Split each class's row between its copies, element by element.

    A value v is cut in big = round(v (1 - f)) and v - big with f <= 1/2: v/2 <= big <= v, so the difference is exact (Sterbenz' lemma) in
    any floating-point format, and all parts of an element sum to it exactly.
    """
    order = np.argsort(classes, kind="stable")
    counts = np.bincount(classes)
    starts = np.cumsum(counts) - counts
    out = rows.copy()
    present = np.flatnonzero(counts > 1)
    rest = rows[order[starts[present]]]
    for k in range(int(counts.max()) - 1):
        left = counts[present] - k
        active = left > 1
        value = rest[active]
        mean = (1.0 / left[active]).reshape(-1, *[1] * (rows.ndim - 1))
        fraction = np.minimum(mean * rng.uniform(0.5, 1.5, value.shape), 0.5)
        big = (value.astype(np.float64) * (1.0 - fraction)).astype(rows.dtype)
        small = value - big
        # The last two copies take big and small in random order, so that neither is the larger by position.
        swap = (mean == 0.5) & (rng.random(value.shape) < 0.5)
        out[order[starts[present[active]] + k]] = np.where(swap, big, small)
        rest[active] = np.where(swap, small, big)
        last = present[active & (left == 2)]
        out[order[starts[last] + k + 1]] = rest[np.isin(present, last)]
    return out

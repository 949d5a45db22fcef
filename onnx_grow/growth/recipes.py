"""Grown weights: index maps and shares over the original, computed block by block when they are written.

    W'[.., j, ..] = share[j] W[.., g(j), ..]

`g` maps new to old indices. Where copies are summed by the operator that reads the weight, their shares are numbers that sum to
one for every old index: the second equation of Net2WiderNet (Chen et al., 2016), in its general form.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from math import prod
from typing import Any, Literal

import ml_dtypes  # noqa: F401 - registers bfloat16 with numpy
import numpy as np
from numpy.typing import NDArray

from onnx_grow.axes.algebra import Indices
from onnx_grow.model import Inline, Weight, raw_length

Array = np.ndarray[Any, Any]
Mask = NDArray[np.bool_]
Split = Literal["equal", "unequal", "first"]

_TOO_EVEN = 1e-3
"""A spread so many times smaller than the weight's own is none."""

BLOCK = 1 << 18
"""Elements computed at a time: they fit in a processor's cache. Random draws follow the blocks, so this is part of the format."""


@dataclass(frozen=True, eq=False)
class Share:
    """Copies along dimension `dim` share what was one value: `classes[j]` is the sum that new index j contributes to.

    "equal": every copy gets the same part. "unequal": every element is split at random between its copies, so that their
    gradients differ from the first step on (LEMON, arXiv 2310.07999); the parts sum to the element exactly. "first": the first
    copy gets all, the others `fill`, which stands for zero: the only way to share integers exactly. Indices that are `silent` are
    no copies: they get `fill`, and count for nothing.
    """

    dim: int
    classes: Indices
    split: Split = "equal"
    fill: int = 0
    silent: Mask | None = None

    @cached_property
    def counts(self) -> Indices:
        """Number of copies per class."""
        return np.bincount(self.classes)

    @cached_property
    def ranks(self) -> list[tuple[Indices, Indices]]:
        """Per rank k: the classes with more than k copies, and the new index of the k-th copy of each."""
        order = np.argsort(self.classes, kind="stable")
        starts = np.cumsum(self.counts) - self.counts
        present = [np.flatnonzero(self.counts > k) for k in range(int(self.counts.max()))]
        return [(classes, order[starts[classes] + k]) for k, classes in enumerate(present)]

    def spread(self, values: Array, g: Indices, rng: np.random.Generator) -> Array:
        """Copy `values` along `dim` by the map `g` and divide them between the copies."""
        if self.silent is not None:
            return self._among(np.flatnonzero(~self.silent), values, g, rng)
        if self.split == "equal":
            factors = (1.0 / self.counts[self.classes]).reshape(-1, *[1] * (values.ndim - 1 - self.dim))
            return Scale(factors).apply(np.take(values, g, axis=self.dim))
        if self.split == "first":
            out = np.take(values, g, axis=self.dim)
            others = np.setdiff1d(np.arange(len(g)), self.ranks[0][1])
            out[(slice(None),) * self.dim + (others,)] = self.fill
            return out
        shape = values.shape
        rows = values.reshape(prod(shape[: self.dim]), shape[self.dim], prod(shape[self.dim + 1 :]))
        out = np.empty((rows.shape[0], len(g), rows.shape[2]), values.dtype)
        classes, positions = self.ranks[0]
        rest = _pick(rows, g[positions])
        for k in range(1, len(self.ranks)):
            going, following = self.ranks[k]
            stays = len(going) < len(classes)
            if stays:
                done = np.isin(classes, going, invert=True)
                _place(out, positions[done], rest[:, done])
                rest, positions = rest[:, ~done], positions[~done]
            piece, rest = _cut(rest, self.counts[going] - k + 1, rng)
            _place(out, positions, piece)
            classes, positions = going, following
        _place(out, positions, rest)
        return out.reshape(*shape[: self.dim], len(g), *shape[self.dim + 1 :])

    def _among(self, counted: Indices, values: Array, g: Indices, rng: np.random.Generator) -> Array:
        """Divide between some of the indices; all others get `fill`."""
        parts = replace(self, classes=self.classes[counted], silent=None).spread(values, g[counted], rng)
        out = np.full(
            (*values.shape[: self.dim], len(g), *values.shape[self.dim + 1 :]), self.fill, values.dtype
        )
        out[(slice(None),) * self.dim + (counted,)] = parts
        return out


@dataclass(frozen=True, eq=False)
class Draw:
    """Indices `new` along dimension `dim` are no copies but drawn afresh, with the mean and spread of what they would copy.

    That is the scale which training has found for this layer, and the one that copied statistics (BatchNormalization's) expect.
    Where there is no spread to speak of, that of the whole weight takes its place, and in a weight of equal elements He's:
    variance 2 / fan-in (arXiv 1502.01852).
    """

    dim: int
    new: Mask

    def moments(self, values: Array) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Mean and standard deviation for every index of `dim`, over all other dimensions."""
        others = tuple(k for k in range(values.ndim) if k != self.dim)
        mean = np.asarray(np.mean(values, axis=others, dtype=np.float64))
        # bfloat16 squares in its own precision unless it is told otherwise.
        spread = np.asarray(np.sqrt(np.maximum(_mean_square(values, others) - mean**2, 0.0)))
        overall = float(np.sqrt(np.mean(spread**2 + mean**2)))
        fan_in = max(1, values.size // max(1, len(mean)))
        low = spread <= _TOO_EVEN * overall
        if overall == 0.0:
            return mean, np.full_like(spread, np.sqrt(2.0 / fan_in))
        return np.where(low, 0.0, mean), np.where(low, overall, spread)


@dataclass(frozen=True, eq=False)
class Mix:
    """New indices along dimension `dim` are one mixture of the `len(weights)` old ones, which come first."""

    dim: int
    weights: NDArray[np.float64]

    def apply(self, values: Array) -> Array:
        """Set the new indices, in double precision, rounded once."""
        out = np.moveaxis(np.array(values), self.dim, -1)
        old = len(self.weights)
        out[..., old:] = np.matmul(out[..., :old].astype(np.float64), self.weights)[..., None]
        return np.moveaxis(out, -1, self.dim)


@dataclass(frozen=True, eq=False)
class Scale:
    """A factor for every index of the dimensions that `factors` is not 1 long along; it has as many dimensions as the weight."""

    factors: NDArray[np.float64]

    def apply(self, values: Array) -> Array:
        """Multiply, in double precision, and round once."""
        return (values.astype(np.float64) * self.factors).astype(values.dtype)

    def rows(self, rows: slice) -> Scale:
        """The part that is for some rows of the first dimension."""
        return Scale(self.factors[rows]) if self.factors.ndim and self.factors.shape[0] > 1 else self


Step = Share | Draw | Mix | Scale


class Grown:
    """A weight that is another weight, copied along its dimensions by `maps` (None: not), shared, drawn, mixed and scaled by `steps`.

    `noise` is the relative standard deviation of what is added to the copies (not to the originals), Net2Net's own way to break
    their symmetry. `seed` decides all that is random. `fresh` are, per dimension, the indices that are no copies, whatever they were
    made of; None: all are copies.
    """

    def __init__(
        self,
        base: Weight,
        maps: Sequence[Indices | None],
        steps: Sequence[Step] = (),
        *,
        noise: float = 0.0,
        seed: str = "",
        fresh: Sequence[Mask | None] = (),
    ) -> None:
        self.base = base
        self.maps = tuple(maps)
        self.steps = tuple(steps)
        self.noise = noise
        self.seed = seed
        self.fresh = tuple(fresh)
        self._known: dict[Draw, tuple[NDArray[np.float64], NDArray[np.float64]]] = {}
        self.dtype = base.dtype
        self.shape = tuple(n if g is None else len(g) for n, g in zip(base.shape, self.maps, strict=True))

    @property
    def nbytes(self) -> int:
        """Bytes in ONNX's raw layout."""
        return raw_length(self.dtype, self.shape)

    def array(self) -> Array:
        """The grown values."""
        blocks = list(self._blocks())
        return blocks[0] if len(blocks) == 1 else np.concatenate(blocks)

    def chunks(self) -> Iterator[bytes | memoryview]:
        """The raw bytes of the grown values, block by block."""
        for block in self._blocks():
            yield from Inline.of(np.ascontiguousarray(block)).chunks()

    def __repr__(self) -> str:
        return f"Grown({list(self.base.shape)} -> {list(self.shape)})"

    def _blocks(self) -> Iterator[Array]:
        """Rows of the first dimension, as many as make a block; all at once where rows depend on each other."""
        rng = np.random.Generator(np.random.SFC64(list(hashlib.sha256(self.seed.encode()).digest())))
        values = self.base.array()
        if 0 in self.shape:
            yield np.empty(self.shape, values.dtype)
            return
        shared = any(isinstance(step, Share | Mix) and step.dim == 0 for step in self.steps)
        if not self.shape or shared or raw_length(self.dtype, (8,)) < 8:
            yield self._block(values, slice(None), rng)
            return
        rows = max(1, BLOCK // max(1, prod(self.shape[1:])))
        for start in range(0, self.shape[0], rows):
            yield self._block(values, slice(start, start + rows), rng)

    def _block(self, values: Array, rows: slice, rng: np.random.Generator) -> Array:
        shares = {step.dim: step for step in self.steps if isinstance(step, Share)}
        for dim, g in enumerate(self.maps):
            share = shares.pop(dim, None)
            if dim == 0:
                picked = np.arange(self.base.shape[0])[rows] if g is None else g[rows]
                values = (
                    values[rows] if g is None else share.spread(values, g, rng) if share else values[picked]
                )
            elif g is not None:
                values = share.spread(values, g, rng) if share else np.take(values, g, axis=dim)
        if self.noise:
            values = self._noisy(values, rows, rng)
        for step in self.steps:
            if isinstance(step, Draw):
                values = self._drawn(step, values, rows, rng)
        for step in self.steps:
            if isinstance(step, Mix):
                values = step.apply(values)
        for step in self.steps:
            if isinstance(step, Scale):
                values = step.rows(rows).apply(values)
        return values

    def _drawn(self, step: Draw, values: Array, rows: slice, rng: np.random.Generator) -> Array:
        """Replace what `step` says to draw, but for what is silent."""
        chosen = self._broadcast(step.dim, step.new, rows, values.ndim)
        for share in self.steps:
            if isinstance(share, Share) and share.silent is not None:
                chosen = chosen & ~self._broadcast(share.dim, share.silent, rows, values.ndim)
        chosen = np.broadcast_to(chosen, values.shape)
        g = self.maps[step.dim]
        assert g is not None
        mean, spread = (
            np.broadcast_to(self._broadcast(step.dim, moment[g], rows, values.ndim), values.shape)[chosen]
            for moment in self._moments(step)
        )
        out = np.array(values)
        out[chosen] = mean + spread * rng.standard_normal(mean.size)
        return out

    def _moments(self, step: Draw) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        if step not in self._known:
            self._known[step] = step.moments(self.base.array())
        return self._known[step]

    def _broadcast(self, dim: int, vector: Array, rows: slice, rank: int) -> Array:
        """What is said of each index of a dimension, shaped to meet a block of `rows` of the first one."""
        shape = [1] * rank
        shape[dim] = -1
        return (vector[rows] if dim == 0 else vector).reshape(shape)

    def _noisy(self, values: Array, rows: slice, rng: np.random.Generator) -> Array:
        copied = np.zeros(values.shape, bool)
        for dim, g in enumerate(self.maps):
            if g is not None:
                shape = [1] * copied.ndim
                shape[dim] = -1
                is_copy = np.arange(len(g)) >= self.base.shape[dim]
                copied |= (is_copy[rows] if dim == 0 else is_copy).reshape(shape)
        drawn = rng.standard_normal(values.shape)
        return (values * (1.0 + self.noise * drawn * copied)).astype(values.dtype)


def _mean_square(values: Array, over: tuple[int, ...]) -> NDArray[np.float64]:
    """The mean of squares in double precision, a row at a time, so that no large copy is made."""
    if 0 not in over:
        return np.array([np.mean(np.square(row, dtype=np.float64)) for row in values])
    rest = tuple(k - 1 for k in over if k)
    return np.asarray(
        sum(np.mean(np.square(row, dtype=np.float64), axis=rest) for row in values) / len(values)
    )


def _pick(rows: Array, index: Indices) -> Array:
    return (
        rows
        if len(index) == rows.shape[1] and (index == np.arange(len(index))).all()
        else rows.take(index, axis=1)
    )


def _place(out: Array, positions: Indices, values: Array) -> None:
    """out[:, positions] = values, in one sweep where the positions are all in a row."""
    order = np.argsort(positions)
    first, last = positions[order[0]], positions[order[-1]]
    if last - first + 1 == len(positions):
        out[:, first : last + 1] = _pick(values, order)
    else:
        out[:, positions] = values


def _cut(values: Array, left: Indices, rng: np.random.Generator) -> tuple[Array, Array]:
    """Cut a random part, about one in `left[class]`, off every element of `values` (outer, class, inner): the part, and the rest.

    A value v is cut in big = round(v (1 - f)) and v - big with f <= 1/2, so that v/2 <= big <= v and the difference is exact
    (Sterbenz' lemma) in any floating-point format: part and rest sum to v exactly. The last two copies take big and small in
    random order, so that neither is the larger by position.
    """
    wide = np.float64 if values.dtype == np.float64 else np.float32
    integers = np.dtype(f"i{values.dtype.itemsize}")
    drawn = (
        rng.bit_generator.random_raw(-(-values.size // 4)).view(np.int16)[: values.size].reshape(values.shape)
    )
    low, high = 0.5 / left, np.minimum(1.5 / left, 0.5)
    fraction = np.abs(drawn.astype(wide))
    fraction *= ((low - high) / 32768).astype(wide)[:, None]
    fraction += (1.0 - low).astype(wide)[:, None]
    fraction *= values
    big = fraction.astype(values.dtype, copy=False)
    small = values - big
    # Choosing by bits is many times faster than np.where, whose branches no processor predicts.
    chosen = (drawn >> 15).astype(integers)
    chosen &= -(left == 2).astype(integers)[:, None]
    chosen &= big.view(integers) ^ small.view(integers)
    chosen ^= small.view(integers)
    part = chosen.view(values.dtype)
    return part, values - part

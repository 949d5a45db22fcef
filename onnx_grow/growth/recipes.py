"""Grown weights: index maps and shares over the original, computed some rows at a time when they are written.

    W'[.., j, ..] = share[j] W[.., g(j), ..]

`g` maps new to old indices. Where copies are summed by the operator that reads the weight, their shares are numbers that sum to
one for every old index: the second equation of Net2WiderNet (Chen et al., 2016), in its general form.

Any rows can be computed alone, in any order, with the same bytes: what is random about a row follows from the seed and its index.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, partial
from itertools import pairwise
from math import prod
from threading import RLock
from typing import Any, Literal

import ml_dtypes  # noqa: F401 - registers bfloat16 with numpy
import numpy as np
from numpy.typing import NDArray

from onnx_grow.axes.algebra import Indices
from onnx_grow.growth.draws import Stream
from onnx_grow.growth.splitting import FORMATS, cut
from onnx_grow.model import Inline, Part, Weight, raw_length, rows_in, rows_of

Array = np.ndarray[Any, Any]
Mask = NDArray[np.bool_]
Split = Literal["equal", "unequal", "first"]
Rows = Callable[[Indices], Array]
Drawn = Callable[[int, NDArray[np.float32], int], NDArray[np.float32]]
"""For the k-th cut, random entries of a table, so many for each row."""

_TOO_SMALL = 1e-3
"""A scale so many times smaller than the whole weight's is none."""

RUNS = 16
"""Entries in a row are copied as one if there are no more such runs."""
BLOCK = 1 << 19
"""Elements computed at a time: few enough for a processor's cache, and enough for calls to count little."""
ROW = 1 << 22
"""Elements of a row above which it is a weight of its own, if its rows can be told apart. Random draws follow it: part of the format."""


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
    def counted(self) -> Indices:
        """The indices that count."""
        return np.arange(len(self.classes)) if self.silent is None else np.flatnonzero(~self.silent)

    @cached_property
    def counts(self) -> Indices:
        """Number of copies per class."""
        return np.bincount(self.classes[self.counted], minlength=int(self.classes.max()) + 1)

    @cached_property
    def ranks(self) -> list[tuple[Indices, Indices]]:
        """Per rank k: the classes with more than k copies, and the new index of the k-th copy of each."""
        order = self.counted[np.argsort(self.classes[self.counted], kind="stable")]
        starts = np.cumsum(self.counts) - self.counts
        present = [np.flatnonzero(self.counts > k) for k in range(int(self.counts.max()))]
        return [(classes, order[starts[classes] + k]) for k, classes in enumerate(present)]

    @cached_property
    def rank(self) -> Indices:
        """Which copy of its class every new index is; -1 for silent ones."""
        rank = np.full(len(self.classes), -1)
        for k, (_, positions) in enumerate(self.ranks):
            rank[positions] = k
        return rank

    def at(self, index: Indices, values: Array, kind: int, stream: Stream) -> Array:
        """Some new indices of dimension 0, of which `values` are the old ones; `kind` is the TensorProto.DataType."""
        rank, classes = self.rank[index], self.classes[index]
        if self.split == "equal":
            out = Scale(
                (1.0 / np.maximum(self.counts[classes], 1)).reshape(-1, *[1] * (values.ndim - 1))
            ).apply(values)
        elif self.split == "first":
            out = np.array(values)
            out[rank > 0] = self.fill
        else:
            out = self._cut_rows(rank, classes, values, kind, stream)
        if (rank < 0).any():
            out = np.array(out)
            out[rank < 0] = self.fill
        return out

    def _cut_rows(self, rank: Indices, classes: Indices, values: Array, kind: int, stream: Stream) -> Array:
        """What is left after the cuts for all copies before, and cut once more unless it is the last."""
        words = _words(values, kind).reshape(len(values), -1)
        counts = self.counts[classes]
        for k in range(int(rank.max(initial=0)) + 1):
            due = np.flatnonzero((rank >= k) & (counts > k + 1))
            if not len(due):
                continue
            left = _short(counts[due] - k)[:, None]
            draw = partial(stream.rows, classes[due] * len(self.ranks) + k)
            going = np.flatnonzero(rank[due] == k)
            whole = len(due) == len(words)
            goes, stays = cut(words if whole else words[due], kind, left, draw, goes=len(going) > 0)
            if len(going) == len(due):
                stays = goes
            elif len(going):
                stays[going] = goes[going]
            if whole:
                words = stays
            else:
                words = np.array(words)
                words[due] = stays
        return words.view(values.dtype).reshape(values.shape)

    def spread(self, values: Array, g: Indices, kind: int, drawn: Drawn) -> Array:
        """Copy `values` along `dim`, not the first, by the map `g` and divide them between the copies.

        `drawn` gives what is random about the k-th cut.
        """
        before, old, after = values.shape[: self.dim], values.shape[self.dim], values.shape[self.dim + 1 :]
        if self.split == "unequal":
            words = _words(values, kind).reshape(len(values), prod(before[1:]), old, prod(after))
            made = self._cut_columns(words, g, kind, drawn)
            out = made.view(values.dtype).reshape(*before, len(g), *after)
        elif self.split == "equal":
            factors = 1.0 / np.maximum(self.counts[self.classes], 1)
            out = Scale(factors.reshape(-1, *[1] * len(after))).apply(_taken(values, g, self.dim))
        else:
            out = _taken(values, g, self.dim)
            out[(slice(None),) * self.dim + (np.flatnonzero(self.rank > 0),)] = self.fill
        if self.silent is not None:
            out[(slice(None),) * self.dim + (np.flatnonzero(self.silent),)] = self.fill
        return out

    def _cut_columns(self, words: Array, g: Indices, kind: int, drawn: Drawn) -> Array:
        """Cut (rows, outer, old, inner) as (rows, outer, new, inner)."""
        cuts, where = self._cuts
        rest = _taken(words, g[self.ranks[0][1]], 2)
        parts = []
        for k, (done, on, left) in enumerate(cuts, 1):
            if len(done):
                parts.append(_taken(rest, done, 2))
                rest = _taken(rest, on, 2)
            part, rest = cut(rest, kind, left, partial(drawn, k))
            parts.append(part)
        made = np.concatenate([*parts, rest], axis=2)
        return made if where is None else _taken(made, where, 2)

    @cached_property
    def _cuts(self) -> tuple[list[tuple[Indices, Indices, Indices]], Indices | None]:
        """For every cut which of the rest are done, which go on, and how many parts these have left; and the part that each index is."""
        (classes, positions), *following = self.ranks
        cuts, places = [], []
        for k, (going, copies) in enumerate(following):
            on = np.isin(classes, going)
            cuts.append((np.flatnonzero(~on), np.flatnonzero(on), _short(self.counts[going] - k)[:, None]))
            places += [positions[~on], positions[on]]
            classes, positions = going, copies
        found = np.concatenate([*places, positions])
        where = np.zeros(len(self.classes), np.int64)  # silent ones find anything
        where[found] = np.arange(len(found))
        return cuts, None if np.array_equal(where, np.arange(len(found))) else where


@dataclass(frozen=True, eq=False)
class Draw:
    """Indices `new` along dimension `dim` are no copies but drawn afresh: mean zero, and the root mean square of what they would copy.

    That is the scale which training has found for this layer, and the one that copied statistics (BatchNormalization's) expect. Its mean
    is left behind: of a unit that never fires behind a Relu it is negative, and what is drawn around it would not fire either.
    Where all is zero, He's scale takes its place: variance 2 / fan-in (arXiv 1502.01852).
    """

    dim: int
    new: Mask

    def spread(self, values: Array) -> NDArray[np.float64]:
        """The standard deviation for every index of `dim`, over all other dimensions."""
        others = tuple(k for k in range(values.ndim) if k != self.dim)
        spread = np.asarray(np.sqrt(_mean_square(values, others)))
        overall = float(np.sqrt(np.mean(spread**2)))
        if overall == 0.0:
            return np.full_like(spread, np.sqrt(2.0 * max(1, len(spread)) / max(1, values.size)))
        return np.where(spread <= _TOO_SMALL * overall, overall, spread)


@dataclass(frozen=True, eq=False)
class Mix:
    """New indices along dimension `dim` are one mixture of the `len(weights)` old ones, which come first."""

    dim: int
    weights: NDArray[np.float64]

    def apply(self, values: Array) -> Array:
        """Set the new indices of a dimension that is not the first, in double precision, rounded once."""
        out = np.moveaxis(np.array(values), self.dim, -1)
        old = len(self.weights)
        # Summed row by row, so that no sum depends on how many rows there are.
        terms = np.ascontiguousarray(out[..., :old].astype(np.float64) * self.weights)
        out[..., old:] = terms.sum(axis=-1, keepdims=True)
        return np.moveaxis(out, -1, self.dim)

    def of(self, rows: Rows) -> Array:
        """The mixture of old indices of dimension 0, in double precision."""
        mixed = np.zeros(())
        for i, weight in enumerate(self.weights):
            mixed = mixed + weight * rows(np.array([i]))[0].astype(np.float64)
        return mixed


@dataclass(frozen=True, eq=False)
class Scale:
    """A factor for every index of the dimensions that `factors` is not 1 long along; it has as many dimensions as the weight."""

    factors: NDArray[np.float64]

    def apply(self, values: Array) -> Array:
        """Multiply, in double precision, and round once."""
        return (values.astype(np.float64) * self.factors).astype(values.dtype)

    def rows(self, rows: Indices) -> Scale:
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
        self._lock = RLock()
        self._known: dict[Draw, NDArray[np.float64]] = {}
        self._mixed: dict[Mix, Array] = {}
        self.dtype = base.dtype
        self.shape = tuple(n if g is None else len(g) for n, g in zip(base.shape, self.maps, strict=True))

    @property
    def nbytes(self) -> int:
        """Bytes in ONNX's raw layout."""
        return raw_length(self.dtype, self.shape)

    def array(self) -> Array:
        """The grown values."""
        return self._computed(rows_of(self.base))

    def rows(self) -> Rows:
        """What computes the rows of some new indices of the first dimension."""
        compute = self._rows_apart if self.shape and self._is_nested else self._rows
        return partial(compute, rows_of(self.base))

    def parts(self) -> Iterator[Part]:
        """The raw bytes block by block, each to be computed at any time, in any thread."""
        return self._parts(rows_of(self.base))

    def chunks(self) -> Iterator[bytes | memoryview]:
        """The raw bytes of the grown values, block by block."""
        for _, compute in self.parts():
            yield compute()

    def __repr__(self) -> str:
        return f"Grown({list(self.base.shape)} -> {list(self.shape)})"

    def _computed(self, base: Rows) -> Array:
        nothing = np.zeros(0, np.int64)
        if not self.shape:
            return self._rows(base, nothing)
        if 0 in self.shape:
            return np.empty(self.shape, base(nothing).dtype)
        if self._is_nested:
            return self._rows_apart(base, np.arange(self.shape[0]))
        blocks = [self._rows(base, np.arange(start, stop)) for start, stop in self._blocks()]
        return blocks[0] if len(blocks) == 1 else np.concatenate(blocks)

    def _parts(self, base: Rows) -> Iterator[Part]:
        if 0 in self.shape:
            return
        if self.shape and self._is_nested:
            for j in range(self.shape[0]):
                each, row = self._nested(base, j)
                yield from each._parts(row)
            return
        sizes: dict[int, int] = {}
        for start, stop in self._blocks() if self.shape else [(0, 0)]:
            count = stop - start
            if count not in sizes:
                sizes[count] = raw_length(self.dtype, (count, *self.shape[1:]) if self.shape else ())
            yield sizes[count], partial(self._bytes, base, start, stop)

    def _bytes(self, base: Rows, start: int, stop: int) -> memoryview:
        return Inline.of(self._rows(base, np.arange(start, stop))).raw()

    def _blocks(self) -> Iterator[tuple[int, int]]:
        """Rows of the first dimension, as many as make a block; those of types below one byte fill bytes."""
        at_once = max(1, BLOCK // max(1, prod(self.shape[1:])))
        if raw_length(self.dtype, (8,)) < 8:
            at_once = -(-at_once // 8) * 8
        for start in range(0, self.shape[0], at_once):
            yield start, min(start + at_once, self.shape[0])

    @property
    def _is_nested(self) -> bool:
        """Whether rows are so large that each is computed as a weight of its own, and can be."""
        apart = all(isinstance(s, Scale) or (isinstance(s, Share) and s.dim > 0) for s in self.steps)
        whole = raw_length(self.dtype, (8,)) >= 8
        return prod(self.shape[1:]) > ROW and len(self.shape) > 1 and apart and whole and not self.noise

    def _nested(self, base: Rows, j: int) -> tuple[Grown, Rows]:
        """Row j as a weight, and what computes the rows of its base."""
        i = j if self.maps[0] is None else int(self.maps[0][j])
        row = _Row(self.dtype, self.base.shape[1:], partial(base, np.array([i])))
        return Grown(
            row, self.maps[1:], [_inside(step, j) for step in self.steps], seed=f"{self.seed}/{j}"
        ), row.take

    def _rows_apart(self, base: Rows, rows: Indices) -> Array:
        """Rows of a weight that is nested; of none, what the base has of none."""
        if not len(rows):
            return np.empty((0, *self.shape[1:]), base(rows).dtype)
        return np.stack([each._computed(row) for each, row in (self._nested(base, int(j)) for j in rows)])

    def _rows(self, base: Rows, rows: Indices) -> Array:
        """Rows of the grown weight; of a scalar, the scalar."""
        values = self._before_mixing(base, rows)
        for mix in sorted((step for step in self.steps if isinstance(step, Mix)), key=lambda mix: mix.dim):
            values = mix.apply(values) if mix.dim else self._mixture(mix, values, base, rows)
        for step in self.steps:
            if isinstance(step, Scale):
                values = step.rows(rows).apply(values)
        return values

    def _copied(self, base: Rows, rows: Indices) -> Array:
        if not self.shape:
            return base(rows)
        shares = {step.dim: step for step in self.steps if isinstance(step, Share)}
        first = self.maps[0]
        values = base(rows if first is None else first[rows])
        if first is not None and 0 in shares:
            values = shares[0].at(rows, values, self.dtype, Stream(f"{self.seed}/0"))
        for dim, g in list(enumerate(self.maps))[1:]:
            if g is not None and dim in shares:
                values = shares[dim].spread(values, g, self.dtype, partial(self._random, dim, rows))
            elif g is not None:
                values = _taken(values, g, dim)
        return values

    def _random(
        self, dim: int, rows: Indices, k: int, table: NDArray[np.float32], columns: int
    ) -> NDArray[np.float32]:
        return Stream(f"{self.seed}/{dim}/{k}").rows(rows, table, columns)

    def _drawn(self, step: Draw, values: Array, rows: Indices) -> Array:
        """Replace what `step` says to draw, but for what is silent."""
        g = self.maps[step.dim]
        assert g is not None
        spread = self._spread(step)
        new = np.flatnonzero(step.new[rows] if step.dim == 0 else step.new)
        chosen = (slice(None),) * step.dim + (new,)
        shape = list(values.shape)
        shape[step.dim] = len(new)
        order = (np.cumsum(step.new) - 1)[rows][new] if step.dim == 0 else rows
        drawn = self._normal(f"draw {step.dim}", order, prod(shape[1:])).reshape(shape)
        along = [1] * values.ndim
        along[step.dim] = -1
        old = g[rows][new] if step.dim == 0 else g[new]
        out = np.array(values)
        silent = np.zeros((1,) * values.ndim, bool)
        for share in self.steps:
            if isinstance(share, Share) and share.silent is not None:
                silent = silent | _broadcast(share.silent, share.dim, rows, values.ndim)
        silent = np.broadcast_to(silent, values.shape)[chosen]
        made = spread[old].reshape(along) * drawn
        out[chosen] = np.where(silent, out[chosen], made.astype(values.dtype))
        return out

    def _spread(self, step: Draw) -> NDArray[np.float64]:
        with self._lock:
            if step not in self._known:
                self._known[step] = step.spread(self.base.array())
            return self._known[step]

    def _mixture(self, step: Mix, values: Array, base: Rows, rows: Indices) -> Array:
        """Rows that are new are the mixture."""
        new = rows >= len(step.weights)
        if not new.any():
            return values
        with self._lock:
            if step not in self._mixed:
                self._mixed[step] = step.of(partial(self._before_mixing, base))
        out = np.array(values)
        out[new] = self._mixed[step]
        return out

    def _before_mixing(self, base: Rows, rows: Indices) -> Array:
        values = self._copied(base, rows)
        if self.noise:
            values = self._noisy(values, rows)
        for step in self.steps:
            if isinstance(step, Draw):
                values = self._drawn(step, values, rows)
        return values

    def _noisy(self, values: Array, rows: Indices) -> Array:
        copied = np.zeros(values.shape, bool)
        for dim, g in enumerate(self.maps):
            if g is not None:
                copied |= _broadcast(np.arange(len(g)) >= self.base.shape[dim], dim, rows, values.ndim)
        drawn = self._normal("noise", rows, prod(self.shape[1:])).reshape(values.shape)
        return (values * (1.0 + self.noise * drawn * copied)).astype(values.dtype)

    def _normal(self, name: str, rows: Indices, columns: int) -> NDArray[np.float64]:
        """Normal numbers of some rows that are `columns` wide."""
        stream = Stream(f"{self.seed}/{name}")
        if len(rows) and rows[-1] - rows[0] + 1 == len(rows) and (np.diff(rows) == 1).all():
            return stream.normal(int(rows[0]) * columns, (int(rows[-1]) + 1) * columns)
        drawn = [stream.normal(row * columns, (row + 1) * columns) for row in rows.tolist()]
        return np.concatenate(drawn) if drawn else np.empty(0)


@dataclass(frozen=True)
class _Row:
    """One row of a weight as a weight."""

    dtype: int
    shape: tuple[int, ...]
    row: Callable[[], Array]

    @property
    def nbytes(self) -> int:
        return raw_length(self.dtype, self.shape)

    def array(self) -> Array:
        row: Array = self.row()[0]
        return row

    def take(self, index: Indices) -> Array:
        return rows_in(self.array(), index)

    def chunks(self) -> Iterator[bytes | memoryview]:
        return Inline.of(self.array()).chunks()


def _inside(step: Step, j: int) -> Share | Scale:
    """A step as it is for one row."""
    if isinstance(step, Share):
        return replace(step, dim=step.dim - 1)
    assert isinstance(step, Scale)
    return Scale(step.factors[j if step.factors.shape[0] > 1 else 0])


def _broadcast(vector: Array, dim: int, rows: Indices, rank: int) -> Array:
    """What is said of each index of a dimension, shaped to meet some `rows` of the first one."""
    shape = [1] * rank
    shape[dim] = -1
    return (vector[rows] if dim == 0 else vector).reshape(shape)


def _words(values: Array, kind: int) -> Array:
    return np.ascontiguousarray(values).view(FORMATS[kind].word)  # type: ignore[index]


def _short(numbers: Indices) -> Indices:
    """One number where all are the same."""
    return numbers[:1] if len(numbers) and (numbers == numbers[0]).all() else numbers


def _mean_square(values: Array, over: tuple[int, ...]) -> NDArray[np.float64]:
    """The mean of squares in double precision, a row at a time, so that no large copy is made."""
    if 0 not in over:
        return np.array([np.mean(np.square(row, dtype=np.float64)) for row in values])
    rest = tuple(k - 1 for k in over if k)
    return np.asarray(
        sum(np.mean(np.square(row, dtype=np.float64), axis=rest) for row in values) / len(values)
    )


def _taken(values: Array, g: Indices, dim: int) -> Array:
    """Entries along a dimension; those that lie in a row are copied as one, unless there are many such."""
    words = values.view(f"u{values.dtype.itemsize}") if values.dtype.itemsize in (1, 2, 4, 8) else values
    out = np.empty((*values.shape[:dim], len(g), *values.shape[dim + 1 :]), words.dtype)
    before = (slice(None),) * dim
    starts = [0, *(np.flatnonzero(np.diff(g) != 1) + 1).tolist(), len(g)]
    alone = len(starts) if len(starts) <= RUNS else 2
    for start, stop in pairwise(starts[:alone] if len(g) else ()):
        first = int(g[start])
        out[(*before, slice(start, stop))] = words[(*before, slice(first, first + stop - start))]
    if alone < len(starts):
        start = starts[alone - 1]
        np.take(words, g[start:], axis=dim, out=out[(*before, slice(start, None))], mode="clip")
    return out.view(values.dtype)

"""The axis algebra: dimensions as terms, and their unification.

A **dimension** is an ordered product of factors; a **factor** is an axis or an ordered sum of dimensions. An **axis** is an
indivisible set of channels. A dimension of size 1 is the empty product.

    Conv output              (C,)
    Flatten of C x 7 x 7     (C, H, W)
    Concat of two branches   (Sum((A,), (B,)),)
    grouped convolution      (g, i)

Equations between dimensions are solved by unification, as in type inference: an axis is bound to whatever it is equated
with, products are walked from the left and split, sums are walked by offsets and cut, products inside a row by the distributive
law. Every step makes terms smaller, so it ends; nothing is recursive over the graph. What cannot be aligned is frozen, with the reason.

This module is pure: it knows nothing of ONNX.
"""

from __future__ import annotations

from collections.abc import Container, Iterable, Mapping, Sized

import numpy as np
from numpy.typing import NDArray

Indices = NDArray[np.int64]

MOST_REASONS = 4  # enough to explain; an axis of a large graph would otherwise collect one per node


class Axis:
    """An indivisible set of `size` channels; `bound` once it is known to be something more structured."""

    __slots__ = ("bound", "reasons", "replicated", "size", "statistics")

    def __init__(self, size: int) -> None:
        self.size = size
        self.bound: Dim | None = None
        self.reasons: tuple[str, ...] = () if size else ("it is empty",)
        self.statistics: tuple[str, ...] = ()
        self.replicated: tuple[str, ...] = ()

    @property
    def frozen(self) -> bool:
        """Whether the axis must keep its size; `reasons` says why."""
        return bool(self.reasons)

    @property
    def uniform(self) -> bool:
        """Whether every index must get the same number of copies; `statistics` says who takes statistics over it."""
        return bool(self.statistics)

    @property
    def copied(self) -> tuple[str, ...]:
        """Why new indices must be copies of old ones, whoever reads them; nothing where they may hold any finite number."""
        return (*(f"{name} takes statistics over it" for name in self.statistics), *self.replicated)

    def __repr__(self) -> str:
        return f"Axis({self.size})"


class Sum:
    """An ordered sum of dimensions, as a concatenation makes it."""

    __slots__ = ("parts", "size")
    bound: None = None  # a sum is what it is; only axes turn out to be something else

    def __init__(self, parts: Iterable[Dim]) -> None:
        self.parts = tuple(parts)
        self.size = sum(size(part) for part in self.parts)

    def __repr__(self) -> str:
        return "Sum(" + " + ".join(map(repr, self.parts)) + ")"


Factor = Axis | Sum
Dim = tuple[Factor, ...]
Maps = Mapping[Axis, Indices]  # grown axis -> index map g: new index -> old index


def size(dim: Dim) -> int:
    """Number of indices of a dimension."""
    total = 1
    for factor in dim:
        total *= factor.size
    return total


def axis(n: int) -> Dim:
    """A dimension of `n` fresh channels: one new axis, or the empty product when n is 1."""
    return () if n == 1 else (Axis(n),)


def concat(parts: Iterable[Dim]) -> Dim:
    """The ordered sum of dimensions; a single part is itself, an empty one adds nothing."""
    parts = tuple(parts)
    parts = tuple(part for part in parts if size(part)) or parts[:1]
    return parts[0] if len(parts) == 1 else (Sum(parts),)


def resolve(dim: Dim) -> Dim:
    """The product with every bound axis replaced by what it is bound to (sums keep their parts unresolved)."""
    for factor in dim:
        if factor.bound is not None:
            break
    else:
        return dim
    if len(dim) == 1:
        return resolve(_shortcut(dim))
    out: list[Factor] = []
    stack = list(reversed(dim))
    while stack:
        factor = stack.pop()
        if factor.bound is None:
            out.append(factor)
        else:
            bound = factor.bound = _shortcut(factor.bound)
            stack.extend(reversed(bound))
    return tuple(out)


def leaves(dim: Dim) -> list[Axis]:
    """Every free axis of a dimension, from left to right (an axis that occurs twice comes twice)."""
    found: list[Axis] = []
    stack: list[Factor] = list(reversed(resolve(dim)))
    while stack:
        factor = stack.pop()
        if isinstance(factor, Sum):
            for part in reversed(factor.parts):
                stack.extend(reversed(resolve(part)))
        else:
            found.append(factor)
    return found


def segments(factor: Sum) -> list[Dim]:
    """The resolved parts of a sum, nested sums flattened, from left to right."""
    out: list[Dim] = []
    stack = list(reversed(factor.parts))
    while stack:
        part = resolve(stack.pop())
        if len(part) == 1 and isinstance(part[0], Sum):
            stack.extend(reversed(part[0].parts))
        else:
            out.append(part)
    return out


def index_map(dim: Dim, maps: Maps) -> Indices | None:
    """The map of new to old indices of a dimension whose axes grow by `maps`; None when nothing in it grows.

    A product's map is the outer (row-major) product of its factors' maps, a sum's the concatenation with offsets.
    """
    factors = resolve(dim)
    if not any(leaf in maps for leaf in leaves(factors)):
        return None
    out = np.zeros(1, np.int64)
    for factor in factors:
        out = (out[:, None] * factor.size + _factor_map(factor, maps)[None, :]).reshape(-1)
    return out


def grown_size(dim: Dim, maps: Mapping[Axis, Sized]) -> int:
    """Number of indices of a dimension once its axes have grown by `maps`."""
    total = 1
    for factor in resolve(dim):
        if isinstance(factor, Sum):
            total *= sum(grown_size(part, maps) for part in segments(factor))
        else:
            total *= len(maps[factor]) if factor in maps else factor.size
    return total


def new_indices(dim: Dim, maps: Maps, chosen: Container[Axis]) -> NDArray[np.bool_]:
    """Which indices of a dimension that grows by `maps` are new ones of the axes `chosen`: those behind their old size."""
    out = np.zeros(1, bool)
    for factor in resolve(dim):
        if isinstance(factor, Sum):
            part = np.concatenate([new_indices(part, maps, chosen) for part in segments(factor)])
        else:
            part = np.arange(grown_size((factor,), maps)) >= factor.size
            part &= factor in chosen
        out = (out[:, None] | part[None, :]).reshape(-1)
    return out


class Algebra:
    """Solves equations between dimensions and keeps what they imply.

    `ties` are sums over which statistics are taken: all parts of each must grow by the same factor.
    """

    def __init__(self) -> None:
        self.ties: list[Sum] = []

    def freeze(self, dim: Dim, *reasons: str) -> None:
        """Keep every axis of `dim` at its size, for `reasons`."""
        for leaf in leaves(dim):
            leaf.reasons = _listed(leaf.reasons, reasons)

    def uniform(self, dim: Dim, *who: str) -> None:
        """Demand that every index of `dim` gets the same number of copies, as `who` takes statistics over it."""
        stack: list[Factor] = list(resolve(dim))
        while stack:
            factor = stack.pop()
            if isinstance(factor, Sum):
                self.ties.append(factor)
                for part in segments(factor):
                    stack.extend(part)
            else:
                factor.statistics = _listed(factor.statistics, who)

    def replicate(self, dim: Dim, *reasons: str) -> None:
        """Demand that new indices of `dim` be copies of old ones, for `reasons`."""
        for leaf in leaves(dim):
            leaf.replicated = _listed(leaf.replicated, reasons)

    def keep_single(self, dim: Dim) -> None:
        """Let each axis of `dim`, a single channel, be the empty product, which does not grow."""
        for leaf in leaves(dim):
            leaf.bound = ()

    def unify(self, a: Dim, b: Dim, where: str) -> None:
        """Make two dimensions of equal size the same dimension; what does not align is frozen, naming `where`."""
        work = [(a, b)]
        while work:
            left, right = map(resolve, work.pop())
            if left == right:
                continue
            if not size(left):
                self._empties(left, right, work, where)
            elif len(left) == len(right) == 1:
                self._factors(left, right, work, where)
            else:
                self._products(left, right, work, where)

    def _empties(self, a: Dim, b: Dim, work: list[tuple[Dim, Dim]], where: str) -> None:
        """Equate two products of no elements: nothing tells where one goes on in the other but their empty factors."""
        left, right = _runs(a), _runs(b)
        if list(map(size, left)) == list(map(size, right)):
            work.extend(zip(left, right, strict=True))
        else:
            self.freeze((*a, *b), f"the channels on the two sides of {where} do not align")

    def _products(self, a: Dim, b: Dim, work: list[tuple[Dim, Dim]], where: str) -> None:
        left, right = list(reversed(a)), list(reversed(b))
        while (x := _take(left)) and (y := _take(right)):
            if x is y:
                continue
            if x.size == y.size:
                self._factors((x,), (y,), work, where)
                continue
            if x.size > y.size:
                x, y, left, right = y, x, right, left
            if x.size == 1 and (isinstance(y, Sum) or y in leaves(tuple(left))):
                self.keep_single((x,))
                right.append(y)
                continue
            rest = self._split(y, x, work)
            if rest is None:
                self.freeze((x, y, *left, *right), f"the channels on the two sides of {where} do not align")
                return
            right.extend(reversed(rest))
        if x or left or right:
            self.keep_single((*([x] if x else []), *left, *right))

    def _factors(self, a: Dim, b: Dim, work: list[tuple[Dim, Dim]], where: str) -> None:
        """Equate two dimensions of a factor each, of equal size."""
        (x,), (y,) = a, b
        if isinstance(y, Axis):
            self._bind(y, a)
        elif isinstance(x, Axis):
            self._bind(x, b)
        else:
            self._sums(x, y, work, where)

    def _split(self, factor: Factor, lead: Factor, work: list[tuple[Dim, Dim]]) -> Dim | None:
        """Make `factor` the product of `lead` and something; return the something, or None if it cannot be."""
        if factor.size % lead.size:
            return None
        inner = Axis(factor.size // lead.size)
        if isinstance(factor, Axis):
            self._bind(factor, (lead, inner))
            return (inner,)
        parts = self._rows(factor, inner.size)
        counts = [axis(size(part) // inner.size) for part in parts]
        for part, count in zip(parts, counts, strict=True):
            work.append((part, (*count, inner)))
        work.append(((lead,), concat(counts)))
        return (inner,)

    def _rows(self, factor: Sum, n: int) -> list[Dim]:
        """The parts of a sum, taken together and cut so that the size of each is a multiple of n."""
        rows: list[Dim] = []
        row: list[Dim] = []
        parts = list(reversed(segments(factor)))
        while parts:
            part = resolve(parts.pop())
            due = -sum(map(size, row)) % n or size(part) // n * n
            if 0 < due < size(part):
                part, rest = self.cut(part, due)
                parts.append(rest)
            row.append(part)
            if sum(map(size, row)) % n == 0:
                rows.append(concat(row))
                row = []
        return rows

    def _sums(self, x: Sum, y: Sum, work: list[tuple[Dim, Dim]], where: str) -> None:
        left, right = list(reversed(segments(x))), list(reversed(segments(y)))
        while left and right:
            a, b = resolve(left.pop()), resolve(right.pop())
            if size(a) > size(b):
                a, b, left, right = b, a, right, left
            if size(a) < size(b):
                b, remainder = self.cut(b, size(a))
                right.append(remainder)
            work.append((a, b))

    def cut(self, dim: Dim, at: int) -> tuple[Dim, Dim]:
        """Cut a dimension in two at index `at` (0 < at < size).

        A product that is cut inside a row becomes a sum: (a + 1 + b) . c = a . c + c + b . c, of which c is cut. Of what is cut
        off, a single channel may still grow; a row that is cut inside must stay one.
        """
        dim = resolve(dim)
        lead, inner = dim[0], dim[1:]
        rows, rest = divmod(at, size(inner))
        if rest:
            before, row, behind = self._around((lead,), rows)
            self.keep_single(row)
            row, remainder = self.cut((*row, *inner), rest)
            above, below = ([(*part, *inner) for part in parts] for parts in (before, behind))
            return concat([*above, row]), concat([remainder, *below])
        if isinstance(lead, Axis):
            first, second = Axis(rows), Axis(lead.size - rows)
            self._bind(lead, (Sum([(first,), (second,)]),))
            return (first, *inner), (second, *inner)
        parts: list[Dim] = []
        after = list(reversed(segments(lead)))
        while rows:
            part = after.pop()
            if size(part) > rows:
                part, remainder = self.cut(part, rows)
                after.append(remainder)
            parts.append(part)
            rows -= size(part)
        return (*concat(parts), *inner), (*concat(reversed(after)), *inner)

    def _around(self, dim: Dim, at: int) -> tuple[list[Dim], Dim, list[Dim]]:
        """What lies before index `at` of a dimension, that index, and what lies behind."""
        before: list[Dim] = []
        behind: list[Dim] = []
        if at:
            first, dim = self.cut(dim, at)
            before.append(first)
        if size(dim) > 1:
            dim, last = self.cut(dim, 1)
            behind.append(last)
        return before, dim, behind

    def _bind(self, axis: Axis, dim: Dim) -> None:
        """Replace an axis by a structured dimension of the same size, which inherits all that is known of it."""
        axis.bound = dim
        if axis.reasons:
            self.freeze(dim, *axis.reasons)
        if axis.replicated:
            self.replicate(dim, *axis.replicated)
        if axis.statistics:
            self.uniform(dim, *axis.statistics)


def _listed(reasons: tuple[str, ...], more: Iterable[str]) -> tuple[str, ...]:
    """Reasons and those that are new, as long as there are few."""
    for reason in more:
        if len(reasons) < MOST_REASONS and reason not in reasons:
            reasons += (reason,)
    return reasons


def _shortcut(dim: Dim) -> Dim:
    """Path compression: skip chains of axes that are bound to one other axis."""
    passed: list[Factor] = []
    while len(dim) == 1 and (bound := dim[0].bound) is not None:
        passed.append(dim[0])
        dim = bound
    for axis in passed:  # all of them: one at a time, a long chain would be walked from each of its axes
        axis.bound = dim
    return dim


def _runs(dim: Dim) -> list[Dim]:
    """The products between the empty factors of a product."""
    runs: list[list[Factor]] = [[]]
    for factor in resolve(dim):
        if factor.size:
            runs[-1].append(factor)
        else:
            runs.append([])
    return list(map(tuple, runs))


def _take(stack: list[Factor]) -> Factor | None:
    """Pop the next factor, resolved now: an earlier step of the same walk may have bound it. None at the end."""
    while stack:
        factor = stack.pop()
        if factor.bound is None:
            return factor
        stack.extend(reversed(resolve((factor,))))
    return None


def _factor_map(factor: Factor, maps: Maps) -> Indices:
    if isinstance(factor, Axis):
        grown = maps.get(factor)
        return np.arange(factor.size) if grown is None else grown
    out, offset = [], 0
    for part in segments(factor):
        inner = index_map(part, maps)
        out.append((np.arange(size(part)) if inner is None else inner) + offset)
        offset += size(part)
    return np.concatenate(out)

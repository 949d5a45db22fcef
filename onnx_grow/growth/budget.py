"""Budgets: the widest model that has no more parameters, or multiply-accumulates, than asked for."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from onnx_grow.axes.algebra import Axis, Dim, grown_size
from onnx_grow.errors import InvalidRequestError, NothingToGrowError

__all__ = ["MOST_CHANNELS", "Budget", "Footprint", "Span", "amount", "evenly", "largest"]

MOST_CHANNELS = 1 << 20
"""No network is wider; whoever asks for more mistyped."""

Measure = Literal["parameters", "multiply-accumulates"]

_UNITS = {"": 1, "k": 10**3, "m": 10**6, "g": 10**9, "b": 10**9, "t": 10**12}
_AMOUNT = re.compile(r"(?P<number>\d[\d_]*(?:\.\d*)?(?:e\d+)?|\.\d+)\s*(?P<unit>[kmgbt]?|x|%)", re.IGNORECASE)
_FINEST = 2.0**-40
"""How far the common factor is narrowed down; an axis of 2 ** 20 channels changes in steps of 2 ** -20."""


@dataclass(frozen=True)
class Budget:
    """What the grown model may have at most, and what the model has `now`. Raises InvalidRequestError unless that is less."""

    measure: Measure
    limit: int
    now: int

    def __post_init__(self) -> None:
        if self.limit <= self.now:
            raise InvalidRequestError(
                f"the model has {self.now:,} {self.measure}, and {self.limit:,} leave nothing to grow",
                hint="ask for more, such as 2x",
            )


@dataclass(frozen=True)
class Footprint:
    """A quantity of the grown model at any sizes of its axes: `base` and the sizes of `products` of dimensions.

    The latter are for one sample where they are for `batch` of them.
    """

    base: int
    products: tuple[Dim, ...]
    batch: int = 1

    def at(self, sizes: Mapping[Axis, int]) -> int:
        """The quantity when the axes have these sizes, and all others theirs."""
        ranges = {axis: range(n) for axis, n in sizes.items()}
        return self.base + sum(self._share(grown_size(product, ranges)) for product in self.products)

    def _share(self, elements: int) -> int:
        """What falls to one sample; what is computed once for all of them counts as it is."""
        return elements // self.batch if elements % self.batch == 0 else elements


@dataclass(frozen=True)
class Span:
    """The sizes that an axis may grow to: multiples of `multiple`, and if `whole` of its own size too."""

    size: int
    whole: bool = False
    multiple: int = 1

    @property
    def step(self) -> int:
        """What sizes are multiples of."""
        return math.lcm(self.size, self.multiple) if self.whole else self.multiple

    def at(self, factor: float) -> int:
        """The last size up to that at a common factor, but never less than now."""
        return max(self.size, math.floor(self.size * factor / self.step + 1e-9) * self.step)

    def after(self, size: int) -> int:
        """The next size."""
        return (size // self.step + 1) * self.step


def amount(said: float | str, now: int, what: str) -> int:
    """A count as people write it: 25_000_000, "25M", "1.5B", "2x" or "150%" of what there is `now`.

    k, M, B (or G) and T are thousands, millions, (US) billions and trillions, in capitals or not. Raises InvalidRequestError.
    """
    if isinstance(said, str):
        found = _AMOUNT.fullmatch(said.strip())
        if found is None:
            raise InvalidRequestError(
                f"{said!r} is no number of {what}", hint="25_000_000, 25M, 1.5B, 2x and 150% are"
            )
        if not now and found["unit"].lower() in ("x", "%"):
            raise InvalidRequestError(
                f"the main graph of the model has no {what}, of which {said!r} is nothing"
            )
        number, unit = float(found["number"].replace("_", "")), found["unit"].lower()
        said = number * (now if unit == "x" else now / 100 if unit == "%" else _UNITS[unit])
    if isinstance(said, bool) or not isinstance(said, int | float) or not 0 < said < math.inf:
        raise InvalidRequestError(f"{said!r} is no number of {what}")
    return round(said)


def largest(footprint: Footprint, spans: Mapping[Axis, Span], budget: Budget) -> dict[Axis, int]:
    """The sizes, not below those now, at which the model comes closest to a budget without exceeding it.

    All axes grow by the largest common factor, each to the size that its span allows next to it. Axes that grow in steps too coarse for
    what is then left stay there, and the others grow on alone; last, those of one size grow by one step more where that fits, the
    largest first. Axes that are alike stay alike, unless nothing at all could grow then.

    Raises NothingToGrowError if nothing fits, InvalidRequestError if everything does.
    """
    first = _factor(footprint, spans, {}, budget)
    common = {axis: span.at(first) for axis, span in spans.items()}
    coarse = {axis: common[axis] for axis, span in spans.items() if span.whole}
    fine = {axis: span for axis, span in spans.items() if not span.whole}
    sizes = common
    if coarse and fine:
        rest = _factor(footprint, fine, coarse, budget, least=first)
        sizes = {**coarse, **{axis: span.at(rest) for axis, span in fine.items()}}
    alike = [
        [axis for axis, span in fine.items() if span == one]
        for one in sorted(set(fine.values()), key=lambda span: -span.size)
    ]
    sizes = _stepped(footprint, fine, sizes, alike, budget)
    if _is_now(sizes):
        sizes = _stepped(footprint, fine, sizes, [[axis] for axis in fine], budget)
    if _is_now(sizes):
        raise NothingToGrowError(
            f"the model has {budget.now:,} {budget.measure}, and the smallest step that its axes allow would exceed {budget.limit:,}",
            hint=f"it leads to {_next(footprint, spans):,}",
        )
    return sizes


def _stepped(
    footprint: Footprint,
    spans: Mapping[Axis, Span],
    sizes: dict[Axis, int],
    groups: Sequence[Sequence[Axis]],
    budget: Budget,
) -> dict[Axis, int]:
    """The sizes after one more step of each group of axes that still fits, one group after the other."""
    for group in groups:
        longer = {**sizes, **{axis: spans[axis].after(sizes[axis]) for axis in group}}
        if footprint.at(longer) <= budget.limit:
            sizes = longer
    return sizes


def _is_now(sizes: Mapping[Axis, int]) -> bool:
    """Whether nothing has grown."""
    return all(n == axis.size for axis, n in sizes.items())


def _factor(
    footprint: Footprint,
    spans: Mapping[Axis, Span],
    fixed: Mapping[Axis, int],
    budget: Budget,
    least: float = 1.0,
) -> float:
    """The largest common factor within a budget, found by bisection: the quantity never falls as the factor grows."""

    def fits(factor: float) -> bool:
        sizes = {axis: span.at(factor) for axis, span in spans.items()}
        return footprint.at({**fixed, **sizes}) <= budget.limit

    low = high = least
    widest = max(span.size for span in spans.values())
    while fits(high):
        low, high = high, 2 * high
        if widest * low > MOST_CHANNELS:
            raise InvalidRequestError(
                f"{budget.limit:,} {budget.measure} would take more than {MOST_CHANNELS:,} channels of one axis, which is the most",
                hint=f"the model has {budget.now:,} now",
            )
    while high - low > _FINEST * high:
        middle = (low + high) / 2
        low, high = (middle, high) if fits(middle) else (low, middle)
    return low


def _next(footprint: Footprint, spans: Mapping[Axis, Span]) -> int:
    """The quantity after the smallest step of the common factor that changes anything."""
    factor = min(span.after(span.size) / span.size for span in spans.values())
    return footprint.at({axis: span.at(factor) for axis, span in spans.items()})


def evenly(costs: Sequence[int], limit: int) -> list[int]:
    """The positions of as many of some things as fit into a limit together, spread evenly over all of them.

    Where no single one in the middle fits, it is the cheapest that does.
    """
    for count in range(len(costs), 0, -1):
        chosen = [(2 * k + 1) * len(costs) // (2 * count) for k in range(count)]
        if sum(costs[position] for position in chosen) <= limit:
            return chosen
    cheapest = min(range(len(costs)), key=costs.__getitem__)
    return [cheapest] if costs[cheapest] <= limit else []

"""Plans: what will grow to what, decided before anything is touched. A plan is data; replaying it gives the same bytes."""

from __future__ import annotations

import json
import math
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from fnmatch import fnmatchcase
from fractions import Fraction
from types import MappingProxyType
from typing import Literal, get_args

from onnx_grow.axes.algebra import Axis, Dim, Sum, leaves, resolve, segments
from onnx_grow.axes.inference import Analysis
from onnx_grow.axes.table import KINDS, AxisInfo, AxisTable
from onnx_grow.errors import InvalidRequestError, NothingToGrowError
from onnx_grow.growth.budget import MOST_CHANNELS, Budget, Footprint, Span, amount, largest
from onnx_grow.growth.padding import unpaddable
from onnx_grow.growth.suggestions import suggestion

Scheme = Literal["auto", "split", "copy", "noise", "fresh", "pad"]
_WITH_NODES = "; with nodes before its norms it can: scheme pad"
DEFAULT_KINDS = ("hidden", "residual", "embedding", "state")


@dataclass(frozen=True)
class AxisGrowth:
    """One axis, its kind, and the number of channels it has and will have.

    `scheme` is how its new channels come about (None: as the plan says), `because` why that is not the scheme asked for.
    """

    name: str
    kind: str
    size: int
    new_size: int
    scheme: Scheme | None = None
    because: str = ""


@dataclass(frozen=True)
class WidenPlan:
    """How a model will be widened.

    `axes` grow; `skipped` are axes that were asked for and stay, with the reason. `scheme`: "split" (copies whose outgoing
    weights are unequal random parts), "copy" (equal parts, Net2WiderNet without noise), "noise" (equal parts, relative noise of standard
    deviation `noise` on the copies' incoming weights), "fresh" (no copies: random incoming weights, outgoing weights of zero), "pad" (under
    norms: channels that leave the statistics as they are), "auto" ("pad" where weights alone can do that, else "split"). Where an axis
    has a scheme of its own, that one holds.
    `seed` decides which channels are copied, and every other draw.
    """

    axes: tuple[AxisGrowth, ...]
    scheme: Scheme = "split"
    seed: int = 0
    noise: float = 0.0
    skipped: tuple[tuple[str, str], ...] = ()
    inputs: Mapping[str, tuple[int, ...]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.scheme not in get_args(Scheme):
            raise InvalidRequestError(
                f"there is no scheme {self.scheme!r}", hint=f"schemes are {', '.join(get_args(Scheme))}"
            )
        if not isinstance(self.seed, int) or self.seed < 0:
            raise InvalidRequestError(f"the seed must be a whole number from 0 on, and {self.seed!r} is not")
        if not isinstance(self.noise, int | float) or not 0.0 <= self.noise < float("inf"):
            raise InvalidRequestError(f"the noise must be a number from 0 on, and {self.noise!r} is not")
        for growth in self.axes:
            if growth.scheme not in (None, *get_args(Scheme)):
                raise InvalidRequestError(
                    f"there is no scheme {growth.scheme!r}, which axis {growth.name!r} has"
                )
            if not isinstance(growth.new_size, int) or not growth.new_size > growth.size:
                raise InvalidRequestError(
                    f"axis {growth.name!r} has {growth.size} channels; {growth.new_size!r} would not grow it"
                )
            if growth.new_size > MOST_CHANNELS:
                raise InvalidRequestError(
                    f"axis {growth.name!r} would get {growth.new_size:,} channels; {MOST_CHANNELS:,} is the most"
                )

    def without_noise(self) -> WidenPlan:
        """The same growth without the noise that it adds."""
        return replace(self, noise=0.0)

    def to_json(self) -> str:
        """One line of JSON with stable keys; `from_json` reads it back."""
        return json.dumps({"operation": "widen", **asdict(self)}, separators=(",", ":"))

    @classmethod
    def from_json(cls, text: str) -> WidenPlan:
        """Read a plan that `to_json` wrote. Raises InvalidRequestError for anything else."""
        try:
            data = json.loads(text)
            if data.pop("operation") != "widen":
                raise ValueError("it is no plan for widening")
            data["axes"] = tuple(AxisGrowth(**growth) for growth in data["axes"])
            data["skipped"] = tuple((name, reason) for name, reason in data["skipped"])
            data["inputs"] = {name: tuple(shape) for name, shape in data["inputs"].items()}
            return cls(**data)
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            raise InvalidRequestError(f"this is no plan that widen wrote: {error}") from error

    def __str__(self) -> str:
        lines = [
            f"{growth.name} ({growth.kind}): {growth.size} -> {growth.new_size}"
            + (f", {growth.scheme}: {growth.because}" if growth.because else "")
            for growth in self.axes
        ]
        lines += [f"{name} stays: {reason}" for name, reason in self.skipped]
        return "\n".join(lines)


@dataclass(frozen=True)
class Request:
    """What to widen: by `factor` (None: 2), the axes of `kinds` whose name (or a writer's) matches a glob of `only`.

    `widths` maps globs to absolute sizes; axes that match one get that size whatever their kind. Instead of both, `to_params` or
    `to_macs` says how many parameters or multiply-accumulates the grown model may have. Sizes are multiples of `multiple_of`,
    but for those of `widths`. None says nothing; an empty collection would mean nothing at all, and is an error.
    """

    factor: float | None = None
    widths: Mapping[str, int] | None = None
    kinds: Sequence[str] = DEFAULT_KINDS
    only: Sequence[str] | None = None
    to_params: float | str | None = None
    to_macs: float | str | None = None
    multiple_of: int = 1

    def check(self) -> None:
        """Raise InvalidRequestError for a factor that does not grow, kinds that do not exist, and what contradicts itself or is empty."""
        for name, chosen in (("widths", self.widths), ("only", self.only), ("kind", self.kinds)):
            if chosen is not None and not chosen:
                raise InvalidRequestError(
                    f"{name!r} is empty, so nothing would grow", hint="leave it out, or name something"
                )
        factor = self.factor
        if factor is not None and not (isinstance(factor, int | float) and 1.0 < factor < float("inf")):
            raise InvalidRequestError(
                f"the factor must be a number greater than 1, and {factor!r} is not",
                hint="2 doubles every width",
            )
        if factor is not None and factor > MOST_CHANNELS:
            raise InvalidRequestError(
                f"no axis can have {factor:g} times its channels; {MOST_CHANNELS:,} is the most"
            )
        ways = {
            "a factor": factor,
            "widths": self.widths,
            "a number of parameters": self.to_params,
            "a number of multiply-accumulates": self.to_macs,
        }
        said = [name for name, value in ways.items() if value is not None]
        if self.is_budget and len(said) > 1:
            raise InvalidRequestError(
                f"{' and '.join(said)} cannot both decide how much grows", hint="say one of them"
            )
        if factor is not None and self.widths and not self.only:
            raise InvalidRequestError(
                "widths say all that grows, and leave nothing for a factor to decide",
                hint="leave one of them out; beside widths, 'only' selects what else grows",
            )
        for budget, what in ((self.to_params, "parameters"), (self.to_macs, "multiply-accumulates")):
            if budget is not None:
                amount(budget, 1, what)
        multiple = self.multiple_of
        if not isinstance(multiple, int) or isinstance(multiple, bool) or not 0 < multiple <= MOST_CHANNELS:
            raise InvalidRequestError(
                f"sizes can be multiples of a whole number from 1 to {MOST_CHANNELS:,}, and {multiple!r} is none"
            )
        for kind in self.kinds:
            if kind not in KINDS:
                raise InvalidRequestError(f"there is no kind {kind!r}", hint=f"kinds are {', '.join(KINDS)}")

    @property
    def is_budget(self) -> bool:
        """Whether a budget decides how much grows."""
        return self.to_params is not None or self.to_macs is not None


def check_request(table: AxisTable, request: Request) -> None:
    """Raise InvalidRequestError for what cannot be asked of any model, and for names that match no axis of a table."""
    request.check()
    for glob in (*(request.only or ()), *(request.widths or ())):
        if not any(_matches(table, row, glob) for row in table):
            names = [name for row in table for name in (row.name, *row.writers)]
            close = suggestion(glob, names)
            raise InvalidRequestError(
                f"no axis is called {glob!r}",
                hint=f"did you mean {close!r}?" if close else "onnx-grow inspect lists them",
            )


def solve(
    analysis: Analysis,
    table: AxisTable,
    request: Request,
    *,
    inserting: bool = False,
    refused: Mapping[str, str] = MappingProxyType({}),
) -> tuple[tuple[AxisGrowth, ...], tuple[tuple[str, str], ...]]:
    """The axes that grow as requested, and those that were asked for and stay, with reasons; `fit` makes them fit a budget.

    Norms are padded with new nodes before them only if `inserting`. `refused` are axes that turned out not to grow, each with the reason.

    Raises InvalidRequestError for sizes that no axis can have, NothingToGrowError when nothing is left.
    """
    sizes, asked, skipped = _select(analysis, table, request)
    names = {table.axes[name]: name for name in sizes}
    wanted = {table.axes[name]: size for name, size in sizes.items()}
    for axis, reason in _compounding(analysis, wanted, table, names, request):
        skipped[names[axis]] = reason
        del wanted[axis]
    uneven = []
    for axis in [axis for axis, size in wanted.items() if axis.uniform and size % axis.size]:
        size = wanted[axis]
        if not _is_exact(table[names[axis]], table, request):
            size = wanted[axis] = _nearest_multiple(axis.size, size, request.multiple_of)
        why_not = unpaddable(analysis, axis, size, inserting=inserting)
        if why_not is not None and size % axis.size:
            uneven.append(axis)
            able = not inserting and unpaddable(analysis, axis, size, inserting=True) is None
            who = f"{', '.join(axis.statistics)} {'take' if len(axis.statistics) > 1 else 'takes'}"
            skipped[names[axis]] = (
                f"{who} statistics over it, so it grows by whole factors only, and {size} is no multiple of {axis.size} "
                f"(it cannot be padded: {why_not}{_WITH_NODES if able else ''})"
            )
            del wanted[axis]
    for axis in [
        axis for axis in wanted if axis.uniform and not _is_exact(table[names[axis]], table, request)
    ]:
        padded = _nearest_multiple(axis.size, wanted[axis], request.multiple_of)
        if wanted[axis] % request.multiple_of and unpaddable(analysis, axis, padded) is None:
            wanted[axis] = padded
        elif wanted[axis] % request.multiple_of:
            skipped[names[axis]] = (
                f"it grows by whole factors only, and {wanted[axis]} is no multiple of {request.multiple_of}; "
                f"{math.lcm(axis.size, request.multiple_of)} would be"
            )
            del wanted[axis]
    for axis, reason in _untied(analysis, wanted):
        skipped[names[axis]] = reason
        del wanted[axis]
    if not wanted:
        whole = f"factor {math.ceil(request.factor or 2.0)} is a whole one"
        hint = whole if uneven else "onnx-grow inspect lists every axis and why it stays"
        raise NothingToGrowError(
            _nothing(analysis, table, asked, {**refused, **skipped}),
            hint=_open(analysis) or analysis.model.upgrade or hint,
        )
    growths = tuple(
        AxisGrowth(row.name, row.kind, row.size, wanted[table.axes[row.name]])
        for row in table
        if table.axes[row.name] in wanted
    )
    return growths, tuple(skipped.items())


def fit(
    analysis: Analysis,
    table: AxisTable,
    growths: Sequence[AxisGrowth],
    request: Request,
    footprint: Footprint,
    budget: Budget,
) -> tuple[tuple[AxisGrowth, ...], tuple[tuple[str, str], ...]]:
    """The growth that comes closest to a budget without exceeding it: of the same axes, but for those that no size fits,
    and those that would have to grow with them.

    Raises NothingToGrowError and InvalidRequestError as `largest` does.
    """
    tied = _tied(analysis)
    axes = {growth.name: table.axes[growth.name] for growth in growths}
    spans = {
        axes[growth.name]: Span(
            growth.size,
            (axes[growth.name].uniform and growth.scheme != "pad") or axes[growth.name] in tied,
            request.multiple_of,
        )
        for growth in growths
    }
    while True:
        sizes = {axis: n for axis, n in largest(footprint, spans, budget).items() if n > axis.size}
        apart = dict(_untied(analysis, sizes))
        if not apart:
            break
        spans = {axis: span for axis, span in spans.items() if axis not in apart}
        if not spans:
            raise NothingToGrowError(
                f"the model has {budget.now:,} {budget.measure}, and no sizes up to {budget.limit:,} were found "
                "at which all that has to grow together does",
                hint="try a factor, or another budget",
            )
    fitting = tuple(
        replace(growth, new_size=sizes[axes[growth.name]]) for growth in growths if axes[growth.name] in sizes
    )
    kept = {growth.name for growth in fitting}
    limit = f"{budget.limit:,} {budget.measure}"
    return fitting, tuple(
        (growth.name, f"the least that it can grow by would exceed {limit}")
        for growth in growths
        if growth.name not in kept
    )


def check(analysis: Analysis, table: AxisTable, plan: WidenPlan) -> None:
    """Raise InvalidRequestError when a plan does not fit a model: axes that it lacks, or sizes that they cannot grow to."""
    wanted: dict[Axis, int] = {}
    for growth in plan.axes:
        axis = table.axes.get(growth.name)
        if axis is None or axis.size != growth.size or axis.frozen:
            raise InvalidRequestError(
                f"the plan grows axis {growth.name!r} of {growth.size} channels, which this model does not have",
                hint="a plan replays on the file that it was made for",
            )
        scheme = growth.scheme or plan.scheme
        if (
            scheme == "pad"
            and (why_not := unpaddable(analysis, axis, growth.new_size, inserting=True)) is not None
        ):
            raise InvalidRequestError(f"axis {growth.name!r} cannot be padded: {why_not}")
        if scheme != "pad" and axis.uniform and growth.new_size % axis.size:
            raise InvalidRequestError(
                f"axis {growth.name!r} grows by whole factors only; {growth.new_size} is no multiple of {axis.size}"
            )
        if scheme == "fresh" and axis.copied:
            raise InvalidRequestError(f"axis {growth.name!r} grows by copies only: {axis.copied[0]}")
        wanted[axis] = growth.new_size
    for axis, reason in _untied(analysis, wanted):
        name = next(name for name, found in table.axes.items() if found is axis)
        raise InvalidRequestError(f"the plan cannot grow axis {name!r} as it says: {reason}")


def _select(
    analysis: Analysis, table: AxisTable, request: Request
) -> tuple[dict[str, int], list[AxisInfo], dict[str, str]]:
    only, widths = request.only or (), request.widths or {}
    tied = _tied(analysis) if request.is_budget else frozenset()
    sizes: dict[str, int] = {}
    asked: list[AxisInfo] = []
    skipped: dict[str, str] = {}
    for row in table:
        width = next((size for glob, size in widths.items() if _matches(table, row, glob)), None)
        chosen = row.kind in request.kinds and (not only or any(_matches(table, row, g) for g in only))
        if width is None and (not chosen or (widths and not only)):
            continue
        asked.append(row)
        if width is not None and width <= row.size:
            raise InvalidRequestError(
                f"axis {row.name!r} has {row.size} channels; a width of {width} would not grow it"
            )
        new_size = width or _new_size(row, request, whole=table.axes[row.name] in tied)
        if new_size > MOST_CHANNELS and row.growable:
            raise InvalidRequestError(
                f"axis {row.name!r} would get {new_size:,} channels; {MOST_CHANNELS:,} is the most",
                hint=f"it has {row.size:,} now: ask for less",
            )
        if row.growable:
            sizes[row.name] = new_size
            continue
        is_stream = row.kind == "residual" and row.readers  # that it stays, few expect
        if width is not None or only or is_stream:
            skipped[row.name] = row.reasons[0]
    return sizes, asked, skipped


def _new_size(row: AxisInfo, request: Request, whole: bool) -> int:
    """The size at the factor requested: the nearest multiple, but more than now; under a budget, one that the axis can have."""
    whole = whole or row.constraint == "uniform"
    if whole and request.is_budget:
        step = math.lcm(row.size, request.multiple_of)
        return step if step > row.size else 2 * step
    wanted = row.size * (request.factor or 2.0)
    if whole:
        return max(row.size + 1, round(wanted))
    return _nearest_multiple(row.size, wanted, request.multiple_of)


def _nearest_multiple(size: int, wanted: float, multiple: int) -> int:
    """The multiple nearest to the size wanted, but more than that now."""
    return max((size // multiple + 1) * multiple, round(wanted / multiple) * multiple)


def _is_exact(row: AxisInfo, table: AxisTable, request: Request) -> bool:
    """Whether an axis was given a size rather than a factor."""
    return any(_matches(table, row, glob) for glob in request.widths or ())


def _tied(analysis: Analysis) -> frozenset[Axis]:
    """The axes that grow by one factor with others."""
    return frozenset(
        leaf for tie in analysis.said.algebra.ties for part in segments(tie) for leaf in leaves(part)
    )


def _matches(table: AxisTable, row: AxisInfo, glob: str) -> bool:
    """Whether a glob means an axis: by its name or a writer's, unless the glob is an axis' name, which means that axis alone."""
    if glob in table.axes:
        return row.name == glob
    return any(fnmatchcase(name, glob) for name in (row.name, *row.writers))


def _compounding(
    analysis: Analysis,
    wanted: Mapping[Axis, int],
    table: AxisTable,
    names: Mapping[Axis, str],
    request: Request,
) -> list[tuple[Axis, str]]:
    """Of several growing factors of one dimension, all but one: together they would grow it by more than was asked for."""
    kinds = {table.axes[row.name]: row.kind for row in table}
    explicit = {axis for axis in wanted if _is_exact(table[names[axis]], table, request)}

    def rank(factor: list[Axis]) -> tuple[bool, int, bool]:
        return min((leaf not in explicit, KINDS.index(kinds[leaf]), leaf.uniform) for leaf in factor)

    out: dict[Axis, str] = {}
    for product in (product for dims in analysis.dims.values() for dim in dims for product in _products(dim)):
        growing = [[leaf for leaf in factor if leaf in wanted and leaf not in out] for factor in product]
        chosen = min(filter(None, growing), key=rank, default=[])
        for leaf in (leaf for factor in growing for leaf in factor):
            if leaf not in explicit and leaf not in chosen:
                out[leaf] = (
                    f"it is a factor of the same dimension as {names[chosen[0]]!r}, which grows instead"
                )
    return list(out.items())


def _products(dim: Dim) -> Iterator[list[list[Axis]]]:
    """The free axes of each factor, for every product in a dimension: its own and those in its sums."""
    stack: list[Dim] = [dim]
    while stack:
        factors = resolve(stack.pop())
        yield [leaves((factor,)) for factor in factors]
        stack += [part for factor in factors if isinstance(factor, Sum) for part in segments(factor)]


def _untied(analysis: Analysis, wanted: dict[Axis, int]) -> list[tuple[Axis, str]]:
    """Axes that meet others in one sum which must grow by one factor, and would not."""
    out: dict[Axis, str] = {}
    changed = True
    while changed:
        changed = False
        for tie in analysis.said.algebra.ties:
            parts = segments(tie)
            ratios = {_ratio(part, wanted, out) for part in parts}
            if len(ratios) > 1:
                changed = True
                for leaf in (leaf for part in parts for leaf in leaves(part) if leaf in wanted):
                    out.setdefault(
                        leaf, "it is joined with channels that do not grow by the same factor, as it must"
                    )
    return list(out.items())


def _ratio(dim: Dim, wanted: Mapping[Axis, int], stay: Collection[Axis]) -> Fraction:
    ratio = Fraction(1)
    for factor in resolve(dim):
        if isinstance(factor, Sum):
            grown = sum(_ratio(part, wanted, stay) * _size(part) for part in segments(factor))
            ratio *= Fraction(grown) / factor.size
        elif factor in wanted and factor not in stay:
            ratio *= Fraction(wanted[factor], factor.size)
    return ratio


def _size(dim: Dim) -> int:
    size = 1
    for factor in dim:
        size *= factor.size
    return size


def _open(analysis: Analysis) -> str:
    """What to do where the file leaves sizes open, and none of those tried fits; empty elsewhere."""
    shapes = analysis.shapes
    if not shapes.problems or not any(shapes.dynamic.values()):
        return ""
    tried = ", ".join(
        f"{name} {list(shapes.inputs[name])}" for name, open_dims in shapes.dynamic.items() if open_dims
    )
    name, shape = next((name, shapes.inputs[name]) for name, open_dims in shapes.dynamic.items() if open_dims)
    example = ",".join("?" if k in shapes.dynamic[name] else str(n) for k, n in enumerate(shape))
    return (
        f"the file leaves sizes of its inputs open, and no sizes that were tried fit (such as {tried}): "
        f"say some that do with --shape '{name}:{example}', in Python with shapes="
    )


def _nothing(
    analysis: Analysis, table: AxisTable, asked: Sequence[AxisInfo], skipped: Mapping[str, str]
) -> str:
    if not len(table):
        holders = dict.fromkeys(analysis.labels[said.node] for said in analysis.said.listed)
        fixed = [
            f"{label}: its weights lie between dimensions that the model's interface fixes"
            for label in holders
        ]
        named = fixed or table.refused  # what has no weights is not why
        behind = f" ({'; '.join(named[:3])})" if named else ""
        return f"the model has no weights whose dimensions could grow{behind}"
    if not asked:
        kinds = ", ".join(sorted({row.kind for row in table.growable})) or "none"
        return f"no axis of the kinds asked for can grow (kinds that can: {kinds})"
    reasons = dict.fromkeys([*skipped.values(), *(reason for row in asked for reason in row.reasons)])
    others = sorted({row.kind for row in table.growable} - {row.kind for row in asked})
    behind = f" (kinds that can: {', '.join(others)})" if others else ""
    return f"nothing can grow as asked: {'; '.join(list(reasons)[:3])}{behind}"

"""Widening: Net2WiderNet for any graph (Chen, Goodfellow and Shlens, ICLR 2016, arXiv 1511.05641)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from onnx_grow.axes.inference import Analysis, infer
from onnx_grow.axes.table import KINDS, AxisTable, tabulate
from onnx_grow.errors import NothingToGrowError
from onnx_grow.growth.budget import Budget, Footprint, amount
from onnx_grow.growth.constants import Refusal
from onnx_grow.growth.plan import DEFAULT_KINDS, Request, Scheme, WidenPlan, check, check_request, fit, solve
from onnx_grow.growth.provenance import provenance
from onnx_grow.growth.rewrite import footprint, rewrite
from onnx_grow.growth.schemes import assigned
from onnx_grow.model import Model, flattened, inlined, nested, unlisted
from onnx_grow.operators import RULES
from onnx_grow.operators.costs import batch, costs
from onnx_grow.shapes import infer as infer_shapes

InputShapes = Mapping[str, Sequence[int]]


def inspect(model: Model, *, shapes: InputShapes | None = None) -> AxisTable:
    """What can grow in a model, what cannot, and why; and what it costs to run.

    `shapes` fixes the shapes of some inputs ({name: shape}) where the file leaves them open.
    Raises InvalidRequestError for shapes that do not fit the file.
    """
    analysis = analyse(model, shapes)
    return replace(tabulate(analysis), macs=_macs(analysis).at({}), inputs=dict(analysis.shapes.inputs))


def plan_widen(
    model: Model,
    *,
    factor: float | None = None,
    widths: Mapping[str, int] | None = None,
    to_params: float | str | None = None,
    to_macs: float | str | None = None,
    multiple_of: int = 1,
    kind: str | Sequence[str] = DEFAULT_KINDS,
    only: str | Sequence[str] | None = None,
    scheme: Scheme = "auto",
    noise: float = 0.01,
    seed: int = 0,
    shapes: InputShapes | None = None,
) -> WidenPlan:
    """Decide what `widen` will do, without doing it. Arguments and errors are those of `widen`."""
    return widened(
        model,
        factor=factor,
        widths=widths,
        to_params=to_params,
        to_macs=to_macs,
        multiple_of=multiple_of,
        kind=kind,
        only=only,
        scheme=scheme,
        noise=noise,
        seed=seed,
        shapes=shapes,
    )[0]


def widen(
    model: Model,
    *,
    factor: float | None = None,
    widths: Mapping[str, int] | None = None,
    to_params: float | str | None = None,
    to_macs: float | str | None = None,
    multiple_of: int = 1,
    kind: str | Sequence[str] = DEFAULT_KINDS,
    only: str | Sequence[str] | None = None,
    scheme: Scheme = "auto",
    noise: float = 0.01,
    seed: int = 0,
    shapes: InputShapes | None = None,
) -> Model:
    """A wider model that computes the same function; weights are computed when they are read or saved.

    Every axis of the kinds `kind` grows by `factor` (default 2), rounded to the nearest multiple of `multiple_of`; `only` restricts
    that to axes whose name, or a writer's, matches a glob. `widths` maps globs to absolute sizes and, without `only`, is all that grows;
    with it, the factor is for the others.
    Where nothing of the default kinds can grow, heads and their sizes do.
    Instead of a factor, `to_params` (or `to_macs`, at the shapes analysed) says how many parameters (multiply-accumulates) the grown
    model may have: a number, or text such as "25M", "2x" and "150%". The axes then grow by the largest common factor that fits; those that
    grow in whole factors only stay behind it where they must, and the others use what they leave.
    `scheme` is how new channels come about: "split" makes copies, which share what they are summed to at random, element by element;
    "copy" equally; "noise" equally, with relative noise of standard deviation `noise` on what the copies receive, which changes the
    function by about that much; "fresh" makes no copies but random channels that feed nothing yet, where that keeps the function;
    "pad" gives axes under norms channels that leave the statistics as they are, with nodes before the norms where weights alone
    cannot do it, and splits the others. "auto" (default) pads axes under norms where weights alone can do that, and splits the others;
    "fresh" pads those, too, and so does any scheme where such an axis grows to no multiple of its size.
    `seed` decides every draw. `shapes` fixes input shapes that the file leaves open, for the analysis.

    Raises InvalidRequestError for arguments that make no sense or match nothing, NothingToGrowError when nothing can grow as
    asked, with reasons that name nodes.
    """
    return widened(
        model,
        factor=factor,
        widths=widths,
        to_params=to_params,
        to_macs=to_macs,
        multiple_of=multiple_of,
        kind=kind,
        only=only,
        scheme=scheme,
        noise=noise,
        seed=seed,
        shapes=shapes,
    )[1]


def widened(
    model: Model,
    *,
    factor: float | None = None,
    widths: Mapping[str, int] | None = None,
    to_params: float | str | None = None,
    to_macs: float | str | None = None,
    multiple_of: int = 1,
    kind: str | Sequence[str] = DEFAULT_KINDS,
    only: str | Sequence[str] | None = None,
    scheme: Scheme = "auto",
    noise: float = 0.01,
    seed: int = 0,
    shapes: InputShapes | None = None,
) -> tuple[WidenPlan, Model]:
    """Both at once: the plan of `plan_widen` and the model of `widen`, whose arguments it takes."""
    kinds = (kind,) if isinstance(kind, str) else tuple(kind)
    globs = (only,) if isinstance(only, str) else None if only is None else tuple(only)
    request = Request(factor, widths, kinds, globs, to_params, to_macs, multiple_of)
    request.check()
    analysis = analyse(model, shapes)
    table = tabulate(analysis)
    if kinds == DEFAULT_KINDS and not any(row.kind in kinds for row in table.growable):
        request = replace(request, kinds=KINDS)
    check_request(table, request)
    scatter = noise if scheme == "noise" else 0.0
    return _Settlement(analysis, request, scheme, seed, scatter).reached(model, table)


def apply_widen(model: Model, plan: WidenPlan) -> Model:
    """Do what a plan says. Raises InvalidRequestError when the plan does not fit the model."""
    analysis = analyse(model, plan.inputs)
    table = tabulate(analysis)
    check(analysis, table, plan)
    try:
        return nested(rewrite(analysis, table.axes, plan, provenance(model, plan.to_json())))
    except Refusal as refusal:
        raise NothingToGrowError(f"the plan cannot be carried out: {refusal.reason}") from refusal


def analyse(model: Model, shapes: InputShapes | None) -> Analysis:
    """The axes of a model, functions and bodies written out."""
    model = flattened(unlisted(inlined(model)))
    return infer(model, infer_shapes(model, shapes or None), RULES)


class _Settlement:
    """The way to a plan that can be carried out and keeps its budget.

    Fresh axes whose growth turns out not to be exact get copies, others are left out, each with the reason.
    """

    def __init__(self, analysis: Analysis, request: Request, scheme: Scheme, seed: int, noise: float) -> None:
        self.analysis = analysis
        self.request = request
        self.empty = WidenPlan((), scheme, seed, noise, inputs=dict(analysis.shapes.inputs))
        self.budget = _budget(analysis, request)
        self.foreseen = 0
        self.unforeseen: int | None = None
        self.refused: dict[str, str] = {}
        self.copied: dict[str, str] = {}

    def reached(self, model: Model, table: AxisTable) -> tuple[WidenPlan, Model]:
        """The plan, and what it makes of the model whose axes are those of a table."""
        while True:
            inserting = self.empty.scheme == "pad"
            growths, skipped = solve(
                self.analysis, table, self.request, inserting=inserting, refused=self.refused
            )
            growths = assigned(self.analysis, growths, table, self.empty.scheme, self.copied)
            plan = replace(self.empty, axes=growths, skipped=(*self.refused.items(), *skipped))
            try:
                if self.budget is not None:
                    plan = self._fitted(table, plan, self.budget)
                grown = rewrite(self.analysis, table.axes, plan, provenance(model, plan.to_json()))
            except Refusal as refusal:
                self._leave_out(table, plan, refusal)
                self.unforeseen = None
                table = tabulate(self.analysis)  # a refused axis of one channel is no longer listed
                continue
            if self.budget is None or self._is_as_foreseen(grown, self.budget):
                return plan, nested(grown)

    def _fitted(self, table: AxisTable, plan: WidenPlan, budget: Budget) -> WidenPlan:
        if budget.measure == "parameters":
            expected = footprint(self.analysis, table.axes, plan)
            expected = replace(expected, base=expected.base + (self.unforeseen or 0))
        else:
            expected = _macs(self.analysis)
        growths, skipped = fit(self.analysis, table, plan.axes, self.request, expected, budget)
        sizes = {table.axes[growth.name]: growth.new_size for growth in growths}
        self.foreseen = expected.at(sizes) - (self.unforeseen or 0)
        return replace(plan, axes=growths, skipped=(*plan.skipped, *skipped))

    def _is_as_foreseen(self, grown: Model, budget: Budget) -> bool:
        """Whether the parameters are those expected; if not, the next attempt allows for the difference.

        Constants that are inserted are of other sizes now and then, and which weights are cloned may depend on what grows.
        """
        surplus = grown.parameters - self.foreseen
        if budget.measure != "parameters" or (surplus == 0 and self.unforeseen is None):
            return True
        if self.unforeseen is not None and surplus <= self.unforeseen:
            return True
        self.unforeseen = surplus
        return False

    def _leave_out(self, table: AxisTable, plan: WidenPlan, refusal: Refusal) -> None:
        growing = {table.axes[growth.name]: growth.name for growth in plan.axes}
        blamed = [axis for axis in growing if axis in refusal.axes] or list(growing)
        lenient = plan.scheme in ("auto", "fresh")
        made = {growth.name for growth in plan.axes if lenient and growth.scheme != "split"}
        if retried := [growing[axis] for axis in blamed if growing[axis] in made - self.copied.keys()]:
            self.copied |= dict.fromkeys(retried, refusal.reason)
            return
        for axis in blamed:  # in the plan's order, which makes the same bytes of the same model
            axis.reasons += (refusal.reason,)
            self.refused[growing[axis]] = refusal.reason


def _macs(analysis: Analysis) -> Footprint:
    return Footprint(0, tuple(costs(analysis)), batch(analysis))


def _budget(analysis: Analysis, request: Request) -> Budget | None:
    if request.to_params is not None:
        now = analysis.model.parameters
        return Budget("parameters", amount(request.to_params, now, "parameters"), now)
    if request.to_macs is not None:
        now = _macs(analysis).at({})
        limit = amount(request.to_macs, now, "multiply-accumulates")
        return Budget("multiply-accumulates", limit, now)
    return None

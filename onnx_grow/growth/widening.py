"""Widening: Net2WiderNet for any graph (Chen, Goodfellow and Shlens, ICLR 2016, arXiv 1511.05641)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from onnx_grow.axes.inference import Analysis, infer
from onnx_grow.axes.table import AxisTable, tabulate
from onnx_grow.errors import NothingToGrowError
from onnx_grow.growth.constants import Refusal
from onnx_grow.growth.plan import DEFAULT_KINDS, Request, Scheme, WidenPlan, check, solve
from onnx_grow.growth.provenance import provenance
from onnx_grow.growth.rewrite import rewrite
from onnx_grow.model import Model, inlined
from onnx_grow.operators import RULES
from onnx_grow.shapes import infer as infer_shapes

InputShapes = Mapping[str, Sequence[int]]


def inspect(model: Model, *, shapes: InputShapes | None = None) -> AxisTable:
    """What can grow in a model, what cannot, and why.

    `shapes` fixes the shapes of some inputs ({name: shape}) where the file leaves them open.
    Raises InvalidRequestError for shapes that do not fit the file.
    """
    return tabulate(_analyse(model, shapes))


def plan_widen(
    model: Model,
    *,
    factor: float = 2.0,
    widths: Mapping[str, int] | None = None,
    kind: str | Sequence[str] = DEFAULT_KINDS,
    only: str | Sequence[str] = (),
    scheme: Scheme = "split",
    noise: float = 0.01,
    seed: int = 0,
    shapes: InputShapes | None = None,
) -> WidenPlan:
    """Decide what `widen` will do, without doing it. Arguments and errors are those of `widen`."""
    return _settle(model, factor, widths, kind, only, scheme, noise, seed, shapes)[0]


def widen(
    model: Model,
    *,
    factor: float = 2.0,
    widths: Mapping[str, int] | None = None,
    kind: str | Sequence[str] = DEFAULT_KINDS,
    only: str | Sequence[str] = (),
    scheme: Scheme = "split",
    noise: float = 0.01,
    seed: int = 0,
    shapes: InputShapes | None = None,
) -> Model:
    """A wider model that computes the same function; weights are computed when they are read or saved.

    Every axis of the kinds `kind` grows by `factor`, rounded to the nearest whole number of channels; `only` restricts that to axes whose
    name, or a writer's, matches a glob. `widths` maps globs to absolute sizes and, without `only`, is all that grows.
    `scheme` is how copies share what they are summed to: "split" at random, element by element, exactly (default); "copy" equally;
    "noise" equally, with relative noise of standard deviation `noise` on what the copies receive, which changes the function by about
    that much. `seed` decides every draw. `shapes` fixes input shapes that the file leaves open, for the analysis.

    Raises InvalidRequestError for arguments that make no sense or match nothing, NothingToGrowError when nothing can grow as
    asked, with reasons that name nodes.
    """
    return _settle(model, factor, widths, kind, only, scheme, noise, seed, shapes)[1]


def apply_widen(model: Model, plan: WidenPlan) -> Model:
    """Do what a plan says. Raises InvalidRequestError when the plan does not fit the model."""
    analysis = _analyse(model, plan.inputs)
    table = tabulate(analysis)
    check(analysis, table, plan)
    try:
        return rewrite(analysis, table.axes, plan, provenance(model, plan.to_json()))
    except Refusal as refusal:
        raise NothingToGrowError(f"the plan cannot be carried out: {refusal.reason}") from refusal


def _analyse(model: Model, shapes: InputShapes | None) -> Analysis:
    model = inlined(model)
    return infer(model, infer_shapes(model, shapes or None), RULES)


def _settle(
    model: Model,
    factor: float,
    widths: Mapping[str, int] | None,
    kind: str | Sequence[str],
    only: str | Sequence[str],
    scheme: Scheme,
    noise: float,
    seed: int,
    shapes: InputShapes | None,
) -> tuple[WidenPlan, Model]:
    """A plan and its result; axes whose growth turns out not to be exact are left out, with the reason."""
    kinds = (kind,) if isinstance(kind, str) else tuple(kind)
    globs = (only,) if isinstance(only, str) else tuple(only)
    request = Request(factor, widths or {}, kinds, globs)
    request.check()
    analysis = _analyse(model, shapes)
    refused: dict[str, str] = {}
    while True:
        table = tabulate(analysis)
        growths, skipped = solve(analysis, table, request)
        plan = WidenPlan(
            growths,
            scheme,
            seed,
            noise if scheme == "noise" else 0.0,
            (*refused.items(), *skipped),
            dict(analysis.shapes.inputs),
        )
        try:
            return plan, rewrite(analysis, table.axes, plan, provenance(model, plan.to_json()))
        except Refusal as refusal:
            growing = {table.axes[growth.name]: growth.name for growth in growths}
            blamed = [axis for axis in growing if axis in refusal.axes] or list(growing)
            for axis in blamed:  # in the plan's order, which makes the same bytes of the same model
                axis.reasons[refusal.reason] = None
                refused[growing[axis]] = refusal.reason

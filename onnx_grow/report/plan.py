"""Plans in words: how much they grow, and every step."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from typing import TYPE_CHECKING

from onnx_grow.report.figures import count, counted, printable, some
from onnx_grow.report.tables import columns

if TYPE_CHECKING:
    from rich.table import Table

    from onnx_grow.growth import DeepenPlan, GrowPlan, WidenPlan


def extent(plan: WidenPlan | DeepenPlan | GrowPlan) -> str:
    """How much grows, by kind or scheme: `12 axes (10 hidden, 2 residual)`, `2 layers (2 identity) after conv1, conv2`."""
    if hasattr(plan, "steps"):
        return ", then ".join(map(extent, plan.steps))
    if hasattr(plan, "axes"):
        return _counted_by(len(plan.axes), "axis", "axes", (axis.kind for axis in plan.axes))
    layers = _counted_by(len(plan.layers), "layer", "layers", (layer.scheme for layer in plan.layers))
    return f"{layers} after {some(tuple(layer.name for layer in plan.layers), 4)}"


def tables(plan: WidenPlan | DeepenPlan | GrowPlan) -> list[Table]:
    """What every step does, in the order of the steps."""
    return [steps(step) for step in plan.steps] if hasattr(plan, "steps") else [steps(plan)]


def steps(plan: WidenPlan | DeepenPlan) -> Table:
    """Every axis with its old and new size and its scheme, or every inserted layer with the node it follows."""
    if not hasattr(plan, "axes"):
        layers = (
            (printable(layer.name), layer.scheme, count(layer.parameters), printable(layer.description))
            for layer in plan.layers
        )
        return columns("after", "scheme", "parameters>", "inserted", rows=layers)
    growths = (
        (
            printable(axis.name),
            axis.kind,
            f"{axis.size:,}",
            f"{axis.new_size:,}",
            axis.scheme or "",
            printable(axis.because),
        )
        for axis in plan.axes
    )
    return columns("axis", "kind", "size>", "new size>", "scheme", "because", rows=growths)


def skipped(plan: WidenPlan | DeepenPlan | GrowPlan) -> Table:
    """What was considered and stays as it is, with the reason."""
    return columns("not grown", "because", rows=(tuple(map(printable, pair)) for pair in plan.skipped))


def notes(plan: WidenPlan | DeepenPlan | GrowPlan) -> tuple[str, ...]:
    """What people should know about a plan."""
    if hasattr(plan, "steps"):
        return (*getattr(plan, "notes", ()), *(note for step in plan.steps for note in _notes(step)))
    return _notes(plan)


def _notes(plan: WidenPlan | DeepenPlan) -> tuple[str, ...]:
    if not hasattr(plan, "axes"):
        return plan.notes
    axes = (
        () if getattr(plan, "scheme", None) == "auto" else plan.axes
    )  # where no scheme was asked for, none had to give way
    told = [axis for axis in axes if axis.because]
    others = Counter(axis.scheme for axis in told)
    first = {scheme: next(axis for axis in told if axis.scheme == scheme) for scheme in others}
    return tuple(
        f"{counted(n, 'axis', 'axes')} of {len(plan.axes):,} by {scheme}: {first[scheme].name}, because {first[scheme].because}"
        for scheme, n in others.items()
    )


def _counted_by(n: int, one: str, many: str, kinds: Iterable[str]) -> str:
    return f"{counted(n, one, many)} ({', '.join(f'{m} {kind}' for kind, m in Counter(kinds).items())})"

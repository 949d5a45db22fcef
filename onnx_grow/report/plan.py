"""Plans in words: how much they grow, and every step."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from typing import TYPE_CHECKING

from onnx_grow.report.figures import count, counted, printable, some
from onnx_grow.report.tables import columns

if TYPE_CHECKING:
    from rich.table import Table

    from onnx_grow.growth import DeepenPlan, WidenPlan


def extent(plan: WidenPlan | DeepenPlan) -> str:
    """How much grows, by kind or scheme: `12 axes (10 hidden, 2 residual)`, `2 layers (2 identity) after conv1, conv2`."""
    if hasattr(plan, "axes"):
        return _counted_by(len(plan.axes), "axis", "axes", (axis.kind for axis in plan.axes))
    layers = _counted_by(len(plan.layers), "layer", "layers", (layer.scheme for layer in plan.layers))
    return f"{layers} after {some(tuple(layer.name for layer in plan.layers), 4)}"


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


def skipped(plan: WidenPlan | DeepenPlan) -> Table:
    """What was considered and stays as it is, with the reason."""
    return columns("not grown", "because", rows=(tuple(map(printable, pair)) for pair in plan.skipped))


def notes(plan: WidenPlan | DeepenPlan) -> tuple[str, ...]:
    """What people should know about a plan."""
    if not hasattr(plan, "axes"):
        return plan.notes
    others = Counter(axis.scheme for axis in plan.axes if axis.because)
    first = {
        scheme: next(axis for axis in plan.axes if axis.because and axis.scheme == scheme)
        for scheme in others
    }
    return tuple(
        f"{counted(n, 'axis', 'axes')} of {len(plan.axes):,} by {scheme}: {first[scheme].name}, because {first[scheme].because}"
        for scheme, n in others.items()
    )


def _counted_by(n: int, one: str, many: str, kinds: Iterable[str]) -> str:
    return f"{counted(n, one, many)} ({', '.join(f'{m} {kind}' for kind, m in Counter(kinds).items())})"

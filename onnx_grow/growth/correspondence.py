"""Which channel of the original each channel of a grown model is a copy of: the growth map.

It follows from the original and the plans that a grown file records (`onnx_grow.history`), so that the file need not hold it.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import numpy as np

from onnx_grow.axes.algebra import Indices, index_map, new_indices
from onnx_grow.axes.table import tabulate
from onnx_grow.errors import InvalidRequestError
from onnx_grow.growth.deepen_plan import DeepenPlan
from onnx_grow.growth.deepening import apply_deepen
from onnx_grow.growth.plan import WidenPlan
from onnx_grow.growth.provenance import continued
from onnx_grow.growth.rewrite import draw_maps
from onnx_grow.growth.widening import analyse, apply_widen
from onnx_grow.model import Model

__all__ = ["GrowthMap", "lists", "making_sense", "recorded", "replayed"]

GrowthMap = dict[str, tuple[Indices | None, ...]]
"""By tensor and dimension, for every new index the old one it stands for, -1 where it stands for none; None where nothing grew."""


def recorded(original: Model, grown: Model) -> tuple[WidenPlan | DeepenPlan, ...]:
    """The plans that made `grown` of `original`, as the file records them; none where it does not, or of another model.

    Raises InvalidRequestError where what it records cannot be read.
    """
    with making_sense():
        return tuple(_plan(entry["plan"]) for entry in continued(original, grown) or ())


@contextmanager
def making_sense() -> Iterator[None]:
    """Raise InvalidRequestError where following a record stumbles: anybody may have written it."""
    try:
        yield
    except (ArithmeticError, AttributeError, LookupError, TypeError, ValueError) as error:
        raise InvalidRequestError(
            f"the grown model records its growth in a way that cannot be read: {error}"
        ) from error


@making_sense()
def replayed(original: Model, grown: Model) -> tuple[Model, GrowthMap]:
    """What the growth that `grown` records makes of `original`, and the map of the tensors that both have.

    Raises InvalidRequestError where the record is not of this original.
    """
    model, found = original, _unchanged(original)
    for plan in recorded(original, grown):
        if isinstance(plan, WidenPlan):
            step = _step(model, plan)
            found = {name: _composed(dims, step[name]) for name, dims in found.items() if name in step}
            model = apply_widen(model, plan)
        else:
            model = apply_deepen(model, plan)
    kept = _unchanged(model)
    return model, {name: dims for name, dims in found.items() if name in kept}


def lists(maps: GrowthMap) -> dict[str, list[list[int] | None]]:
    """A growth map as plain data, for JSON."""
    return {name: [None if g is None else g.tolist() for g in dims] for name, dims in maps.items()}


def _plan(entry: Mapping[str, Any]) -> WidenPlan | DeepenPlan:
    kind = WidenPlan if entry["operation"] == "widen" else DeepenPlan
    return kind.from_json(json.dumps(entry))


def _unchanged(model: Model) -> GrowthMap:
    return {name: () for node in model.skeleton.graph.node for name in node.output if name}


def _step(model: Model, plan: WidenPlan) -> GrowthMap:
    """The map of one growth, of the tensors that nodes of the main graph compute."""
    analysis = analyse(model, plan.inputs)
    axes = tabulate(analysis).axes
    maps = draw_maps(analysis, axes, plan)
    made = {axes[g.name] for g in plan.axes if (g.scheme or plan.scheme) in ("fresh", "pad")}
    found: GrowthMap = {}
    for name, dims in analysis.dims.items():
        if name in analysis.folded:  # a weight on its way: shared, not copied
            continue
        grown = [index_map(dim, maps) for dim in dims]
        found[name] = tuple(
            g if g is None else np.where(new_indices(dim, maps, made), -1, g)
            for g, dim in zip(grown, dims, strict=True)
        )
    return found


def _composed(
    first: tuple[Indices | None, ...], second: tuple[Indices | None, ...]
) -> tuple[Indices | None, ...]:
    """The map of two growths in a row."""
    return tuple(
        g if h is None else h if g is None else np.where(h < 0, -1, g[h])
        for g, h in zip(first or (None,) * len(second), second, strict=True)
    )

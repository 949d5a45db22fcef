"""What weights of a grown model inherit from weights of the original: gradients, and the moments that optimizers keep of them.

Let W be an old weight, and the copies of its elements W'_j = s_j W_g(j), where s is what shares and scales make of an element. As long
as the grown model computes what the original computes, the chain rule says of the gradients G of W and G' of W'

    G_i = sum over the copies j of i   s_j G'_j

and copies that are alike have equal gradients, so that with c of them

    G'_j = G_g(j) / (c_j s_j)

Where copies only receive (the rows of a layer that gets wider), s = 1: each has the c-th part of the gradient. Where they are summed (what
reads them), s = 1 / c: each has the whole of it, whatever its share. A random share is 1 / c in the mean, and so is what the copies
receive; so is what comes through the mean of a padded LayerNormalization. Channels that are no copies inherit nothing.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from onnx_grow.errors import InvalidRequestError, NothingToGrowError
from onnx_grow.growth.correspondence import making_sense, recorded
from onnx_grow.growth.deepen_plan import DeepenPlan
from onnx_grow.growth.deepening import apply_deepen
from onnx_grow.growth.recipes import Grown, Scale, Share
from onnx_grow.growth.widening import apply_widen
from onnx_grow.model import Model, Weight

__all__ = ["Inheritance", "inheritances"]

Array = np.ndarray[Any, Any]


@dataclass(frozen=True, eq=False)
class Inheritance:
    """A weight that came of the weight `source` of the original, by the growths `stages`, the first one first; none: it is the same.

    `uses` is in how many weights of the grown model the old one lives on: more than one where what was tied got different copies.
    """

    source: str
    stages: tuple[Grown, ...] = ()
    uses: int = 1

    def moment(self, values: Array, power: int = 1) -> Array:
        """What becomes of a gradient of the old weight (`power` 1) or of its square (2), or of running means of these.

        Zero where nothing is inherited. Computed in double precision, of the element type of `values`.
        """
        out = values.astype(np.float64) / self.uses**power
        for stage in self.stages:
            out = _gathered(out, stage) * _slope(stage) ** power
        moment: Array = out.astype(values.dtype)
        return moment

    def taken(self, values: Array) -> Array:
        """What the old weight has, for every element of the new one its source's; zero (False) where it has none."""
        for stage in self.stages:
            values = _gathered(values, stage)
        return values

    def is_new(self, shape: tuple[int, ...]) -> NDArray[np.bool_]:
        """Which elements of the weight, grown from `shape`, the original had not: copies and fresh ones."""
        new = np.zeros(shape, bool)
        for stage in self.stages:
            new = _gathered(new, stage)
            for dim, g in enumerate(stage.maps):
                if g is not None:
                    first = np.isin(np.arange(len(g)), np.unique(g, return_index=True)[1])
                    new |= ~along(first, dim, new.ndim)
        return new


def along(vector: Array, dim: int, rank: int) -> Array:
    """What is said of each index of a dimension, shaped to broadcast."""
    return vector.reshape([-1 if d == dim else 1 for d in range(rank)])


def inheritances(original: Model, grown: Model) -> dict[str, Inheritance]:
    """By the names of initializers of `grown`, what each inherits; those that are new are not listed.

    Raises InvalidRequestError where `grown` does not record how it came of `original`.
    """
    try:
        model, found = _replayed(original, grown)
    except (InvalidRequestError, NothingToGrowError) as error:
        raise InvalidRequestError(
            f"the growth that the grown model records is not of this original: {error.message}", hint=_HINT
        ) from error
    _check(found, model, grown)
    uses: dict[str, int] = {}
    for heir in found.values():
        uses[heir.source] = uses.get(heir.source, 0) + 1
    return {name: Inheritance(heir.source, heir.stages, uses[heir.source]) for name, heir in found.items()}


_HINT = "give the file that was grown; 'onnx-grow diff ORIGINAL GROWN' shows what the two have in common"


@making_sense()
def _replayed(original: Model, grown: Model) -> tuple[Model, dict[str, Inheritance]]:
    """What the recorded growth makes of the original, and what each of its weights inherits."""
    model = original
    found = {name: Inheritance(name) for name in original.weights}
    for plan in recorded(original, grown):
        if isinstance(plan, DeepenPlan):
            model = apply_deepen(model, plan)
            found = {name: heir for name, heir in found.items() if name in model.weights}
            continue
        before, model = model.weights, apply_widen(model, plan)
        sources = {name: _source(name, weight, before) for name, weight in model.weights.items()}
        found = {
            name: _heir(found[source], before[source], model.weights[name])
            for name, source in sources.items()
            if source in found
        }
    return model, found


def _source(name: str, weight: Weight, before: Mapping[str, Weight]) -> str:
    """The name that a weight had before a growth, empty if it is new: its own, or the one that a clone's begins with.

    Copied branches hold the very weights of what they are copies of, so that the object alone does not tell.
    """
    names = [old for old, held in before.items() if held in (weight, getattr(weight, "base", None))]
    return name if name in names else next((old for old in names if name.startswith(f"{old}_grown")), "")


def _heir(old: Inheritance, before: Weight, weight: Weight) -> Inheritance:
    if weight is before or not isinstance(weight, Grown):
        return old
    return Inheritance(old.source, (*old.stages, weight))


def _check(expected: Mapping[str, Inheritance], model: Model, grown: Model) -> None:
    """What inherits has to be there, in the shape that the growth leads to; more may be."""
    for name in expected:
        shape, found = model.weights[name].shape, grown.weights.get(name)
        if found is None or found.shape != shape:
            said = f"has shape {list(found.shape)}" if found else "is missing"
            raise InvalidRequestError(
                f"the grown model does not record how it came of this original: its weight {name!r} {said}, where {list(shape)} is due",
                hint=_HINT,
            )


def _gathered(values: Array, stage: Grown) -> Array:
    for dim, g in enumerate(stage.maps):
        if g is not None:
            values = np.take(values, g, axis=dim)
    for dim, fresh in enumerate(stage.fresh):
        if fresh is not None and fresh.any():
            values = np.where(along(fresh, dim, values.ndim), np.zeros((), values.dtype), values)
    return values


def _slope(stage: Grown) -> Array:
    """1 / (c s) of every element, shaped to broadcast; zero where s is: what is silent is no copy."""
    rank = len(stage.shape)
    slope: Array = np.ones((1,) * rank)
    for dim, g in enumerate(stage.maps):
        if g is not None:
            fresh = stage.fresh[dim] if stage.fresh else None
            slope = slope / along(_counts(g, fresh), dim, rank)
    for step in stage.steps:
        if isinstance(step, Share) and step.split != "first":
            slope = slope * along(_counts(step.classes, step.silent), step.dim, rank)
        elif isinstance(step, Scale):
            inverse = np.divide(1.0, step.factors, out=np.zeros_like(step.factors), where=step.factors != 0.0)
            slope = slope * inverse
    return slope


def _counts(classes: Array, apart: NDArray[np.bool_] | None) -> NDArray[np.float64]:
    """How many indices share the class of each, those `apart` not counted; one for these."""
    counted = classes if apart is None else classes[~apart]
    counts = np.bincount(counted, minlength=int(classes.max()) + 1)[classes]
    return np.maximum(counts, 1).astype(np.float64)

"""Several growths in a row: a recipe says what to do, a plan what that is for one model."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from os import PathLike
from typing import Any

from onnx_grow.errors import InvalidRequestError, OnnxGrowError
from onnx_grow.growth.budget import amount
from onnx_grow.growth.deepen_plan import DeepenPlan
from onnx_grow.growth.deepening import apply_deepen, deepened
from onnx_grow.growth.plan import WidenPlan
from onnx_grow.growth.recipe_file import Recipe, Step, dumped, parsed, read
from onnx_grow.growth.widening import apply_widen, inspect, widened
from onnx_grow.model import Model, flattened, inlined, unlisted

__all__ = ["GrowPlan", "apply_steps", "grow", "grown", "plan_grow"]


@dataclass(frozen=True)
class GrowPlan:
    """How a model will be grown, step by step; each step's plan is for what the steps before it make of the model.

    `source_sha256` is the digest of the file that it was made for, None if there was none. `notes` are remarks for people.
    """

    steps: tuple[WidenPlan | DeepenPlan, ...]
    source_sha256: str | None = None
    notes: tuple[str, ...] = ()

    @property
    def noise(self) -> float:
        """The most noise that a step adds."""
        return max((step.noise for step in self.steps if isinstance(step, WidenPlan)), default=0.0)

    @property
    def skipped(self) -> tuple[tuple[str, str], ...]:
        """What a step left as it is, with the reason."""
        return tuple(pair for step in self.steps for pair in step.skipped)

    def without_noise(self) -> GrowPlan:
        """The same growth without the noise that it adds."""
        quiet = (step.without_noise() if isinstance(step, WidenPlan) else step for step in self.steps)
        return replace(self, steps=tuple(quiet))

    def to_json(self) -> str:
        """One line of JSON with stable keys."""
        steps = [json.loads(step.to_json()) for step in self.steps]
        document = {
            "operation": "grow",
            "source_sha256": self.source_sha256,
            "steps": steps,
            "notes": self.notes,
        }
        return json.dumps(document, separators=(",", ":"))

    def to_yaml(self) -> str:
        """A recipe of exactly these steps: `grow` by it makes the same bytes of the same model."""
        return dumped([json.loads(step.to_json()) for step in self.steps], self.source_sha256)

    def __str__(self) -> str:
        return "\n".join(f"step {number}:\n{step}" for number, step in enumerate(self.steps, 1))


def grow(
    model: Model,
    recipe: str | PathLike[str] | Mapping[str, Any] | Sequence[Any],
    *,
    shapes: Mapping[str, Sequence[int]] | None = None,
) -> Model:
    """A model grown by a recipe: a YAML file, or what such a file holds, or a list of steps (docs/cli.md).

    A step is `{"widen": options}` or `{"deepen": options}` with the arguments of the functions of these names, or one of their
    plans. A budget such as "2x" is relative to `model`, in every step. `shapes` fixes input shapes that the file leaves open, for steps
    that do not say their own.

    Raises InvalidRequestError for what is no recipe, naming file, step and key, and the errors of the steps, naming these.
    """
    return grown(model, recipe, shapes=shapes)[1]


def plan_grow(
    model: Model,
    recipe: str | PathLike[str] | Mapping[str, Any] | Sequence[Any],
    *,
    shapes: Mapping[str, Sequence[int]] | None = None,
) -> GrowPlan:
    """Decide what `grow` will do, without doing it. Arguments and errors are those of `grow`."""
    return grown(model, recipe, shapes=shapes)[0]


def grown(
    model: Model,
    recipe: Recipe | str | PathLike[str] | Mapping[str, Any] | Sequence[Any],
    *,
    shapes: Mapping[str, Sequence[int]] | None = None,
) -> tuple[GrowPlan, Model]:
    """Both at once: the plan of `plan_grow` and the model of `grow`, whose arguments it takes."""
    written = recipe if isinstance(recipe, Recipe) else _written(recipe)
    foreign = _foreign(written, model)
    plans: list[WidenPlan | DeepenPlan] = []
    known = {**written.shapes, **(shapes or {})}
    result = model
    for step in written.steps:
        try:
            plan, result = _taken(result, step, known, model)
        except OnnxGrowError as error:
            behind = f"; {foreign}" if foreign and isinstance(error, InvalidRequestError) else ""
            raise type(error)(f"{step.where}: {error.message}{behind}", hint=error.hint) from error
        plans.append(plan)
    notes = (f"{foreign}; it fits this one, too",) if foreign else ()
    return GrowPlan(tuple(plans), model.sha256, notes), result


def apply_steps(model: Model, plan: GrowPlan) -> Model:
    """Do what a plan says. Raises InvalidRequestError when the plan does not fit the model."""
    for step in plan.steps:
        model = apply_widen(model, step) if isinstance(step, WidenPlan) else apply_deepen(model, step)
    return model


def _written(recipe: str | PathLike[str] | Mapping[str, Any] | Sequence[Any]) -> Recipe:
    return read(recipe) if isinstance(recipe, str | PathLike) else parsed(recipe)


def _taken(
    model: Model, step: Step, shapes: Mapping[str, Sequence[int]], original: Model
) -> tuple[WidenPlan | DeepenPlan, Model]:
    """What a step does to a model, and the result. Budgets relative to a model ("2x") are relative to the `original`."""
    match step.what:
        case WidenPlan() as plan:
            return plan, apply_widen(model, plan)
        case DeepenPlan() as plan:
            return plan, apply_deepen(model, plan)
        case options:
            given = {"shapes": shapes, **options}
            given |= _budgets(given, original)
            return widened(model, **given) if step.operation == "widen" else deepened(model, **given)


def _budgets(options: Mapping[str, Any], original: Model) -> dict[str, int]:
    """The budgets among some options as numbers: relative ones of what the original has."""
    found = {}
    if isinstance(said := options.get("to_params"), str):
        found["to_params"] = amount(said, flattened(unlisted(inlined(original))).parameters, "parameters")
    if isinstance(said := options.get("to_macs"), str):
        macs = inspect(original, shapes=options["shapes"]).macs
        found["to_macs"] = amount(said, macs, "multiply-accumulates")
    return found


def _foreign(recipe: Recipe, model: Model) -> str:
    """That a recipe was made for another model, if so."""
    wanted, found = recipe.source_sha256, model.sha256
    if wanted is None or found is None or wanted == found:
        return ""
    return f"{recipe.name} was made for another file (sha256 {wanted[:12]}…, and this is {found[:12]}…)"

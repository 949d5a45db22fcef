"""Growing: plans, and what they do to a model."""

from __future__ import annotations

from onnx_grow.errors import InvalidRequestError
from onnx_grow.growth.deepen_plan import DeepenPlan
from onnx_grow.growth.deepening import apply_deepen, deepen, deepened, plan_deepen
from onnx_grow.growth.difference import Difference, diff
from onnx_grow.growth.plan import AxisGrowth, WidenPlan
from onnx_grow.growth.provenance import history
from onnx_grow.growth.steps import GrowPlan, apply_steps, grow, grown, plan_grow
from onnx_grow.growth.widening import apply_widen, inspect, plan_widen, widen, widened
from onnx_grow.model import Model

__all__ = [
    "AxisGrowth",
    "DeepenPlan",
    "Difference",
    "GrowPlan",
    "WidenPlan",
    "apply",
    "deepen",
    "deepened",
    "diff",
    "grow",
    "grown",
    "history",
    "inspect",
    "plan_deepen",
    "plan_grow",
    "plan_widen",
    "widen",
    "widened",
]


def apply(model: Model, plan: WidenPlan | DeepenPlan | GrowPlan) -> Model:
    """The model grown by a plan; the same plan on the same file gives the same bytes.

    Raises InvalidRequestError when the plan was made for another model.
    """
    match plan:
        case WidenPlan():
            return apply_widen(model, plan)
        case DeepenPlan():
            return apply_deepen(model, plan)
        case GrowPlan():
            return apply_steps(model, plan)
        case _:
            raise InvalidRequestError(f"{type(plan).__name__} is no plan")

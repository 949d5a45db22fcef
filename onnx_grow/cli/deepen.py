"""`onnx-grow deepen`: Net2DeeperNet, copies of residual branches, and branches of their own."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import click

from onnx_grow.cli.growing import grows
from onnx_grow.cli.options import DATA, Choice, model_argument, output_options, seed_option

if TYPE_CHECKING:
    from onnx_grow.growth import DeepenPlan
    from onnx_grow.growth.deepen_plan import DeepenScheme
    from onnx_grow.model import Model

UNUSED = "--calibration was not used: no BatchNormalization is inserted"


@click.command(short_help="More layers.")
@model_argument
@output_options
@click.option(
    "--after",
    multiple=True,
    metavar="GLOB",
    help="Insert only after layers of this name; repeatable. --every 1 --dry-run lists the places there are.",
)
@click.option(
    "--every",
    type=click.IntRange(min=1),
    metavar="K",
    help="A new layer behind every Kth place that the scheme allows: 1 is all of them, which about doubles the depth.  "
    "[default: one for every four places of a stage, and at least one; a stage is all layers at one resolution, or all blocks on "
    "one stream of skip connections]",
)
@click.option(
    "--to-params",
    metavar="N",
    help="Instead of --every: as many layers as N parameters allow, such as 25M or 2x of those there are, spread evenly.",
)
@click.option(
    "--scheme",
    type=Choice(("identity", "residual-copy", "residual-new", "parametric")),
    help="Layers that start as the identity (identity), copies of residual branches that start at zero (residual-copy), new "
    "branches that start at zero (residual-new), or layers that a gate keeps out at first (parametric).  "
    "[default: what the place allows]",
)
@click.option(
    "--activation",
    metavar="NAME",
    help="The activation of new branches and gated layers, such as Relu.  [default: the network's own]",
)
@click.option(
    "--expansion",
    type=float,
    default=1.0,
    metavar="FACTOR",
    help="Hidden channels of a new branch, as a multiple of the channels of its place.  [default: 1]",
)
@click.option(
    "--calibration",
    metavar="DATA",
    type=DATA,
    help="Real inputs (.npz, .npy or a folder of them) whose statistics new BatchNormalization layers start from.",
)
@seed_option
@grows("deep")
def deepen(
    after: tuple[str, ...],
    every: int | None,
    to_params: str | None,
    scheme: DeepenScheme | None,
    activation: str | None,
    expansion: float,
    calibration: str | None,
    seed: int,
    shapes: Mapping[str, tuple[int, ...]],
) -> tuple[Callable[[Model], tuple[DeepenPlan, Model]], str]:
    """Deepen MODEL (Net2DeeperNet) and prove that the result computes what MODEL computes.

    Writes MODEL-deep.onnx beside MODEL, unless -o says otherwise.
    """
    from onnx_grow.growth import deepened
    from onnx_grow.growth.deepening import check_deepen

    asked: dict[str, Any] = {
        "after": after or None,
        "every": every,
        "to_params": to_params,
        "scheme": scheme,
        "activation": activation,
        "expansion": expansion,
    }
    check_deepen(**asked, calibrated=calibration is not None)

    def grown(model: Model) -> tuple[DeepenPlan, Model]:
        plan, deeper = deepened(model, **asked, calibration=calibration, seed=seed, shapes=shapes)
        if calibration and not any(getattr(layer, "statistics", None) for layer in plan.layers):
            return replace(plan, notes=(*plan.notes, UNUSED)), deeper
        return plan, deeper

    return grown, "insert fewer layers: a larger --every, or a smaller --to-params or --expansion"

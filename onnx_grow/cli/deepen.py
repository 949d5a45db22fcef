"""`onnx-grow deepen`: Net2DeeperNet, and copies of residual branches."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Literal

import click

from onnx_grow.cli.files import Target
from onnx_grow.cli.growing import Comparison, grow
from onnx_grow.cli.options import (
    DATA,
    checking_options,
    model_argument,
    no_verify_option,
    output_options,
    presented,
    seed_option,
)
from onnx_grow.cli.screen import Screen

if TYPE_CHECKING:
    from onnx_grow.growth import DeepenPlan
    from onnx_grow.model import Model

UNUSED = "--calibration was not used: no BatchNormalization is inserted"


@click.command(short_help="More layers.")
@model_argument
@output_options
@click.option(
    "--after", multiple=True, metavar="GLOB", help="Insert only after layers of this name; repeatable."
)
@click.option(
    "--every",
    type=click.IntRange(min=1),
    metavar="K",
    help="A new layer behind every Kth place that the scheme allows: 1 is all of them, which about doubles the depth.  "
    "[default: one new layer for every four of a stage, at least one]",
)
@click.option(
    "--scheme",
    type=click.Choice(("identity", "residual-copy")),
    help="Layers that start as the identity (identity), or copies of residual branches that start at zero "
    "(residual-copy).  [default: what the place allows]",
)
@click.option(
    "--calibration",
    metavar="DATA",
    type=DATA,
    help="Real inputs (.npz, .npy or a folder of them) whose statistics new BatchNormalization layers start from.",
)
@seed_option
@checking_options
@no_verify_option
@presented
def deepen(
    source: str,
    output: str | None,
    force: bool,
    dry_run: bool,
    after: tuple[str, ...],
    every: int | None,
    scheme: Literal["identity", "residual-copy"] | None,
    calibration: str | None,
    seed: int,
    shapes: tuple[tuple[str, tuple[int, ...]], ...],
    inputs: str | None,
    provider: str,
    proof: bool | None,
    no_verify: bool,
    screen: Screen,
) -> None:
    """Deepen MODEL (Net2DeeperNet) and prove that the result computes what MODEL computes.

    Writes MODEL-deep.onnx beside MODEL, unless -o says otherwise.
    """

    def grown(model: Model) -> tuple[DeepenPlan, Model]:
        from onnx_grow.growth import deepened

        plan, deeper = deepened(
            model,
            after=after,
            every=every,
            scheme=scheme,
            calibration=calibration,
            seed=seed,
            shapes=dict(shapes),
        )
        if calibration and not any(getattr(layer, "statistics", None) for layer in plan.layers):
            return replace(plan, notes=(*plan.notes, UNUSED)), deeper
        return plan, deeper

    comparison = Comparison(provider, inputs, dict(shapes), proof=proof)
    target = Target.of(source, output, "deep", force)
    grow(source, target, grown, comparison, screen, dry_run=dry_run, unverified=no_verify)

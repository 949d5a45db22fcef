"""`onnx-grow grow`: several steps at once, from a recipe."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from onnx_grow.cli.files import Target
from onnx_grow.cli.growing import Comparison, grow_file
from onnx_grow.cli.options import (
    checking_options,
    model_argument,
    no_verify_option,
    output_options,
    presented,
)
from onnx_grow.cli.screen import Screen

if TYPE_CHECKING:
    from onnx_grow.growth import GrowPlan
    from onnx_grow.model import Model


@click.command(short_help="Several steps at once, from a recipe.")
@model_argument
@click.argument("recipe", metavar="RECIPE", type=click.Path(exists=True, dir_okay=False))
@output_options
@checking_options
@no_verify_option
@presented
def grow(
    source: str,
    recipe: str,
    output: str | None,
    force: bool,
    dry_run: bool,
    plan_file: str | None,
    shapes: tuple[tuple[str, tuple[int, ...]], ...],
    inputs: str | None,
    provider: str,
    proof: bool | None,
    seeds: int | None,
    no_verify: bool,
    screen: Screen,
) -> None:
    """Grow MODEL by the steps of RECIPE, a YAML file, and prove once that the result computes what MODEL computes.

    \b
      steps:
      - widen: {factor: 1.5, kind: hidden}
      - deepen: {every: 4}

    A plan that --plan wrote is such a file too. Writes MODEL-grown.onnx beside MODEL, unless -o says otherwise.
    """

    from onnx_grow.growth.recipe_file import read as read_recipe

    def grown(model: Model) -> tuple[GrowPlan, Model]:
        from onnx_grow.growth import grown as grown_by

        return grown_by(model, steps, shapes=dict(shapes))

    steps = read_recipe(recipe)
    comparison = Comparison(provider, inputs, dict(shapes), seeds, proof=proof)
    target = Target.of(source, output, "grown", force)
    grow_file(
        source,
        target,
        grown,
        comparison,
        screen,
        dry_run=dry_run,
        unverified=no_verify,
        plan_file=plan_file,
        less=f"grow by less in {recipe}",
    )

"""`onnx-grow grow`: several steps at once, from a recipe."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

import click

from onnx_grow.cli.growing import grows
from onnx_grow.cli.options import model_argument, output_options

if TYPE_CHECKING:
    from onnx_grow.growth import GrowPlan
    from onnx_grow.model import Model


@click.command(short_help="Several steps at once, from a recipe.")
@model_argument
@click.argument("recipe", metavar="RECIPE", type=click.Path(exists=True, dir_okay=False))
@output_options
@grows("grown")
def grow(
    recipe: str, shapes: Mapping[str, tuple[int, ...]]
) -> tuple[Callable[[Model], tuple[GrowPlan, Model]], str]:
    """Grow MODEL by the steps of RECIPE, a YAML file, and prove once that the result computes what MODEL computes.

    \b
      steps:
      - widen: {factor: 1.5, kind: hidden}
      - deepen: {every: 4}

    A plan that --plan wrote is such a file too. Writes MODEL-grown.onnx beside MODEL, unless -o says otherwise.
    """
    from onnx_grow.growth import grown
    from onnx_grow.growth.recipe_file import read

    steps = read(recipe)
    return lambda model: grown(model, steps, shapes=shapes), f"grow by less in {recipe}"

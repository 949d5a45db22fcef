"""`onnx-grow inspect`: what can grow, what cannot, and why."""

from __future__ import annotations

import click

from onnx_grow.cli.files import bytes_on_disk, read
from onnx_grow.cli.options import model_argument, presented, shape_option
from onnx_grow.cli.screen import Screen


@click.command(short_help="What can grow, what cannot, and why.")
@model_argument
@shape_option
@presented
def inspect(source: str, shapes: tuple[tuple[str, tuple[int, ...]], ...], screen: Screen) -> None:
    """Show which axes of MODEL can grow, and which cannot and why.

    An axis is a set of channels that can only grow together: wherever it appears, in weights of any layer, it grows.
    """
    from onnx_grow.growth import inspect as tabulate
    from onnx_grow.report import Inspection

    with screen.progress("reading"):
        model = read(source)
    with screen.progress("looking"):
        table = tabulate(model, shapes=dict(shapes))
    inspection = Inspection(source, model, bytes_on_disk(model), table)
    screen.show(inspection.to_json(), inspection.view(verbose=screen.verbose))

"""`onnx-grow diff`: what grew, layer by layer."""

from __future__ import annotations

import click

from onnx_grow.cli.files import STANDARD, bytes_on_disk, read
from onnx_grow.cli.options import MODEL, presented
from onnx_grow.cli.screen import Screen


@click.command(short_help="What grew, layer by layer.")
@click.argument("original", type=MODEL)
@click.argument("grown", type=MODEL)
@presented
def diff(original: str, grown: str, screen: Screen) -> None:
    """Show what differs between ORIGINAL and GROWN: layers, shapes of weights, attributes, inputs and outputs.

    Works for any two models, whoever made them. Nothing is run: `verify` says whether they compute the same. One may be -.
    """
    from onnx_grow.growth import diff as compare
    from onnx_grow.report import Differences

    if original == grown == STANDARD:
        raise click.UsageError("Only one of the two models can come from standard input.")
    with screen.progress("reading"):
        before, after = read(original), read(grown)
    with screen.progress("comparing"):
        difference = compare(before, after)
    differences = Differences(original, grown, bytes_on_disk(before), bytes_on_disk(after), difference)
    screen.show(differences.to_json(), differences.view(verbose=screen.verbose))

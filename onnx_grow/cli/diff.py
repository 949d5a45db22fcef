"""`onnx-grow diff`: what grew, layer by layer."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import click

from onnx_grow.cli.documents import placed
from onnx_grow.cli.files import STANDARD, bytes_on_disk, read
from onnx_grow.cli.options import MODEL, Document, presented
from onnx_grow.cli.screen import Screen
from onnx_grow.errors import OutputError

if TYPE_CHECKING:
    from onnx_grow.model import Model


@click.command(short_help="What grew, layer by layer.")
@click.argument("original", type=MODEL)
@click.argument("grown", type=MODEL)
@click.option(
    "--map",
    "map_file",
    type=Document(".json"),
    metavar="FILE",
    help="Write the growth map: for each tensor and dimension, which channel of ORIGINAL each of GROWN stands for.",
)
@click.option("--force", is_flag=True, help="Replace the FILE of --map if it exists.")
@presented
def diff(original: str, grown: str, map_file: str | None, force: bool, screen: Screen) -> None:
    """Show what differs between ORIGINAL and GROWN: layers, shapes of weights, attributes, inputs and outputs.

    Works for any two models, whoever made them. Nothing is run: `verify` says whether they compute the same. One may be -.
    """
    from onnx_grow.growth import diff as compare
    from onnx_grow.report import Differences

    if original == grown == STANDARD:
        raise click.UsageError("Only one of the two models can come from standard input.")
    if map_file and os.path.lexists(map_file) and not force:
        raise OutputError(f"{map_file} exists", hint="--force replaces it, --map names another file")
    if force and not map_file:
        raise click.UsageError("--force is for the file of --map.")
    with screen.progress("reading"):
        before, after = read(original), read(grown)
    with screen.progress("comparing"):
        difference = compare(before, after)
        if map_file:
            _write_map(map_file, before, after)
    differences = Differences(original, grown, bytes_on_disk(before), bytes_on_disk(after), difference)
    screen.show(differences.to_json(), differences.view(verbose=screen.verbose))


def _write_map(file: str, original: Model, grown: Model) -> None:
    """Write the growth map as JSON: {tensor: [per dimension a list of old indices, -1 for none, or null where nothing grew]}."""
    import json

    from onnx_grow.growth.correspondence import lists, replayed

    _, maps = replayed(original, grown)
    with placed(file) as out:
        out.write_text(json.dumps(lists(maps)), encoding="utf-8")

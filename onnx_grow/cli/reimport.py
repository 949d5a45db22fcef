"""`onnx-grow import`: trained weights back into the model."""

from __future__ import annotations

from pathlib import Path

import click

from onnx_grow.cli.files import STANDARD, Target, read
from onnx_grow.cli.options import MODEL, shape_option, told
from onnx_grow.cli.screen import Screen


@click.command("import", short_help="Trained weights back into the model.")
@click.argument("source", metavar="GROWN", type=MODEL)
@click.argument("weights", metavar="TUNED.safetensors", type=click.Path(dir_okay=False))
@click.option("-o", "--output", metavar="OUT", type=MODEL, help="File to write.  [default: GROWN-tuned.onnx]")
@click.option("--force", is_flag=True, help="Replace OUT if it exists.")
@shape_option
@told
def import_weights(
    source: str,
    weights: str,
    output: str | None,
    force: bool,
    shapes: tuple[tuple[str, tuple[int, ...]], ...],
    screen: Screen,
) -> None:
    """Write GROWN with the weights of a safetensors file, such as one of network.state_dict(), in place of its own.

    All floating-point tensors of GROWN have to be in the file, in the same shapes. The result is run in ONNX Runtime before it is put in
    place. GROWN is the model.onnx of the export, if anything was untied or put back there.
    """
    from dataclasses import replace

    from onnx_grow.report.learning import Imported
    from onnx_grow.training import tuned
    from onnx_grow.training.exchange import exported_tensors
    from onnx_grow.training.files import read_tensors
    from onnx_grow.training.runs import check_runs

    target = Target.of(source, output, "tuned", force)
    if target.is_standard_output:
        if screen.as_json:
            raise click.UsageError("Standard output carries the model; --json has no room there.")
        screen = replace(screen, err=True)
    if weights == STANDARD:
        raise click.UsageError("Weights are read from a file, not from standard input.")
    with screen.progress("reading"):
        original = read(source)
        target.check(original)
        tensors = read_tensors(Path(weights))
        model = tuned(original, tensors)
    with screen.progress("writing") as advance, target.staged(model, advance) as pending:
        check_runs(model, pending.path, dict(shapes))
        target.put(pending)
    before = exported_tensors(original)
    changed = sum(
        name in before and before[name].tobytes() != array.tobytes() for name, array in tensors.items()
    )
    imported = Imported(source, weights, str(target.path), len(before), changed)
    screen.show(imported.to_json(), imported.view(verbose=screen.verbose))

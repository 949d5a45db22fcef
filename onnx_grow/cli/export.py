"""`onnx-grow export`: a folder that a grown model can be trained in."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from onnx_grow.cli.files import STANDARD, read
from onnx_grow.cli.guard import writes_into
from onnx_grow.cli.options import DATA, MODEL, told
from onnx_grow.cli.screen import Screen

if TYPE_CHECKING:
    from onnx_grow.model import Model
    from onnx_grow.verification import Report


@click.command(short_help="A folder to train a grown model in.")
@click.argument("source", metavar="GROWN", type=MODEL)
@click.option(
    "-o",
    "--output",
    "folder",
    metavar="DIR",
    required=True,
    type=click.Path(file_okay=False),
    help="Folder to write.",
)
@click.option("--force", is_flag=True, help="Replace the files of an export in DIR, and leave others alone.")
@click.option(
    "--teacher",
    metavar="ORIGINAL",
    type=MODEL,
    help="The model that GROWN grew from: adds the growth map, and what training compares with.",
)
@click.option(
    "--teacher-rate",
    type=click.FloatRange(min=0, min_open=True),
    metavar="LR",
    help="The first learning rate of the teacher's training; the recipe takes a tenth of it.  [default: 0.001]",
)
@click.option(
    "--optimizer-state",
    metavar="FILE",
    type=DATA,
    help="What the optimizer of the teacher's training remembers: its state_dict(), or the checkpoint.pt of that training. "
    "It grows with the network, and the first steps cost nothing.",
)
@click.option(
    "--loss",
    type=click.Choice(("cross-entropy", "nll", "binary-cross-entropy", "mse")),
    help="What train.py makes small.  [default: what fits the output]",
)
@click.option("--learn", metavar="NAME", help="The output that the loss looks at.  [default: the scores]")
@click.option(
    "--reinsert-bn",
    "calibration",
    metavar="DATA",
    type=DATA,
    help="Put BatchNormalization back behind convolutions that exporters folded it into, with the statistics of these real inputs.",
)
@told
def export(
    source: str,
    folder: str,
    force: bool,
    teacher: str | None,
    teacher_rate: float | None,
    optimizer_state: str | None,
    loss: str | None,
    learn: str | None,
    calibration: str | None,
    screen: Screen,
) -> None:
    """Write a folder to train GROWN in: its weights, the recipe, a train.py that runs as it is; 'import' is the way back.

    Tensors that an exporter has merged because they were equal are untied first; what is meant to be shared stays shared.
    """
    from onnx_grow.report.learning import Exported
    from onnx_grow.training import Recipe
    from onnx_grow.training import export as write
    from onnx_grow.training.ties import untied

    if source == teacher == STANDARD:
        raise click.UsageError("Only one of the two models can come from standard input.")
    with screen.progress("reading"):
        original, before = read(source), read(teacher) if teacher else None
    model, parted = untied(original)
    report = None
    if calibration is not None:
        with screen.progress("calibrating"):
            model, report = _normalized(model, calibration)
    count = _normalizations(model) - _normalizations(original)
    recipe = Recipe() if teacher_rate is None else Recipe.after(teacher_rate)
    files: tuple[Path, ...] = ()
    if report is None or report.ok:
        writes_into(Path(folder).absolute().parent)
        with screen.progress("writing"):
            files = write(
                model,
                folder,
                teacher=before,
                recipe=recipe,
                loss=loss,
                output=learn,
                optimizer_state=optimizer_state,
                force=force,
            )
    exported = Exported(source, folder, files, model, teacher, parted, count, report)
    screen.show(exported.to_json(), exported.view(verbose=screen.verbose))
    if report is not None:
        screen.end(report, "with BatchNormalization the model computes something else, nothing was written")


def _normalized(model: Model, calibration: str) -> tuple[Model, Report]:
    from onnx_grow.growth.reinsertion import reinsert_normalization
    from onnx_grow.verification import verify

    normalized = reinsert_normalization(model, calibration)
    return normalized, verify(model, normalized, provider="cpu")


def _normalizations(model: Model) -> int:
    return sum(node.op_type == "BatchNormalization" for node in model.skeleton.graph.node)

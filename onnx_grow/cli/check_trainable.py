"""`onnx-grow check-trainable`: will all of a grown network learn?"""

from __future__ import annotations

import click

from onnx_grow.cli.files import STANDARD, read
from onnx_grow.cli.options import DATA, MODEL, presented, shape_option
from onnx_grow.cli.screen import Screen
from onnx_grow.errors import VerificationFailedError


@click.command("check-trainable", short_help="Will all of a grown network learn?")
@click.argument("source", metavar="GROWN", type=MODEL)
@click.option(
    "--teacher",
    metavar="ORIGINAL",
    type=MODEL,
    help="The model that GROWN grew from: tells what is new, and what was dead before.",
)
@click.option(
    "--data", metavar="DATA", type=DATA, help="Real inputs, as train.py takes them.  [default: made up]"
)
@shape_option
@click.option(
    "--steps",
    type=click.IntRange(min=2),
    default=10,
    show_default=True,
    metavar="N",
    help="Steps to train, at whose end no two copies may be equal.",
)
@presented
def check_trainable(
    source: str,
    teacher: str | None,
    data: str | None,
    shapes: tuple[tuple[str, tuple[int, ...]], ...],
    steps: int,
    screen: Screen,
) -> None:
    """Train a copy of GROWN for some steps in PyTorch and look whether all of it learns; nothing is written.

    The gradient has to reach 99 % of the (new) parameters within two steps, copies have to become different, and the statistics of
    BatchNormalization have to follow the data. Exits with 1 if not.
    """
    from onnx_grow.training.requirements import require

    require("torch", "check-trainable")
    from onnx_grow.report.learning import Trainability
    from onnx_grow.torch import load
    from onnx_grow.training import check_learning
    from onnx_grow.training.checks import made_up_goal, trial_inputs

    if source == teacher == STANDARD:
        raise click.UsageError("Only one of the two models can come from standard input.")
    with screen.progress("reading"):
        model, before = read(source), read(teacher) if teacher else None
    with screen.progress("converting"):
        network = load(model)
    with screen.progress("training"):
        goal = made_up_goal(trial_inputs(model, data, dict(shapes)))
        report = check_learning(model, network, goal, before, steps=steps)
    trainability = Trainability(source, teacher, report)
    screen.show(trainability.to_json(), trainability.view(verbose=screen.verbose))
    if not report.ok:
        raise VerificationFailedError(f"not all of {source} would learn", hint=report.advice)

"""`onnx-grow verify`: the gate."""

from __future__ import annotations

import click

from onnx_grow.cli.files import STANDARD, read
from onnx_grow.cli.options import MODEL, checking_options, presented
from onnx_grow.cli.screen import Screen


@click.command(short_help="Does a grown model compute what the original computes?")
@click.argument("original", type=MODEL)
@click.argument("grown", type=MODEL)
@checking_options
@click.option(
    "--seeds",
    type=click.IntRange(min=1),
    metavar="N",
    help="Sets of inputs to make up.  [default: 3, for small models 9]",
)
@click.option(
    "--tolerance",
    type=click.FloatRange(min=0, min_open=True),
    default=3.0,
    show_default=True,
    help="Deviation allowed, in units of the original's own rounding noise.",
)
@presented
def verify(
    original: str,
    grown: str,
    shapes: tuple[tuple[str, tuple[int, ...]], ...],
    inputs: str | None,
    provider: str,
    proof: bool | None,
    seeds: int | None,
    tolerance: float,
    screen: Screen,
) -> None:
    """Run ORIGINAL and GROWN on the same inputs and compare what they compute.

    Exits with 0 if every output stays within the original's rounding noise, with 1 if not. One of the two may be -.
    """
    from onnx_grow.report import Verification
    from onnx_grow.verification import verify as compare

    if original == grown == STANDARD:
        raise click.UsageError("Only one of the two models can come from standard input.")
    with screen.progress("verifying"):
        report = compare(
            read(original),
            read(grown),
            provider=provider,
            inputs=inputs,
            shapes=dict(shapes),
            seeds=seeds,
            tolerance=tolerance,
            proof=proof,
        )
    verification = Verification(original, grown, report)
    screen.show(verification.to_json(), verification.view(verbose=screen.verbose))
    screen.end(report, f"{grown} does not compute what {original} computes")

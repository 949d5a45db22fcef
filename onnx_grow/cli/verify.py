"""`onnx-grow verify`: the gate."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from onnx_grow.cli.documents import placed
from onnx_grow.cli.files import STANDARD, read
from onnx_grow.cli.options import MODEL, Document, checking_options, exclude, presented
from onnx_grow.cli.screen import Screen
from onnx_grow.cli.tracing import traced
from onnx_grow.errors import InvalidRequestError, VerificationFailedError

if TYPE_CHECKING:
    from onnx_grow.model import Model

_OF_A_PAIR = ("shapes", "inputs", "provider", "proof", "seeds", "tolerance", "max_error", "trace")


@click.command(short_help="Does a grown model compute what the original computes?")
@click.argument("models", nargs=-1, type=MODEL, metavar="ORIGINAL GROWN")
@checking_options
@click.option(
    "--tolerance",
    type=click.FloatRange(min=0, min_open=True),
    default=3.0,
    show_default=True,
    help="Deviation allowed, in units of the original's own rounding noise.",
)
@click.option(
    "--max-error",
    type=click.FloatRange(min=0, min_open=True),
    metavar="E",
    help="Relative error allowed instead, for models that are not meant to be equal, such as a conversion to float16.",
)
@click.option(
    "--trace",
    is_flag=True,
    help="If they differ, name the first tensor at which GROWN leaves ORIGINAL (in float64).",
)
@click.option(
    "--manifest",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    metavar="YAML",
    help="Verify the pairs that this file lists, with the options that it says (docs/cli.md).",
)
@click.option(
    "--jobs",
    type=click.IntRange(min=1),
    metavar="N",
    help="With --manifest: pairs at a time.  [default: half the cores]",
)
@click.option(
    "--junit",
    type=Document(".xml", mark=b'name="onnx-grow verify"'),
    metavar="XML",
    help="Write the results as JUnit XML, too.",
)
@presented
def verify(
    models: tuple[str, ...],
    shapes: tuple[tuple[str, tuple[int, ...]], ...],
    inputs: str | None,
    provider: str,
    proof: bool | None,
    seeds: int | None,
    tolerance: float,
    max_error: float | None,
    trace: bool,
    manifest: Path | None,
    jobs: int | None,
    junit: str | None,
    screen: Screen,
) -> None:
    """Run ORIGINAL and GROWN on the same inputs and compare what they compute.

    Exits with 0 if every output stays within the original's rounding noise, with 1 if not. One of the two may be -.
    """
    if manifest is not None:
        if models:
            raise click.UsageError("--manifest names the models; there is no room for others.")
        exclude(*_OF_A_PAIR, because="with --manifest, the file says such options, for all pairs or one")
        _many(manifest, jobs or max(1, (os.cpu_count() or 2) // 2), junit, screen)
        return
    exclude("jobs", because="it is for the pairs of a --manifest")
    if max_error is not None:
        exclude("tolerance", because="--max-error is allowed instead")
    if inputs:
        exclude("seeds", because="no inputs are made up beside --inputs")
    if len(models) != 2:
        raise click.UsageError(f"Two models are needed, ORIGINAL and GROWN; {len(models)} given.")
    original, grown = models
    if original == grown == STANDARD:
        raise click.UsageError("Only one of the two models can come from standard input.")
    from onnx_grow.report import Verification
    from onnx_grow.verification import verify as compare

    with screen.progress("verifying"):
        before, after = read(original), read(grown)
        report = compare(
            before,
            after,
            provider=provider,
            inputs=inputs,
            shapes=dict(shapes),
            seeds=seeds,
            tolerance=tolerance,
            max_error=max_error,
            proof=proof,
        )
    departure = None
    if trace and not report.ok and report.feed is not None:
        with screen.progress("tracing"):
            departure = traced(before, after, report.feed)
    evidence = _evidence(before, after) if screen.as_json or screen.html else {}
    verification = Verification(original, grown, report, departure, evidence)
    _tell([(f"{original} -> {grown}", verification.to_json())], junit)
    screen.show(verification.to_json(), verification.view(verbose=screen.verbose))
    wrong = "is not what its growth made of {}" if report.is_edited else "does not compute what {} computes"
    screen.end(report, f"{grown} {wrong.format(original)}")


def _evidence(original: Model, grown: Model) -> dict[str, Any]:
    from onnx_grow.report.evidence import digests, recorded

    sha256 = {"original": digests(original), "grown": digests(grown)}
    return {"sha256": sha256, "growth": recorded(original, grown)}


def _many(manifest: Path, jobs: int, junit: str | None, screen: Screen) -> None:
    from onnx_grow.cli.manifest import read_manifest, verify_all
    from onnx_grow.report.gate import Gate

    pairs = read_manifest(manifest)
    with screen.progress("verifying") as advance:
        gate = Gate(verify_all(pairs, jobs, advance))
    _tell(gate.documents, junit)
    screen.show(gate.to_json(), gate.view(verbose=screen.verbose))
    if any("verification" in document and not document["ok"] for _, document in gate.documents):
        raise VerificationFailedError(gate.wrong)
    if not gate.ok:
        raise InvalidRequestError(gate.wrong)


def _tell(documents: Any, junit: str | None) -> None:
    """Write what other programs read: JUnit XML where it is asked for, annotations and a summary in GitHub Actions."""
    if junit:
        from onnx_grow.report.junit import write_junit

        with placed(junit) as file:
            write_junit(documents, file)
    if os.environ.get("GITHUB_ACTIONS") == "true":
        from onnx_grow.report.github import summary, workflow_commands

        for line in workflow_commands(documents):
            click.echo(line, err=True)
        if page := os.environ.get("GITHUB_STEP_SUMMARY"):
            with open(page, "a", encoding="utf-8") as out:
                out.write(summary(documents))

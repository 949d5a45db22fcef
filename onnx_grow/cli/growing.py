"""What widen, deepen and grow share: their options, and the course: load, grow, stage, verify, put in place."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from functools import wraps
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from onnx_grow.cli.files import Target, bytes_on_disk, check_plan_file, read, write_plan
from onnx_grow.cli.options import checking_options, exclude, no_verify_option, presented
from onnx_grow.cli.screen import Screen
from onnx_grow.cli.tracing import traced

if TYPE_CHECKING:
    from onnx_grow.growth import DeepenPlan, GrowPlan, WidenPlan
    from onnx_grow.model import Model
    from onnx_grow.report import Growth
    from onnx_grow.verification import Report

    GrowsBy = Callable[[Model], tuple[WidenPlan | DeepenPlan | GrowPlan, Model]]

INEXACT = 1e9
"""Units of rounding noise allowed where noise was asked for: its twin without noise has proved equal by then."""
TRACED = 1 << 27
"""Bytes of a model that is run once more in float64 to find where its growth failed."""


@dataclass(frozen=True)
class Comparison:
    """Where, on what and how strictly the grown model is compared with the original."""

    provider: str
    inputs: str | None
    shapes: Mapping[str, Sequence[int]]
    seeds: int | None = None
    tolerance: float = 3.0
    proof: bool | None = None

    @property
    def options(self) -> tuple[str, ...]:
        """The options with which `onnx-grow verify` makes the same comparison, its tolerance aside."""
        shapes = (f"--shape={name}:{','.join(map(str, dims))}" for name, dims in self.shapes.items())
        inputs = (f"--inputs={self.inputs}",) if self.inputs else ()
        provider = (f"--provider={self.provider}",) if self.provider != "auto" else ()
        proof = () if self.proof is None else ("--proof",) if self.proof else ("--no-proof",)
        seeds = (f"--seeds={self.seeds}",) if self.seeds else ()
        return (*inputs, *shapes, *provider, *proof, *seeds)

    def check(self) -> None:
        """Find out before the long work whether the device answers. Raises DeviceUnavailableError, UsageError."""
        if self.inputs:
            exclude("seeds", because="no inputs are made up beside --inputs")
        if self.provider == "cuda":
            from onnx_grow.verification import choose

            choose(self.provider)

    def report(self, original: Model, grown: Model, file: Path | Model) -> Report:
        """Compare the original with `file`, which has to hold what `grown` promises."""
        from onnx_grow.verification import verify

        return verify(
            original,
            file,
            provider=self.provider,
            inputs=self.inputs,
            shapes=self.shapes or None,
            seeds=self.seeds,
            tolerance=self.tolerance,
            proof=False if self.tolerance == INEXACT else self.proof,
            expect={"parameters": grown.parameters, "nodes": len(grown.skeleton.graph.node)},
            replay=False,  # it was made just now
        )


def grows(ending: str) -> Callable[[Callable[..., tuple[GrowsBy, str]]], Callable[..., None]]:
    """Make a command, whose output ends in `-ending.onnx`, of a function of its own options and `shapes`.

    The function returns what grows a model (the plan and the model), and what to do where the result is too large.
    """

    def with_course(asked: Callable[..., tuple[GrowsBy, str]]) -> Callable[..., None]:
        @wraps(asked)
        def command(
            *,
            source: str,
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
            **own: Any,
        ) -> None:
            grown_by, less = asked(shapes=dict(shapes), **own)
            target = Target.of(source, output, ending, force)
            comparison = Comparison(provider, inputs, dict(shapes), seeds, proof=proof)
            _grow_file(
                source,
                target,
                grown_by,
                comparison,
                screen,
                dry_run=dry_run,
                unverified=no_verify,
                plan_file=plan_file,
                less=less,
            )

        shared: Callable[..., None] = checking_options(no_verify_option(presented(command)))
        return shared

    return with_course


def _grow_file(
    source: str,
    target: Target,
    grown_by: GrowsBy,
    comparison: Comparison,
    screen: Screen,
    *,
    dry_run: bool,
    unverified: bool,
    plan_file: str | None,
    less: str,
) -> None:
    """Grow `source` by `grown_by` and put the result at `target` once it has proved equal (`unverified`: at once).

    With `plan_file`, what was done is written there too, then or after a `dry_run`. `less` is what to do where the result is too large.

    Raises the errors of every step, VerificationFailedError after showing the report; no error leaves a file behind.
    """
    from onnx_grow.report import Growth

    if target.is_standard_output:
        if screen.as_json:
            raise click.UsageError("Standard output carries the model; --json has no room there.")
        screen = replace(screen, err=True)
    if plan_file is not None:
        check_plan_file(plan_file, source, target)
    if unverified:
        because = "--no-verify leaves out the verification that this is for"
        exclude("inputs", "provider", "proof", "seeds", because=because)
    else:
        comparison.check()
    with screen.progress("reading"):
        original = read(source)
    if not dry_run:
        target.check(original)
    with screen.progress("planning"):
        plan, grown = grown_by(original)
    growth = Growth(
        source,
        str(target.path),
        original,
        grown,
        plan,
        bytes_on_disk(original),
        bytes_on_disk(grown),
        checked_with=comparison.options,
    )
    if not dry_run:
        target.check_room(growth.expected_bytes, less=less)
        growth = _put(growth, target, None if unverified else comparison, screen)
    if plan_file is not None and (dry_run or growth.written):
        write_plan(plan_file, plan, original)
        growth = replace(growth, plan_file=plan_file)
    screen.show(growth.to_json(), growth.view(verbose=screen.verbose))
    if growth.report:
        screen.end(growth.report, f"verification failed, nothing was written{_place(growth, screen)}")


def _place(growth: Growth, screen: Screen) -> str:
    """Where a grown model that computes something else leaves the original, if it is small enough to be run in float64 for that."""
    report = growth.report
    if report is None or not report.beyond or report.feed is None or growth.source_bytes > TRACED:
        return ""
    with screen.progress("tracing"):
        return f"; {traced(growth.original, growth.grown, report.feed)}"


def _put(growth: Growth, target: Target, comparison: Comparison | None, screen: Screen) -> Growth:
    """Stage the grown model, compare it, and put it in place unless it proves different."""
    if comparison and (twin := _without_noise(growth)):
        with screen.progress("verifying without noise"):
            report = comparison.report(growth.original, twin, twin)
        if not report.ok:
            return replace(growth, report=report)
        comparison = replace(comparison, tolerance=INEXACT)
    with ExitStack() as until_put:
        with screen.progress("writing") as advance:
            pending = until_put.enter_context(target.staged(growth.grown, advance))
        growth = replace(
            growth,
            target_bytes=sum(pending.path.with_name(name).stat().st_size for name in pending.names),
            data_file=next((name for name in pending.names if name != pending.path.name), None),
        )
        if comparison:
            with screen.progress("verifying"):
                growth = replace(
                    growth, report=comparison.report(growth.original, growth.grown, pending.path)
                )
        if growth.report and not growth.report.ok:
            return growth
        target.put(pending)
        return replace(growth, written=True)


def _without_noise(growth: Growth) -> Model | None:
    """What the plan would make of the original without the noise it asks for; None if it asks for none."""
    from onnx_grow.growth import DeepenPlan, apply

    plan = growth.plan
    if isinstance(plan, DeepenPlan) or not plan.noise:
        return None
    return apply(growth.original, plan.without_noise())

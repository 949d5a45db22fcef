"""Does the grown model compute what the original computes, on the device where it will run?

The original runs first: without graph optimisation (the reference), with it, and once more with weights and inputs moved
by one unit in the last place and sums in another order. How far these lie apart is the model's own rounding noise. Then its sessions are
gone and the grown model runs, without and with optimisation, each compared with the original's run of the same kind. An
output fails if it deviates by more than `tolerance` times the noise.

An output that fails is looked at again before anybody is told: the original is moved by rounding noise several more
times, so that a noise that happened to be small, or a tie that may fall either way, is not taken for a fault. Where float64 can be
computed, the original's own error in its own type counts as noise, too.

Small models are compared in float64, too: there rounding hides next to nothing. It also decides where an output deviates by more than
was measured: networks that amplify rounding, or sum very many values, do so by chance.
"""

from __future__ import annotations

import math
import os
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache, cached_property
from pathlib import Path
from typing import Any

import numpy as np

from onnx_grow.errors import InvalidModelError, InvalidRequestError
from onnx_grow.model import HISTORY, Model, load
from onnx_grow.verification import checks
from onnx_grow.verification.branches import WAYS, Way, branches, forced
from onnx_grow.verification.comparison import Difference, difference, is_exact, same_top
from onnx_grow.verification.datasets import Given
from onnx_grow.verification.inputs import Feed
from onnx_grow.verification.memory import fits
from onnx_grow.verification.pairing import doubts
from onnx_grow.verification.promotion import uses_bfloat16
from onnx_grow.verification.proof import EXACT, PLAUSIBLE, Proof, prove
from onnx_grow.verification.providers import choose
from onnx_grow.verification.reference import Reference, Stage, measure
from onnx_grow.verification.report import RECORDED, TOLERANCE, Check, Output, Report
from onnx_grow.verification.sessions import Arrays, RunError
from onnx_grow.verification.trials import is_small

__all__ = ["Comparison", "Standard", "verify"]

Array = np.ndarray[Any, Any]

SECOND_LOOK = 9
"""Further measurements of the noise, for an output that seems to fail, or is exact and differs at all."""
HOPELESS = 100
"""Tolerances beyond which a third of them will do."""
AFFORDABLE = 1 << 29
"""Bytes of weights up to which a model that seems to fail is run in float64."""
NOTHING_SAID = (
    "every output is NaN or infinite on all inputs, so nothing was compared: give inputs on which the network computes numbers "
    "(--inputs DATA, in Python inputs=)"
)
NOISY = 0.01
"""Relative noise above which equality says little."""


def verify(
    original: Model | str | os.PathLike[str],
    grown: Model | str | os.PathLike[str],
    *,
    provider: str = "auto",
    inputs: Given | None = None,
    shapes: Mapping[str, Sequence[int]] | None = None,
    seeds: int | None = None,
    tolerance: float = TOLERANCE,
    max_error: float | None = None,
    proof: bool | None = None,
    expect: checks.Expected | None = None,
    replay: bool = True,
) -> Report:
    """Compare two models, on `provider` (`auto`, `cuda`, `cpu`), and report how far apart they are.

    `inputs` are files (see `onnx_grow.verification.datasets`), arrays by input name, or several sets of those; without them
    inputs are made up from `seeds` seeds (3, for small models 9), of the sizes in `shapes` (input name to shape) or of
    sizes the original accepts. `tolerance` is in units of the original's own rounding noise; correct growths stay
    near 1. `max_error` takes its place where the models are not meant to be equal (a conversion to float16, say): the relative
    error ||grown - original|| / ||original|| that every output may have. With `proof` the models are compared in float64, too (by
    default if they are small), where a correct growth deviates by some 1e-15: see `onnx_grow.verification.proof`. `expect` are facts
    about the grown model, such as `{"parameters": 25_600_000}`. Where the grown model records its growth from the original, that is done
    again, and has to make the same (unless more than the default tolerance is allowed, or `replay` is False): see
    `onnx_grow.verification.replay`.

    Never raises because the models differ: look at `report.ok` or call `report.raise_if_failed()`. Raises
    InvalidModelError for a file that is no model or an original that does not run, InvalidRequestError for arguments
    that do not fit it, DeviceUnavailableError if CUDA is asked for and does not answer.

    Models that do not fit in memory run node by node in float64, by default on one set of inputs
    (`onnx_grow.verification.node_by_node`).
    """
    if seeds is not None and seeds < 1:
        raise InvalidRequestError(f"seeds is {seeds}", hint="it takes at least 1")
    if not (math.isfinite(tolerance) and tolerance > 0):
        raise InvalidRequestError(f"tolerance is {tolerance}", hint="give a positive number")
    if max_error is not None and not (math.isfinite(max_error) and max_error > 0):
        raise InvalidRequestError(f"max_error is {max_error}", hint="give a positive number")
    device = choose(provider)
    before, after = _model(original), _model(grown)
    whole = fits(before, after)
    with tempfile.TemporaryDirectory(prefix="onnx-grow-", ignore_cleanup_errors=True) as folder:
        seeds = seeds if whole or seeds is not None else 1
        standard = Standard(before, Stage(device, Path(folder), whole), inputs, shapes, seeds)
        report = standard.compare(after, tolerance=tolerance, max_error=max_error, proof=proof, expect=expect)
    report = _with_replay(report, before, after) if replay and HISTORY in after.metadata else report
    return replace(report, warnings=(*doubts(before, after), *report.warnings))


def _with_replay(report: Report, original: Model, grown: Model) -> Report:
    """The report with what came of doing the recorded growth again; what was changed since is a fault unless more is allowed."""
    from onnx_grow.verification.replay import replay  # with all that grows, which other pairs do not wait for

    started = time.perf_counter()
    replayed = replay(original, grown)
    if replayed is None:
        return report
    check = Check(RECORDED, replayed.same is not False, replayed.told)
    seconds = report.seconds + time.perf_counter() - started
    report = replace(report, seconds=seconds, recorded=replayed.same)
    if not check.ok and (report.max_error is not None or report.tolerance > TOLERANCE):
        return replace(report, warnings=(*report.warnings, f"{check.name}: {check.detail}"))
    return replace(report, checks=(*report.checks, check))


@dataclass(eq=False)
class Standard:
    """An original that any number of grown models can be compared with: it runs once, when it is first needed.

    Arguments are those of `verify`; `stage` says where it runs. With `everywhere` models are compared along all branches of Ifs, too.
    """

    model: Model
    stage: Stage
    inputs: Given | None = None
    shapes: Mapping[str, Sequence[int]] | None = None
    seeds: int | None = None
    everywhere: bool = True

    @cached_property
    def branches(self) -> dict[Way, Standard]:
        """The original along each of its branches."""
        ways = branches(self.model) if self.everywhere else ()
        return {way: replace(self, model=forced(self.model, way), everywhere=False) for way in ways}

    @cached_property
    def reference(self) -> Reference:
        """The original's results and rounding noise."""
        return measure(self.model, self.stage, inputs=self.inputs, shapes=self.shapes, seeds=self.seeds)

    def compare(
        self,
        grown: Model,
        *,
        tolerance: float = TOLERANCE,
        max_error: float | None = None,
        proof: bool | None = None,
        expect: checks.Expected | None = None,
    ) -> Report:
        """What `verify` says of a grown model."""
        started = time.perf_counter()
        found = [
            checks.interface(self.model, grown),
            checks.versions(self.model, grown),
            checks.validity(self.model, grown),
            *([checks.growth(grown, expect)] if expect else []),
        ]
        device = self.stage.device
        report = Report(
            device.name, str(device), tolerance, (), (), tuple(found), (), 0.0, max_error=max_error
        )
        if checks.same_inputs(self.model, grown):
            report = self._run(report, grown, proof)
        else:
            report = replace(report, warnings=(checks.not_run(self.model, grown),))
        for way, standard in self.branches.items() if report.outputs else ():
            try:
                branch = standard.compare(
                    forced(grown, way), tolerance=tolerance, max_error=max_error, proof=proof
                )
            except (InvalidModelError, InvalidRequestError):
                left = f"not compared where {WAYS[way]}: the original does not run so with these inputs"
                report = replace(report, warnings=(*report.warnings, left))
            else:
                report = _joined(report, branch, WAYS[way])
        return replace(report, seconds=time.perf_counter() - started)

    def _run(self, report: Report, grown: Model, proof: bool | None) -> Report:
        """A report with what running both models shows: by the original's own noise, and in float64 where that is wanted or can help."""
        reference, whole = self.reference, self.stage.whole  # what is not whole runs in float64 anyway
        feeds, equal = reference.feeds, report.max_error is None
        wanted = whole and (is_small(self.model, _sizes(feeds[0])) and equal if proof is None else proof)
        affordable = whole and _is_affordable(self.model)
        comparison = _compare(reference, grown)
        outputs = comparison.settled(
            report.tolerance if equal else math.inf, wanted or (proof is None and affordable)
        )

        @cache
        def proof_on(run: int) -> Proof:
            expected = reference.plain[run]
            return prove(self.model, grown, feeds[run].arrays, expected=expected, tolerance=report.tolerance)

        if affordable and proof is not False and equal:
            outputs = [self._judged_in_float64(output, report.tolerance, proof_on) for output in outputs]
        found, proved = [comparison.check], None
        if wanted and outputs:
            proved = proof_on(0)
            found.append(Check("float64", proved.ok, proved.detail))
        if self.everywhere and _says_nothing(reference):
            found.append(Check("values", False, NOTHING_SAID))
        report = replace(
            report,
            inputs=tuple(feed.label for feed in feeds),
            outputs=tuple(outputs),
            checks=(*report.checks, *found),
            warnings=(
                *reference.notes,
                *_warnings(reference),
                *_excuses(outputs),
                *(() if whole or not equal else _inexact(outputs)),
            ),
            float64=proved.error if proved else None if whole else _worst(outputs),
        )
        worst = {output.worst_input for output in report.beyond[:1]}
        return replace(report, feed=next((f.arrays for f in feeds if f.label in worst), feeds[0].arrays))

    def _judged_in_float64(
        self, output: Output, tolerance: float, proof_on: Callable[[int], Proof]
    ) -> Output:
        """The same output, excused if what it deviates by is rounding alone: in float64 the models are equal on all inputs."""
        if output.exact or output.ratio <= tolerance or not output.error_l2 <= PLAUSIBLE:
            return output
        proofs = map(proof_on, range(len(self.reference.feeds)))
        return replace(output, excused=all(proof.ok and proof.error is not None for proof in proofs))


def _joined(report: Report, branch: Report, where: str) -> Report:
    """A report that also says what was found along other branches."""
    return replace(
        report,
        outputs=(*report.outputs, *(replace(o, name=f"{o.name} ({where})") for o in branch.outputs)),
        checks=(
            *report.checks,
            *(replace(c, name=f"{c.name} ({where})") for c in branch.checks if c.name in ("runs", "float64")),
        ),
        warnings=(
            *report.warnings,
            *(f"where {where}: {warning}" for warning in branch.warnings if warning not in report.warnings),
        ),
        float64=max((e for e in (report.float64, branch.float64) if e is not None), default=None),
    )


@dataclass(frozen=True, eq=False)
class Comparison:
    """How the grown model's results differ from the original's.

    `found` lists the differences per output and run (without and with optimisation), `tops` the shares of equal top
    classes per output; both are empty if the grown model does not run.
    """

    reference: Reference
    found: Mapping[str, Sequence[Sequence[Difference]]]
    tops: Mapping[str, Sequence[float]]
    check: Check

    @classmethod
    def of(cls, reference: Reference, results: Sequence[Arrays]) -> Comparison:
        """The comparison of results that came from elsewhere, one set for every run without graph optimisation."""
        found = {
            name: [
                [difference(reference.plain[run][name], results[run].get(name))]
                for run in reference.runs(name)
            ]
            for name in reference.gauges
        }
        return cls(reference, found, {}, Check("runs", True, ""))

    def settled(self, tolerance: float, in_float64: bool) -> list[Output]:
        """The figures of all outputs, after a second look if any of them seems to fail, and a third in float64."""
        outputs = self._outputs()
        for look in range(SECOND_LOOK):
            suspects = [
                output.ratio for output in outputs if output.ratio > (0 if output.exact else tolerance)
            ]
            if not suspects or (look >= SECOND_LOOK // 3 and max(suspects) > HOPELESS * tolerance):
                break
            self.reference.shake()
            outputs = self._outputs()
        if in_float64 and any(not output.exact and output.ratio > tolerance for output in outputs):
            self.reference.compare_with_float64()
            outputs = self._outputs()
        return outputs

    def _outputs(self) -> list[Output]:
        return [self._output(name) for name in self.found]

    def _output(self, name: str) -> Output:
        verdict = self.reference.gauges[name].judge(self.found[name])
        run = self.reference.runs(name)[verdict.run]
        array = self.reference.plain[run][name]
        return Output(
            name=name,
            dtype=str(array.dtype),
            exact=is_exact(array),
            error_l2=verdict.error.l2,
            error_max=verdict.error.peak,
            noise_l2=verdict.noise.l2,
            noise_max=verdict.noise.peak,
            ratio=verdict.ratio,
            worst_input=self.reference.feeds[run].label,
            top1=float(np.mean(self.tops[name])) if name in self.tops else None,
        )


def _compare(reference: Reference, grown: Model) -> Comparison:
    """Run the grown model on every feed, without and with graph optimisation, against the runs of the original.

    Outputs that it lacks are left out: they are a matter of `checks.interface`.
    """
    stage = reference.stage
    shared = {value.name for value in grown.skeleton.graph.output}
    source = stage.source(grown, "grown")
    found: dict[str, list[list[Difference]]] = {
        name: [[] for _ in reference.runs(name)] for name in reference.gauges if name in shared
    }
    tops: dict[str, list[float]] = {}
    told = ""
    for optimised, references in ((False, reference.plain), (True, reference.fast)):
        if not references:
            continue
        way = "with graph optimisation" if optimised else "without graph optimisation"
        if not stage.whole:
            way = "node by node in float64"
        try:
            with stage.opened(source, optimised=optimised) as session:
                placed = ", ".join(
                    f"{nodes} node{'s' if nodes > 1 else ''} on {name}"
                    for name, nodes in session.placement.items()
                )
                told += f"{', ' if told else ''}{way}{f' ({placed})' if placed else ''}"
                for run, expected in enumerate(references):
                    results = session.run(reference.feeds[run].arrays)
                    for name in found.keys() & expected.keys():
                        array, runs = expected[name], reference.runs(name)
                        if run in runs:
                            found[name][runs.index(run)].append(difference(array, results.get(name)))
                        if name in results and (top := same_top(array, results[name])) is not None:
                            tops.setdefault(name, []).append(top)
        except RunError as error:
            return Comparison(reference, {}, {}, Check("runs", False, f"not {way}: {error}"))
    return Comparison(reference, found, tops, Check("runs", True, told))


def _warnings(reference: Reference) -> list[str]:
    """What makes equality prove less than it seems to."""
    told = []
    if not reference.stage.whole:
        told.append("the models do not fit in memory: both ran node by node, in float64 on the CPU")
    elif uses_bfloat16(reference.model):
        told.append("bfloat16 ran as float32: ONNX Runtime has no bfloat16 kernels for most operators")
    fed = any(array.size for feed in reference.feeds for array in feed.arrays.values())
    for name, gauge in reference.gauges.items():
        arrays, noise = reference.results(name), gauge.noise()
        if noise > NOISY:
            size = "without bound" if math.isinf(noise) else f"by {noise:.1%}"
            told.append(
                f"output {name!r} of the original moves {size} through rounding alone: equality says little there"
            )
        if all(_is_lost(array) for array in arrays):
            told.append(f"output {name!r} is NaN or infinite for all inputs: equality proves nothing there")
        elif fed and not is_exact(arrays[0]) and _is_constant(arrays):
            told.append(f"output {name!r} is the same for different inputs: equality proves nothing there")
    if all(is_exact(array) for name in reference.gauges for array in reference.results(name)):
        told.append("no output is a floating-point number: what does not flip one of them does not show")
    return told


def _excuses(outputs: Sequence[Output]) -> Iterator[str]:
    for output in outputs:
        if output.excused:
            yield (
                f"output {output.name!r} deviates by {output.ratio:.0f} times the noise measured, though the models are equal in float64: "
                "rounding that this network amplifies"
            )


def _says_nothing(reference: Reference) -> bool:
    """Whether all that was compared is NaN or infinite, which any two networks may be."""
    arrays = [array for name in reference.gauges for array in reference.results(name) if array.size]
    return bool(arrays) and all(map(_is_lost, arrays))


def _is_lost(array: Array) -> bool:
    return array.size > 0 and not is_exact(array) and not np.isfinite(array.astype(np.float64)).any()


def _is_constant(arrays: list[Array]) -> bool:
    """Whether all runs whose outputs have the same shape, two at least, have the same outputs."""
    shapes = [array.shape for array in arrays]
    repeated = [shape for shape in set(shapes) if shapes.count(shape) > 1 and math.prod(shape)]
    groups = [[array for array in arrays if array.shape == shape] for shape in repeated]
    return bool(groups) and all(np.array_equal(group[0], other) for group in groups for other in group[1:])


def _inexact(outputs: Sequence[Output]) -> Iterator[str]:
    """What float64 shows and the noise of the weights would hide."""
    error = _worst(outputs)
    if error is not None and error > EXACT:
        told = f"in float64 the models deviate by {error:.0e}, exact growths by some 1e-15"
        yield f"{told}: by weights that had to be rounded, or that were changed"


def _worst(outputs: Sequence[Output]) -> float | None:
    return max((output.error_l2 for output in outputs if not output.exact), default=None)


def _is_affordable(model: Model) -> bool:
    """Whether a model can run in float64 before somebody is told that it fails: at a price, but in memory."""
    return sum(weight.nbytes for weight in model.weights.values()) < AFFORDABLE


def _sizes(feed: Feed) -> dict[str, tuple[int, ...]]:
    return {name: array.shape for name, array in feed.arrays.items()}


def _model(source: Model | str | os.PathLike[str]) -> Model:
    return source if isinstance(source, Model) else load(source)

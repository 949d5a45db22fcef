"""The verdict: what was compared, where, how far apart it was, and how far it might have been."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from html import escape
from typing import Any

from onnx_grow.errors import VerificationFailedError
from onnx_grow.verification.comparison import quotient

__all__ = ["RECORDED", "TOLERANCE", "Check", "Output", "Report", "verdict"]

TOLERANCE = 3.0
"""Deviation allowed, in units of the original's own rounding noise, where nobody says another."""

RECORDED = "recorded growth"
"""The check whether a file is what the growth that it records makes of the original."""

_SHOWN = 12
"""Outputs, checks and warnings listed by `str()`: a screen holds two dozen lines."""


@dataclass(frozen=True)
class Check:
    """One yes-or-no question, its answer, and what was found."""

    name: str
    ok: bool
    detail: str


@dataclass(frozen=True)
class Output:
    """One output, in the run where it was worst.

    For floating point `error_l2` is ||grown - original|| / ||original|| and `error_max` is max|grown - original| /
    RMS(original); `noise_l2` and `noise_max` are the same between runs of the original that differ by rounding alone.
    For integers, booleans and strings (`exact`) all four are shares of elements that differ. `ratio` is the worse of the
    two quotients of error and noise. `top1` is the share of samples with the same best class, None where the output does
    not look like class scores.
    `excused` is an output that deviates by more than is allowed, on inputs on which the models are equal in float64.
    """

    name: str
    dtype: str
    exact: bool
    error_l2: float
    error_max: float
    noise_l2: float
    noise_max: float
    ratio: float
    worst_input: str
    top1: float | None
    excused: bool = False

    @property
    def norm(self) -> str:
        """The measure that decides: `l2` or `max`, in which the noise is exceeded most; `share` (of elements) for exact outputs."""
        if self.exact:
            return "share"
        by_max = quotient(self.error_max, self.noise_max) > quotient(self.error_l2, self.noise_l2)
        return "max" if by_max else "l2"

    @property
    def judged(self) -> tuple[float, float]:
        """Error and noise in that norm: their quotient is `ratio`, but for exact outputs."""
        return (self.error_max, self.noise_max) if self.norm == "max" else (self.error_l2, self.noise_l2)


@dataclass(frozen=True)
class Report:
    """The result of `verify`.

    `provider` is `cpu` or `cuda`, `device` the line that also says why. `inputs` names the sets of inputs that were run,
    `tolerance` how many times its noise an output may deviate. `float64` is ||grown - original|| / ||original|| in float64, None where
    that was not asked for or cannot be evaluated. `max_error`, if given, is what `error_l2` may be instead. `feed` is the
    set of inputs on which the first output beyond that deviates most, or the first set; None if none was run. `recorded` says whether the
    grown model is what its recorded growth makes of the original, None where that was not compared.
    """

    provider: str
    device: str
    tolerance: float
    inputs: tuple[str, ...]
    outputs: tuple[Output, ...]
    checks: tuple[Check, ...]
    warnings: tuple[str, ...]
    seconds: float
    float64: float | None = None
    max_error: float | None = None
    feed: Mapping[str, Any] | None = field(default=None, repr=False, compare=False)
    recorded: bool | None = None

    @property
    def ok(self) -> bool:
        """Whether every check passed and every output stays within the tolerance."""
        return all(check.ok for check in self.checks) and not self.beyond

    @property
    def verdict(self) -> str:
        """The answer in two or three words."""
        return verdict(self.ok, self.tolerance, self.max_error)

    @property
    def beyond(self) -> tuple[Output, ...]:
        """The outputs that deviate by more than is allowed."""
        return tuple(output for output in self.outputs if not self._allows(output))

    @property
    def ratio(self) -> float:
        """The largest ratio of error to noise over all outputs; 0 if none was compared."""
        return max((output.ratio for output in self.outputs), default=0.0)

    def raise_if_failed(self) -> Report:
        """The report itself. Raises VerificationFailedError, naming what failed, if it is not ok."""
        if not self.ok:
            raise VerificationFailedError("; ".join(self._failures()), hint=self.hint)
        return self

    @property
    def is_edited(self) -> bool:
        """Whether all that is wrong is that the grown model is not what its recorded growth made."""
        return [check.name for check in self.checks if not check.ok] == [RECORDED] and not self.beyond

    @property
    def hint(self) -> str:
        """What to do about a failure."""
        if self.is_edited:
            return "it was changed after it had grown: grow it again; how far one that was trained may deviate, --tolerance says"
        return "the models do not compute the same"

    def to_json(self) -> dict[str, Any]:
        """The report as JSON values; keys are stable, infinite numbers are null.

        `ok`, `provider`, `device`, `tolerance`, `max_error`, `seconds`, `ratio`, `float64`, `recorded`, `inputs` [label],
        `checks` [{`name`, `ok`, `detail`}], `outputs` [{`name`, `dtype`, `exact`, `error_l2`, `error_max`, `noise_l2`, `noise_max`,
        `ratio`, `worst_input`, `top1`, `norm`, `ok`, `why`}], `warnings` [text].
        """
        return {
            "ok": self.ok,
            "provider": self.provider,
            "device": self.device,
            "tolerance": self.tolerance,
            "max_error": self.max_error,
            "seconds": round(self.seconds, 3),
            "ratio": _finite(self.ratio),
            "float64": _finite(self.float64),
            "recorded": self.recorded,
            "inputs": list(self.inputs),
            "checks": [vars(check) for check in self.checks],
            "outputs": [
                {key: _finite(value) for key, value in vars(output).items()}
                | {
                    "norm": output.norm if self.max_error is None else "l2",
                    "ok": output not in self.beyond,
                    "why": self._why(output) if output in self.beyond else None,
                }
                for output in self.outputs
            ],
            "warnings": list(self.warnings),
        }

    def __str__(self) -> str:
        return "\n".join(map(_printable, self._lines()))

    def _repr_html_(self) -> str:
        """The text as notebooks show it."""
        return f"<pre>{escape(str(self))}</pre>"

    def _allows(self, output: Output) -> bool:
        if self.max_error is not None:
            return output.error_l2 <= self.max_error
        return output.ratio <= self.tolerance or output.excused

    @property
    def _limit(self) -> str:
        return f"{self.tolerance:g}" if self.max_error is None else f"error {self.max_error:g}"

    def _why(self, output: Output) -> str:
        """What is wrong with an output that deviates by more than is allowed."""
        if output.exact and math.isfinite(output.error_l2):
            return f"differs in {output.error_l2:.2%} of its elements"
        if math.isinf(output.error_l2):
            return (
                "cannot be compared: another shape, NaN or infinity elsewhere, or values where all were zero"
            )
        if self.max_error is not None:
            return f"deviates by {output.error_l2:.1e}, {self.max_error:g} is allowed"
        noise = "the original's own rounding noise"
        return f"deviates by {_short(output.ratio)} times {noise}, {self.tolerance:g} times is allowed"

    def _lines(self) -> list[str]:
        runs = f"{len(self.inputs)} input{'s' if len(self.inputs) != 1 else ''}, {self.seconds:.1f} s"
        lines = [f"{self.verdict} on {self.device}; {runs}"]
        lines += _some([_check_line(check) for check in sorted(self.checks, key=lambda check: check.ok)])
        if self.outputs:
            norm, ratio = (f" {'norm':<5}", f" {'ratio':>7}") if self.max_error is None else ("", "")
            lines += [f"  {'output':<24}{norm} {'error':>8} {'noise':>8}{ratio}  (allowed: {self._limit})"]
            worst_first = sorted(
                self.outputs, key=lambda o: -(o.ratio if self.max_error is None else o.error_l2)
            )
            lines += _some([self._output_line(output) for output in worst_first])
        lines += _some([f"  warning: {warning}" for warning in self.warnings])
        return lines

    def _output_line(self, output: Output) -> str:
        name = output.name if len(output.name) <= 24 else f"{output.name[:23]}…"
        if self.max_error is None:
            error, noise = output.judged
            line = f"  {name:<24} {output.norm:<5} {error:>8.1e} {noise:>8.1e} {_short(output.ratio):>7}"
        else:
            line = f"  {name:<24} {output.error_l2:>8.1e} {output.noise_l2:>8.1e}"
        if output.top1 is not None:
            line += f"  same top class: {output.top1:.1%}"
        if output in self.beyond:
            line += f"  FAIL ({output.worst_input})"
        return line

    def _failures(self) -> list[str]:
        failed = [f"{check.name}: {check.detail}" for check in self.checks if not check.ok]
        return failed + [
            f"output {output.name!r} {self._why(output)} ({output.worst_input})" for output in self.beyond
        ]


def verdict(ok: bool, tolerance: float, max_error: float | None) -> str:
    """What a comparison shows: `equal` only where no more was allowed than rounding does, else within what."""
    if not ok:
        return "NOT EQUAL"
    if max_error is not None:
        return f"within {max_error:g}"
    return f"within {tolerance:g} x noise" if tolerance > TOLERANCE else "equal"


def _check_line(check: Check) -> str:
    return f"  {'ok  ' if check.ok else 'FAIL'} {check.name}: {check.detail}"


def _short(ratio: float) -> str:
    return f"{ratio:.2f}" if ratio < 1000 else f"{ratio:.0e}"


def _some(lines: list[str]) -> list[str]:
    more = len(lines) - _SHOWN
    return [*lines[:_SHOWN], f"  … and {more} more"] if more > 0 else lines


def _printable(line: str) -> str:
    """Without control characters: names come from files that nobody has vetted."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in line)


def _finite(value: Any) -> Any:
    return None if isinstance(value, float) and not math.isfinite(value) else value

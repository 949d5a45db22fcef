"""What a growth does, what it costs, and how equal the result is: the result of `widen` and `deepen`."""

from __future__ import annotations

import json
import shlex
from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from onnx_grow.report.figures import count, counted, printable, size, some
from onnx_grow.report.plan import extent, notes, skipped, tables
from onnx_grow.report.tables import facts
from onnx_grow.report.verification import report_text

if TYPE_CHECKING:
    from rich.console import RenderableType

    from onnx_grow.growth import DeepenPlan, GrowPlan, WidenPlan
    from onnx_grow.model import Model
    from onnx_grow.verification import Report

RECIPE = "start at 1/10 of the original learning rate, warm up briefly, grow the optimizer's state or reset it (docs/training.md)"
"""What to do first with a grown network; docs/learning.md has the reasons."""


@dataclass(frozen=True, eq=False)
class Growth:
    """A model, its plan, and what became of it.

    `source_bytes`, `expected_bytes` and `target_bytes` are bytes on disk with external data, the second before anything is
    written. `target_bytes` is None as long as nothing has been staged, `report` as long as nothing has been compared;
    `written` says that the file `target` is in place, `checked_with` are the options with which to compare it once more,
    `plan_file` is where the plan was written, `data_file` what lies beside the target with its weights, if anything does.
    """

    source: str
    target: str
    original: Model
    grown: Model
    plan: WidenPlan | DeepenPlan | GrowPlan
    source_bytes: int
    expected_bytes: int
    target_bytes: int | None = None
    data_file: str | None = None
    report: Report | None = None
    written: bool = False
    checked_with: tuple[str, ...] = ()
    plan_file: str | None = None

    def to_json(self) -> dict[str, Any]:
        """The keys of docs/json.md under `widen` and `deepen`."""
        return {
            "ok": self.report is None or self.report.ok,
            "input": self.source,
            "output": self.target if self.written else None,
            "data_file": self.data_file if self.written else None,
            "plan": json.loads(self.plan.to_json()),
            "plan_file": self.plan_file,
            "parameters": {"before": self.original.parameters, "after": self.grown.parameters},
            "bytes": {"before": self.source_bytes, "after": self.target_bytes},
            "nodes": {
                "before": len(self.original.skeleton.graph.node),
                "after": len(self.grown.skeleton.graph.node),
                "inserted": list(self.inserted),
            },
            "verification": self.report and self.report.to_json(),
        }

    def view(self, *, verbose: bool = False) -> RenderableType:
        """What grew, what it costs, how equal it is, what to do next; every step where nothing is written or `verbose`."""
        from rich.console import Group
        from rich.text import Text

        source = "standard input" if self.source == "-" else self.source
        target = "standard output" if self.target == "-" else self.target
        title = f"{source} -> {target}" + ("" if self.written else "  (not written)")
        parts: list[RenderableType] = [Text(printable(title), style="bold"), facts(self._facts())]
        if self.written and "-" not in (self.source, self.target):
            parts.append(facts([("check again", self._check_again())], whole=True))
        planned_only = self.target_bytes is None
        if verbose or planned_only:
            parts += [part for table in tables(self.plan) for part in ("", table)]
            if self.plan.skipped:
                parts += ["", skipped(self.plan)]
        if self.report and (verbose or not self.report.ok):
            parts += ["", report_text(self.report)]
        return Group(*parts)

    @property
    def inserted(self) -> tuple[str, ...]:
        """The names of the nodes that the original has not."""
        old, new = (
            Counter(node.name for node in model.skeleton.graph.node) for model in (self.original, self.grown)
        )
        return tuple(name for name in (new - old).elements() if name)

    def _facts(self) -> list[tuple[str, str]]:
        before, after = self.original.parameters, self.grown.parameters
        nbytes = (
            f"about {size(self.expected_bytes)}" if self.target_bytes is None else size(self.target_bytes)
        )
        lines = [
            ("grown", extent(self.plan)),
            (
                "parameters",
                f"{count(before)} -> {count(after)}" + (f"  (x{after / before:.3g})" if before else ""),
            ),
            ("on disk", f"{size(self.source_bytes)} -> {nbytes}{self._beside()}"),
            ("new nodes", self._new_nodes()),
        ]
        if self.plan.skipped:
            lines.append(("not grown", _reasons(self.plan.skipped)))
        if self.report and self.report.ok:  # else the whole report follows
            verdict, error = (_noisy if self._is_noisy else _exact)(self.report)
            lines += [("verified", printable(verdict)), ("error", error)]
            lines += [("warning", printable(warning)) for warning in self.report.warnings]
        elif self.written:
            lines.append(("verified", "not verified (--no-verify)"))
        lines += [("note", printable(note)) for note in notes(self.plan)]
        if self.plan_file:
            lines.append(("plan", printable(self.plan_file)))
        if self.written:
            lines.append(("to train", RECIPE))
        return lines

    def _beside(self) -> str:
        return printable(f" (weights in {self.data_file})") if self.data_file else ""

    def _check_again(self) -> str:
        """The command that makes the same comparison once more, of noise with room for it."""
        words = ["onnx-grow", "verify", self.source, self.target, *self.checked_with]
        if self.report and self._is_noisy and self.report.ratio > 1:
            words.append(f"--tolerance={2 * self.report.ratio:.1g}")
        return printable(shlex.join(words))

    @property
    def _is_noisy(self) -> bool:
        """Whether noise was asked for: the report is then of a change that is meant."""
        return bool(getattr(self.plan, "noise", 0.0)) and self.report is not None and self.report.ok

    def _new_nodes(self) -> str:
        """How many, and their names if they are few: to widen hardly ever needs one."""
        names = self.inserted
        if not names:
            return "none"
        return f"{len(names):,}" + (f": {some(names)}" if len(names) <= 3 else "")


def _exact(report: Report) -> tuple[str, str]:
    """The verdict, and the error of the output closest to the tolerance beside the noise it is judged by, in the norm that judges."""
    verdict = f"{report.verdict} {_where(report)}"
    if not report.outputs:
        return verdict, "no output was compared"
    if not any(output.error_l2 or output.error_max for output in report.outputs):
        return verdict, "none: every output is bit-identical"
    worst = max(report.outputs, key=lambda output: output.ratio)
    error, noise = worst.judged
    return verdict, (
        f"{error:.1e} ({worst.norm}), rounding noise of the original {noise:.1e}: "
        f"ratio {worst.ratio:.2f}, allowed {report.tolerance:g} (output {printable(worst.name)})"
    )


def _noisy(report: Report) -> tuple[str, str]:
    """The same where the copies were given noise: without it the growth is equal, with it the outputs differ by so much."""
    verdict = f"equal without the noise asked for {_where(report)}"
    worst = max(report.outputs, key=lambda output: output.error_l2, default=None)
    return verdict, f"{worst.error_l2:.1e} by the noise (output {printable(worst.name)})" if worst else "none"


def _where(report: Report) -> str:
    return f"on {report.device}; {counted(len(report.inputs), 'input')}, {report.seconds:.1f} s"


def _reasons(skipped: tuple[tuple[str, str], ...]) -> str:
    """How many, the first with its reason, and where the others are."""
    name, reason = skipped[0]
    first = printable(f"{len(skipped):,}: {name}, because {reason}")
    return f"{first} (-v lists all)" if len(skipped) > 1 else first

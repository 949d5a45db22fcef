"""Whether two models compute the same: the result of `verify`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from onnx_grow.report.figures import printable
from onnx_grow.report.tables import columns

if TYPE_CHECKING:
    from rich.console import RenderableType
    from rich.table import Table

    from onnx_grow.verification import Report


@dataclass(frozen=True)
class Verification:
    """Two models, the report of their comparison, where the second leaves the first if that was traced, and which files they are."""

    original: str
    grown: str
    report: Report
    departure: str | None = None
    evidence: Mapping[str, Any] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """The keys of docs/json.md under `verify`."""
        return {
            "ok": self.report.ok,
            "original": self.original,
            "grown": self.grown,
            "verification": self.report.to_json(),
            "trace": self.departure,
            **self.evidence,
        }

    def view(self, *, verbose: bool = False) -> RenderableType:
        """One screen that begins with the verdict and the device; with `verbose`, every output."""
        from rich.console import Group
        from rich.text import Text

        parts: list[RenderableType] = [report_text(self.report)]
        if self.departure:
            parts += ["", Text(printable(f"trace: {self.departure}"))]
        if verbose:
            parts += ["", _every_output(self.report)]
        return Group(*parts)


def report_text(report: Report) -> RenderableType:
    """The report on one screen, its names made harmless."""
    from rich.text import Text

    verdict, *rest = str(report).splitlines()
    style = "bold green" if report.ok else "bold red"
    return Text("\n").join([Text(verdict, style=style), *map(Text, rest)])


def _every_output(report: Report) -> Table:
    """The figures of all outputs; ratios of error and noise where these are what is judged."""
    judged = report.max_error is None
    rows = []
    for output in report.outputs:
        figures = (output.error_l2, output.noise_l2, output.error_max, output.noise_max)
        numbers = (*(f"{figure:.1e}" for figure in figures), *([f"{output.ratio:.2f}"] if judged else []))
        rows.append((printable(output.name), output.dtype, *numbers, printable(output.worst_input)))
    headings = ("error>", "noise>", "max error>", "max noise>", *(["ratio>"] if judged else []))
    return columns("output", "type", *headings, "worst input", rows=rows)

"""Many verifications on one screen."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from onnx_grow.report.figures import counted, printable
from onnx_grow.report.github import Document, faults
from onnx_grow.report.tables import columns

if TYPE_CHECKING:
    from rich.console import RenderableType


@dataclass(frozen=True)
class Gate:
    """Pairs of models by name, each with its document of docs/json.md under `verify`."""

    documents: Sequence[tuple[str, Document]]

    @property
    def ok(self) -> bool:
        """Whether every pair is equal."""
        return all(document["ok"] for _, document in self.documents)

    @property
    def verdict(self) -> str:
        """The total in words."""
        equal = sum(bool(document["ok"]) for _, document in self.documents)
        return f"{equal:,} of {counted(len(self.documents), 'pair')} equal"

    def to_json(self) -> dict[str, Any]:
        """The keys of docs/json.md under `verify --manifest`."""
        return {"ok": self.ok, "pairs": [{"name": name, **document} for name, document in self.documents]}

    def view(self) -> RenderableType:
        """A line per pair, what is wrong with each, and the total."""
        from rich.console import Group
        from rich.text import Text

        rows = [_row(name, document) for name, document in self.documents]
        wrong = [
            Text(f"{printable(name)}: {printable('; '.join(faults(document)))}", style="red")
            for name, document in self.documents
            if not document["ok"]
        ]
        table = columns("models", "verdict", "ratio>", "float64>", "seconds>", rows=rows)
        total = Text(self.verdict, style="bold green" if self.ok else "bold red")
        return Group(table, *([Text("")] if wrong else []), *wrong, Text(""), total)


def _row(name: str, document: Document) -> tuple[str, ...]:
    verification = document.get("verification")
    if verification is None:
        return printable(name), "error", "", "", ""
    figures = (
        (verification["ratio"] if verification["max_error"] is None else None, ".2f"),
        (verification["float64"], ".0e"),
        (verification["seconds"], ".1f"),
    )
    verdict = "equal" if document["ok"] else "NOT EQUAL"
    return (
        printable(name),
        verdict,
        *("" if value is None else format(value, form) for value, form in figures),
    )

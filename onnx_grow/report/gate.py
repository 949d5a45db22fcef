"""Many verifications on one screen."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from onnx_grow.report.figures import printable
from onnx_grow.report.outcome import (
    HEADINGS,
    Document,
    devices,
    faults,
    figures,
    total,
    verdict,
    warnings,
    wrong,
)
from onnx_grow.report.tables import columns

if TYPE_CHECKING:
    from rich.console import RenderableType
    from rich.text import Text


@dataclass(frozen=True)
class Gate:
    """Pairs of models by name, each with its document of docs/json.md under `verify`."""

    documents: Sequence[tuple[str, Document]]

    @property
    def ok(self) -> bool:
        """Whether every pair is equal."""
        return all(document["ok"] for _, document in self.documents)

    @property
    def wrong(self) -> str:
        """How many pairs are not equal, in words."""
        return wrong(document for _, document in self.documents)

    def to_json(self) -> dict[str, Any]:
        """The keys of docs/json.md under `verify --manifest`."""
        return {"ok": self.ok, "pairs": [{"name": name, **document} for name, document in self.documents]}

    def view(self, *, verbose: bool = False) -> RenderableType:
        """A line per pair, what is wrong with each (with `verbose`: and every warning), where they ran, and the total."""
        from rich.console import Group
        from rich.text import Text

        documents = [document for _, document in self.documents]
        rows = [
            (printable(name), verdict(document.get("verification")), *figures(document))
            for name, document in self.documents
        ]
        remarks = list(self._remarks(verbose))
        places = [Text(printable(f"on {device}"), style="dim") for device in devices(documents)]
        style = "bold green" if self.ok else "bold red"
        return Group(
            columns("models", "verdict", *HEADINGS, rows=rows),
            *([Text("")] if remarks else []),
            *remarks,
            Text(""),
            *places,
            Text(total(documents), style=style),
        )

    def _remarks(self, verbose: bool) -> Iterator[Text]:
        from rich.text import Text

        for name, document in self.documents:
            if not document["ok"]:
                yield Text(f"{printable(name)}: {printable('; '.join(faults(document)))}", style="red")
            for warning in warnings(document) if verbose else ():
                yield Text(f"{printable(name)}: warning: {printable(warning)}", style="yellow")

"""What grew between two models: the result of `diff`."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from onnx_grow.report.figures import count, counted, printable, size, some
from onnx_grow.report.tables import columns, facts

if TYPE_CHECKING:
    from rich.console import RenderableType

    from onnx_grow.growth import Difference
    from onnx_grow.growth.difference import Change, LayerDifference

LISTED = 40
"""Layers listed one by one before the list is cut."""


@dataclass(frozen=True, eq=False)
class Differences:
    """Two files, the bytes that each takes, and what differs between them."""

    original: str
    grown: str
    original_bytes: int
    grown_bytes: int
    difference: Difference

    def to_json(self) -> dict[str, Any]:
        """The keys of docs/json.md under `diff`."""
        return {
            "original": self.original,
            "grown": self.grown,
            "bytes": {"before": self.original_bytes, "after": self.grown_bytes},
            "difference": self.difference.to_json(),
        }

    def view(self, *, verbose: bool = False) -> RenderableType:
        """What differs in all, then layer by layer; with `verbose`, every layer."""
        from rich.console import Group
        from rich.text import Text

        title = printable(f"{self.original} and {self.grown}")
        if self.difference.is_empty:
            return Group(Text(f"{title}: no difference", style="bold"), *self._history())
        layers = self.difference.layers
        listed = layers if verbose else layers[:LISTED]
        parts: list[RenderableType] = [Text(title, style="bold"), facts(self._facts())]
        if listed:
            rows = ((layer.change, printable(layer.name), layer.operator, _what(layer)) for layer in listed)
            parts += ["", columns("layer", "name", "operator", "differs", rows=rows)]
        if len(layers) > len(listed):
            parts.append(Text(f"and {len(layers) - len(listed):,} more (-v lists them)", style="dim"))
        return Group(*parts)

    def _facts(self) -> list[tuple[str, str]]:
        found = self.difference
        before, after = found.parameters.before, found.parameters.after
        times = f"  (x{after / before:.3g})" if before else ""
        kinds = Counter(layer.change for layer in found.layers)
        lines = [
            ("parameters", f"{count(before)} -> {count(after)}{times}"),
            ("on disk", f"{size(self.original_bytes)} -> {size(self.grown_bytes)}"),
            ("nodes", f"{found.nodes.before:,} -> {found.nodes.after:,}"),
            ("layers", ", ".join(f"{n:,} {kind}" for kind, n in kinds.items()) or "none differs"),
            ("weights", _weights(found.weights)),
        ]
        if found.values:
            names = some(found.values)
            lines.append(
                ("values", f"{counted(len(found.values), 'weight')} of equal shape and other values: {names}")
            )
        lines += [("interface", _change(change)) for change in found.interface]
        return [*lines, *((label, text) for label, text in self._done())]

    def _done(self) -> Iterator[tuple[str, str]]:
        for entry in self.difference.history:
            plan = entry.get("plan")
            plan = plan if isinstance(plan, dict) else {}
            what = printable(str(plan.get("operation", "grown")))
            for key, one in (("axes", "axis"), ("layers", "layer")):
                shortened = plan.get("shortened")
                n = shortened.get(key) if isinstance(shortened, dict) else plan.get(key)
                n = len(n) if isinstance(n, list) else n
                if isinstance(n, int):
                    what += f": {counted(n, one, key)}"
            yield "history", printable(f"{what}, by onnx-grow {entry.get('version', '?')}")

    def _history(self) -> list[RenderableType]:
        done = list(self._done())
        return [facts(done)] if done else []


def _what(layer: LayerDifference) -> str:
    if layer.change != "changed":
        return "; ".join(printable(f"{c.name} {_text(c.after or c.before)}") for c in layer.weights)
    return "; ".join(map(_change, (*layer.weights, *layer.attributes, *layer.inputs)))


def _weights(changes: Sequence[Change]) -> str:
    kinds = Counter(
        "added" if change.before is None else "removed" if change.after is None else "of another shape"
        for change in changes
    )
    return ", ".join(f"{n:,} {kind}" for kind, n in kinds.items()) or "of the same shapes"


def _change(change: Change) -> str:
    """A name with what it was and is; shapes and lists in brackets."""
    if change.before is None:
        return printable(f"new {change.name} {_text(change.after)}")
    if change.after is None:
        return printable(f"no {change.name} {_text(change.before)}")
    return printable(f"{change.name} {_text(change.before)} -> {_text(change.after)}")


def _text(value: Any) -> str:
    if isinstance(value, list | tuple):
        return f"[{', '.join('?' if item is None else str(item) for item in value)}]"
    return str(value)

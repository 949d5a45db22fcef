"""What can grow, what cannot, and why: the result of `inspect`."""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from onnx_grow.report.figures import count, counted, printable, share, size, some
from onnx_grow.report.tables import columns

if TYPE_CHECKING:
    import onnx
    from rich.console import RenderableType
    from rich.table import Table

    from onnx_grow.axes.table import AxisInfo, AxisTable
    from onnx_grow.model import Model

_GROWS = {"any": "any size", "uniform": "multiples"}

LISTED = 16
"""Axes listed one by one before the list is cut to the largest ones."""


@dataclass(frozen=True, eq=False)
class Inspection:
    """A model, the bytes it takes on disk, and its table of axes."""

    name: str
    model: Model
    nbytes: int
    table: AxisTable

    def to_json(self) -> dict[str, Any]:
        """The keys of docs/json.md under `inspect`."""
        skeleton = self.model.skeleton
        return {
            "model": {
                "path": self.name,
                "ir_version": skeleton.ir_version,
                "opset": self.model.opset,
                "nodes": len(skeleton.graph.node),
                "parameters": self.model.parameters,
                "bytes": self.nbytes,
                "inputs": [_value_json(value) for value in self._inputs],
                "outputs": [_value_json(value) for value in skeleton.graph.output],
            },
            "totals": {
                "axes": len(self.table),
                "growable_axes": len(self.table.growable),
                "parameters": self.table.parameters,
                "growable_parameters": self.table.growable_parameters,
                "analysed_parameters": self.table.analysed_parameters,
                "macs": self.table.macs,
                "shapes": {name: list(shape) for name, shape in self.table.inputs.items()},
            },
            "axes": self.table.to_json()["axes"],
            "layers": self._layers(),
        }

    def _layers(self) -> list[dict[str, Any]]:
        """The nodes that write or read axes, in the order of the graph."""
        writes: dict[str, list[str]] = defaultdict(list)
        reads: dict[str, list[str]] = defaultdict(list)
        for axis in self.table:
            for nodes, axes in ((axis.writers, writes), (axis.readers, reads)):
                for node in nodes:
                    axes[node].append(axis.name)
        return [
            {"name": name, "operator": node.op_type, "writes": writes[name], "reads": reads[name]}
            for node in self.model.skeleton.graph.node
            if (name := node.name or next(filter(None, node.output), "")) in writes or name in reads
        ]

    def view(self, *, verbose: bool = False) -> RenderableType:
        """One screen; with `verbose`, every axis and every reason."""
        from rich.console import Group
        from rich.text import Text

        growable = sorted(self.table.growable, key=lambda axis: -axis.parameters)
        listed = growable if verbose else growable[:LISTED]
        parts: list[RenderableType] = [Text(line) for line in self._heading()]
        parts += ["", Text(self._growable_line(), style="bold")]
        if not self.table.axes:
            parts += [Text(f"  {printable(reason)}") for reason in self.table.refused[:LISTED]]
            if self.table.refused and any(map(_open_beyond_samples, self._inputs)):
                parts.append(Text("  The file leaves sizes of its inputs open: --shape NAME:DIMS says them."))
        if growable:
            parts.append(_growable_table(listed, verbose=verbose))
        if len(growable) > len(listed):
            parts += [
                Text(f"  and {len(growable) - len(listed):,} smaller ones (-v lists them)", style="dim")
            ]
        if self.table.frozen:
            heading = f"Cannot grow: {counted(len(self.table.frozen), 'axis', 'axes')}"
            parts += ["", Text(heading, style="bold"), _frozen_table(self.table.frozen, verbose=verbose)]
        if line := self._rest():
            parts += ["", Text(line)]
        return Group(*parts)

    @property
    def _inputs(self) -> list[onnx.ValueInfoProto]:
        return [value for value in self.model.skeleton.graph.input if value.name not in self.model.weights]

    def _heading(self) -> list[str]:
        graph = self.model.skeleton.graph
        title = (
            f"{printable(self.name)}: opset {self.model.opset}, {counted(len(graph.node), 'node')}, "
            f"{count(self.model.parameters)} parameters, {size(self.nbytes)}"
        )
        if self.model.data_files:
            title += f" (with {some(tuple(file.name for file in self.model.data_files))})"
        return [
            title,
            *(f"  input   {_value_text(value)}" for value in self._inputs),
            *(f"  output  {_value_text(value)}" for value in graph.output),
            *self._cost(),
        ]

    def _cost(self) -> list[str]:
        """Multiply-accumulates, and the shapes they are for where the file leaves more than the number of samples open."""
        if not self.table.macs:
            return []
        line = f"  costs   {count(self.table.macs)} multiply-accumulates for one sample"
        guessed = [
            f"{printable(value.name)} [{', '.join(map(str, self.table.inputs[value.name]))}]"
            for value in self._inputs
            if value.name in self.table.inputs and _open_beyond_samples(value)
        ]
        return [f"{line} of {', '.join(guessed)} (--shape says otherwise)" if guessed else line]

    def _rest(self) -> str:
        """What the axes leave out, if it is worth a line."""
        rest = self.table.parameters - self.table.analysed_parameters
        if not self.table.axes or rest * 1000 < self.table.parameters:
            return ""
        return f"Without an axis: {count(rest)} of {count(self.table.parameters)} parameters, which stay as they are"

    def _growable_line(self) -> str:
        table = self.table
        if not table.growable:
            return "Can grow: nothing"
        kinds = Counter(axis.kind for axis in table.growable).most_common()
        return (
            f"Can grow: {counted(len(table.growable), 'axis', 'axes')} "
            f"({', '.join(f'{n:,} {kind}' for kind, n in kinds)}), holding "
            f"{count(table.growable_parameters)} of {count(table.parameters)} parameters "
            f"({share(table.growable_parameters, table.parameters)})"
        )


def _growable_table(axes: Sequence[AxisInfo], *, verbose: bool) -> Table:
    """One row per axis; who writes and reads it by number, or with `verbose` by name."""
    names = ("written by", "read by") if verbose else ("writers>", "readers>")
    rows = (
        (
            printable(axis.name),
            axis.kind,
            f"{axis.size:,}",
            _GROWS[axis.constraint],
            count(axis.parameters),
            *(
                some(nodes, len(nodes)) if verbose else f"{len(nodes):,}"
                for nodes in (axis.writers, axis.readers)
            ),
        )
        for axis in axes
    )
    return columns("axis", "kind", "size>", "grows to", "parameters>", *names, rows=rows)


def _frozen_table(axes: Sequence[AxisInfo], *, verbose: bool) -> Table:
    """One row per axis with `verbose`, otherwise one row per kind of reason, the most parameters first."""
    if verbose:
        every = (
            (printable(axis.name), f"{axis.size:,}", count(axis.parameters), _because(axis.reasons))
            for axis in axes
        )
        return columns("axis", "size>", "parameters>", "because", rows=every)
    groups: dict[str, list[AxisInfo]] = defaultdict(list)
    for axis in axes:
        groups[_kind_of_reason(axis.reasons)].append(axis)
    rows = []
    largest = sorted(groups.values(), key=lambda group: -sum(axis.parameters for axis in group))
    for group in largest[:LISTED]:
        example = max(group, key=lambda axis: axis.parameters)
        total = sum(axis.parameters for axis in group)
        because = _because(example.reasons[:1])
        rows.append((f"{len(group):,}", count(total), because, printable(example.name)))
    return columns("axes>", "parameters>", "because", "for example", rows=rows)


def _open_beyond_samples(value: onnx.ValueInfoProto) -> bool:
    shape = _value_json(value)["shape"]
    return shape is None or not all(isinstance(n, int) for n in shape[1:])


def _because(reasons: tuple[str, ...]) -> str:
    return printable("; ".join(reasons)) or "no reason given"


def _kind_of_reason(reasons: tuple[str, ...]) -> str:
    """The first reason without the names in it, so that a net of 900 nodes still fits on a screen."""
    return re.sub(r"'[^']*'|\"[^\"]*\"|`[^`]*`|\d+", "…", reasons[0]) if reasons else ""


def _value_json(value: onnx.ValueInfoProto) -> dict[str, Any]:
    import onnx

    tensor = value.type.tensor_type
    dims: list[int | str | None] | None = None
    if tensor.HasField("shape"):
        dims = [
            dim.dim_value if dim.HasField("dim_value") else dim.dim_param or None for dim in tensor.shape.dim
        ]
    name = onnx.TensorProto.DataType.Name(tensor.elem_type) if tensor.elem_type else None
    return {"name": value.name, "type": name and name.lower(), "shape": dims}


def _value_text(value: onnx.ValueInfoProto) -> str:
    fields = _value_json(value)
    shape = fields["shape"]
    dims = "" if shape is None else "[" + ", ".join("?" if dim is None else str(dim) for dim in shape) + "]"
    return printable(" ".join(part for part in (value.name, fields["type"], dims) if part))

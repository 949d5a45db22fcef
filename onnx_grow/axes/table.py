"""The table of axes: what can grow, what cannot and why, in words."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import cached_property
from html import escape
from math import prod
from typing import Any

from onnx_grow.axes.algebra import Axis, leaves
from onnx_grow.axes.inference import Analysis
from onnx_grow.model import holds_parameters

KINDS = ("hidden", "residual", "embedding", "state", "head_dim", "heads", "groups")
"""Kinds of axes, those that people mean by "wider" first."""

_BY_ROLE = (
    "groups",
    "heads",
    "head_dim",
    "state",
    "residual",
    "embedding",
)  # the first role that an axis has decides


@dataclass(frozen=True)
class AxisInfo:
    """One axis: a set of channels that grow together.

    `name` is that of the node that first writes it; of a state, that of the recurrent layer. `constraint` is "uniform" where
    statistics are taken over the axis, so that it grows by whole factors only, else "any". `reasons` say why it cannot grow, naming
    nodes. `writers` and `readers` are the nodes that compute the axis anew and that sum over it. `parameters` counts the elements of
    the weights it is a dimension of, `parameters_per_unit` what one more index adds.
    """

    name: str
    size: int
    kind: str
    constraint: str
    reasons: tuple[str, ...]
    writers: tuple[str, ...]
    readers: tuple[str, ...]
    parameters: int

    @property
    def growable(self) -> bool:
        """Whether the axis can grow."""
        return not self.reasons

    @property
    def parameters_per_unit(self) -> int:
        """Parameters that one more index adds, all else equal."""
        return self.parameters // self.size


@dataclass(frozen=True, repr=False)
class AxisTable:
    """The axes of a model that weights have, in graph order.

    Iterates as `AxisInfo`; `str()` is a plain table. `parameters` counts all weights of the model, `growable_parameters` those with
    at least one growable dimension, `analysed_parameters` those with any axis of the table. `refused` are the nodes that no rule
    describes, with reasons. `macs` are the multiply-accumulates for one sample at the shapes `inputs` of the model's inputs, the first
    dimension of which counts samples if the file leaves it open.
    """

    rows: tuple[AxisInfo, ...]
    parameters: int
    growable_parameters: int
    refused: tuple[str, ...]
    axes: Mapping[str, Axis] = field(repr=False, compare=False)
    macs: int = 0
    inputs: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    analysed_parameters: int = 0

    def __iter__(self) -> Iterator[AxisInfo]:
        return iter(self.rows)

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, name: str | int) -> AxisInfo:
        """The axis of that name, or at that position. Raises KeyError or IndexError when there is none."""
        if isinstance(name, int):
            return self.rows[name]
        return self._by_name[name]

    @cached_property
    def _by_name(self) -> dict[str, AxisInfo]:
        return {row.name: row for row in self.rows}

    @property
    def growable(self) -> tuple[AxisInfo, ...]:
        """The axes that can grow."""
        return tuple(row for row in self.rows if row.growable)

    @property
    def frozen(self) -> tuple[AxisInfo, ...]:
        """The axes that cannot, with their reasons."""
        return tuple(row for row in self.rows if not row.growable)

    def to_json(self) -> dict[str, Any]:
        """Plain data with the stable keys of `AxisInfo`."""
        return {
            "parameters": self.parameters,
            "growable_parameters": self.growable_parameters,
            "macs": self.macs,
            "refused": list(self.refused),
            "axes": [{**asdict(row), "growable": row.growable} for row in self.rows],
        }

    def __repr__(self) -> str:
        return str(self)

    def __str__(self) -> str:
        rows = self._cells()
        widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
        return "\n".join(
            "  ".join(cell.ljust(w) for cell, w in zip(line, widths, strict=True)).rstrip() for line in rows
        )

    def _repr_html_(self) -> str:
        """The table as notebooks show it."""
        heading, *rows = ([escape(cell) for cell in line] for line in self._cells())
        head = "".join(f"<th>{cell}</th>" for cell in heading)
        body = "".join(f"<tr>{''.join(f'<td>{cell}</td>' for cell in line)}</tr>" for line in rows)
        return f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"

    def _cells(self) -> list[tuple[str, ...]]:
        rows = [("axis", "kind", "size", "grows", "parameters", "why not")]
        for row in self.rows:
            grows = {"any": "yes", "uniform": "by whole factors"}[row.constraint] if row.growable else "no"
            why = "; ".join(row.reasons)
            rows.append((row.name, row.kind, str(row.size), grows, f"{row.parameters:,}", why))
        return list(rows)


def tabulate(analysis: Analysis) -> AxisTable:
    """The axes of an analysed model: those of computed tensors, and those inside an operator, that some weight has too."""
    return _Tabulation(analysis).table()


class _Tabulation:
    def __init__(self, analysis: Analysis) -> None:
        self.analysis = analysis
        self.writers: dict[Axis, list[int]] = {}
        self.readers: dict[Axis, list[int]] = {}
        self.weights: dict[Axis, dict[str, int]] = {}
        self.holders: dict[Axis, set[int]] = {}
        self.roles: dict[Axis, set[str]] = {}
        self.computed: set[Axis] = set()
        self.positions = {leaf for dim in analysis.said.positions for leaf in leaves(dim)}
        self.summed: dict[int, set[Axis]] = {}
        self.leaves: dict[str, tuple[Axis, ...]] = {}
        for contraction in analysis.said.contractions:
            self.summed.setdefault(contraction.node, set()).update(leaves(contraction.over))

    def table(self) -> AxisTable:
        self.leaves = {
            name: tuple(leaf for dim in dims for leaf in leaves(dim))
            for name, dims in self.analysis.dims.items()
            if name not in self.analysis.folded
        }
        for index in range(len(self.analysis.topology.nodes)):
            self._node(index)
        for index, dim in self.analysis.said.inside:
            for leaf in leaves(dim):
                self.writers.setdefault(leaf, [index])
        for role, dims in self.analysis.said.roles.items():
            for leaf in (leaf for dim in dims for leaf in leaves(dim)):
                self.roles.setdefault(leaf, set()).add(role)
        named: dict[str, Axis] = {}
        for found in self.writers:
            if found in self.weights and not (found.frozen and self._tells_nothing(found)):
                named[self._name(found, named)] = found
        rows = tuple(self._row(name, found) for name, found in named.items())
        sizes = {name: n for weights in self.weights.values() for name, n in weights.items()}
        growable = {name for found in named.values() if not found.frozen for name in self.weights[found]}
        analysed = {name for found in named.values() for name in self.weights[found]}
        dtype = self.analysis.shapes.dtype
        growing, held = (
            sum(sizes[name] for name in names if holds_parameters(dtype.get(name, 0)))
            for names in (growable, analysed)
        )
        return AxisTable(
            rows,
            self.analysis.model.parameters,
            growing,
            self.analysis.refused,
            named,
            analysed_parameters=held,
        )

    def _node(self, index: int) -> None:
        proto = self.analysis.topology.proto(index)
        inputs, outputs = self._leaves(proto.input), self._leaves(proto.output)
        summed = self.summed.get(index, set())
        for leaf in outputs:
            seen = self.writers.setdefault(leaf, [])
            if leaf not in inputs or leaf in summed:
                seen.append(index)
        for leaf in inputs:
            if leaf not in outputs or leaf in summed:
                self.readers.setdefault(leaf, []).append(index)
        for i, name in enumerate(proto.input):
            dims = self.analysis.uses.get((index, i))
            if dims is None or not self._is_weight(index, i, name):
                continue
            elements = prod(self.analysis.shapes.shape[name])
            for dim in dims:
                for leaf in leaves(dim):
                    self.weights.setdefault(leaf, {})[name] = elements
                    self.holders.setdefault(leaf, set()).add(index)
                    if leaf not in summed:
                        self.computed.add(leaf)

    def _tells_nothing(self, found: Axis) -> bool:
        """Whether nobody would take an axis for channels: there is but one, or they are positions that weights only sum over."""
        return found.size == 1 or (found in self.positions and found not in self.computed)

    def _is_weight(self, index: int, i: int, name: str) -> bool:
        """Whether a constant is made of numbers rather than counts: floats, or integers that stand for some."""
        return (index, i) in self.analysis.said.zeros or _is_float(self.analysis.shapes.dtype.get(name, 0))

    def _leaves(self, names: Iterable[str]) -> dict[Axis, None]:
        return {leaf: None for name in names for leaf in self.leaves.get(name, ())}

    def _name(self, found: Axis, taken: Mapping[str, Axis]) -> str:
        writers = self.writers[found]
        if "state" in self.roles.get(found, ()):  # whoever initialises it, it is that of the recurrent layer
            writers = [index for index in writers if index in self.holders[found]] or writers
        first = self._names(writers[:1])
        base = first[0] if first else next(iter(self.weights[found]))
        name, k = base, 1
        while name in taken:
            k += 1
            name = f"{base}:{k}"
        return name

    def _names(self, nodes: Sequence[int]) -> tuple[str, ...]:
        protos = (self.analysis.topology.proto(index) for index in nodes)
        return tuple(proto.name or next(filter(None, proto.output), proto.op_type) for proto in protos)

    def _row(self, name: str, found: Axis) -> AxisInfo:
        roles = self.roles.get(found, set())
        return AxisInfo(
            name,
            found.size,
            next((role for role in _BY_ROLE if role in roles), "hidden"),
            "uniform" if found.uniform else "any",
            found.reasons,
            self._names(self.writers[found]),
            self._names(self.readers.get(found, ())),
            sum(self.weights[found].values()),
        )


def _is_float(dtype: int) -> bool:
    return dtype in (1, 10, 11, 16)  # FLOAT, FLOAT16, DOUBLE, BFLOAT16 of TensorProto.DataType

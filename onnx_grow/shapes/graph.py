"""What a pass over a graph needs that does not depend on the input sizes, prepared once for all passes."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from math import prod

import onnx

from onnx_grow.errors import InvalidModelError
from onnx_grow.model import Model, inlined
from onnx_grow.model.bodies import ENTRY, flattened
from onnx_grow.shapes import types
from onnx_grow.shapes.types import Array, Type

__all__ = ["Graph", "Likeness", "keeps"]

STORED_INTEGERS = 64 * 1024
"""Elements up to which an integer or bool initializer or constant counts as a known value."""
STORED_FLOATS = 64
"""The same for floating point: enough for scales, ratios and epsilons, too few for weights worth mentioning."""
Likeness = tuple[
    str, str, tuple[bytes, ...], tuple[tuple[Type | None, bytes | None] | None, ...], tuple[bool, ...]
]
"""A node without its names: operator, domain, attributes, inputs (types and values; None where left out), whether outputs are there."""


@dataclass(frozen=True)
class Graph:
    """The nodes, and what is known of the tensors before any size is.

    `flat`: the model, local functions inlined and bodies written out. `names`: all tensors. `opaque`: those declared as
    sequences, maps or optionals. `formals`: types that bodies declare of their inputs. `stored`: types of the initializers.
    `values`: those small enough to matter. `outcomes`: types and values of the outputs of nodes that walks have met; deep networks repeat
    themselves.
    """

    flat: Model
    nodes: Sequence[onnx.NodeProto]
    names: tuple[str, ...]
    opaque: frozenset[str]
    inputs: Mapping[str, Type]
    formals: Mapping[str, Type]
    stored: Mapping[str, Type]
    values: Mapping[str, Array]
    opset_imports: list[onnx.OperatorSetIdProto]
    ir_version: int
    outcomes: dict[Likeness, list[tuple[Type | None, Array | None]]] = field(default_factory=dict)

    @classmethod
    def of(cls, model: Model) -> Graph:
        """The graph of a model, local functions inlined and bodies written out."""
        written, plain = flattened(model), _without_functions(model)
        listed = written.skeleton.graph
        model = written if plain is model else flattened(plain)
        graph = model.skeleton.graph
        inputs = {value.name: types.read(value.type) for value in graph.input}
        stored = {name: Type(weight.dtype, weight.shape) for name, weight in model.weights.items()}
        for sparse in graph.sparse_initializer:
            stored[sparse.values.name] = Type(sparse.values.data_type, tuple(sparse.dims))
        computed = (name for node in listed.node for name in node.output if name)
        declared = {value.name: value.type for value in graph.value_info}
        entered = (name for node in graph.node if node.domain == ENTRY for name in node.output)
        return cls(
            flat=model,
            nodes=list(graph.node),
            names=tuple(dict.fromkeys([*inputs, *stored, *computed])),
            opaque=frozenset(
                value.name for value in (*graph.value_info, *graph.output) if types.read(value.type).other
            ),
            inputs=inputs,
            formals={name: types.read(declared[name]) for name in entered if name in declared},
            stored=stored,
            values={
                name: weight.array()
                for name, weight in model.weights.items()
                if keeps(weight.dtype, weight.shape)
            },
            opset_imports=list(model.skeleton.opset_import),
            ir_version=model.skeleton.ir_version,
        )


def keeps(dtype: int, shape: Iterable[int]) -> bool:
    """Whether a stored tensor is kept as a value."""
    limit = STORED_INTEGERS if dtype in types.INTEGERS else STORED_FLOATS if dtype in types.FLOATS else -1
    return prod(shape) <= limit


def _without_functions(model: Model) -> Model:
    try:
        return inlined(model)
    except InvalidModelError:  # a function that cannot be inlined is an operator without inference
        return model

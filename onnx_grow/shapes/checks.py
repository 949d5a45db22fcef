"""What a node must be like before native code sees it: that divides by counts, indexes by axes, and trusts an equation to end.

ONNX's own inference and ONNX Runtime check much of this, but not all: they crash or never return where these checks are missing.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache

from onnx import AttributeProto, NodeProto
from onnx.defs import OpSchema

from onnx_grow.errors import InvalidModelError
from onnx_grow.model.names import quoted, title
from onnx_grow.model.nodes import is_default
from onnx_grow.shapes.types import Array

__all__ = ["check_node"]

_KINDS = AttributeProto.AttributeType
_MANY = 1 << 30
"""More than any operator has inputs: of a list, any number."""

_COUNTS = frozenset(
    (
        "blocksize",
        "dilations",
        "group",
        "hidden_size",
        "kernel_shape",
        "kv_num_heads",
        "num_groups",
        "num_outputs",
        "q_num_heads",
        "size",
        "strides",
    )
)
"""Attributes that count something there is at least one of."""
_BEYOND = frozenset(("Flatten", "OneHot"))
"""Operators whose axis may also lie one behind the last, or before the first."""
_ANY_AXIS = frozenset(("QuantizeLinear", "DequantizeLinear"))
"""Operators that ignore their axis where a scale is a scalar."""
_EQUATION = re.compile(rb"(?:[A-Za-z, ]|\.\.\.)*(?:->(?:[A-Za-z ]|\.\.\.)*)?")


def check_node(
    schema: OpSchema,
    node: NodeProto,
    shape: Callable[[str], tuple[int, ...] | None],
    value: Callable[[str], Array | None],
) -> None:
    """Raise InvalidModelError for a node whose inputs, outputs or attributes are not those of its operator, or mean nothing.

    `schema` is that of the operator; `shape` and `value` tell of tensors what is known.
    """
    _check_counts(schema, node)
    if node.op_type == "Split":
        _check_parts(node, value)
    _check_attributes(schema, node, shape)


def _check_counts(schema: OpSchema, node: NodeProto) -> None:
    arity = _arity(schema)
    for what, count, legal in (
        ("input", len(node.input), arity.inputs),
        ("output", len(node.output), arity.outputs),
    ):
        if count not in legal:
            least, most = legal[0], legal[-1]
            wanted = (
                f"{least}" if least == most else f"{least} to {most}" if most < _MANY else f"{least} or more"
            )
            raise InvalidModelError(
                f"{title(node)} has {count} {what}{'' if count == 1 else 's'}, its operator has {wanted}"
            )
    # Of others, exporters do leave out some that Resize says it needs.
    if "" in node.input[arity.listed :]:
        missing = list(node.input).index("", arity.listed)
        raise InvalidModelError(f"{title(node)} has no input {missing}, which it needs")


def _check_parts(node: NodeProto, value: Callable[[str], Array | None]) -> None:
    """Raise InvalidModelError for a Split into more or fewer parts than it has outputs."""
    parts = {attribute.name: len(attribute.ints) or attribute.i for attribute in node.attribute}
    sizes = value(node.input[1]) if len(node.input) > 1 else None
    for count in (parts.get("num_outputs"), parts.get("split"), None if sizes is None else sizes.size):
        if count not in (None, len(node.output)):
            raise InvalidModelError(f"{title(node)} has {len(node.output)} outputs for {count} parts")


def _check_attributes(
    schema: OpSchema, node: NodeProto, shape: Callable[[str], tuple[int, ...] | None]
) -> None:
    formal = _formal(schema)
    found = {attribute.name: attribute.type for attribute in node.attribute}
    for name, (kind, required) in formal.items():
        if name not in found:
            if required:
                raise InvalidModelError(f"{title(node)} has no attribute {quoted(name)}, which it needs")
        elif found[name] != kind:
            names = [_KINDS.Name(each).lower() for each in (found[name], kind)]
            raise InvalidModelError(
                f"{title(node)} has the attribute {quoted(name)} of type {names[0]}, not {names[1]}"
            )
    if is_default(node):
        for attribute in node.attribute:
            _check_value(node, attribute, shape(node.input[0]) if node.input else None)


@dataclass(frozen=True)
class _Arity:
    """How many inputs and outputs an operator takes, and from which on the inputs are a list."""

    inputs: range
    outputs: range
    listed: int


@cache
def _arity(schema: OpSchema) -> _Arity:
    kinds = [formal.option for formal in schema.inputs]
    last = OpSchema.FormalParameterOption.Variadic
    return _Arity(
        range(schema.min_input, schema.max_input + 1),
        range(schema.min_output, schema.max_output + 1),
        kinds.index(last) if last in kinds else schema.max_input,
    )


@cache
def _formal(schema: OpSchema) -> dict[str, tuple[int, bool]]:
    """AttributeProto.AttributeType of an operator's attributes, and whether they are required."""
    return {
        name: (_KINDS.Value(str(formal.type).rpartition(".")[2]), formal.required)
        for name, formal in schema.attributes.items()
    }


def _check_value(node: NodeProto, attribute: AttributeProto, shape: tuple[int, ...] | None) -> None:
    if attribute.name in _COUNTS and any(value <= 0 for value in _integers(attribute)):
        _refuse(node, attribute)
    if attribute.name == "axis" and node.op_type not in _ANY_AXIS:
        rank = None if shape is None else len(shape) + (node.op_type in _BEYOND)
        if not (-64 <= attribute.i < 64 if rank is None else -rank <= attribute.i < rank):
            _refuse(node, attribute, "" if shape is None else f", and its input has {len(shape)} dimensions")
    if node.op_type == "Einsum" and attribute.name == "equation" and not _EQUATION.fullmatch(attribute.s):
        _refuse(node, attribute)


def _integers(attribute: AttributeProto) -> tuple[int, ...]:
    return tuple(attribute.ints) if attribute.ints else (attribute.i,)


def _refuse(node: NodeProto, attribute: AttributeProto, why: str = "") -> None:
    value = (
        quoted(attribute.s) if attribute.s else quoted(str(list(attribute.ints) or attribute.i)).strip("'")
    )
    raise InvalidModelError(f"{title(node)} has the attribute {quoted(attribute.name)} {value}{why}")

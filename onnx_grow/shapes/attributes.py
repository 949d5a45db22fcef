"""What attributes must be like before native code sees them: it divides by counts, indexes by axes, and trusts an equation to end.

ONNX's own inference and ONNX Runtime check much of this, but not all: they crash or never return where these checks are missing.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import cache

from onnx import AttributeProto, NodeProto
from onnx.defs import OpSchema

from onnx_grow.errors import InvalidModelError
from onnx_grow.model.names import quoted
from onnx_grow.shapes.evaluation import is_default, title

__all__ = ["check_attributes"]

_KINDS = AttributeProto.AttributeType

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


def check_attributes(
    schema: OpSchema, node: NodeProto, shape: Callable[[str], tuple[int, ...] | None]
) -> None:
    """Raise InvalidModelError for an attribute of another type than the operator's, one that is missing, or a value nothing can mean.

    `schema` is that of the operator, `shape` tells shapes of tensors where they are known.
    """
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

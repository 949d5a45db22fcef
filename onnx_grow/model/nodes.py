"""Single nodes: whose operator one is, and the node that is a constant."""

from __future__ import annotations

from typing import Any

import numpy as np
from onnx import NodeProto, helper, numpy_helper

__all__ = ["NUMBERS", "constant", "is_default"]

NUMBERS = {
    "value_float": np.float32,
    "value_floats": np.float32,
    "value_int": np.int64,
    "value_ints": np.int64,
}
"""Attributes of Constant that hold numbers, beside the tensors `value` and `sparse_value`; and of which type they are."""


def is_default(node: NodeProto) -> bool:
    """Whether the operator is of ONNX's default domain."""
    return node.domain in ("", "ai.onnx")


def constant(name: str, value: np.ndarray[Any, Any], node_name: str = "") -> NodeProto:
    """The Constant node that makes a tensor of this name and value."""
    return helper.make_node("Constant", [], [name], node_name, value=numpy_helper.from_array(value))

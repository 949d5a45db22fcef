"""One node at a time, by the reference implementation of its operator."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import cache
from typing import Any

import numpy as np
import onnx

from onnx_grow.errors import InvalidModelError
from onnx_grow.model.names import title
from onnx_grow.model.nodes import is_default
from onnx_grow.shapes.types import Array

RANDOM = frozenset(
    {"Bernoulli", "Multinomial", "RandomNormal", "RandomNormalLike", "RandomUniform", "RandomUniformLike"}
)


def evaluate(
    node: onnx.NodeProto,
    opset_imports: Iterable[onnx.OperatorSetIdProto],
    inputs: Sequence[Array | None],
) -> list[Array]:
    """Outputs of one node of the default domain for input values, None where an optional input is absent.

    Raises InvalidModelError when the operator is random, has a subgraph, has no reference implementation, or
    rejects the values.
    """
    opset = default_opset(opset_imports)
    if not is_default(node) or node.op_type in RANDOM or _has_subgraph(node):
        raise InvalidModelError(f"{title(node)} has no value that can be computed ahead of a run")
    try:
        with np.errstate(all="ignore"):
            operator = _implementation(node.op_type, opset)(node, _run_parameters(opset))
            outputs = operator.run(*inputs)
    except Exception as reason:  # the reference implementations raise whatever numpy raises
        raise InvalidModelError(f"{title(node)} cannot be evaluated: {reason}") from reason
    return [np.asarray(output) for output in outputs]


def default_opset(opset_imports: Iterable[onnx.OperatorSetIdProto]) -> int:
    """Version of the default domain; 1 where the file imports none, as files of the first IR versions do."""
    return next((entry.version for entry in opset_imports if entry.domain in ("", "ai.onnx")), 1)


@cache
def _implementation(op_type: str, opset: int) -> Any:
    from onnx.reference import ReferenceEvaluator
    from onnx.reference.ops import load_op

    return load_op("", op_type, opset, evaluator_cls=ReferenceEvaluator)


@cache
def _run_parameters(opset: int) -> dict[str, Any]:
    return {"log": lambda *_: None, "opsets": {"": opset}, "verbose": 0, "new_ops": None}


def _has_subgraph(node: onnx.NodeProto) -> bool:
    return any(attribute.type in (attribute.GRAPH, attribute.GRAPHS) for attribute in node.attribute)

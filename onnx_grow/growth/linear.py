"""Linear nodes of inserted layers, and the changes of layout around them."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from onnx import NodeProto

from onnx_grow.growth.dataflow import attribute, operator
from onnx_grow.growth.insertion import Insertion

__all__ = ["convolution", "redone", "undone"]


def convolution(
    insertion: Insertion, tensor: str, weight: str, bias: str, kernel: Sequence[int], groups: int
) -> str:
    """A convolution of stride 1 that keeps the size of the picture; the kernel is odd, an empty `bias` none."""
    return insertion.add(
        "Conv",
        [tensor, weight, bias] if bias else [tensor, weight],
        kernel_shape=kernel,
        pads=[size // 2 for size in kernel] * 2,
        strides=[1] * len(kernel),
        dilations=[1] * len(kernel),
        group=groups,
    )


def undone(insertion: Insertion, nodes: Sequence[NodeProto], tensor: str) -> str:
    """The tensor before the changes of layout among some nodes; a Transpose without `perm` is its own inverse."""
    for node in reversed(nodes):
        if operator(node) not in _INVERSE:
            continue
        attributes = {}
        if order := attribute(node, "perm"):
            attributes["perm"] = np.argsort(order).tolist()
        if axes := attribute(node, "axes"):
            attributes["axes"] = axes
        tensor = insertion.add(_INVERSE[operator(node)], [tensor, *node.input[1:]], **attributes)
    return tensor


def redone(insertion: Insertion, nodes: Sequence[NodeProto], tensor: str) -> str:
    """The tensor behind changes of layout."""
    for node in nodes:
        (tensor,) = insertion.copy(node, [tensor, *node.input[1:]], node.op_type, node.output[:1])
    return tensor


_INVERSE = {"Squeeze": "Unsqueeze", "Transpose": "Transpose", "Unsqueeze": "Squeeze"}

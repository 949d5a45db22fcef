"""bfloat16 models as float32 ones, for ONNX Runtime, which has few bfloat16 kernels and no way to feed them.

Every bfloat16 value is a float32 value, so the weights stay what they are; only the arithmetic between them is more
exact. What the rounding of the weights to bfloat16 does is still there, in both models.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
from onnx import AttributeProto, TensorProto, numpy_helper

from onnx_grow.model import Inline, Model, Weight
from onnx_grow.model.walk import all_nodes, graphs, tensors

__all__ = ["promoted", "uses_bfloat16"]

_TYPE_ATTRIBUTES = ("to", "dtype", "output_dtype", "stash_type", "precision")


def uses_bfloat16(model: Model) -> bool:
    """Whether any weight, input, output, constant or cast is bfloat16."""
    skeleton = model.skeleton
    return (
        any(weight.dtype == TensorProto.BFLOAT16 for weight in model.weights.values())
        or any(proto.elem_type == TensorProto.BFLOAT16 for proto in _tensor_types(skeleton))
        or any(tensor.data_type == TensorProto.BFLOAT16 for tensor in tensors(skeleton))
        or any(True for _ in _type_attributes(skeleton))
    )


def promoted(model: Model) -> Model:
    """The same model with float32 in place of bfloat16 everywhere; weights are converted while they are read."""
    skeleton = onnx.ModelProto()
    skeleton.CopyFrom(model.skeleton)
    for proto in _tensor_types(skeleton):
        if proto.elem_type == TensorProto.BFLOAT16:
            proto.elem_type = TensorProto.FLOAT
    for attribute in list(_type_attributes(skeleton)):
        attribute.i = TensorProto.FLOAT
    for tensor in tensors(skeleton):
        if tensor.data_type == TensorProto.BFLOAT16:
            values = numpy_helper.to_array(tensor).astype(np.float32)
            tensor.CopyFrom(numpy_helper.from_array(values, tensor.name))
    for initializer in skeleton.graph.initializer:
        if initializer.data_type == TensorProto.BFLOAT16:
            initializer.data_type = TensorProto.FLOAT
    weights: dict[str, Weight] = {
        name: _Promoted(weight) if weight.dtype == TensorProto.BFLOAT16 else weight
        for name, weight in model.weights.items()
    }
    return Model(skeleton, weights)


@dataclass(frozen=True, eq=False)
class _Promoted:
    """A bfloat16 weight read as float32."""

    base: Weight

    @property
    def dtype(self) -> int:
        return int(TensorProto.FLOAT)

    @property
    def shape(self) -> tuple[int, ...]:
        return self.base.shape

    @property
    def nbytes(self) -> int:
        return 2 * self.base.nbytes

    def array(self) -> np.ndarray[Any, Any]:
        return self.base.array().astype(np.float32)

    def chunks(self) -> Iterator[bytes | memoryview]:
        return Inline(self.array()).chunks()


def _tensor_types(skeleton: onnx.ModelProto) -> Iterator[onnx.TypeProto.Tensor]:
    for graph in graphs(skeleton):
        for value in (*graph.input, *graph.output, *graph.value_info):
            proto = value.type
            while proto.WhichOneof("value") in ("sequence_type", "optional_type"):
                proto = getattr(proto, proto.WhichOneof("value")).elem_type
            if proto.HasField("tensor_type"):
                yield proto.tensor_type


def _type_attributes(skeleton: onnx.ModelProto) -> Iterator[AttributeProto]:
    for node in all_nodes(skeleton):
        for attribute in node.attribute:
            if attribute.name in _TYPE_ATTRIBUTES and attribute.i == TensorProto.BFLOAT16:
                yield attribute

"""Models in a wider floating-point type: bfloat16 ones as float32, for ONNX Runtime, which has few bfloat16 kernels and no way
to feed them, and any as float64, to tell rounding from error.

Every value of a type is one of the wider type, too, so the weights stay what they are; only the arithmetic between them is more
exact. What the rounding of the weights did is still there, in both models.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
from onnx import AttributeProto, TensorProto, helper, numpy_helper

from onnx_grow.model import Inline, Model, Weight, raw_length, rows_of
from onnx_grow.model.walk import all_nodes, graphs, tensors

__all__ = ["doubled", "promoted", "uses_bfloat16"]

_TYPE_ATTRIBUTES = ("to", "dtype", "output_dtype", "stash_type", "precision")


def uses_bfloat16(model: Model) -> bool:
    """Whether any weight, input, output, constant or cast is bfloat16."""
    skeleton = model.skeleton
    return (
        any(weight.dtype == TensorProto.BFLOAT16 for weight in model.weights.values())
        or any(proto.elem_type == TensorProto.BFLOAT16 for proto in _tensor_types(skeleton))
        or any(tensor.data_type == TensorProto.BFLOAT16 for tensor in tensors(skeleton))
        or any(attribute.i == TensorProto.BFLOAT16 for attribute in _type_attributes(skeleton))
    )


def promoted(
    model: Model, *, narrow: Collection[int] = (TensorProto.BFLOAT16,), wide: int = TensorProto.FLOAT
) -> Model:
    """The same model with the type `wide` in place of the types `narrow` everywhere; weights are converted while they are read."""
    skeleton = onnx.ModelProto()
    skeleton.CopyFrom(model.skeleton)
    for proto in _tensor_types(skeleton):
        if proto.elem_type in narrow:
            proto.elem_type = wide
    for attribute in _type_attributes(skeleton):
        if attribute.i in narrow:
            attribute.i = wide
    for tensor in tensors(skeleton):
        if tensor.data_type in narrow:
            values = numpy_helper.to_array(tensor).astype(_numpy(wide))
            tensor.CopyFrom(numpy_helper.from_array(values, tensor.name))
    for initializer in skeleton.graph.initializer:
        if initializer.data_type in narrow:
            initializer.data_type = wide
    weights: dict[str, Weight] = {
        name: _Promoted(weight, wide) if weight.dtype in narrow else weight
        for name, weight in model.weights.items()
    }
    return Model(skeleton, weights)


def doubled(model: Model) -> Model:
    """The same model in float64. Its operators need not have kernels for that: see `onnx_grow.verification.proof`."""
    narrow = (TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.BFLOAT16)
    return promoted(model, narrow=narrow, wide=TensorProto.DOUBLE)


@dataclass(frozen=True, eq=False)
class _Promoted:
    """A weight read in a wider type."""

    base: Weight
    dtype: int

    @property
    def shape(self) -> tuple[int, ...]:
        return self.base.shape

    @property
    def nbytes(self) -> int:
        return raw_length(self.dtype, self.shape)

    def array(self) -> np.ndarray[Any, Any]:
        return self.base.array().astype(_numpy(self.dtype))

    def rows(self) -> Callable[[np.ndarray[Any, Any]], np.ndarray[Any, Any]]:
        narrow = rows_of(self.base)
        return lambda index: narrow(index).astype(_numpy(self.dtype))

    def chunks(self) -> Iterator[bytes | memoryview]:
        return Inline(self.array()).chunks()


def _numpy(dtype: int) -> np.dtype[Any]:
    return helper.tensor_dtype_to_np_dtype(dtype)


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
            if attribute.name in _TYPE_ATTRIBUTES:
                yield attribute

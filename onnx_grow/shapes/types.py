"""ONNX types as inference passes them around: often complete, sometimes with the rank or the element type only."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
from onnx import TensorProto, TensorShapeProto, TypeProto, helper

Array = np.ndarray[Any, Any]

INTEGERS = frozenset(
    {
        TensorProto.BOOL,
        TensorProto.INT8,
        TensorProto.INT16,
        TensorProto.INT32,
        TensorProto.INT64,
        TensorProto.UINT8,
        TensorProto.UINT16,
        TensorProto.UINT32,
        TensorProto.UINT64,
    }
)
FLOATS = frozenset({TensorProto.FLOAT16, TensorProto.BFLOAT16, TensorProto.FLOAT, TensorProto.DOUBLE})


def tensor_type(dtype: int, shape: Iterable[int]) -> TypeProto:
    """The type of a tensor with this TensorProto.DataType and concrete shape."""
    return helper.make_tensor_type_proto(dtype, tuple(shape))


def of_array(array: Array) -> TypeProto:
    """The type of an array with numbers or booleans in it."""
    return tensor_type(helper.np_dtype_to_tensor_dtype(array.dtype), array.shape)


def is_tensor(known: TypeProto) -> bool:
    """False for sequences, optionals, maps and sparse tensors, which have no shape to find."""
    return known.WhichOneof("value") in (None, "tensor_type")


def dtype(known: TypeProto) -> int:
    """The TensorProto.DataType; 0 where it is unknown or the type is not a tensor."""
    return known.tensor_type.elem_type if known.HasField("tensor_type") else 0


def shape(known: TypeProto) -> tuple[int, ...] | None:
    """The shape, if all of it is known."""
    if not known.HasField("tensor_type") or not known.tensor_type.HasField("shape"):
        return None
    sizes = tuple(dim.dim_value if dim.HasField("dim_value") else -1 for dim in known.tensor_type.shape.dim)
    return None if any(size < 0 for size in sizes) else sizes


def common(first: TypeProto, second: TypeProto) -> TypeProto:
    """What two types have in common, as of the two branches of an If."""
    if first == second:
        return first
    merged = TypeProto()
    if dtype(first) == dtype(second) != 0:
        merged.tensor_type.elem_type = dtype(first)
    return merged


def agreed(first: TypeProto, second: TypeProto) -> TypeProto:
    """What two types of tensors have in common: where the ranks agree, the sizes that do."""
    if first == second:
        return first
    merged = common(first, second)
    if dtype(merged) and _rank(first) == _rank(second) != -1:
        for one, other in zip(first.tensor_type.shape.dim, second.tensor_type.shape.dim, strict=True):
            merged.tensor_type.shape.dim.add().CopyFrom(one if one == other else TensorShapeProto.Dimension())
        merged.tensor_type.shape.SetInParent()
    return merged


def without_dim(known: TypeProto, position: int) -> TypeProto:
    """The type of a slice along a dimension."""
    out = TypeProto()
    out.CopyFrom(known)
    if -_rank(known) <= position < _rank(known):
        del out.tensor_type.shape.dim[position]
    else:
        out.tensor_type.ClearField("shape")
    return out


def with_dim(known: TypeProto, position: int, size: int | None) -> TypeProto:
    """The type of slices stacked along a new dimension, of `size` if that is known."""
    out = TypeProto()
    out.CopyFrom(known)
    rank = _rank(known)
    if -rank - 1 <= position <= rank != -1:
        dims = list(known.tensor_type.shape.dim)
        new = TensorShapeProto.Dimension() if size is None else TensorShapeProto.Dimension(dim_value=size)
        dims.insert(position + rank + 1 if position < 0 else position, new)
        del out.tensor_type.shape.dim[:]
        out.tensor_type.shape.dim.extend(dims)
    else:
        out.tensor_type.ClearField("shape")
    return out


def size(known: TypeProto, position: int) -> int | None:
    """The size of a dimension, if it is known."""
    if not -_rank(known) <= position < _rank(known):
        return None
    dim = known.tensor_type.shape.dim[position]
    return int(dim.dim_value) if dim.HasField("dim_value") else None


def _rank(known: TypeProto) -> int:
    """The number of dimensions; -1 where it is not known."""
    return len(known.tensor_type.shape.dim) if known.tensor_type.HasField("shape") else -1

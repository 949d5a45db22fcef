"""Types as inference passes them around: often complete, sometimes with the rank or the element type only."""

from __future__ import annotations

from collections.abc import Iterable
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np
from onnx import TensorProto, TypeProto, helper

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


class Type(NamedTuple):
    """What is known of a value's type.

    `dtype` is the TensorProto.DataType, 0 where it is unknown. `dims` are the sizes of a tensor's dimensions, None for those that are not
    known; None where the rank is not known. `other` is the serialized type of what is no tensor: sequences, optionals, maps and others.
    """

    dtype: int = 0
    dims: tuple[int | None, ...] | None = None
    other: bytes = b""

    @property
    def shape(self) -> tuple[int, ...] | None:
        """The shape, if all of it is known."""
        if self.dims is None or None in self.dims:
            return None
        shape: tuple[int, ...] = self.dims  # type: ignore[assignment]
        return shape if not shape or min(shape) >= 0 else None

    @property
    def rank(self) -> int:
        """The number of dimensions; -1 where it is not known."""
        return -1 if self.dims is None else len(self.dims)

    def size(self, position: int) -> int | None:
        """The size of a dimension, if it is known."""
        return self.dims[position] if self.dims and -self.rank <= position < self.rank else None

    def common(self, other: Type) -> Type:
        """What two types have in common, as of the two branches of an If."""
        return self if self == other else Type(self.dtype if self.dtype == other.dtype else 0)

    def agreed(self, other: Type) -> Type:
        """What two types of tensors have in common: where the ranks agree, the sizes that do."""
        merged = self.common(other)
        if self == other or not merged.dtype or self.dims is None or self.rank != other.rank:
            return merged
        pairs = zip(self.dims, other.dims or (), strict=True)
        return Type(merged.dtype, tuple(one if one == another else None for one, another in pairs))

    def without_dim(self, position: int) -> Type:
        """The type of a slice along a dimension."""
        if not self.dims or not -self.rank <= position < self.rank:
            return self._replace(dims=None)
        position %= self.rank
        return self._replace(dims=(*self.dims[:position], *self.dims[position + 1 :]))

    def with_dim(self, position: int, size: int | None) -> Type:
        """The type of slices stacked along a new dimension, of `size` if that is known."""
        if self.dims is None or not -self.rank - 1 <= position <= self.rank:
            return self._replace(dims=None)
        position %= self.rank + 1
        return self._replace(dims=(*self.dims[:position], size, *self.dims[position:]))


UNKNOWN = Type()


def tensor_type(dtype: int, shape: Iterable[int]) -> TypeProto:
    """The type of a tensor with this TensorProto.DataType and concrete shape."""
    return helper.make_tensor_type_proto(dtype, tuple(shape))


def of_array(array: Array) -> Type:
    """The type of an array with numbers or booleans in it."""
    return Type(_dtype(array.dtype), array.shape)


def read(known: TypeProto) -> Type:
    """What a message says of a type; names of sizes count for nothing."""
    if not known.HasField("tensor_type"):
        return Type(other=known.SerializeToString()) if known.WhichOneof("value") else UNKNOWN
    tensor = known.tensor_type
    if not tensor.HasField("shape"):
        return Type(tensor.elem_type)
    dims = tuple(dim.dim_value if dim.HasField("dim_value") else None for dim in tensor.shape.dim)
    return Type(tensor.elem_type, dims)


@lru_cache(maxsize=1 << 12)
def written(known: Type) -> TypeProto:
    """The message that says as much; not to be changed."""
    message = TypeProto()
    if known.other:
        message.ParseFromString(known.other)
    elif known != UNKNOWN:
        message.CopyFrom(helper.make_tensor_type_proto(known.dtype, known.dims))
    return message


@lru_cache
def _dtype(dtype: np.dtype[Any]) -> int:
    return int(helper.np_dtype_to_tensor_dtype(dtype))

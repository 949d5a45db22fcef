"""Weights: what an initializer holds, without holding it.

A weight knows its type, its shape and how many bytes it takes; its values are read only when someone asks
for the array or when the writer streams the bytes. Anything with these five members is a weight. One that can do so also offers `parts`,
its bytes in pieces that are computed in any order and several at a time, or `rows`, so that a weight computed from it need not have all
of it in memory.
"""

from __future__ import annotations

import math
import mmap
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple, Protocol, cast, runtime_checkable

import numpy as np
from onnx import TensorProto, helper, numpy_helper

__all__ = [
    "DATA_FIELDS",
    "Divisible",
    "Inline",
    "Part",
    "Place",
    "Stored",
    "Typed",
    "Weight",
    "dtype_name",
    "raw_length",
    "rows_in",
    "rows_of",
    "typed_length",
]

CHUNK = 4 << 20
"""Bytes handed to the writer at a time."""

DATA_FIELDS = ("float_data", "int32_data", "string_data", "int64_data", "double_data", "uint64_data")
"""The fields of a TensorProto that hold elements one by one, where `raw_data` is not used."""


Part = tuple[int, Callable[[], "bytes | memoryview"]]
"""The number of bytes of a piece of a weight, and what computes it."""


@runtime_checkable
class Weight(Protocol):
    """The values of one initializer, in memory or not."""

    @property
    def dtype(self) -> int:
        """The element type, an `onnx.TensorProto.DataType`."""

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape; `()` for a scalar."""

    @property
    def nbytes(self) -> int:
        """Bytes of the values in ONNX's `raw_data` layout: little endian, types below one byte packed."""

    def array(self) -> np.ndarray[Any, Any]:
        """The values, read-only; bfloat16, float8, int4 and the like as `ml_dtypes`, strings as objects."""

    def chunks(self) -> Iterator[bytes | memoryview]:
        """The `raw_data` bytes in order, in bounded pieces. Strings have none (TypeError)."""


@runtime_checkable
class Divisible(Protocol):
    """A weight whose bytes can be computed piece by piece, in any order and in several threads."""

    def parts(self) -> Iterator[Part]:
        """The pieces in the order in which they lie."""


class Place(NamedTuple):
    """Where bytes lie: a file, as it was when it was opened (its device and inode), and the position in it."""

    path: Path
    identity: tuple[int, int]
    offset: int


class Stored:
    """A weight whose bytes lie in a memory map, or another buffer: nothing is resident until it is read.

    A mapped file may be replaced or deleted while it is in use, but not overwritten in place. `place` is where the bytes lie in it.
    """

    __slots__ = ("buffer", "dtype", "place", "shape")

    def __init__(
        self, dtype: int, shape: Sequence[int], buffer: memoryview, place: Place | None = None
    ) -> None:
        self.dtype = dtype
        self.shape = tuple(shape)
        self.buffer = buffer.toreadonly()
        self.place = place

    @property
    def nbytes(self) -> int:
        """Bytes of the values, as they are stored."""
        return self.buffer.nbytes

    def array(self) -> np.ndarray[Any, Any]:
        """The values, without a copy unless the type is narrower than one byte."""
        if _bits(self.dtype) < 8:
            packed = TensorProto(data_type=self.dtype, dims=self.shape, raw_data=bytes(self.buffer))
            return _readonly(numpy_helper.to_array(packed))
        native = helper.tensor_dtype_to_np_dtype(self.dtype)
        stored = native if native.kind == "V" else native.newbyteorder("<")
        return np.frombuffer(self.buffer, stored).reshape(self.shape)

    def chunks(self) -> Iterator[bytes | memoryview]:
        """The stored bytes in order, each piece a view of the buffer."""
        return _cut(self.buffer)

    def expect(self, start: int, count: int) -> None:
        """Have the system read some of the bytes, which are needed soon, at once: it would else wait for each few pages."""
        data = self.buffer.obj
        if isinstance(data, mmap.mmap) and self.place is not None and hasattr(data, "madvise"):
            first = self.place.offset + start
            begin = first - first % mmap.PAGESIZE
            data.madvise(mmap.MADV_WILLNEED, begin, first + count - begin)

    def __repr__(self) -> str:
        return f"Stored({dtype_name(self.dtype)}, {list(self.shape)})"


class Inline:
    """A weight held as an array in memory."""

    __slots__ = ("_array", "dtype")

    def __init__(self, array: np.ndarray[Any, Any]) -> None:
        if array.dtype.kind in "OUS":
            self.dtype: int = TensorProto.STRING
            self._array = _readonly(array.astype(object))
        else:
            if array.dtype.kind != "V":
                array = array.astype(array.dtype.newbyteorder("<"), copy=False)
            self.dtype = helper.np_dtype_to_tensor_dtype(array.dtype)
            self._array = _readonly(array)

    @classmethod
    def of(cls, array: Any) -> Inline:
        """The weight with these values; the array is not copied, so do not change it afterwards."""
        return cls(np.asarray(array))

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of the array."""
        return cast(tuple[int, ...], self._array.shape)

    @property
    def nbytes(self) -> int:
        """Bytes of the values in the `raw_data` layout; of strings, their UTF-8 bytes."""
        if self.dtype == TensorProto.STRING:
            return sum(len(_utf8(text)) for text in self._array.flat)
        return raw_length(self.dtype, self.shape)

    def array(self) -> np.ndarray[Any, Any]:
        """The array itself, read-only."""
        return self._array

    def chunks(self) -> Iterator[bytes | memoryview]:
        """The `raw_data` bytes, copied only from types below one byte and arrays not in C order."""
        return _cut(self.raw())

    def raw(self) -> memoryview:
        """These bytes as one piece. Strings have none (TypeError)."""
        if self.dtype == TensorProto.STRING:
            raise TypeError("string tensors have no raw_data layout")
        if _bits(self.dtype) < 8:
            return memoryview(numpy_helper.from_array(self._array).raw_data)
        return np.ascontiguousarray(self._array).reshape(-1).view(np.uint8).data

    def __repr__(self) -> str:
        return f"Inline({dtype_name(self.dtype)}, {list(self.shape)})"


class Typed:
    """A weight kept as it came: a TensorProto whose values are in typed fields, or are strings.

    The writer puts the fields back as they were, so that a file that is not changed keeps its form.
    """

    __slots__ = ("tensor",)

    def __init__(self, tensor: TensorProto) -> None:
        self.tensor = tensor

    @property
    def dtype(self) -> int:
        """The element type."""
        return self.tensor.data_type

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape."""
        return tuple(self.tensor.dims)

    @property
    def nbytes(self) -> int:
        """Bytes the values take in the `raw_data` layout; of strings, their UTF-8 bytes."""
        if self.dtype == TensorProto.STRING:
            return sum(map(len, self.tensor.string_data))
        return raw_length(self.dtype, self.shape)

    def array(self) -> np.ndarray[Any, Any]:
        """The values, converted from the typed field at each call."""
        return _readonly(numpy_helper.to_array(self.tensor))

    def chunks(self) -> Iterator[bytes | memoryview]:
        """The `raw_data` bytes these values would have."""
        return Inline(self.array()).chunks()

    def __repr__(self) -> str:
        return f"Typed({dtype_name(self.dtype)}, {list(self.shape)})"


def rows_of(weight: Weight) -> Callable[[np.ndarray[Any, Any]], np.ndarray[Any, Any]]:
    """What gives some rows of a weight, by their indices along its first dimension: all of it is in memory only if it has to be."""
    if hasattr(weight, "rows"):
        return cast(Callable[[np.ndarray[Any, Any]], np.ndarray[Any, Any]], weight.rows())
    if isinstance(weight, Stored) and weight.place is not None:
        return partial(_rows_expected, weight, weight.array())
    return partial(rows_in, weight.array())


def _rows_expected(
    weight: Stored, array: np.ndarray[Any, Any], index: np.ndarray[Any, Any]
) -> np.ndarray[Any, Any]:
    rows = rows_in(array, index)
    if len(index) and index[-1] - index[0] + 1 == len(index):
        weight.expect(int(index[0]) * rows[0].nbytes, rows.nbytes)
    return rows


def rows_in(array: np.ndarray[Any, Any], index: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """Rows of an array: a view where they lie in a row; of a scalar, the scalar."""
    if not array.ndim or not len(index):
        return array if not array.ndim else array[:0]
    first, last = int(index[0]), int(index[-1])
    if last - first + 1 == len(index) and (np.diff(index) == 1).all():
        return array[first : last + 1]
    if array.dtype.itemsize not in (1, 2, 4, 8) or array.dtype.hasobject:
        return np.asarray(array[index])
    # As words, for of types that numpy does not know it would copy element by element.
    words = array.view(f"u{array.dtype.itemsize}")
    taken: np.ndarray[Any, Any] = words.take(index, axis=0).view(array.dtype)
    return taken


def raw_length(dtype: int, shape: Sequence[int]) -> int:
    """Bytes a tensor takes in ONNX's `raw_data` layout: ceil(elements * bits / 8).

    Raises ValueError for a type without one: strings, undefined and unknown types.
    """
    return -(-math.prod(shape) * _bits(dtype) // 8)


def typed_length(dtype: int, shape: Sequence[int]) -> tuple[str, int]:
    """The typed field of a TensorProto that holds this type, and how many entries it needs (onnx.proto).

    Complex numbers take two entries; types of 4 and 2 bits share one `int32_data` byte, those of 6 do not.
    Raises ValueError for undefined and unknown types.
    """
    name, elements = dtype_name(dtype), math.prod(shape)
    if name == "UNDEFINED" or name == str(dtype):
        raise ValueError(f"element type {name} has no values")
    if name.startswith("COMPLEX"):
        elements *= 2
    elif (narrow := _NARROW.get(name)) in (2, 4):
        elements = -(-elements * narrow // 8)
    return helper.tensor_dtype_to_field(dtype), elements


def dtype_name(dtype: int) -> str:
    """The name of an element type, such as `FLOAT16`; of an unknown one, its number."""
    known = TensorProto.DataType.DESCRIPTOR.values_by_number
    return str(known[dtype].name) if dtype in known else str(dtype)


_NARROW = {"UINT4": 4, "INT4": 4, "FLOAT4E2M1": 4, "UINT2": 2, "INT2": 2, "FLOAT6E2M3": 6, "FLOAT6E3M2": 6}


def _bits(dtype: int) -> int:
    name = dtype_name(dtype)
    if name in ("UNDEFINED", "STRING") or name == str(dtype):
        raise ValueError(f"element type {name} has no raw_data layout")
    return _NARROW.get(name) or helper.tensor_dtype_to_np_dtype(dtype).itemsize * 8


def _cut(data: memoryview) -> Iterator[memoryview]:
    return (data[start : start + CHUNK] for start in range(0, data.nbytes, CHUNK))


def _readonly(array: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    view = array.view()
    view.flags.writeable = False
    return view


def _utf8(text: Any) -> bytes:
    return text if isinstance(text, bytes) else str(text).encode()

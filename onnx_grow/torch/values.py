"""What flows through a network: tensors, and on the host the numbers that sizes are computed from.

Sizes never visit the device. They are NumPy arrays: of integers, or of objects where torch.export traces a size that is open
(`torch.SymInt`), so that whatever is computed from them stays symbolic.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import ml_dtypes
import numpy as np
import torch
from onnx import TensorProto, helper

__all__ = ["DTYPES", "STORED", "Context", "Host", "Values", "array_of", "host_of", "sizes", "tensor_of"]

Array = np.ndarray[Any, Any]

Host = np.ndarray[Any, Any]
"""The annotation of an input that an operator reads on the host: a size, an axis, a condition."""

DTYPES: dict[int, torch.dtype] = {
    TensorProto.FLOAT: torch.float32,
    TensorProto.DOUBLE: torch.float64,
    TensorProto.FLOAT16: torch.float16,
    TensorProto.BFLOAT16: torch.bfloat16,
    TensorProto.FLOAT8E4M3FN: torch.float8_e4m3fn,
    TensorProto.FLOAT8E4M3FNUZ: torch.float8_e4m3fnuz,
    TensorProto.FLOAT8E5M2: torch.float8_e5m2,
    TensorProto.FLOAT8E5M2FNUZ: torch.float8_e5m2fnuz,
    TensorProto.COMPLEX64: torch.complex64,
    TensorProto.COMPLEX128: torch.complex128,
    TensorProto.BOOL: torch.bool,
    TensorProto.INT8: torch.int8,
    TensorProto.INT16: torch.int16,
    TensorProto.INT32: torch.int32,
    TensorProto.INT64: torch.int64,
    TensorProto.UINT8: torch.uint8,
    TensorProto.UINT16: torch.uint16,
    TensorProto.UINT32: torch.uint32,
    TensorProto.UINT64: torch.uint64,
    TensorProto.INT4: torch.int8,
    TensorProto.UINT4: torch.uint8,
    TensorProto.INT2: torch.int8,
    TensorProto.UINT2: torch.uint8,
}
"""The torch type of an element type; those narrower than a byte are held in bytes."""
STORED = frozenset(
    {
        *(TensorProto.INT4, TensorProto.UINT4, TensorProto.INT2, TensorProto.UINT2),
        *(
            TensorProto.FLOAT8E4M3FN,
            TensorProto.FLOAT8E4M3FNUZ,
            TensorProto.FLOAT8E5M2,
            TensorProto.FLOAT8E5M2FNUZ,
        ),
    }
)
"""Element types that tensors can have, but nothing here computes: PyTorch rounds to them in its own way."""

_WORDS = {
    np.dtype(ml_dtypes.bfloat16): (np.int16, torch.bfloat16),
    np.dtype(ml_dtypes.float8_e4m3fn): (np.uint8, torch.float8_e4m3fn),
    np.dtype(ml_dtypes.float8_e4m3fnuz): (np.uint8, torch.float8_e4m3fnuz),
    np.dtype(ml_dtypes.float8_e5m2): (np.uint8, torch.float8_e5m2),
    np.dtype(ml_dtypes.float8_e5m2fnuz): (np.uint8, torch.float8_e5m2fnuz),
}
_WORDS_BACK = {kind: (word, native) for native, (word, kind) in _WORDS.items()}


def tensor_of(array: Array) -> torch.Tensor:
    """A tensor with the values of an array, copied. Raises TypeError for strings."""
    if array.dtype in _WORDS:
        word, kind = _WORDS[array.dtype]
        return torch.from_numpy(array.view(word).copy()).view(kind)
    if array.dtype.kind == "V":  # four or two bits
        array = array.astype(np.uint8 if "u" in array.dtype.name else np.int8)
    return torch.from_numpy(np.array(array, array.dtype.newbyteorder("=")))


def array_of(tensor: torch.Tensor, dtype: int | None = None) -> Array:
    """The values of a tensor, copied; of a given `TensorProto.DataType`, if that is one that torch holds in bytes."""
    tensor = tensor.detach().cpu().contiguous()
    if tensor.dtype in _WORDS_BACK:
        word, native = _WORDS_BACK[tensor.dtype]
        return tensor.view(torch.int16 if word is np.int16 else torch.uint8).numpy().copy().view(native)
    array: Array = tensor.numpy().copy()
    return array if dtype is None else array.astype(helper.tensor_dtype_to_np_dtype(dtype), copy=False)


def host_of(numbers: Sequence[Any]) -> Host:
    """A vector of sizes on the host, some of them symbolic perhaps."""
    if all(type(number) is int for number in numbers):
        return np.array(numbers, np.int64)
    array = np.empty(len(numbers), object)
    array[:] = list(numbers)
    return array


def sizes(array: Host) -> list[Any]:
    """The numbers of an array on the host, in order."""
    return list(array.reshape(-1).tolist())


@dataclass(frozen=True)
class Context:
    """What a run of a network is given beside its inputs: the tensors of the model, by key, some of them on the host as well."""

    tensors: Mapping[str, torch.Tensor]
    hosts: Mapping[str, Host]
    device: torch.device
    training: bool


@dataclass
class Values:
    """The values of one run of a graph, by name. Each is on the device, on the host, or on both."""

    context: Context
    outer: Values | None = None
    tensors: dict[str, Any] = field(default_factory=dict)
    hosts: dict[str, Host] = field(default_factory=dict)

    def tensor(self, name: str) -> Any:
        """A value on the device: a tensor, or a list of them where it is a sequence. Texts stay an array."""
        holder = self._holder(name)
        if name not in holder.tensors:
            holder.tensors[name] = _on_device(holder.hosts[name], self.context.device)
        return holder.tensors[name]

    def host(self, name: str) -> Host:
        """A value on the host; reading one that was computed on the device waits for it."""
        holder = self._holder(name)
        if name not in holder.hosts:
            holder.hosts[name] = array_of(holder.tensors[name])
        return holder.hosts[name]

    def has_host(self, name: str) -> bool:
        """Whether a value is on the host already."""
        return name in self._holder(name).hosts

    def set(self, name: str, value: Any) -> None:
        """Add a value, of the host if it is an array."""
        if isinstance(value, np.ndarray | np.generic):
            self.hosts[name] = np.asarray(value)
        else:
            self.tensors[name] = value

    def drop(self, names: Sequence[str]) -> None:
        """Forget values that nothing reads any more."""
        for name in names:
            self.tensors.pop(name, None)
            self.hosts.pop(name, None)

    def _holder(self, name: str) -> Values:
        values: Values | None = self
        while values is not None:
            if name in values.tensors or name in values.hosts:
                return values
            values = values.outer
        raise KeyError(name)


def _on_device(array: Host, device: torch.device) -> Any:
    if array.dtype.kind == "U":
        return array
    if array.dtype == object:
        return torch.tensor(sizes(array), device=device).reshape(array.shape)
    return tensor_of(array).to(device)

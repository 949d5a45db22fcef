"""The tensors that a model holds, wherever they stand, each under a name of its own.

These are the initializers and the Constant nodes, of the main graph and of all bodies. A name is that in the file; where several
bodies use the same one, all but the first get a number.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
from onnx import AttributeProto, GraphProto, NodeProto, SparseTensorProto, TensorProto, helper, numpy_helper

from onnx_grow.model.model import Model
from onnx_grow.model.walk import nested_graphs

__all__ = ["Held", "held"]

Array = np.ndarray[Any, Any]


@dataclass(frozen=True)
class Held:
    """A tensor of a model: its key, the name it has in its graph, what it holds, and how it is replaced.

    `replace` edits the skeleton it was found in; None where the tensor is a weight of the main graph (then the model's mapping
    has it) or cannot be replaced (a sparse one).
    """

    key: str
    name: str
    graph: GraphProto
    dtype: int
    shape: tuple[int, ...]
    array: Callable[[], Array]
    replace: Callable[[Array], None] | None = None
    is_weight: bool = False

    @property
    def is_written(self) -> bool:
        """Whether other values can take the place of these."""
        return self.is_weight or self.replace is not None


def held(model: Model, skeleton: onnx.ModelProto | None = None) -> Iterator[Held]:
    """Every tensor of a model but strings, in the order of the file.

    With a copy of the model's skeleton, what is found is in the copy.
    """
    main = (skeleton or model.skeleton).graph
    taken: set[str] = set(model.weights)
    for name, weight in model.weights.items():
        if weight.dtype != TensorProto.STRING:
            yield Held(name, name, main, weight.dtype, weight.shape, weight.array, is_weight=True)
    for graph in (main, *nested_graphs(main)):
        for name, dtype, shape, array, replace in _inline(graph, graph is main):
            if dtype != TensorProto.STRING:
                yield Held(_fresh(taken, name), name, graph, dtype, shape, array, replace)


Found = tuple[str, int, tuple[int, ...], Callable[[], Array], Callable[[Array], None] | None]


def _inline(graph: GraphProto, is_main: bool) -> Iterator[Found]:
    """The tensors that stand in a graph itself."""
    for tensor in () if is_main else graph.initializer:
        yield tensor.name, *_dense(tensor)
    for sparse in graph.sparse_initializer:
        yield sparse.values.name, *_sparse(sparse)
    for node in graph.node:
        if node.op_type == "Constant" and node.domain in ("", "ai.onnx") and node.output:
            yield _constant(node)


def _constant(node: NodeProto) -> Found:
    attribute = next(entry for entry in node.attribute if entry.type != AttributeProto.UNDEFINED)
    name = node.output[0]
    if attribute.HasField("t"):
        return name, *_dense(attribute.t)
    if attribute.HasField("sparse_tensor"):
        return name, *_sparse(attribute.sparse_tensor)
    value = helper.get_attribute_value(attribute)
    dtype = _LISTS[attribute.name]
    if dtype == TensorProto.STRING:
        return name, dtype, (), np.zeros(0).copy, None
    array = np.array(value, helper.tensor_dtype_to_np_dtype(dtype))
    return name, dtype, array.shape, array.copy, _Numbers(attribute)


def _dense(tensor: TensorProto) -> Any:
    return tensor.data_type, tuple(tensor.dims), _Read(tensor), _Write(tensor)


def _sparse(sparse: SparseTensorProto) -> Any:
    return sparse.values.data_type, tuple(sparse.dims), _Dense(sparse), None


_LISTS = {
    "value_float": TensorProto.FLOAT,
    "value_floats": TensorProto.FLOAT,
    "value_int": TensorProto.INT64,
    "value_ints": TensorProto.INT64,
    "value_string": TensorProto.STRING,
    "value_strings": TensorProto.STRING,
}


@dataclass(frozen=True)
class _Read:
    tensor: TensorProto

    def __call__(self) -> Array:
        return numpy_helper.to_array(self.tensor)


@dataclass(frozen=True)
class _Write:
    tensor: TensorProto

    def __call__(self, array: Array) -> None:
        written = numpy_helper.from_array(np.ascontiguousarray(array).reshape(array.shape))
        for field in ("raw_data", *_TYPED):
            self.tensor.ClearField(field)
        self.tensor.raw_data = written.raw_data


_TYPED = ("float_data", "int32_data", "int64_data", "double_data", "uint64_data")


@dataclass(frozen=True)
class _Numbers:
    attribute: AttributeProto

    def __call__(self, array: Array) -> None:
        numbers = array.tolist()
        if self.attribute.type == AttributeProto.FLOAT:
            self.attribute.f = numbers
        elif self.attribute.type == AttributeProto.INT:
            self.attribute.i = numbers
        elif self.attribute.type == AttributeProto.FLOATS:
            self.attribute.floats[:] = numbers
        else:
            self.attribute.ints[:] = numbers


@dataclass(frozen=True)
class _Dense:
    sparse: SparseTensorProto

    def __call__(self) -> Array:
        values = numpy_helper.to_array(self.sparse.values)
        indices = numpy_helper.to_array(self.sparse.indices)
        dense = np.zeros(tuple(self.sparse.dims), values.dtype)
        if indices.ndim == 1:
            dense.reshape(-1)[indices] = values
        else:
            dense[tuple(indices.T)] = values
        return dense


def _fresh(taken: set[str], base: str) -> str:
    name, k = base, 0
    while name in taken:
        k += 1
        name = f"{base}_{k}"
    taken.add(name)
    return name

"""The tensors that a model holds, wherever they stand, each under a name of its own.

These are the initializers and the Constant nodes, of the main graph and of all bodies. A name is that in the file; where several
bodies use the same one, all but the first get a number.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import onnx
from onnx import AttributeProto, GraphProto, NodeProto, SparseTensorProto, TensorProto, helper, numpy_helper

from onnx_grow.model.model import Model
from onnx_grow.model.names import Names
from onnx_grow.model.nodes import NUMBERS, is_default
from onnx_grow.model.walk import nested_graphs
from onnx_grow.model.weights import DATA_FIELDS

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
    names = Names(model.weights)
    for name, weight in model.weights.items():
        if weight.dtype != TensorProto.STRING:
            yield Held(name, name, main, weight.dtype, weight.shape, weight.array, is_weight=True)
    for graph in (main, *nested_graphs(main)):
        for name, dtype, shape, array, replace in _inline(graph, graph is main):
            if dtype != TensorProto.STRING:
                yield Held(names.fresh(name), name, graph, dtype, shape, array, replace)


Found = tuple[str, int, tuple[int, ...], Callable[[], Array], Callable[[Array], None] | None]


def _inline(graph: GraphProto, is_main: bool) -> Iterator[Found]:
    """The tensors that stand in a graph itself."""
    for tensor in () if is_main else graph.initializer:
        yield tensor.name, *_dense(tensor)
    for sparse in graph.sparse_initializer:
        yield sparse.values.name, *_sparse(sparse)
    for node in graph.node:
        if node.op_type == "Constant" and is_default(node) and node.output:
            yield from _constant(node)


def _constant(node: NodeProto) -> Iterator[Found]:
    """What a Constant node holds; nothing where its value is strings, or none that the operator knows."""
    name = node.output[0]
    for attribute in node.attribute[:1]:
        if attribute.HasField("t"):
            yield name, *_dense(attribute.t)
        elif attribute.HasField("sparse_tensor"):
            yield name, *_sparse(attribute.sparse_tensor)
        elif dtype := NUMBERS.get(attribute.name):
            array = np.array(helper.get_attribute_value(attribute), dtype)
            yield (
                name,
                helper.np_dtype_to_tensor_dtype(array.dtype),
                array.shape,
                array.copy,
                partial(_write_numbers, attribute),
            )


def _dense(tensor: TensorProto) -> Any:
    read, write = partial(numpy_helper.to_array, tensor), partial(_write, tensor)
    return tensor.data_type, tuple(tensor.dims), read, write


def _sparse(sparse: SparseTensorProto) -> Any:
    return sparse.values.data_type, tuple(sparse.dims), partial(_written_out, sparse), None


def _write(tensor: TensorProto, array: Array) -> None:
    for field in DATA_FIELDS:
        tensor.ClearField(field)
    tensor.raw_data = numpy_helper.from_array(np.ascontiguousarray(array)).raw_data


def _write_numbers(attribute: AttributeProto, array: Array) -> None:
    numbers = array.tolist()
    if attribute.type == AttributeProto.FLOAT:
        attribute.f = numbers
    elif attribute.type == AttributeProto.INT:
        attribute.i = numbers
    elif attribute.type == AttributeProto.FLOATS:
        attribute.floats[:] = numbers
    else:
        attribute.ints[:] = numbers


def _written_out(sparse: SparseTensorProto) -> Array:
    values = numpy_helper.to_array(sparse.values)
    indices = numpy_helper.to_array(sparse.indices)
    dense = np.zeros(tuple(sparse.dims), values.dtype)
    if indices.ndim == 1:
        dense.reshape(-1)[indices] = values
    else:
        dense[tuple(indices.T)] = values
    return dense

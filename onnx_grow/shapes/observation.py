"""What ONNX Runtime knows about shapes: from its own inference, which covers its own operators, and from a run."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from math import prod
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
from onnx import TensorProto, ValueInfoProto, helper, numpy_helper

from onnx_grow.errors import OnnxGrowError
from onnx_grow.model import Model, staged
from onnx_grow.shapes import types
from onnx_grow.shapes.types import Array

if TYPE_CHECKING:
    import onnxruntime as ort

Sizes = Mapping[str, tuple[int, ...]]
LARGEST = 1 << 28
"""Elements of the largest input that is made up for a run."""
Found = dict[str, tuple[int, tuple[int, ...]]]
"""Dtype and shape by tensor name."""


def ask(model: Model, sizes: Sizes, names: Sequence[str], values: Mapping[str, Array]) -> Found:
    """What ONNX Runtime's inference says about the named tensors, without any weights and without a run.

    All initializers but those whose `values` are given become graph inputs, so that a model of any size is a matter
    of milliseconds. Tensors that the inference does not know are left out, and scalars with them: the bindings
    show both as an empty list.
    """
    if _is_too_large(sizes):  # as a shape, it would keep the inference busy with billions of dimensions
        return {}
    proto = _exposing(model, sizes, names)
    declared = {value.name for value in proto.graph.input}
    del proto.graph.initializer[:]
    for name, weight in model.weights.items():
        if name in values:
            proto.graph.initializer.append(numpy_helper.from_array(values[name], name))
        elif name not in declared:
            proto.graph.input.append(
                ValueInfoProto(name=name, type=types.tensor_type(weight.dtype, weight.shape))
            )
    session = _session(proto.SerializeToString())
    if session is None:
        return {}
    wanted = set(names)
    return {
        value.name: (_dtype(value.type), tuple(value.shape))
        for value in session.get_outputs()
        if value.name in wanted and _is_tensor(value.type) and _is_concrete(value.shape)
    }


def run(model: Model, sizes: Sizes, names: Sequence[str]) -> Found | None:
    """Dtype and shape of the named tensors in a run on the CPU with constant inputs, None if the model fails.

    Only the shapes leave the run: a Shape node is attached to every named tensor, so that the memory stays that of an
    ordinary run without graph optimisation.
    """
    if _is_too_large(sizes):
        return None
    proto = _exposing(model, sizes, names)
    shape_of = {name: f"{name}/onnx_grow_shape" for name in names}
    for name, shape in shape_of.items():
        proto.graph.node.append(helper.make_node("Shape", [name], [shape]))
        proto.graph.output.append(helper.make_tensor_value_info(shape, TensorProto.INT64, None))
    try:
        with (
            TemporaryDirectory(prefix="onnx-grow-") as folder,
            staged(Model(proto, model.weights), Path(folder) / "model.onnx") as pending,
        ):
            session = _session(str(pending.path))
            found = session and _shapes(session, sizes, list(shape_of.values()))
    except OnnxGrowError:  # no room for a temporary copy: as good as a model that does not run
        return None
    if not session or found is None:
        return None
    dtypes = {value.name: _dtype(value.type) for value in session.get_outputs() if _is_tensor(value.type)}
    return {
        name: (dtypes[name], tuple(int(size) for size in shape))
        for name, shape in zip(shape_of, found, strict=True)
    }


def _is_too_large(sizes: Sizes) -> bool:
    # NumPy makes no array of too large a size, however empty it is.
    return any(prod(max(n, 1) for n in size) > LARGEST for size in sizes.values())


def _exposing(model: Model, sizes: Sizes, names: Iterable[str]) -> onnx.ModelProto:
    """A copy of the skeleton with concrete input shapes and more outputs, and no declared shape elsewhere."""
    proto = onnx.ModelProto()
    proto.CopyFrom(model.skeleton)
    del proto.graph.value_info[:]
    for value in proto.graph.input:
        if value.name in sizes:
            value.type.CopyFrom(types.tensor_type(types.read(value.type).dtype, sizes[value.name]))
    for value in proto.graph.output:
        if value.type.HasField("tensor_type"):
            value.type.tensor_type.ClearField("shape")
    present = {value.name for value in proto.graph.output}
    proto.graph.output.extend(ValueInfoProto(name=name) for name in names if name not in present)
    return proto


def _session(source: str | bytes) -> ort.InferenceSession | None:
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.intra_op_num_threads = 2
    options.log_severity_level = 4
    try:
        return ort.InferenceSession(source, options, providers=["CPUExecutionProvider"])
    except Exception:  # onnxruntime has no common error class; what it rejects has nothing to tell
        return None


def _shapes(session: ort.InferenceSession, sizes: Sizes, outputs: list[str]) -> list[Array] | None:
    for integer in (0, 1):  # a zero is a legal index, and a one a legal length or mask
        feeds = {
            value.name: _filled(sizes[value.name], value.type, integer)
            for value in session.get_inputs()
            if value.name in sizes
        }
        try:
            found: list[Array] = session.run(outputs, feeds)
        except Exception:  # see above
            continue
        return found
    return None


def _filled(shape: tuple[int, ...], type_name: str, integer: int) -> Array:
    if type_name == "tensor(string)":
        return np.full(shape, "", dtype=object)
    dtype: np.dtype[Any] = helper.tensor_dtype_to_np_dtype(_dtype(type_name))
    return np.full(shape, integer if np.issubdtype(dtype, np.integer) else 1, dtype)


def _is_tensor(type_name: str) -> bool:
    return type_name.startswith("tensor(")


def _is_concrete(shape: Sequence[int | str | None]) -> bool:
    return bool(shape) and all(isinstance(size, int) for size in shape)


def _dtype(type_name: str) -> int:
    """TensorProto.DataType of a type as ONNX Runtime writes it, such as `tensor(float)`."""
    return int(TensorProto.DataType.Value(type_name.removeprefix("tensor(").removesuffix(")").upper()))

"""What a run shows: shapes of tensors that inference does not find."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import onnx

from onnx_grow.model import Model


def observe(
    model: Model, inputs: Mapping[str, tuple[int, ...]], names: Sequence[str]
) -> dict[str, tuple[int, tuple[int, ...]]] | None:
    """Dtype and shape of the named tensors in a run of ONNX Runtime on the CPU, None if that fails.

    The run uses constant inputs and no graph optimisation. Only the shapes leave it: a Shape node is attached
    to every named tensor, so that the memory stays that of an ordinary run.
    """
    import onnxruntime as ort

    proto = model.to_proto()
    tensors = {value.name for value in proto.graph.output}
    shapes_of = {name: f"{name}/onnx_grow_shape" for name in names}
    for name, shape in shapes_of.items():
        proto.graph.node.append(onnx.helper.make_node("Shape", [name], [shape]))
        proto.graph.output.append(onnx.helper.make_tensor_value_info(shape, onnx.TensorProto.INT64, None))
        if name not in tensors:
            proto.graph.output.append(onnx.ValueInfoProto(name=name))
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.intra_op_num_threads = 2
    options.log_severity_level = 4
    try:
        session = ort.InferenceSession(proto.SerializeToString(), options, providers=["CPUExecutionProvider"])
    except Exception:  # onnxruntime has no common error class; a model that it rejects has nothing to observe
        return None
    types = {value.name: value.type for value in session.get_outputs()}
    for integers in (0, 1):
        feeds: dict[str, np.ndarray] = {
            value.name: np.full(inputs[value.name], *_filling(value.type, integers))
            for value in session.get_inputs()
            if value.name in inputs
        }
        try:
            found = session.run(list(shapes_of.values()), feeds)
        except Exception:  # see above
            continue
        return {
            name: (_dtype(types[name]), tuple(int(size) for size in shape))
            for name, shape in zip(shapes_of, found, strict=True)
        }
    return None


def _filling(type_name: str, integers: int) -> tuple[object, type]:
    """Value and numpy type for an input: ones, and for integers, which may be indices, the given number."""
    if type_name == "tensor(string)":
        return "", object
    dtype = onnx.helper.tensor_dtype_to_np_dtype(_dtype(type_name)).type
    return (integers if np.issubdtype(dtype, np.integer) else 1), dtype


def _dtype(type_name: str) -> int:
    """TensorProto.DataType of a type as ONNX Runtime writes it, such as `tensor(float)`."""
    return int(onnx.TensorProto.DataType.Value(type_name.removeprefix("tensor(").removesuffix(")").upper()))

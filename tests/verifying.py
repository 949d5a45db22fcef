"""Small models from text, and the same models with other weights."""

from __future__ import annotations

from zlib import crc32

import numpy as np
import onnx
from onnx import helper, numpy_helper, parser

from onnx_grow.model import Inline, Model, load


def build(text: str, opset: int = 17, ir: int = 8, **values: np.ndarray) -> Model:
    """The model of a graph in text. A declared value that nothing produces is a weight: given in `values`, or drawn at random."""
    if not text.lstrip().startswith("<"):
        text = f'<ir_version: {ir}, opset_import: ["" : {opset}]> g {text}'
    proto = parser.parse_model(text)
    graph = proto.graph
    given = {name for node in graph.node for name in node.output}
    given |= {entry.name for entry in (*graph.input, *graph.initializer)}
    for info in graph.value_info:
        if info.name not in given:
            dtype = helper.tensor_dtype_to_np_dtype(info.type.tensor_type.elem_type)
            shape = [dim.dim_value for dim in info.type.tensor_type.shape.dim]
            drawn = np.random.default_rng(crc32(info.name.encode())).standard_normal(shape) / 2
            value = np.asarray(values.get(info.name, drawn)).astype(dtype)
            graph.initializer.append(numpy_helper.from_array(value, info.name))
    del graph.value_info[:]
    return load(proto)


def with_weights(model: Model, **weights: np.ndarray) -> Model:
    """The model with other values, and sizes, in some of its initializers."""
    skeleton = onnx.ModelProto()
    skeleton.CopyFrom(model.skeleton)
    for initializer in skeleton.graph.initializer:
        if initializer.name in weights:
            initializer.dims[:] = weights[initializer.name].shape
    return Model(skeleton, {**model.weights, **{name: Inline.of(array) for name, array in weights.items()}})

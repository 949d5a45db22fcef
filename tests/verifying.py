"""Models with other weights."""

from __future__ import annotations

import numpy as np
import onnx

from onnx_grow.model import Inline, Model


def with_weights(model: Model, **weights: np.ndarray) -> Model:
    """The model with other values, and sizes, in some of its initializers."""
    skeleton = onnx.ModelProto()
    skeleton.CopyFrom(model.skeleton)
    for initializer in skeleton.graph.initializer:
        if initializer.name in weights:
            initializer.dims[:] = weights[initializer.name].shape
    return Model(skeleton, {**model.weights, **{name: Inline.of(array) for name, array in weights.items()}})

"""Which tensors of a model are weights that learn.

A file does not say: a learnt scale and the constant 0.5 of an activation look alike. Learnt are floating-point tensors, but not

  - scalars, which exporters make of every number in a formula, and other single numbers that no layer reads;
  - what an operator reads as a setting: running statistics, bounds, exponents, scales of a quantisation, rotation tables;
  - additive masks, whose elements are zero or hugely negative;
  - tables of frequencies: the one tensor from which, with integers alone, a sine or cosine is computed.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from math import prod
from typing import Any

import numpy as np
from onnx import NodeProto, TensorProto

from onnx_grow.model import Model
from onnx_grow.model.tensors import Held
from onnx_grow.model.walk import all_nodes

__all__ = ["trainable"]

_LEARNT = frozenset({TensorProto.FLOAT, TensorProto.DOUBLE, TensorProto.FLOAT16, TensorProto.BFLOAT16})

_SETTINGS: dict[str, tuple[int, ...]] = {
    "BatchNormalization": (3, 4),
    "Clip": (1, 2),
    "Dropout": (1, 2),
    "Pow": (1,),
    "Resize": (1, 2),
    "Upsample": (1,),
    "Range": (0, 1, 2),
    "OneHot": (2,),
    "Pad": (2,),
    "NonMaxSuppression": (2, 3, 4),
    "QuantizeLinear": (1, 2),
    "DequantizeLinear": (1, 2),
    "QLinearConv": (1, 4, 6),
    "QLinearMatMul": (1, 4, 6),
    "RotaryEmbedding": (1, 2, 3),
    "MultiHeadAttention": (4, 5),
    "GroupQueryAttention": (7, 8),
    "Attention": (3,),
    "Equal": (0, 1),
    "Greater": (0, 1),
    "GreaterOrEqual": (0, 1),
    "Less": (0, 1),
    "LessOrEqual": (0, 1),
    "STFT": (2,),
    "MelWeightMatrix": (3, 4),
}
"""Inputs, by position, that are not learnt."""

_LAYERS = frozenset(
    {
        *(
            "Conv",
            "ConvTranspose",
            "Gemm",
            "MatMul",
            "FusedConv",
            "FusedGemm",
            "FusedMatMul",
            "PRelu",
            "RNN",
            "GRU",
            "LSTM",
        ),
        *(
            "BatchNormalization",
            "GroupNormalization",
            "InstanceNormalization",
            "LayerNormalization",
            "RMSNormalization",
        ),
    }
)

HUGE = -1e4
"""What an additive mask puts where nothing shall be seen, or less."""


def trainable(model: Model, tensors: Iterable[Held]) -> set[str]:
    """The keys of the tensors that learn."""
    nodes = list(all_nodes(model.skeleton))
    settings = _settings(nodes) | _frequencies(nodes, model)
    layers = _of_layers(nodes)
    return {
        each.key
        for each in tensors
        if each.dtype in _LEARNT
        and each.shape
        and each.name not in settings
        and (prod(each.shape) != 1 or each.name in layers)
        and not _is_mask(each.array())
    }


def _of_layers(nodes: Sequence[NodeProto]) -> set[str]:
    """What layers read, and what is added to what they give: weights and biases, however small."""
    found = {name for node in nodes if node.op_type in _LAYERS for name in node.input}
    given = {name for node in nodes if node.op_type in _LAYERS for name in node.output}
    return found | {
        name for node in nodes if node.op_type == "Add" and given & {*node.input} for name in node.input
    }


def _settings(nodes: Sequence[NodeProto]) -> set[str]:
    """The tensors that are nothing but settings, wherever they are read."""
    read: set[str] = set()
    learnt: set[str] = set()
    for node in nodes:
        places = _SETTINGS.get(node.op_type, ())
        for k, name in enumerate(node.input):
            (read if k in places else learnt).add(name)
    return read - learnt


def _is_mask(array: np.ndarray[Any, Any]) -> bool:
    numbers = array.astype(np.float32, copy=False)
    hidden = numbers <= HUGE
    return bool(hidden.any()) and not numbers[~hidden].any()


def _frequencies(nodes: Sequence[NodeProto], model: Model) -> set[str]:
    """The tensors from which, with integers alone, sines and cosines are computed."""
    producers = {name: node for node in nodes for name in node.output}
    found: set[str] = set()
    for node in nodes:
        if node.op_type in ("Sin", "Cos"):
            leaves = _leaves(node.input[0], producers)
            floats = {name for name in leaves if _is_learnable(name, producers, model)}
            if len(floats) == 1 and not leaves & _float_inputs(model):
                found |= floats
    return found


def _leaves(name: str, producers: dict[str, NodeProto]) -> set[str]:
    """The tensors that a value is computed from in the end."""
    seen, stack = {name}, [name]
    while stack:
        node = producers.get(stack.pop())
        if node is not None and node.op_type not in ("Shape", "Size"):
            stack += [source for source in node.input if source not in seen]
            seen.update(node.input)
    return seen


def _is_learnable(name: str, producers: dict[str, NodeProto], model: Model) -> bool:
    if name in model.weights:
        weight = model.weights[name]
        return weight.dtype in _LEARNT and weight.shape != ()
    node = producers.get(name)
    if node is None or node.op_type != "Constant":
        return False
    return any(a.HasField("t") and a.t.data_type in _LEARNT and a.t.dims for a in node.attribute)


def _float_inputs(model: Model) -> set[str]:
    return {
        value.name
        for value in model.skeleton.graph.input
        if value.name not in model.weights and value.type.tensor_type.elem_type in _LEARNT
    }

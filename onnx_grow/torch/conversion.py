"""From a model to a module, and from a module's state to a model."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import onnx
import torch
from onnx import TensorProto, inliner

from onnx_grow.errors import InvalidRequestError, UnsupportedOperatorError
from onnx_grow.model import Inline, Model, Weight, dtype_name, inlined
from onnx_grow.model.tensors import Held, held
from onnx_grow.model.walk import all_nodes
from onnx_grow.torch.network import Entry, Network
from onnx_grow.torch.operators import TABLE
from onnx_grow.torch.program import compiled, missing
from onnx_grow.torch.trainable import trainable
from onnx_grow.torch.values import DTYPES, STORED, array_of, tensor_of

__all__ = ["converted", "save"]


def converted(source: Model) -> Network:
    """A module that computes what a model computes, in eval mode; `onnx_grow.torch.load` without the comparison."""
    flat = _written_out(inlined(source))
    kept = {each.key for each in held(source) if each.is_written}
    tensors = list(held(flat))
    _refuse_narrow(flat, tensors)
    learning = trainable(flat, tensors)
    keys = {(id(each.graph), each.name): each.key for each in tensors}
    texts = {name: weight for name, weight in source.weights.items() if weight.dtype == TensorProto.STRING}
    keys.update(((id(flat.skeleton.graph), name), name) for name in texts)
    program = compiled(flat.skeleton.graph, keys, _versions(flat.skeleton))
    entries = (_entry(each, each.key in learning, each.key in kept) for each in tensors)
    return Network(program, entries, source.skeleton, texts).eval()


def save(network: Network, model: Model | None = None) -> Model:
    """The model that a network came from (or another one with the same tensors) with the network's tensors in place of its own.

    Names, element types and everything else stay. Raises InvalidRequestError where the network and the model do not hold the same
    tensors, of the same shapes and types.
    """
    if model is not None and not isinstance(model, Model):
        raise InvalidRequestError(
            f"save gives a model and writes no file: {model!r} is no model",
            hint="onnx_grow.save(onnx_grow.torch.save(network), path) writes one",
        )
    state = network.state_dict()
    model = model or network.emptied()
    skeleton = onnx.ModelProto()
    skeleton.CopyFrom(model.skeleton)
    weights: dict[str, Weight] = dict(model.weights)
    tensors = [each for each in held(model, skeleton) if each.is_written]
    _refuse_others(state, [each.key for each in tensors])
    for each in tensors:
        array = _array(each, state[each.key])
        if each.replace is None:
            weights[each.name] = Inline(array)
        else:
            each.replace(array)
    return replace(model, skeleton=skeleton, weights=weights, path=None, data_files=(), content=None)


def _written_out(model: Model) -> Model:
    """The model with operators that have no function here as those that ONNX defines them by, where it does."""
    if not any(missing(model.skeleton.graph)):
        return model
    try:
        skeleton = inliner.inline_selected_functions(
            model.skeleton, list(TABLE), exclude=True, inline_schema_functions=True
        )
    except RuntimeError:  # the bindings' name for a failed assertion: its types are not known, say
        return model
    return replace(model, skeleton=skeleton)


def _refuse_narrow(model: Model, tensors: Sequence[Held]) -> None:
    """Raise UnsupportedOperatorError where something other than a move or a dequantisation reads numbers narrower than a byte."""
    types = {each.name: each.dtype for each in tensors}
    types.update((value.name, value.type.tensor_type.elem_type) for value in model.skeleton.graph.input)
    for node in all_nodes(model.skeleton):
        for name in node.input:
            narrow = types.get(name, 0) in STORED or (
                name in types and types[name] not in (*DTYPES, *_NO_NUMBERS)
            )
            if narrow and (types[name] not in DTYPES or node.op_type not in _MOVES):
                raise UnsupportedOperatorError(
                    f"operator {node.op_type} (node {node.name or name!r}) does not run in PyTorch: "
                    f"{name!r} is of type {dtype_name(types[name])}"
                )


_MOVES = frozenset({"Cast", "DequantizeLinear", "Identity", "Reshape", "Squeeze", "Transpose", "Unsqueeze"})
_NO_NUMBERS = (TensorProto.UNDEFINED, TensorProto.STRING)


def _entry(each: Held, learns: bool, kept: bool) -> Entry:
    if each.dtype not in DTYPES:
        raise UnsupportedOperatorError(
            f"PyTorch has no tensors of type {dtype_name(each.dtype)}, which {each.key!r} is of"
        )
    return Entry(each.key, tensor_of(each.array()), learns, kept)


def _refuse_others(state: Mapping[str, Any], keys: list[str]) -> None:
    missing, unknown = [key for key in keys if key not in state], sorted(state.keys() - set(keys))
    if missing or unknown:
        told = f"lacks {missing[0]!r}" if missing else f"has {unknown[0]!r}, which the model lacks"
        raise InvalidRequestError(
            f"the network is of another model: it {told}", hint="give the model that it was loaded from"
        )


def _array(each: Held, tensor: torch.Tensor) -> np.ndarray[Any, Any]:
    """The values for a tensor of the model. Raises InvalidRequestError where shape or type are not the model's."""
    if tuple(tensor.shape) != each.shape or tensor.dtype != DTYPES[each.dtype]:
        raise InvalidRequestError(
            f"{each.key!r} is {_told(tensor.dtype, tensor.shape)} in the network, "
            f"{_told(DTYPES[each.dtype], each.shape)} in the model",
            hint="a network keeps the shapes and types of its model; convert it back first (network.float())",
        )
    return array_of(tensor, each.dtype)


def _told(dtype: torch.dtype, shape: Sequence[int]) -> str:
    return f"{str(dtype).removeprefix('torch.')}[{', '.join(map(str, shape))}]"


def _versions(skeleton: onnx.ModelProto) -> dict[str, int]:
    versions = {
        entry.domain if entry.domain != "ai.onnx" else "": entry.version for entry in skeleton.opset_import
    }
    return defaultdict(lambda: 1, versions)

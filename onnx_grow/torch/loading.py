"""Loading: the conversion, and the proof that it is right."""

from __future__ import annotations

import os

from onnx_grow.model import Model
from onnx_grow.model import load as load_model
from onnx_grow.torch.conversion import converted
from onnx_grow.torch.equality import check
from onnx_grow.torch.network import Network

__all__ = ["load"]


def load(model: Model | str | os.PathLike[str], *, verify: bool = True) -> Network:
    """A module that computes what a model computes, in eval mode.

    Its parameters are the floating-point weights, its buffers all other tensors: masks, constants that sizes are computed from, tables,
    running statistics. `state_dict()` has them under the names of the model's initializers (a Constant node counts as one, under the
    name of its output), in ONNX's layout. Tensors that the model shares stay shared.

    Unless `verify` is False the module is compared with ONNX Runtime on made-up inputs, by the standard of `onnx_grow.verify`.

    Raises UnsupportedOperatorError naming the operator and the node that does not run in PyTorch, VerificationFailedError where
    results differ, InvalidModelError for a file that is no model or does not run in ONNX Runtime.
    """
    source = model if isinstance(model, Model) else load_model(model)
    network = converted(source)
    if verify:
        check(network, source)
    return network

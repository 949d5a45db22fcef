"""Grown models in PyTorch, and back: `load` makes a trainable module of a model, `save` puts its tensors into one again.

    import onnx_grow as og
    import onnx_grow.torch

    network = og.torch.load("wide.onnx")         # an nn.Module, checked against ONNX Runtime
    optimizer = torch.optim.AdamW(network.parameters())
    ...
    og.save(og.torch.save(network), "tuned.onnx")

Needs PyTorch: the extra `onnx-grow[torch]`.
"""

from __future__ import annotations

try:
    import torch  # noqa: F401  # asked for first, so that its absence is told in one line
except ModuleNotFoundError as error:
    if error.name != "torch":
        raise
    raise ImportError("onnx_grow.torch needs PyTorch: pip install 'onnx-grow[torch]'") from None

from onnx_grow.torch.conversion import save
from onnx_grow.torch.loading import load
from onnx_grow.torch.network import Network

__all__ = ["Network", "load", "save"]

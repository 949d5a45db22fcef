"""Exports a layer, so that what the TorchScript exporter imports and builds is there already in processes that fork from this one."""

from __future__ import annotations

import tempfile
from pathlib import Path

import torch
from sources import pytorch
from torch import nn

with tempfile.TemporaryDirectory() as _folder:
    pytorch.export(nn.Linear(2, 2), (torch.ones(2, 2),), Path(_folder) / "linear.onnx", "torchscript")

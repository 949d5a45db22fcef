"""The file in memory: a skeleton, lazy weights, GraphSurgeon's view of the topology, the way back to disk.

Weights are memory-mapped and never held; edits go to a copy of the original protobuf, so that whatever is not
edited is unchanged by construction; the writer streams one weight at a time and replaces files atomically.
"""

from __future__ import annotations

from onnx_grow.model.bodies import flattened, nested
from onnx_grow.model.draft import Draft
from onnx_grow.model.functions import inlined
from onnx_grow.model.loader import load
from onnx_grow.model.model import HISTORY, Model, holds_parameters
from onnx_grow.model.sequences import unlisted
from onnx_grow.model.topology import Topology
from onnx_grow.model.weights import (
    Inline,
    Part,
    Stored,
    Typed,
    Weight,
    dtype_name,
    raw_length,
    rows_in,
    rows_of,
)
from onnx_grow.model.writer import PendingFile, save, staged

__all__ = [
    "HISTORY",
    "Draft",
    "Inline",
    "Model",
    "Part",
    "PendingFile",
    "Stored",
    "Topology",
    "Typed",
    "Weight",
    "dtype_name",
    "flattened",
    "holds_parameters",
    "inlined",
    "load",
    "nested",
    "raw_length",
    "rows_in",
    "rows_of",
    "save",
    "staged",
    "unlisted",
]

"""The model: a protobuf skeleton without weights, and the weights beside it."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import onnx
from onnx import AttributeProto

from onnx_grow.model.topology import Topology
from onnx_grow.model.walk import nested_graphs
from onnx_grow.model.weights import Weight, dtype_name
from onnx_grow.model.writer import filled

__all__ = ["HISTORY", "Model", "holds_parameters"]

HISTORY = "onnx_grow.history"
"""Metadata key of what was done to a model: a JSON array, an object per growth, of the keys `version`, `source_sha256`, `plan`."""

_OLDEST_OPSET = 7


@dataclass(frozen=True, eq=False, repr=False)
class Model:
    """An ONNX model whose weights are not in memory. Immutable: nobody edits the skeleton or the mapping.

    `skeleton` is the whole file except the values of the main graph's initializers, whose TensorProtos keep
    dims, type, name, doc string and metadata. `weights` holds one weight per initializer, in file order.
    `path` is the file the model came from, if any, and `data_files` are those it kept its weights in, beside it;
    `content` is the file itself where it came as bytes.
    """

    skeleton: onnx.ModelProto
    weights: Mapping[str, Weight]
    path: Path | None = None
    data_files: tuple[Path, ...] = ()
    content: memoryview | None = None

    def __repr__(self) -> str:
        name = self.path.name if self.path else self.skeleton.graph.name
        grown = ", grown" if self.path is None and HISTORY in self.metadata else ""
        return (
            f"Model({name}{grown}: {len(self.skeleton.graph.node):,} nodes, {self.parameters:,} parameters)"
        )

    def topology(self) -> Topology:
        """The graph as GraphSurgeon sees it, for reading; fresh at each call."""
        return Topology(self.skeleton)

    def to_proto(self) -> onnx.ModelProto:
        """The whole model in memory, values inline. Raises OutputError at 2 GiB, protobuf's limit."""
        return filled(self.skeleton, self.weights)

    @cached_property
    def sha256(self) -> str | None:
        """The digest of the file the model came from (not of weights beside it), in hexadecimal; None where there is none, or no longer."""
        if self.content is not None:
            return hashlib.sha256(self.content).hexdigest()
        if self.path is None or not self.path.exists():
            return None
        with self.path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()

    @property
    def metadata(self) -> dict[str, str]:
        """The file's `metadata_props`."""
        return {entry.key: entry.value for entry in self.skeleton.metadata_props}

    @property
    def opset(self) -> int:
        """The version of the default operator set; 1 where the file names none, as IR 1 and 2 do."""
        versions = {entry.domain: entry.version for entry in self.skeleton.opset_import}
        return versions.get("") or versions.get("ai.onnx") or 1

    @property
    def upgrade(self) -> str:
        """What to do about an operator set that ONNX Runtime runs no longer; empty for any other."""
        return (
            f"the file is of operator set {self.opset}, and ONNX Runtime runs none before {_OLDEST_OPSET}: "
            "onnx.version_converter.convert_version(model, 9) makes it one that it runs"
            if self.opset < _OLDEST_OPSET
            else ""
        )

    @property
    def parameters(self) -> int:
        """Elements of all initializers that hold parameters, and of Constant nodes with more than one of them; those of bodies, too.

        These are floating-point numbers, and integers of at most eight bits, which quantised networks store instead of them.
        """
        main = self.skeleton.graph
        inside = tuple(nested_graphs(main))
        held: list[tuple[int, Sequence[int]]] = [(w.dtype, w.shape) for w in self.weights.values()]
        held += ((tensor.data_type, tensor.dims) for graph in inside for tensor in graph.initializer)
        nodes = (node for graph in (main, *inside) for node in graph.node if node.op_type == "Constant")
        constants = (count for count in map(_constant_elements, nodes) if count > 1)
        return sum(math.prod(shape) for dtype, shape in held if holds_parameters(dtype)) + sum(constants)


def holds_parameters(dtype: int) -> bool:
    """Whether elements of a TensorProto.DataType count as parameters: floating-point numbers, and integers of at most eight bits."""
    return dtype_name(dtype).startswith(("FLOAT", "DOUBLE", "BFLOAT")) or dtype_name(dtype) in _QUANTIZED


_QUANTIZED = frozenset({"INT8", "UINT8", "INT4", "UINT4", "INT2", "UINT2"})


def _constant_elements(node: onnx.NodeProto) -> int:
    count = 0
    for attribute in node.attribute:
        if attribute.type == AttributeProto.TENSOR and holds_parameters(attribute.t.data_type):
            count += math.prod(attribute.t.dims)
        count += len(attribute.floats)
    return count

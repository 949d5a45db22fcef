"""The loader: a file that is not trusted becomes a model, or one clear line."""

from __future__ import annotations

import os

from pathlib import Path
from typing import TYPE_CHECKING

import onnx
from google.protobuf.message import DecodeError, EncodeError
from onnx import TensorProto

from onnx_grow.errors import InvalidModelError
from onnx_grow.model import wire
from onnx_grow.model.checks import check
from onnx_grow.model.external import DataFolder, mapped
from onnx_grow.model.model import Model
from onnx_grow.model.walk import tensors
from onnx_grow.model.weights import DATA_FIELDS, Stored, Typed, Weight, dtype_name, raw_length

if TYPE_CHECKING:
    import onnx_graphsurgeon as gs

__all__ = ["load"]


def load(
    source: str | os.PathLike[str] | bytes | onnx.ModelProto | gs.Graph, *, allow_symlinks: bool = False
) -> Model:
    """Load a model from a file, its bytes, a ModelProto or a GraphSurgeon graph; weights stay where they are.

    Values are memory-mapped, whether they lie in the file itself or in files beside it. External data must lie in
    the model's own folder and may not be reached through links that leave it, unless `allow_symlinks` says so (the
    layout of the Hugging Face cache). Raises InvalidModelError for anything that is not a sound ONNX model.
    """
    if isinstance(source, str | os.PathLike):
        path = Path(os.path.abspath(source))
        folder = DataFolder(path.parent, allow_symlinks)
        return _load(mapped(path, str(source)), folder, str(source), path)
    if isinstance(source, onnx.ModelProto):
        return _load(_serialized(source), DataFolder(None), "the model", None)
    if isinstance(source, bytes | bytearray | memoryview):
        return _load(memoryview(source), DataFolder(None), "the model", None)
    import onnx_graphsurgeon as gs

    if isinstance(source, gs.Graph):
        return load(gs.export_onnx(source))
    raise InvalidModelError(f"cannot load a model from {type(source).__name__}", hint="give a path")


def _load(data: memoryview, folder: DataFolder, what: str, path: Path | None) -> Model:
    try:
        bare, spans = wire.bare(data)
        skeleton = onnx.ModelProto.FromString(bare)
    except (wire.MalformedError, DecodeError) as error:
        raise InvalidModelError(f"{what} is not an ONNX model: {error}") from None
    if not skeleton.HasField("graph") or not (skeleton.graph.node or skeleton.opset_import):
        raise InvalidModelError(f"{what} is not an ONNX model: it has no graph")
    check(skeleton)
    weights: dict[str, Weight] = {}
    external = False
    for initializer, span in zip(skeleton.graph.initializer, spans, strict=True):
        external |= initializer.data_location == TensorProto.EXTERNAL
        raw = None if span is None else data[span[0] : span[0] + span[1]]
        weights[initializer.name] = _weight(initializer, raw, folder)
    for tensor in tensors(skeleton):
        if tensor.data_location == TensorProto.EXTERNAL:
            tensor.raw_data = bytes(folder.read(tensor, _raw_length(tensor)))
            tensor.ClearField("external_data")
            tensor.ClearField("data_location")
    return Model(skeleton, weights, path, external)


def _weight(initializer: TensorProto, raw: memoryview | None, folder: DataFolder) -> Weight:
    """The weight of one initializer, whose value-less header stays in the skeleton."""
    if any(dim < 0 for dim in initializer.dims):
        raise InvalidModelError(f"tensor '{initializer.name}' has a negative dimension")
    if initializer.data_location == TensorProto.EXTERNAL:
        raw = folder.read(initializer, _raw_length(initializer))
        initializer.ClearField("external_data")
        initializer.ClearField("data_location")
    if raw is None:
        return _typed(initializer)
    if len(raw) != _raw_length(initializer):
        raise InvalidModelError(
            f"tensor '{initializer.name}' has {len(raw)} bytes, its type and shape need {_raw_length(initializer)}"
        )
    return Stored(initializer.data_type, initializer.dims, raw)


def _typed(initializer: TensorProto) -> Typed:
    tensor = TensorProto()
    tensor.CopyFrom(initializer)
    for name in DATA_FIELDS:
        initializer.ClearField(name)
    return Typed(tensor)


def _raw_length(tensor: TensorProto) -> int:
    try:
        return raw_length(tensor.data_type, tensor.dims)
    except ValueError:
        raise InvalidModelError(
            f"tensor '{tensor.name}' has raw bytes and the element type {dtype_name(tensor.data_type)}"
        ) from None


def _serialized(proto: onnx.ModelProto) -> memoryview:
    try:
        return memoryview(proto.SerializeToString())
    except (EncodeError, ValueError) as error:
        raise InvalidModelError(
            f"the model cannot be serialized: {error}", hint="load it from its path"
        ) from None

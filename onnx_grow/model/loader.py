"""The loader: a file that is not trusted becomes a model, or one clear line."""

from __future__ import annotations

import math
import os
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import onnx
from onnx import TensorProto, helper

from onnx_grow.errors import InvalidModelError
from onnx_grow.model import wire
from onnx_grow.model.checks import check
from onnx_grow.model.external import DataFolder, mapped
from onnx_grow.model.model import Model
from onnx_grow.model.names import quoted
from onnx_grow.model.sorting import sort
from onnx_grow.model.walk import tensors
from onnx_grow.model.weights import (
    DATA_FIELDS,
    Place,
    Stored,
    Typed,
    Weight,
    dtype_name,
    raw_length,
    typed_length,
)

if TYPE_CHECKING:
    import onnx_graphsurgeon as gs

__all__ = ["load"]

NESTED_GRAPHS = 32
"""protobuf reads messages up to 100 deep, and a graph in an attribute of a node takes three levels."""
DIMENSIONS = 64
"""NumPy's limit."""


def load(
    source: str | os.PathLike[str] | bytes | onnx.ModelProto | gs.Graph, *, allow_symlinks: bool = False
) -> Model:
    """Load a model from a file, its bytes, a ModelProto or a GraphSurgeon graph; weights stay where they are.

    Values are memory-mapped, whether they lie in the file itself or in files beside it. External data must
    lie in the model's own folder and may not be reached through links that leave it, unless `allow_symlinks`
    says so (the layout of the Hugging Face cache). Nodes that are out of order are sorted. Raises InvalidModelError for anything
    that is not a sound ONNX model: not protobuf, incomplete, values that do not fit their shape, a graph that is cyclic,
    names used twice. Graphs may be nested 32 deep, graphs and nodes have 2,000,000 entries, tensors of 64 dimensions.
    """
    if isinstance(source, str | os.PathLike):
        path = Path(os.path.abspath(source))
        data, place = mapped(path, str(source))
        return _read(data, DataFolder(path.parent, allow_symlinks), str(source), path, place)
    if isinstance(source, bytes | bytearray | memoryview):
        content = memoryview(bytes(source))
        return replace(_read(content, DataFolder(None), "the model", None), content=content)
    if isinstance(source, onnx.ModelProto):
        return _read(_serialized(source), DataFolder(None), "the model", None)
    import onnx_graphsurgeon as gs

    if isinstance(source, gs.Graph):
        return load(_exported(source))
    raise InvalidModelError(
        f"an object of type {type(source).__name__} is not a model", hint="give the path of an ONNX file"
    )


def _exported(graph: gs.Graph) -> onnx.ModelProto:
    import onnx_graphsurgeon as gs

    proto: onnx.ModelProto = gs.export_onnx(graph)
    # A graph without an IR version would get the newest, which runtimes do not read yet; below 4, initializers
    # would have to be inputs, and GraphSurgeon has none that are.
    oldest = helper.find_min_ir_version_for(proto.opset_import, ignore_unknown=True)
    proto.ir_version = max(4, graph.ir_version or oldest)
    return proto


def _read(
    data: memoryview, folder: DataFolder, what: str, path: Path | None, place: Place | None = None
) -> Model:
    skeleton, spans = _parse(data, what)
    sort(skeleton)
    check(skeleton)
    weights: dict[str, Weight] = {}
    for initializer, span in zip(skeleton.graph.initializer, spans, strict=True):
        held = None
        if span is not None:
            held = _Raw(data[span[0] : span[0] + span[1]], place and place._replace(offset=span[0]))
        weights[initializer.name] = _weight(initializer, _values(initializer, held, folder))
    for tensor in tensors(skeleton):
        held = _Raw(memoryview(tensor.raw_data), None) if tensor.HasField("raw_data") else None
        values = _values(tensor, held, folder)
        if values is not None and not tensor.HasField("raw_data"):
            tensor.raw_data = bytes(values.data)
    return Model(skeleton, weights, path, folder.files)


def _parse(data: memoryview, what: str) -> tuple[onnx.ModelProto, list[tuple[int, int] | None]]:
    if not data:
        raise InvalidModelError(f"{what} is empty")
    try:
        bare, spans = wire.bare(data)
    except wire.TooLargeError as error:
        raise InvalidModelError(f"{what} is too large: {error}") from None
    except wire.MalformedError as error:
        raise InvalidModelError(f"{what} is not an ONNX model: {error}", hint=_looks_like(data)) from None
    try:
        skeleton = onnx.ModelProto.FromString(bare)
    except Exception:  # protobuf's DecodeError, which is not typed; it does not say what is wrong
        raise InvalidModelError(f"{what} is not an ONNX model: {_why_unreadable(bare)}") from None
    if not skeleton.HasField("graph"):
        raise InvalidModelError(f"{what} is not an ONNX model: it has no graph", hint=_looks_like(data))
    if not skeleton.graph.node and not skeleton.opset_import:
        raise InvalidModelError(f"{what} is not an ONNX model: its graph is empty", hint=_looks_like(data))
    return skeleton, spans


class _Raw(NamedTuple):
    """The raw bytes of a tensor, and where they lie on the disk."""

    data: memoryview
    place: Place | None


def _weight(initializer: TensorProto, raw: _Raw | None) -> Weight:
    """The weight of an initializer, which keeps no values itself."""
    if raw is not None:
        return Stored(initializer.data_type, initializer.dims, raw.data, raw.place)
    values = TensorProto()
    values.CopyFrom(initializer)
    for name in DATA_FIELDS:
        initializer.ClearField(name)
    return Typed(values)


def _values(tensor: TensorProto, raw: _Raw | None, folder: DataFolder) -> _Raw | None:
    """The raw bytes of a tensor, or None where typed fields hold its values; checked against type and shape.

    External data is read, and no longer declared afterwards. Raises InvalidModelError.
    """
    what = f"tensor {quoted(tensor.name)} ({dtype_name(tensor.data_type)} {quoted(list(tensor.dims))})"
    if any(size < 0 for size in tensor.dims):
        raise InvalidModelError(f"{what} has a negative dimension")
    if len(tensor.dims) > DIMENSIONS or math.prod(size or 1 for size in tensor.dims) >= 1 << 60:
        raise InvalidModelError(f"{what} is larger than any memory")
    if tensor.HasField("segment"):
        raise InvalidModelError(f"{what} is stored in segments, which no runtime reads")
    try:
        field, entries = typed_length(tensor.data_type, tensor.dims)
        external = tensor.data_location == TensorProto.EXTERNAL
        needed = raw_length(tensor.data_type, tensor.dims) if external or raw is not None else 0
    except ValueError as error:
        raise InvalidModelError(f"{what}: {error}") from None
    if external:
        raw = _Raw(*folder.read(tensor, needed))
        for declared in ("external_data", "data_location", "raw_data"):
            tensor.ClearField(declared)
    if raw is not None and len(raw.data) != needed:
        raise InvalidModelError(f"{what} needs {needed:,} bytes and has {len(raw.data):,}")
    for name in DATA_FIELDS:
        expected = entries if name == field and raw is None else 0
        if (found := len(getattr(tensor, name))) != expected:
            raise InvalidModelError(f"{what} needs {expected:,} entries in {name} and has {found:,}")
    return raw


def _serialized(proto: onnx.ModelProto) -> memoryview:
    try:
        return memoryview(proto.SerializeToString())
    except Exception:  # protobuf's EncodeError, which is not typed; it does not say what is wrong
        reason = "the model is larger than 2 GiB or nested too deep for protobuf"
        raise InvalidModelError(reason, hint="save it with external data and load the file") from None


def _why_unreadable(bare: bytes) -> str:
    try:
        depth = wire.graph_depth(memoryview(bare))
    except wire.MalformedError:
        depth = 0
    if depth > NESTED_GRAPHS:
        return f"its graphs are nested {depth} deep, protobuf reads {NESTED_GRAPHS}"
    return "it is damaged"


_SIGNATURES = {
    b"version https://git-lfs": "it is a Git LFS pointer, fetch the file with `git lfs pull`",
    b"PK\x03\x04": "it looks like a zip archive or a PyTorch checkpoint, export it to ONNX first",
    b"\x89HDF\r\n": "it looks like HDF5 or Keras, convert it with tf2onnx first",
    b"\x80\x02": "it looks like a Python pickle, export it to ONNX first",
    b"<": "it looks like a web page, the download may have failed",
}


def _looks_like(data: memoryview) -> str:
    start = bytes(data[:64])
    if start[4:8] == b"ORTM":
        return "it is in ONNX Runtime's ORT format, use the original .onnx file"
    if start[4:8] == b"TFL3":
        return "it is a TensorFlow Lite model, convert it with tf2onnx first"
    if start.startswith(b"\x08"):  # ir_version, which exporters write first
        return "it may be incomplete, fetch it again"
    return next((hint for signature, hint in _SIGNATURES.items() if start.startswith(signature)), "")

"""What can be told without running anything: validity, interface, versions, size."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import onnx
from onnx import TensorProto, ValueInfoProto

from onnx_grow.errors import InvalidRequestError
from onnx_grow.model import HISTORY, Model, dtype_name
from onnx_grow.model.names import one_line
from onnx_grow.model.nodes import is_default
from onnx_grow.model.walk import all_nodes
from onnx_grow.verification.report import Check

__all__ = ["Expected", "growth", "interface", "not_run", "same_inputs", "validity", "versions"]

Expected = Mapping[str, int | Sequence[int]]
"""Facts about the grown model: `parameters`, `nodes`, or the name of an initializer and its shape."""


def interface(original: Model, grown: Model) -> Check:
    """The same real inputs and outputs: names, order, types, static sizes, and where sizes are open."""
    differences = [
        *_differences("input", _inputs(original), _inputs(grown)),
        *_differences("output", original.skeleton.graph.output, grown.skeleton.graph.output),
    ]
    return Check("inputs and outputs", not differences, "; ".join(differences) or "unchanged")


def same_inputs(original: Model, grown: Model) -> bool:
    """Whether what is fed to one can be fed to the other: the same names and element types."""
    first, second = (
        {value.name: value.type.tensor_type.elem_type for value in _inputs(model)}
        for model in (original, grown)
    )
    return first == second


def not_run(original: Model, grown: Model) -> str:
    """Why nothing was compared where the inputs differ, with the remedy if the model was converted to half precision."""
    half = {TensorProto.FLOAT16, TensorProto.BFLOAT16}
    taken = {value.name: value.type.tensor_type.elem_type for value in _inputs(original)}
    converted = any(
        taken.get(value.name) == TensorProto.FLOAT and value.type.tensor_type.elem_type in half
        for value in _inputs(grown)
    )
    remedy = ": convert it so that inputs and outputs keep their types (in onnxconverter-common keep_io_types=True)"
    return f"nothing was compared, the inputs are not the same{remedy if converted else ''}"


def versions(original: Model, grown: Model) -> Check:
    """The same IR version, and the same version of every operator set that the original imports.

    Other tools may have their reasons to change them; a growth has none.
    """
    before = {entry.domain or "ai.onnx": entry.version for entry in original.skeleton.opset_import}
    after = {entry.domain or "ai.onnx": entry.version for entry in grown.skeleton.opset_import}
    differences = [
        f"operator set {domain} {version} became {after.get(domain, 'missing')}"
        for domain, version in before.items()
        if after.get(domain) != version
    ]
    if original.skeleton.ir_version != grown.skeleton.ir_version:
        differences.append(f"IR version {original.skeleton.ir_version} became {grown.skeleton.ir_version}")
    told = f"IR {grown.skeleton.ir_version}, opset {grown.opset}"
    grew = HISTORY in grown.metadata
    return Check("versions", not (differences and grew), "; ".join(differences) or f"unchanged: {told}")


def validity(original: Model, grown: Model) -> Check:
    """The grown model passes `onnx.checker` with strict shape inference, or fails as the original does."""
    problem = _problem(grown)
    if not problem:
        return Check("onnx.checker", True, "passed, with strict shape inference")
    if _problem(original):
        return Check("onnx.checker", True, f"not passed by the original either: {problem}")
    return Check("onnx.checker", False, problem)


def growth(grown: Model, expected: Expected) -> Check:
    """The grown model has the size it was promised. Raises InvalidRequestError for a fact that is not known."""
    differences = []
    for fact, wanted in expected.items():
        found: int | Sequence[int]
        if fact == "parameters":
            found = grown.parameters
        elif fact == "nodes":
            found = len(grown.skeleton.graph.node)
        elif fact in grown.weights:
            found, wanted = (
                list(grown.weights[fact].shape),
                list(wanted) if isinstance(wanted, Sequence) else wanted,
            )
        elif isinstance(wanted, Sequence):
            differences.append(f"there is no initializer {fact!r}")
            continue
        else:
            raise InvalidRequestError(
                f"unknown fact {fact!r}", hint="use parameters, nodes or an initializer's name"
            )
        if found != wanted:
            differences.append(f"{fact}: {found} instead of {wanted}")
    return Check("growth", not differences, "; ".join(differences) or "as promised")


def _inputs(model: Model) -> list[ValueInfoProto]:
    return [value for value in model.skeleton.graph.input if value.name not in model.weights]


def _differences(
    kind: str, before: Sequence[ValueInfoProto], after: Sequence[ValueInfoProto]
) -> Iterator[str]:
    names, new_names = [value.name for value in before], [value.name for value in after]
    if names != new_names:
        yield f"{kind}s {', '.join(names) or 'none'} became {', '.join(new_names) or 'none'}"
        if kind == "output" and (missing := [name for name in names if name not in new_names]):
            verb = "are missing and were" if len(missing) > 1 else "is missing and was"
            yield f"{', '.join(missing)} {verb} not compared"
        return
    for old, new in zip(before, after, strict=True):
        was, now = _type(old.type), _type(new.type)
        if was != now and not (kind == "output" and _refines(old.type, new.type)):
            yield f"{kind} {old.name!r} {was} became {now}"


def _refines(old: onnx.TypeProto, new: onnx.TypeProto) -> bool:
    """Whether `new` is the tensor type `old` with open sizes filled in, as simplifiers do with outputs."""
    before, after = old.tensor_type, new.tensor_type
    if before.elem_type != after.elem_type or not after.HasField("shape"):
        return False
    if not before.HasField("shape"):
        return True
    pairs = list(zip(before.shape.dim, after.shape.dim, strict=False))
    return len(before.shape.dim) == len(after.shape.dim) and all(
        not was.HasField("dim_value") or was.dim_value == now.dim_value for was, now in pairs
    )


def _type(proto: onnx.TypeProto) -> str:
    """A type as text; names of open sizes are left out, because nobody depends on them."""
    kind = proto.WhichOneof("value")
    if kind in ("sequence_type", "optional_type"):
        return f"{kind.removesuffix('_type')} of {_type(getattr(proto, kind).elem_type)}"
    if kind == "map_type":
        return f"map of {dtype_name(proto.map_type.key_type).lower()} to {_type(proto.map_type.value_type)}"
    if kind not in ("tensor_type", "sparse_tensor_type"):
        return "untyped"
    tensor = getattr(proto, kind)
    text = dtype_name(tensor.elem_type).lower()
    if tensor.HasField("shape"):
        dims = (str(dim.dim_value) if dim.HasField("dim_value") else "?" for dim in tensor.shape.dim)
        text += f" [{', '.join(dims)}]"
    return text if kind == "tensor_type" else f"sparse {text}"


INLINE = 4096
"""Weights up to this many bytes are given to the checker, which wants to see shapes; the others stay on disk."""


def _problem(model: Model) -> str:
    """What `onnx.checker` says about a model, in one line; empty if nothing.

    The checker sees everything but the bytes of large weights, whose presence and length the loader has checked, so
    that a model of many gigabytes costs no more than its graph.
    """
    proto = onnx.ModelProto()
    proto.CopyFrom(model.skeleton)
    for tensor in proto.graph.initializer:
        weight = model.weights[tensor.name]
        if weight.dtype == TensorProto.STRING:
            tensor.string_data.extend(_bytes(text) for text in weight.array().reshape(-1))
        elif weight.nbytes <= INLINE:
            tensor.raw_data = b"".join(bytes(piece) for piece in weight.chunks())
        else:
            tensor.data_location = TensorProto.EXTERNAL
            tensor.external_data.add(key="location", value="weights")
    _set_apart_experimental(proto)
    with tempfile.TemporaryDirectory(prefix="onnx-grow-") as folder:
        Path(folder, "weights").touch()
        path = Path(folder, "model.onnx")
        path.write_bytes(proto.SerializeToString())
        try:
            onnx.checker.check_model(os.fspath(path), full_check=True)
        except (
            onnx.checker.ValidationError,
            onnx.shape_inference.InferenceError,
            ValueError,
            RuntimeError,
        ) as error:
            return one_line(error)
    return ""


_EXPERIMENTAL = {
    "ATen",
    "Affine",
    "ConstantFill",
    "Crop",
    "DynamicSlice",
    "GRUUnit",
    "GivenTensorFill",
    "ImageScaler",
    "ParametricSoftplus",
    "Scale",
    "ScaledTanh",
}


def _set_apart_experimental(proto: onnx.ModelProto) -> None:
    """Give ONNX's former experimental operators a domain: the checker knows no more of them, and does not print about them."""
    for node in all_nodes(proto):
        if node.op_type in _EXPERIMENTAL and is_default(node):
            node.domain = "experimental"
    proto.opset_import.add(domain="experimental", version=1)


def _bytes(text: object) -> bytes:
    return text if isinstance(text, bytes) else str(text).encode()

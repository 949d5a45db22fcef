"""Is a file what the growth that it records makes of the original, to the bit?

A grown file says what was done to it (`onnx_grow.history`), and the same growth makes the same bytes. Done once more, it shows what
outputs may not: a fault that moves them by less than rounding the weights does, or only on inputs that nobody made up. Nothing is
written, and of no weight is more in memory than a piece.

What differs is a fault only where it cannot be anything else: the same original, the same onnx-grow and NumPy, and a file that has the
very nodes and weights that the growth makes. Of a conversion to float16, say, replaying tells nothing.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from zlib import crc32

import numpy as np
import onnx
from onnx import TensorProto, helper

from onnx_grow.errors import OnnxGrowError
from onnx_grow.growth import apply, diff
from onnx_grow.growth.correspondence import making_sense, recorded
from onnx_grow.growth.difference import Change, Difference, aligned
from onnx_grow.growth.provenance import continued, made_by
from onnx_grow.model import HISTORY, Model, Weight, dtype_name, flattened

__all__ = ["Replay", "grew_from", "replay"]

ROUNDING: Mapping[int, float] = {TensorProto.FLOAT: 2.0**-22, TensorProto.DOUBLE: 2.0**-40}
"""Relative difference up to which another processor may round what is computed in double precision."""
_SHOWN = 3
"""Differences that are named."""


@dataclass(frozen=True)
class Replay:
    """What came of doing a growth again: whether the file is what it makes (None: that cannot be told), and this in words."""

    same: bool | None
    told: str


def replay(original: Model, grown: Model) -> Replay | None:
    """Do to `original` what `grown` records, and compare every node, attribute and weight; None where it records no growth of it."""
    entries = continued(original, grown)
    if not entries:
        return None
    try:
        with making_sense():  # weights are computed where they are compared
            return _replayed(original, grown, entries)
    except OnnxGrowError as error:
        return Replay(None, f"its growth cannot be done again: {error.message}")


def grew_from(model: Model, source: Model) -> bool:
    """Whether `model` records that it grew from the very file `source`, or from one with its growths."""
    entries = continued(source, model)
    if not entries:
        return False
    digest = entries[0].get("source_sha256")
    return HISTORY in source.metadata or (digest is not None and digest == source.sha256)


def _replayed(original: Model, grown: Model, entries: Sequence[Mapping[str, Any]]) -> Replay:
    expected = original
    for plan in recorded(original, grown):
        expected = apply(expected, plan)
    wires = _wires(expected), _wires(grown)
    expected, grown = flattened(expected), flattened(grown)
    found = diff(expected, grown)
    if apart := next(_of_structure(found, expected, grown), ""):
        why = _doubt(original, entries) or "it was changed since"
        return Replay(None, f"not compared with what its growth makes: {why} ({apart})")
    faults = [
        *_of_attributes(found),
        *_of_weights(found.values, expected, grown),
        *_of_wires(*wires),
    ]
    if not faults:
        rounded = (
            f" but for the last digits of {len(found.values)} weights" if found.values else ", to the bit"
        )
        return Replay(True, f"it is what its growth makes of the original{rounded}")
    more = f"; and {len(faults) - _SHOWN} more" if len(faults) > _SHOWN else ""
    places = f"{'; '.join(faults[:_SHOWN])}{more}"
    if doubt := _doubt(original, entries):
        return Replay(None, f"its growth done again makes something else ({places}), but {doubt}")
    return Replay(False, f"it is not what its growth makes of the original: {places}")


def _doubt(original: Model, entries: Sequence[Mapping[str, Any]]) -> str:
    """Why a growth may rightly come out otherwise than it did; empty if there is no reason."""
    here = made_by()
    for entry in entries:
        if any(entry.get(key) != value for key, value in here.items()):
            there = {key: entry.get(key, "unknown") for key in here}
            return f"it was grown by {_versions(there)}, and this is {_versions(here)}"
    if original.sha256 is None or original.sha256 != entries[0].get("source_sha256"):
        return "it does not record that it was grown from this very file"
    return ""


def _versions(made: Mapping[str, Any]) -> str:
    return f"onnx-grow {made['version']} ({made['code']}) with NumPy {made['numpy']}"


def _of_structure(found: Difference, expected: Model, grown: Model) -> Iterator[str]:
    """What only one of the models has, or has elsewhere or in another shape or type."""
    for layer in found.layers:
        if layer.change != "changed":
            yield f"node {layer.name!r} was {layer.change}"
        for change in layer.attributes:
            if not _is_value(change):
                yield f"{change.name} of {layer.operator} {layer.name!r} is {change.after}, not {change.before}"
    there, here = (
        {name for node in model.skeleton.graph.node for name in node.output} for model in (expected, grown)
    )
    for name in sorted(there ^ here):
        yield f"tensor {name!r} was {'removed' if name in there else 'added'}"
    for change in found.weights:
        yield f"weight {change.name!r} has shape {change.after}, not {change.before}"
    for name in found.values:
        was, now = (dtype_name(model.weights[name].dtype) for model in (expected, grown))
        if was != now:
            yield f"weight {name!r} is {now}, not {was}"


def _of_wires(expected: Mapping[str, str], grown: Mapping[str, str]) -> Iterator[str]:
    for place, said in expected.items():
        if grown.get(place) != said:
            yield f"{place} {grown.get(place, 'is not there')}, where the growth {said}"


def _wires(model: Model) -> dict[str, str]:
    """What a model says beside attributes and weights, wherever in it and in any order of its nodes: who reads and gives what."""
    graph = model.skeleton.graph
    wires = dict(_wires_of(graph, ""))
    for tensor in graph.sparse_initializer:
        wires[f"sparse weight {tensor.values.name!r}"] = _digest(tensor)
    for function in model.skeleton.functions:  # calls that could not be written out
        wires[f"function '{function.domain}.{function.name}'"] = _digest(function)
    return wires


def _wires_of(graph: onnx.GraphProto, where: str) -> Iterator[tuple[str, str]]:
    taken = f"takes {[value.name for value in graph.input]} and " if where else ""
    yield where or "the model", f"{taken}gives {[value.name for value in graph.output]}"
    for node in graph.node:
        place = f"{where}{', ' if where else ''}{node.op_type} of {next(filter(None, node.output), '')!r}"
        sparse = [_digest(each.sparse_tensor) for each in node.attribute if each.HasField("sparse_tensor")]
        yield place, " ".join([f"reads {list(node.input)} and gives {list(node.output)}", *sparse])
        for attribute in node.attribute:
            if attribute.HasField("g"):
                yield from _wires_of(attribute.g, f"{place}, {attribute.name}")


def _digest(message: onnx.SparseTensorProto | onnx.FunctionProto) -> str:
    return f"has the checksum {crc32(message.SerializeToString(deterministic=True)):08x}"


def _is_value(change: Change) -> bool:
    return change.name != "operator" and None not in (change.before, change.after)


def _of_attributes(found: Difference) -> Iterator[str]:
    for layer in found.layers:
        for change in layer.attributes:
            yield f"{change.name} of {layer.operator} {layer.name!r} is {change.after}, not {change.before}"


def _of_weights(names: Sequence[str], expected: Model, grown: Model) -> Iterator[str]:
    for name in names:
        if said := _first(expected.weights[name], grown.weights[name]):
            yield f"weight {name!r} {said}"


def _first(expected: Weight, found: Weight) -> str:
    """The first element that is another number, not one rounded otherwise; empty if there is none."""
    if found.dtype == TensorProto.STRING:
        return "holds other texts"
    native = helper.tensor_dtype_to_np_dtype(found.dtype)
    if found.nbytes != native.itemsize * int(np.prod(found.shape)):  # elements below one byte
        return "holds other values"
    start = 0
    for before, after in aligned(expected, found):
        old, new = before.view(native), after.view(native)
        wrong = (before != after).reshape(old.size, -1).any(axis=1)
        if found.dtype in ROUNDING and wrong.any():
            wrong &= ~_is_rounding(old, new, ROUNDING[found.dtype])
        if wrong.any():
            k = int(np.argmax(wrong))
            index = list(map(int, np.unravel_index(start + k, found.shape)))
            return f"{index} is {new[k]}, not {old[k]}" if index else f"is {new[k]}, not {old[k]}"
        start += old.size
    return ""


def _is_rounding(old: Any, new: Any, limit: float) -> Any:
    with np.errstate(invalid="ignore", over="ignore"):
        return np.abs(new - old) <= limit * np.maximum(np.abs(old), np.abs(new))

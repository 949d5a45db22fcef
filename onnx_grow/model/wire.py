"""The protobuf wire format, as far as it takes to find tensor bytes without parsing them.

A message is a sequence of fields, each a varint key (number << 3 | wire type) and a payload
(https://protobuf.dev/programming-guides/encoding). Everything here is linear in the number of fields, does
not recurse, and never reads the payload of a field it skips.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final, NamedTuple

__all__ = [
    "BYTES",
    "GRAPH",
    "INITIALIZER",
    "RAW_DATA",
    "Field",
    "MalformedError",
    "TooLargeError",
    "bare",
    "fields",
    "graph_depth",
    "key",
    "varint",
]

GRAPH: Final = 7
"""ModelProto.graph"""
NODE: Final = 1
"""GraphProto.node"""
INITIALIZER: Final = 5
"""GraphProto.initializer"""
ATTRIBUTE: Final = 5
"""NodeProto.attribute"""
SUBGRAPHS: Final = (6, 11)
"""AttributeProto.g and .graphs"""
RAW_DATA: Final = 9
"""TensorProto.raw_data"""

ENTRIES: Final = 2_000_000
"""Nodes, tensors, declarations and the like that one graph or node may have: an empty node is 2 bytes here and 150 in memory."""
_INSIDE: Final = {
    "model": {GRAPH: "graph", 20: "training", 25: "function"},
    "training": {1: "graph", 2: "graph"},
    "function": {7: "node"},
    "graph": {NODE: "node"},
    "node": {ATTRIBUTE: "attribute"},
    "attribute": dict.fromkeys(SUBGRAPHS, "graph"),
}
"""The fields of a ModelProto, TrainingInfoProto and so on in which nodes and graphs lie."""

BYTES: Final = 2
"""The wire type of strings, bytes, tensors and graphs."""
_VARINT, _FIXED64, _FIXED32 = 0, 1, 5

Span = tuple[int, int]


class MalformedError(ValueError):
    """The bytes are not a protobuf message, or not one we accept."""


class TooLargeError(MalformedError):
    """Some part of a message has more entries than we accept."""


class Field(NamedTuple):
    """One field: its number, its wire type, where its key starts, and its payload `[start, end)`."""

    number: int
    wire: int
    key: int
    start: int
    end: int


def bare(data: memoryview) -> tuple[bytes, list[Span | None]]:
    """Split a serialized ModelProto into itself without the raw bytes of its graph's initializers, and those.

    The spans `(offset, length)` are in initializer order; None for an initializer without `raw_data`.
    Raises MalformedError, and TooLargeError for a model of which some part has more entries than `ENTRIES`.
    """
    _check_entries(data)
    spans: list[Span | None] = []
    model: list[bytes | memoryview] = []
    kept = 0
    for field in fields(data, 0, len(data)):
        if field.number == GRAPH and field.wire == BYTES:
            graph = _bare_graph(data, field, spans)
            model += (data[kept : field.key], key(GRAPH), varint(len(graph)), graph)
            kept = field.end
    model.append(data[kept:])
    return b"".join(model), spans


def fields(data: memoryview, start: int, end: int) -> Iterator[Field]:
    """The fields of the message in `data[start:end]`, in order.

    Raises MalformedError where a field does not fit or has a wire type ONNX does not use.
    """
    at = start
    while at < end:
        begin = at
        tag, at = _read_varint(data, at, end)
        number, wire = tag >> 3, tag & 7
        if number == 0:
            raise MalformedError(f"a field without a number at byte {begin}")
        if wire == BYTES:
            length, at = _read_varint(data, at, end)
            stop = at + length
        elif wire == _VARINT:
            _, stop = _read_varint(data, at, end)
        elif wire == _FIXED32:
            stop = at + 4
        elif wire == _FIXED64:
            stop = at + 8
        else:
            raise MalformedError(f"a field of unknown kind at byte {begin}")
        if stop > end:
            raise MalformedError(f"the field at byte {begin} needs {stop - at:,} bytes and has {end - at:,}")
        yield Field(number, wire, begin, at, stop)
        at = stop


def graph_depth(data: memoryview) -> int:
    """How deep graphs are nested in a serialized ModelProto; 1 for a graph without subgraphs."""
    level = [(f.start, f.end) for f in fields(data, 0, len(data)) if f.number == GRAPH and f.wire == BYTES]
    depth = 0
    while level:
        depth += 1
        for number in ((NODE,), (ATTRIBUTE,), SUBGRAPHS):
            level = [
                (field.start, field.end)
                for span in level
                for field in fields(data, *span)
                if field.number in number and field.wire == BYTES
            ]
    return depth


def key(number: int) -> bytes:
    """The key of a field whose payload is bytes: a string, a tensor, a graph."""
    return varint(number << 3 | BYTES)


def varint(value: int) -> bytes:
    """A non-negative integer, seven bits per byte, lowest first."""
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


def _check_entries(data: memoryview) -> None:
    """Raise TooLargeError where a message has too many entries, of which each takes two bytes at least."""
    large = [("model", 0, len(data))]
    while large:
        kind, start, end = large.pop()
        for count, field in enumerate(fields(data, start, end)):
            if count == ENTRIES:
                raise TooLargeError(f"a {kind} has more than {ENTRIES:,} entries")
            inner = _INSIDE[kind].get(field.number) if field.wire == BYTES else None
            if inner is not None and field.end - field.start >= 2 * ENTRIES:
                large.append((inner, field.start, field.end))


def _bare_graph(data: memoryview, graph: Field, spans: list[Span | None]) -> bytes:
    pieces: list[bytes | memoryview] = []
    kept = graph.start
    for field in fields(data, graph.start, graph.end):
        if field.number == INITIALIZER and field.wire == BYTES:
            tensor, span = _bare_tensor(data, field)
            spans.append(span)
            if span is not None:
                pieces += (data[kept : field.key], key(INITIALIZER), varint(len(tensor)), tensor)
                kept = field.end
    pieces.append(data[kept : graph.end])
    return b"".join(pieces)


def _bare_tensor(data: memoryview, tensor: Field) -> tuple[bytes, Span | None]:
    pieces: list[memoryview] = []
    kept = tensor.start
    span = None
    for field in fields(data, tensor.start, tensor.end):
        if field.number == RAW_DATA and field.wire == BYTES:
            span = field.start, field.end - field.start  # of several, the last one counts, as in protobuf
            pieces.append(data[kept : field.key])
            kept = field.end
    if span is None:
        return b"", None
    pieces.append(data[kept : tensor.end])
    return b"".join(pieces), span


def _read_varint(data: memoryview, at: int, end: int) -> tuple[int, int]:
    value = shift = 0
    while at < end and shift < 64:
        byte = data[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, at
        shift += 7
    raise MalformedError(f"it breaks off at byte {at}" if at >= end else f"a number without end at byte {at}")

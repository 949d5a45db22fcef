"""The protobuf wire format, as far as it takes to find tensor bytes without parsing them.

A message is a sequence of fields, each a varint key (number << 3 | wire type) and a payload
(https://protobuf.dev/programming-guides/encoding). Everything here is linear in the number of fields, does not
recurse, and never reads the payload of a field it skips.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Final, NamedTuple

__all__ = ["GRAPH", "INITIALIZER", "RAW_DATA", "Field", "MalformedError", "bare", "fields", "key", "varint"]

GRAPH: Final = 7
"""ModelProto.graph"""
INITIALIZER: Final = 5
"""GraphProto.initializer"""
RAW_DATA: Final = 9
"""TensorProto.raw_data"""

_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5


class MalformedError(ValueError):
    """The bytes are not a protobuf message."""


class Field(NamedTuple):
    """One field: its number, its wire type, where its key starts, and its payload `[start, end)`."""

    number: int
    wire: int
    key: int
    start: int
    end: int


Span = tuple[int, int]


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
            raise MalformedError(f"a field has number 0 at byte {begin}")
        if wire == _BYTES:
            length, at = _read_varint(data, at, end)
            stop = at + length
        elif wire == _VARINT:
            _, stop = _read_varint(data, at, end)
        elif wire == _FIXED32:
            stop = at + 4
        elif wire == _FIXED64:
            stop = at + 8
        else:
            raise MalformedError(f"wire type {wire} at byte {begin}")
        if stop > end:
            raise MalformedError(f"the field at byte {begin} needs {stop - at} bytes, {end - at} are there")
        yield Field(number, wire, begin, at, stop)
        at = stop


def bare(data: memoryview) -> tuple[bytes, list[Span | None]]:
    """Split a serialized ModelProto into itself without the raw bytes of its graph's initializers, and those.

    The spans `(offset, length)` are in initializer order; None for an initializer that has no `raw_data`.
    """
    spans: list[Span | None] = []
    model: list[bytes] = []
    kept = 0
    for field in fields(data, 0, len(data)):
        if field.number == GRAPH and field.wire == _BYTES:
            graph = _bare_graph(data, field, spans)
            model += (bytes(data[kept : field.key]), key(GRAPH), varint(len(graph)), graph)
            kept = field.end
    model.append(bytes(data[kept:]))
    return b"".join(model), spans


def key(number: int) -> bytes:
    """The key of a length-delimited field."""
    return varint(number << 3 | _BYTES)


def varint(value: int) -> bytes:
    """A non-negative integer, seven bits per byte, lowest first."""
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


def _bare_graph(data: memoryview, graph: Field, spans: list[Span | None]) -> bytes:
    pieces: list[bytes | memoryview] = []
    kept = graph.start
    for field in fields(data, graph.start, graph.end):
        if field.number == INITIALIZER and field.wire == _BYTES:
            tensor, span = _bare_tensor(data, field)
            spans.append(span)
            if span is not None:
                pieces += (data[kept : field.key], key(INITIALIZER), varint(len(tensor)), tensor)
                kept = field.end
    pieces.append(data[kept : graph.end])
    return b"".join(pieces)


def _bare_tensor(data: memoryview, tensor: Field) -> tuple[bytes, Span | None]:
    found = [f for f in fields(data, tensor.start, tensor.end) if f.number == RAW_DATA and f.wire == _BYTES]
    if not found:
        return b"", None
    edges = [tensor.start, *(edge for f in found for edge in (f.key, f.end)), tensor.end]
    kept = b"".join(data[a:b] for a, b in _pairs(edges))
    last = found[-1]  # a field that must occur once and occurs twice: the last one counts
    return kept, (last.start, last.end - last.start)


def _pairs(edges: Sequence[int]) -> Iterator[Span]:
    return zip(edges[::2], edges[1::2], strict=True)


def _read_varint(data: memoryview, at: int, end: int) -> tuple[int, int]:
    value = shift = 0
    while at < end:
        byte = data[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, at
        shift += 7
        if shift > 63:
            break
    raise MalformedError(f"a number does not end at byte {at}")

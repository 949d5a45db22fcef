from __future__ import annotations

import numpy as np
import onnx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from onnx import helper, numpy_helper

from onnx_grow.model import wire


def model(*weights: np.ndarray) -> onnx.ModelProto:
    tensors = [numpy_helper.from_array(array, f"w{i}") for i, array in enumerate(weights)]
    return helper.make_model(
        helper.make_graph([helper.make_node("Relu", ["x"], ["y"])], "g", [], [], tensors)
    )


def test_bare_takes_out_raw_bytes_and_nothing_else() -> None:
    proto = model(np.arange(300, dtype=np.float32), np.float32(1), np.zeros((0, 2), np.float32))
    typed = helper.make_tensor("typed", onnx.TensorProto.FLOAT, [2], [1.0, 2.0])
    typed.doc_string = "behind raw_data"
    proto.graph.initializer.insert(1, typed)
    data = proto.SerializeToString()
    bytes_, spans = wire.bare(memoryview(data))
    found = [None if span is None else data[span[0] : span[0] + span[1]] for span in spans]
    expected = [t.raw_data if t.HasField("raw_data") else None for t in proto.graph.initializer]
    assert found == expected
    for tensor in proto.graph.initializer:
        tensor.ClearField("raw_data")
    assert onnx.ModelProto.FromString(bytes_) == proto


def test_a_graph_in_two_parts_and_bytes_given_twice_are_merged_as_protobuf_does() -> None:
    first, second = model(np.arange(4, dtype=np.float32)), model(np.arange(3, dtype=np.int64))
    second.graph.initializer[0].name = "other"
    data = first.SerializeToString() + second.SerializeToString()
    merged = onnx.ModelProto.FromString(data)
    _, spans = wire.bare(memoryview(data))
    assert [data[a : a + n] for a, n in spans if n] == [t.raw_data for t in merged.graph.initializer]

    twice = (
        onnx.TensorProto(raw_data=b"old").SerializeToString()
        + onnx.TensorProto(raw_data=b"new").SerializeToString()
    )
    graph = wire.key(wire.INITIALIZER) + wire.varint(len(twice)) + twice
    data = wire.key(wire.GRAPH) + wire.varint(len(graph)) + graph
    bare, [(start, length)] = wire.bare(memoryview(data))
    assert data[start : start + length] == b"new"
    assert onnx.ModelProto.FromString(bare).graph.initializer[0].ByteSize() == 0


@given(st.integers(0, 2**64 - 1))
def test_varints_round_trip(value: int) -> None:
    data = b"\x08" + wire.varint(value)
    [field] = wire.fields(memoryview(data), 0, len(data))
    assert field == (1, 0, 0, 1, len(data))
    length = wire.key(3) + wire.varint(value)
    if value:
        with pytest.raises(wire.MalformedError, match=f"needs {value:,} bytes and has 0"):
            list(wire.fields(memoryview(length), 0, len(length)))


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"\x00\x01", "without a number"),
        (b"\x0b", "unknown kind"),
        (b"\x0d\x00\x00", "needs 4 bytes and has 2"),
        (b"\x09\x00\x00", "needs 8 bytes and has 2"),
        (b"\x0a\x05ab", "needs 5 bytes and has 2"),
        (b"\x08", "breaks off"),
        (b"\x08\xff", "breaks off"),
        (b"\x08" + b"\xff" * 10 + b"\x01", "without end"),
    ],
)
def test_malformed_bytes_are_named(data: bytes, message: str) -> None:
    with pytest.raises(wire.MalformedError, match=message):
        list(wire.fields(memoryview(data), 0, len(data)))


@pytest.mark.parametrize(
    "around",
    [
        (wire.GRAPH,),
        (wire.SUBGRAPHS[0], wire.ATTRIBUTE, wire.NODE, wire.GRAPH),
        (wire.SUBGRAPHS[1], wire.ATTRIBUTE, 7, 25),  # a graph in a node of a function
        (2, 20),  # the algorithm of a training
    ],
)
def test_a_graph_of_too_many_entries_is_refused_before_it_is_parsed(
    monkeypatch: pytest.MonkeyPatch, around: tuple[int, ...]
) -> None:
    monkeypatch.setattr(wire, "ENTRIES", 10)
    for count in (10, 11):
        data = b"\x0a\x00" * count
        for number in around:
            data = wire.key(number) + wire.varint(len(data)) + data
        if count == 10:
            wire.bare(memoryview(data))
        else:
            with pytest.raises(wire.TooLargeError, match="a graph has more than 10 entries"):
                wire.bare(memoryview(data))


def test_depth_counts_nested_graphs() -> None:
    assert wire.graph_depth(memoryview(nested(1))) == 1
    assert wire.graph_depth(memoryview(nested(7))) == 7


def nested(depth: int) -> bytes:
    """A model of `depth` graphs, each in an attribute of the only node of the one around it."""
    graph = b""
    for _ in range(depth - 1):
        for number in (6, wire.ATTRIBUTE, wire.NODE):
            graph = wire.key(number) + wire.varint(len(graph)) + graph
    return wire.key(wire.GRAPH) + wire.varint(len(graph)) + graph

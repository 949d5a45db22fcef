from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import onnx
import onnx_graphsurgeon as gs
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper, parser

from onnx_grow.errors import InvalidModelError
from onnx_grow.model import Draft, Inline, Stored, Typed, load

TEXT = """<ir_version: 8, opset_import: ["" : 17], doc_string: "about">
g (float[N, 2] x) => (float[N, 2] y) <float[2] w = {1, 2}> { h = Add(x, w) y = Relu(h) }"""


def refused(source: object, **options: bool) -> str:
    with pytest.raises(InvalidModelError) as caught:
        load(source, **options)  # type: ignore[arg-type]
    assert "\n" not in str(caught.value)
    return str(caught.value)


def model(**weights: np.ndarray | TensorProto) -> onnx.ModelProto:
    """A graph that adds up the given initializers."""
    proto = parser.parse_model(
        '<ir_version: 8, opset_import: ["" : 17]> g (float[2] x) => (float[2] y) { y = Identity(x) }'
    )
    for name, value in weights.items():
        tensor = value if isinstance(value, TensorProto) else numpy_helper.from_array(value, name)
        tensor.name = name
        proto.graph.initializer.append(tensor)
    return proto


def test_every_kind_of_source_gives_the_same_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    proto = parser.parse_model(TEXT)
    path = tmp_path / "m.onnx"
    onnx.save(proto, path)
    monkeypatch.chdir(tmp_path)
    data = path.read_bytes()
    for source in (path, str(path), "m.onnx", data, bytearray(data), memoryview(data), proto):
        loaded = load(source)  # type: ignore[arg-type]
        assert loaded.to_proto() == proto
        assert loaded.path == (path if isinstance(source, str | Path) else None)


def test_a_graphsurgeon_graph_is_a_source() -> None:
    x = gs.Variable("x", np.float32, (2,))
    y = gs.Variable("y", np.float32, (2,))
    w = gs.Constant("w", np.float32([1, 2]))
    graph = gs.Graph([gs.Node("Add", inputs=[x, w], outputs=[y])], [x], [y], opset=17)
    loaded = load(graph)
    np.testing.assert_array_equal(loaded.weights["w"].array(), [1, 2])
    assert (loaded.opset, loaded.skeleton.ir_version) == (17, 8), "not the newest, which runtimes do not read"
    graph.opset, graph.ir_version = 8, 3
    assert load(graph).skeleton.ir_version == 4, "initializers that are no inputs need it"


def test_the_source_is_not_changed_and_not_watched() -> None:
    proto = model(w=np.float32([1, 2]))
    before = proto.SerializeToString()
    loaded = load(proto)
    loaded.skeleton.graph.name = "changed"
    assert proto.SerializeToString() == before
    buffer = bytearray(before)
    loaded = load(buffer)  # type: ignore[arg-type]
    buffer[:] = bytes(len(buffer))
    np.testing.assert_array_equal(loaded.weights["w"].array(), [1, 2])


def test_raw_values_are_mapped_and_typed_values_stay_as_they_came() -> None:
    typed = helper.make_tensor("t", TensorProto.FLOAT16, [2], [1.0, 2.0])
    strings = helper.make_tensor("s", TensorProto.STRING, [2], [b"a", b"b"])
    proto = model(r=np.float32([1, 2]), t=typed, s=strings)
    loaded = load(proto)
    assert [type(weight) for weight in loaded.weights.values()] == [Stored, Typed, Typed]
    assert list(loaded.weights) == ["r", "t", "s"]
    for header in loaded.skeleton.graph.initializer:
        assert {field.name for field, _ in header.ListFields()} == {"dims", "data_type", "name"}
    assert loaded.to_proto() == proto


def test_nothing_is_resident_until_it_is_read(tmp_path: Path) -> None:
    path = tmp_path / "m.onnx"
    onnx.save(model(w=np.zeros((1024, 1024), np.float32)), path)
    loaded = load(path)
    assert loaded.skeleton.ByteSize() < 1000
    assert np.shares_memory(loaded.weights["w"].array(), np.frombuffer(loaded.weights["w"].buffer, np.uint8))  # type: ignore[attr-defined]


# --- files that are no models -------------------------------------------------------------------------------------


def test_what_is_not_a_file_is_named(tmp_path: Path) -> None:
    assert "missing.onnx does not exist" in refused(tmp_path / "missing.onnx")
    assert "does not exist" in refused(tmp_path / "m.onnx" / "deeper.onnx")
    assert "is a folder" in refused(tmp_path)
    os.mkfifo(tmp_path / "pipe")
    assert "not a regular file" in refused(tmp_path / "pipe")
    assert "not a regular file" in refused("/dev/zero")
    assert "an object of type int is not a model" in refused(3)
    (tmp_path / "empty.onnx").touch()
    assert "empty.onnx is empty" in refused(tmp_path / "empty.onnx")


@pytest.mark.parametrize(
    ("content", "hint"),
    [
        (b"just some text\n" * 20, ""),
        (b"\0" * 1000, ""),
        (bytes(range(255, 0, -1)), ""),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n", "git lfs pull"),
        (b"PK\x03\x04" + bytes(50), "zip"),
        (b"\x89HDF\r\n\x1a\n" + bytes(50), "HDF5"),
        (b"<!DOCTYPE html><html>", "web page"),
        (b"\x08\x08\x3a\xff\x01", "incomplete"),
        (b"\x18\0\0\0ORTM" + bytes(50), "ORT format"),
        (b"\x1c\0\0\0TFL3" + bytes(50), "TensorFlow Lite"),
    ],
)
def test_other_files_are_told_apart(tmp_path: Path, content: bytes, hint: str) -> None:
    (tmp_path / "m.onnx").write_bytes(content)
    message = refused(tmp_path / "m.onnx")
    assert "m.onnx is not an ONNX model" in message
    assert hint in message


def test_every_truncation_is_refused_or_another_whole_message() -> None:
    data = parser.parse_model(TEXT).SerializeToString()
    for end in range(len(data)):
        try:
            loaded = load(data[:end])
        except InvalidModelError:
            continue
        assert loaded.to_proto() == onnx.ModelProto.FromString(data[:end])


def test_other_messages_are_no_models() -> None:
    tensor = numpy_helper.from_array(np.arange(9, dtype=np.float32), "w")
    assert "not an ONNX model" in refused(tensor.SerializeToString())
    assert "it has no graph" in refused(onnx.ModelProto(ir_version=8).SerializeToString())
    empty = onnx.ModelProto(ir_version=8)
    empty.graph.name = "g"
    assert "its graph is empty" in refused(empty)


def nested(depth: int) -> onnx.ModelProto:
    """A model of `depth` graphs, each inside a node of the one around it."""
    proto = model()
    for _ in range(depth - 1):
        outer = model()
        body = outer.graph.node[0].attribute.add(name="body", type=onnx.AttributeProto.GRAPH)
        body.g.CopyFrom(proto.graph)
        proto = outer
    return proto


def test_graphs_nested_too_deep_are_named() -> None:
    deepest = load(nested(32))
    assert len(deepest.topology().nodes) == 1
    assert Draft(deepest).freeze().to_proto() == nested(32)
    assert "its graphs are nested 34 deep, protobuf reads 32" in refused(nested(34).SerializeToString())
    assert "nested 200 deep" in refused(nested(200))


# --- values that do not fit ---------------------------------------------------------------------------------------


def test_values_must_fit_type_and_shape() -> None:
    def with_tensor(**fields: object) -> str:
        return refused(model(w=TensorProto(**fields)))  # type: ignore[arg-type]

    float_ = TensorProto.FLOAT
    assert "tensor 'w' (FLOAT [3]) needs 12 bytes and has 8" in with_tensor(
        data_type=float_, dims=[3], raw_data=bytes(8)
    )
    assert "needs 3 entries in float_data and has 2" in with_tensor(
        data_type=float_, dims=[3], float_data=[1, 2]
    )
    assert "needs 0 entries in int32_data and has 1" in with_tensor(
        data_type=float_, dims=[1], raw_data=bytes(4), int32_data=[1]
    )
    assert "needs 2 entries in string_data and has 1" in with_tensor(
        data_type=TensorProto.STRING, dims=[2], string_data=[b"a"]
    )
    assert "STRING has no raw_data" in with_tensor(data_type=TensorProto.STRING, dims=[2], raw_data=bytes(8))
    assert "negative dimension" in with_tensor(data_type=float_, dims=[-1, -1], raw_data=bytes(4))
    assert "element type 99" in with_tensor(data_type=99, dims=[1], raw_data=bytes(4))
    assert "UNDEFINED" in with_tensor(dims=[1], raw_data=bytes(4))
    assert "larger than any memory" in with_tensor(data_type=float_, dims=[1] * 65, raw_data=bytes(4))
    assert "segments" in with_tensor(
        data_type=float_, dims=[1], raw_data=bytes(4), segment=TensorProto.Segment(begin=0, end=1)
    )


def test_a_kilobyte_that_declares_terabytes_is_refused() -> None:
    huge = TensorProto(data_type=TensorProto.FLOAT, dims=[2_500_000_000_000], raw_data=bytes(4))
    assert "needs 10,000,000,000,000 bytes and has 4" in refused(model(w=huge))
    huge.ClearField("raw_data")
    assert "needs 2,500,000,000,000 entries in float_data and has 0" in refused(model(w=huge))
    huge.dims[:] = [2**62] * 60
    assert "larger than any memory" in refused(model(w=huge))


def test_values_inside_nodes_are_checked_too() -> None:
    proto = model()
    bad = TensorProto(data_type=TensorProto.FLOAT, dims=[3], raw_data=bytes(8), name="inner")
    proto.graph.node.append(helper.make_node("Constant", [], ["c"], value=bad))
    assert "tensor 'inner' (FLOAT [3]) needs 12 bytes and has 8" in refused(proto)


SEEDS = [
    parser.parse_model(TEXT).SerializeToString(),
    model(a=np.arange(6, dtype=np.int64), b=helper.make_tensor("b", 1, [2], [1.0, 2.0])).SerializeToString(),
]


def test_a_model_of_too_many_entries_is_not_called_incomplete(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("onnx_grow.model.wire.ENTRIES", 3)
    with pytest.raises(InvalidModelError) as error:
        load(
            parser.parse_model(
                '<ir_version: 8, opset_import: ["": 17]> g (float[2] x) => (float[2] y) { y = Relu(x) }'
            )
        )
    assert str(error.value) == "the model is too large: a graph has more than 3 entries"


@settings(max_examples=400, deadline=None, suppress_health_check=list(HealthCheck))
@given(data=st.data())
def test_a_damaged_file_is_refused_in_one_line_or_is_another_model(data: st.DataObject) -> None:
    damaged = bytearray(data.draw(st.sampled_from(SEEDS)))
    for _ in range(data.draw(st.integers(1, 3))):
        at = data.draw(st.integers(0, len(damaged) - 1))
        if data.draw(st.booleans()):
            damaged[at] = data.draw(st.integers(0, 255))
        else:
            damaged[at : at + data.draw(st.integers(0, 5))] = data.draw(st.binary(max_size=5))
        if not damaged:
            return
    try:
        loaded = load(bytes(damaged))
    except InvalidModelError as error:
        message = str(error)
    else:
        message = ""
    assert "\n" not in message
    if message:
        return
    _ = loaded.topology().graph
    frozen = Draft(loaded).freeze().to_proto()
    assert frozen.SerializeToString(deterministic=True) == onnx.ModelProto.FromString(
        bytes(damaged)
    ).SerializeToString(deterministic=True)


def test_inline_weights_are_a_model_too() -> None:
    draft = Draft(load(model(w=np.float32([1, 2]))))
    draft.weights["w"] = Inline.of(np.float32([3, 4]))
    np.testing.assert_array_equal(load(draft.freeze().to_proto()).weights["w"].array(), [3, 4])

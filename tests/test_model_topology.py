from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper, parser

from onnx_grow.model import Topology, load

TEXT = """<ir_version: 8, opset_import: ["" : 17]>
g (bool c, float[2] x) => (float[2] y, float[2] h) <float[2] w = {1, 2}> {
  h = Add(x, w)
  k = Mul(h, h)
  y = If(c) <
    then_branch = t () => (float[2] a) { a = Add(k, w) },
    else_branch = e () => (float[2] b) { b = Identity(h) }>
}"""


def test_producers_consumers_and_captures() -> None:
    topology = load(parser.parse_model(TEXT)).topology()
    assert [node.op_type for node in topology.nodes] == ["Add", "Mul", "If"]
    assert topology.producers == {"h": 0, "k": 1, "y": 2}
    assert topology.consumers == {"x": [(0, 0)], "w": [(0, 1)], "h": [(1, 0), (1, 1)], "c": [(2, 0)]}
    assert topology.captured == {"k": 2, "w": 2, "h": 2}
    assert (topology.inputs, topology.outputs) == (("c", "x"), ("y", "h"))
    assert topology.proto(1).op_type == "Mul"
    assert [node.op for node in topology.graph.nodes] == ["Add", "Mul", "If"]


def test_names_stay_and_an_initializer_is_no_input() -> None:
    proto = parser.parse_model(
        '<ir_version: 3, opset_import: ["" : 8]> g (float[2] x, float[2] w) => (float[2] y)'
        " <float[2] w = {1, 2}> { [first] h = Add(x, w) [first] y = Relu(h) }"
    )
    topology = load(proto).topology()
    assert [node.name for node in topology.nodes] == ["first", "first"]
    assert topology.inputs == ("x",)


def test_each_topology_is_a_fresh_one() -> None:
    model = load(parser.parse_model(TEXT))
    before = model.skeleton.SerializeToString()
    first = model.topology().graph
    first.nodes.clear()
    assert len(model.topology().graph.nodes) == 3
    assert model.skeleton.SerializeToString() == before


def exotic() -> dict[str, onnx.ModelProto]:
    """Models with what GraphSurgeon does not import."""
    base = '<ir_version: 10, opset_import: ["" : 19]> g (float[2] x) => (float[2] y) { y = Relu(x) }'
    models = {}

    def add(name: str) -> onnx.ModelProto:
        models[name] = parser.parse_model(base)
        return models[name]

    sequence = helper.make_sequence_type_proto(helper.make_tensor_type_proto(1, [2]))
    for kind, type_ in {
        "optional": helper.make_optional_type_proto(sequence),
        "sequence": sequence,
        "map": onnx.TypeProto(map_type=onnx.TypeProto.Map(key_type=TensorProto.INT64, value_type=sequence)),
        "opaque": onnx.TypeProto(opaque_type=onnx.TypeProto.Opaque(domain="d", name="n")),
        "none": onnx.TypeProto(),
    }.items():
        graph = add(f"{kind} input").graph
        graph.input.append(helper.make_value_info("other", type_))
        graph.value_info.append(helper.make_value_info("unseen", type_))
    add("unknown element type").graph.input[0].type.tensor_type.elem_type = 120
    add("empty list").graph.node[0].attribute.add(name="empty", type=onnx.AttributeProto.INTS)
    add("no type").graph.node[0].attribute.add(name="untyped", i=3)
    add("unknown bytes").graph.node[0].attribute.add(name="s", type=onnx.AttributeProto.STRING, s=b"\xff\xfe")
    add("unknown strings").graph.node[0].attribute.add(
        name="s", type=onnx.AttributeProto.STRINGS, strings=[b"ok", b"\xff"]
    )
    add("type attribute").graph.node[0].attribute.append(helper.make_attribute("t", sequence))
    tensor = numpy_helper.from_array(np.float32([1]), "t")
    add("tensors").graph.node[0].attribute.append(helper.make_attribute("ts", [tensor, tensor]))
    add("no operator set").ClearField("opset_import")
    add("no operator set").ir_version = 2
    for dtype in TensorProto.DataType.values():
        if dtype != TensorProto.UNDEFINED:
            value = helper.make_tensor(
                "w", dtype, [2], [b"a", b"b"] if dtype == TensorProto.STRING else [0, 1]
            )
            add(f"initializer {dtype}").graph.initializer.append(value)
    return models


@pytest.mark.parametrize("name", exotic())
def test_what_graphsurgeon_cannot_import_does_not_stop_it(
    name: str, capfd: pytest.CaptureFixture[str]
) -> None:
    model = load(exotic()[name])
    topology = Topology(model.skeleton)
    assert topology.producers == {"y": 0}
    assert topology.inputs[0] == "x"
    assert [node.op for node in topology.graph.nodes] == ["Relu"]
    assert capfd.readouterr() == ("", "")

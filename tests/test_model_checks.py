from __future__ import annotations

import time

import onnx
import pytest
from onnx import helper, parser

from onnx_grow.errors import InvalidModelError
from onnx_grow.model.checks import captured, check

HEADER = '<ir_version: 8, opset_import: ["" : 17]>\n'


def model(text: str) -> onnx.ModelProto:
    return parser.parse_model(HEADER + text)


def refused(proto: onnx.ModelProto) -> str:
    with pytest.raises(InvalidModelError) as caught:
        check(proto)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_a_sound_graph_passes() -> None:
    check(model("g (float[2] x) => (float[2] y) <float[2] w = {1, 2}> { h = Add(x, w) y = Relu(h) }"))


@pytest.mark.parametrize("version", [-1, 1 << 40, -(1 << 63)])
def test_versions_that_no_operator_set_has_are_refused(version: int) -> None:
    proto = model("g (float[2] x) => (float[2] y) { y = Relu(x) }")
    proto.opset_import[0].version = version
    assert refused(proto) == f"operator set 'ai.onnx' cannot have version {version}"


def test_optional_inputs_and_outputs_are_no_names() -> None:
    check(
        model('g (float[2] x) => (float[2] y) { y = Clip(x, "", "") z, "" = Dropout(x) v, "" = Dropout(x) }')
    )


def test_a_name_assigned_twice_is_refused() -> None:
    proto = model("g (float[2] x) => (float[2] y) { y = Relu(x) y = Abs(x) }")
    assert refused(proto) == "node 'y' (Abs) assigns 'y', which exists already"
    assert "assigns 'x'" in refused(model("g (float[2] x) => (float[2] x) { x = Relu(x) }"))


def test_two_initializers_or_inputs_of_one_name_are_refused() -> None:
    proto = model("g (float[2] x) => (float[2] y) <float[2] w = {1, 2}> { y = Add(x, w) }")
    proto.graph.initializer.append(proto.graph.initializer[0])
    assert refused(proto) == "two initializers are called 'w'"
    proto = model("g (float[2] x) => (float[2] y) { y = Relu(x) }")
    proto.graph.input.append(proto.graph.input[0])
    assert refused(proto) == "two inputs are called 'x'"


def test_an_initializer_may_also_be_an_input() -> None:
    proto = model("g (float[2] x, float[2] w) => (float[2] y) <float[2] w = {1, 2}> { y = Add(x, w) }")
    assert len(proto.graph.initializer) == 1
    check(proto)


def test_cycles_and_unsorted_nodes_are_told_from_missing_values() -> None:
    cycle = model("g (float[2] x) => (float[2] y) { a = Add(x, b) b = Relu(a) y = Relu(b) }")
    assert "reads 'b' before node 'b' (Relu) computes it: the graph is cyclic or not sorted" in refused(cycle)
    itself = model("g (float[2] x) => (float[2] y) { y = Add(x, y) }")
    assert "before node 'y' (Add) computes it" in refused(itself)
    missing = model("g (float[2] x) => (float[2] y) { y = Add(x, nowhere) }")
    assert refused(missing) == "node 'y' (Add) reads 'nowhere', which nothing computes"
    assert refused(model("g (float[2] x) => (float[2] z) { y = Relu(x) }")) == (
        "the graph output 'z' is computed by no node"
    )


BRANCHES = """g (bool c, float[2] x) => (float[2] y) <float[2] w = {1, 2}> {
  h = Relu(x)
  y = If(c) <
    then_branch = t () => (float[2] a) { b = Add(h, w) a = Relu(b) },
    else_branch = e () => (float[2] d) { d = If(c) <
      then_branch = t2 () => (float[2] p) { p = Abs(x) },
      else_branch = e2 () => (float[2] q) { q = Identity(h) }> }>
}"""


def test_subgraphs_read_what_the_graphs_around_them_have_computed() -> None:
    proto = model(BRANCHES)
    check(proto)
    assert sorted(captured(proto.graph.node[1])) == ["c", "h", "w", "x"]
    early = model(BRANCHES)
    nodes = [early.graph.node[1], early.graph.node[0]]
    del early.graph.node[:]
    early.graph.node.extend(nodes)
    assert "reads 'h' before" in refused(early)


def test_a_subgraph_may_pass_an_outer_value_on_and_hide_one() -> None:
    proto = model("""g (bool c, float[2] x) => (float[2] y) {
      y = If(c) <then_branch = t () => (float[2] x) { },
                 else_branch = e () => (float[2] k) { x = Constant<value_float = 1.0>() k = Relu(x) }>
    }""")
    check(proto)
    assert list(captured(proto.graph.node[0])) == ["x"]


def test_a_name_is_local_only_inside_its_own_graph() -> None:
    proto = model("""g (bool c, float[2] x) => (float[2] y) {
      y = If(c) <then_branch = t () => (float[2] a) {
                   n = If(c) <then_branch = t2 () => (float[2] p) { p = Relu(x) },
                              else_branch = e2 () => (float[2] q) { q = Relu(x) }>
                   a = Add(n, p) },
                 else_branch = e () => (float[2] b) { b = Relu(x) }>
    }""")
    assert set(captured(proto.graph.node[0])) == {"c", "x", "p"}
    assert refused(proto) == "node 'y' (If) reads 'p', which nothing computes"


def test_what_one_branch_defines_the_other_captures() -> None:
    proto = model("""g (bool c, float[2] x) => (float[2] y) {
      y = If(c) <then_branch = t () => (float[2] a) {
                   a = If(c) <then_branch = t2 () => (float[2] p) { p = Identity(w) },
                              else_branch = e2 () => (float[2] q) <float[2] w = {1, 2}> { q = Identity(w) }> },
                 else_branch = e () => (float[2] b) { b = Relu(x) }>
    }""")
    assert list(captured(proto.graph.node[0])) == ["c", "w", "x"]
    assert refused(proto) == "node 'y' (If) reads 'w', which nothing computes"


def test_only_nodes_of_functions_refer_to_attributes_of_those() -> None:
    proto = model("g (float[2] x) => (float[2] y) { y = Softmax(x) }")
    proto.functions.append(function("A"))
    proto.functions[0].node.append(proto.graph.node[0])
    for node in (proto.functions[0].node[0], proto.graph.node[0]):
        check(proto)
        node.attribute.add(name="axis", type=onnx.AttributeProto.INT, ref_attr_name="axis")
    assert "node 'y' (Softmax) takes 'axis' from the attribute of a function" in refused(proto)


def test_names_that_are_not_text_are_refused() -> None:
    data = model("g (float[2] x) => (float[2] yy) { yy = Relu(x) }").SerializeToString()
    assert "not UTF-8" in refused(onnx.ModelProto.FromString(data.replace(b"yy", b"\xff\xfe")))


def test_names_of_attributes_that_are_not_text_are_refused() -> None:
    data = model("g (float[2] x) => (float[2] y) { y = Softmax<axis = 0>(x) }").SerializeToString()
    assert "not UTF-8" in refused(onnx.ModelProto.FromString(data.replace(b"axis", b"ax\xffs")))


def function(name: str, *calls: str) -> onnx.FunctionProto:
    nodes = [helper.make_node(call, ["x"], [f"y{i}"], domain="f") for i, call in enumerate(calls)]
    return helper.make_function("f", name, ["x"], ["y0"], nodes, [helper.make_opsetid("f", 1)])


def test_functions_that_call_themselves_are_refused() -> None:
    proto = model("g (float[2] x) => (float[2] y) { y = Relu(x) }")
    proto.functions.extend([function("A", "B", "C"), function("B", "C"), function("C", "Elsewhere")])
    check(proto)
    proto.functions.append(function("D", "E"))
    proto.functions.append(function("E", "A", "D"))
    assert "function 'D' calls itself" in refused(proto)


def test_checking_is_linear() -> None:
    count = 20_000
    nodes = [helper.make_node("Relu", [f"t{i}"], [f"t{i + 1}"]) for i in range(count)]
    values = [
        helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, [1]) for name in ("t0", f"t{count}")
    ]
    proto = helper.make_model(helper.make_graph(nodes, "g", values[:1], values[1:]))
    proto.functions.extend(function(f"F{i}", f"F{i + 1}") for i in range(3_000))
    start = time.process_time()
    check(proto)
    assert time.process_time() - start < 5

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper, parser

from onnx_grow.model import Draft, Inline, Model, load

TEXT = """<ir_version: 8, opset_import: ["" : 17], metadata_props: ["author": "someone"]>
g (float[N, 2] x) => (float[N, 2] y) <float[2] w = {1, 2}, float[2] unused = {0, 0}, float[2] b = {3, 4}> {
  [add] h = Add(x, w)
  [bias] k = Add(h, b)
  [act] y = Relu(k)
}"""
OLD = """<ir_version: 3, opset_import: ["" : 8]>
g (float[N, 2] x, float[2] w) => (float[N, 2] y) <float[2] w = {1, 2}> { h = Add(x, w) y = Relu(h) }"""


def draft(text: str = TEXT) -> Draft:
    return Draft(load(parser.parse_model(text)))


def run(model: Model, x: np.ndarray) -> np.ndarray:
    proto = model.to_proto()
    onnx.checker.check_model(proto, full_check=True)
    from onnx.reference import ReferenceEvaluator

    return ReferenceEvaluator(proto).run(None, {"x": x})[0]  # type: ignore[no-any-return]


def test_without_edits_nothing_changes() -> None:
    for text in (TEXT, OLD):
        assert draft(text).freeze().to_proto() == parser.parse_model(text)


def test_edits_stay_in_the_draft() -> None:
    model = load(parser.parse_model(TEXT))
    edited = Draft(model)
    edited.node(0).op_type = "Mul"
    edited.weights["w"] = Inline.of(np.float32([5]))
    frozen = edited.freeze()
    edited.node(0).op_type = "Sub"
    assert model.to_proto() == parser.parse_model(TEXT)
    assert frozen.skeleton.graph.node[0].op_type == "Mul"
    assert edited.freeze().skeleton.graph.node[0].op_type == "Sub"
    assert frozen.path is None


def test_indices_are_those_of_the_original_and_insertions_keep_their_order() -> None:
    edited = draft()

    def node(name: str) -> onnx.NodeProto:
        return helper.make_node("Identity", ["x"], [name], name=name)

    edited.insert_before(1, node("b1"))
    edited.insert_after(0, node("a1"))
    edited.insert_before(1, node("b2"))
    edited.insert_after(0, node("a2"))
    edited.insert_before(3, node("end"))
    assert edited.node(1).name == "bias"
    names = [n.name for n in edited.freeze().skeleton.graph.node]
    assert names == ["add", "a1", "a2", "b1", "b2", "bias", "act", "end"]


def test_inserted_nodes_compute() -> None:
    edited = draft()
    scale = edited.add_weight("scale", Inline.of(np.float32([10, 100])))
    edited.insert_after(0, helper.make_node("Mul", ["h", scale], ["hs"]))
    edited.node(1).input[0] = "hs"
    np.testing.assert_array_equal(run(edited.freeze(), np.float32([[1, 1]])), [[23, 304]])


def test_fresh_names_differ_from_every_tensor_and_node_also_in_subgraphs() -> None:
    edited = draft("""<ir_version: 8, opset_import: ["" : 17]> g (bool c, float[2] x) => (float[2] y) {
      [cond] y = If(c) <then_branch = t () => (float[2] a) <float[2] w = {1, 2}> { [inner] a = Add(x, w) },
                        else_branch = e () => (float[2] b) { b = Identity(x) }> }""")
    for taken in ("c", "x", "y", "cond", "a", "w", "inner", "b"):
        assert edited.fresh_name(taken) == f"{taken}_1"
    assert [edited.fresh_name("new") for _ in range(3)] == ["new", "new_1", "new_2"]
    assert edited.fresh_name("new_1") == "new_1_1"
    assert edited.fresh_name("") != ""
    edited.insert_before(0, helper.make_node("Identity", ["x"], ["t"], name="n"))
    assert (edited.fresh_name("t"), edited.fresh_name("n")) == ("t_1", "n_1")


def test_initializers_that_lose_their_last_reader_go_and_others_stay() -> None:
    edited = draft()
    edited.node(1).input[1] = "w"
    frozen = edited.freeze()
    assert list(frozen.weights) == ["w", "unused"]
    assert [t.name for t in frozen.skeleton.graph.initializer] == ["w", "unused"]


@pytest.mark.parametrize(
    "reader",
    ["subgraph", "output", "quantization", "training"],
)
def test_readers_are_not_only_nodes(reader: str) -> None:
    proto = parser.parse_model(TEXT)
    if reader == "subgraph":
        branch = helper.make_graph(
            [helper.make_node("Identity", ["b"], ["o"])],
            "branch",
            [],
            [helper.make_tensor_value_info("o", TensorProto.FLOAT, [2])],
        )
        proto.graph.input.append(helper.make_tensor_value_info("c", TensorProto.BOOL, []))
        proto.graph.node.append(helper.make_node("If", ["c"], ["p"], then_branch=branch, else_branch=branch))
    elif reader == "output":
        proto.graph.output.append(helper.make_tensor_value_info("b", TensorProto.FLOAT, [2]))
    elif reader == "quantization":
        annotation = proto.graph.quantization_annotation.add(tensor_name="h")
        annotation.quant_parameter_tensor_names.add(key="SCALE_TENSOR", value="b")
    else:
        proto.training_info.add().update_binding.add(key="b", value="new_b")
    edited = Draft(load(proto))
    edited.node(1).input[1] = "w"
    assert list(edited.freeze().weights) == ["w", "unused", "b"]


def test_a_new_shape_reaches_the_initializer_and_what_declares_it() -> None:
    proto = parser.parse_model(OLD)
    proto.graph.initializer[0].doc_string = "kept"
    proto.graph.value_info.append(helper.make_tensor_value_info("w", TensorProto.FLOAT, ["C"]))
    edited = Draft(load(proto))
    edited.weights["w"] = Inline.of(np.zeros((3, 4), np.float16))
    graph = edited.freeze().skeleton.graph
    [header] = graph.initializer
    assert (list(header.dims), header.data_type, header.doc_string) == ([3, 4], TensorProto.FLOAT16, "kept")
    declared = graph.input[1].type.tensor_type
    assert [dim.dim_value for dim in declared.shape.dim] == [3, 4]
    assert declared.elem_type == TensorProto.FLOAT16
    assert [dim.dim_value for dim in graph.value_info[0].type.tensor_type.shape.dim] == [3, 4]


def test_a_wrong_declaration_of_a_weight_that_did_not_change_stays() -> None:
    proto = parser.parse_model(OLD)
    proto.graph.input[1].type.tensor_type.shape.dim[0].dim_value = 99
    edited = Draft(load(proto))
    edited.weights["w"] = Inline.of(np.float32([7, 8]))
    assert edited.freeze().skeleton == load(proto).skeleton


def test_weights_are_the_truth_about_initializers() -> None:
    edited = draft()
    edited.weights["more"] = Inline.of(np.int64([1, 2, 3]))
    del edited.weights["unused"]
    frozen = edited.freeze()
    assert [(t.name, list(t.dims)) for t in frozen.skeleton.graph.initializer] == [
        ("w", [2]),
        ("b", [2]),
        ("more", [3]),
    ]
    assert list(frozen.weights) == ["w", "b", "more"]


def test_before_ir_4_a_new_weight_is_a_constant_because_initializers_were_inputs() -> None:
    edited = draft(OLD)
    edited.insert_before(0, helper.make_node("Identity", ["x"], ["copy"]))
    scale = edited.add_weight("w", Inline.of(np.float32([10, 100])))
    assert scale == "w_1"
    edited.insert_before(0, helper.make_node("Mul", ["copy", scale], ["scaled"]))
    edited.node(0).input[0] = "scaled"
    frozen = edited.freeze()
    assert [node.op_type for node in frozen.skeleton.graph.node] == [
        "Constant",
        "Identity",
        "Mul",
        "Add",
        "Relu",
    ]
    assert [value.name for value in frozen.skeleton.graph.input] == ["x", "w"]
    assert list(frozen.weights) == ["w"]
    np.testing.assert_array_equal(run(frozen, np.float32([[1, 1]])), [[11, 102]])


def test_before_ir_4_an_orphan_leaves_the_inputs_too() -> None:
    edited = draft(OLD)
    edited.node(0).input[1] = "x"
    graph = edited.freeze().skeleton.graph
    assert ([value.name for value in graph.input], len(graph.initializer)) == (["x"], 0)


def test_metadata_is_merged() -> None:
    frozen = draft().freeze({"onnx_grow.version": "1", "author": "someone else"})
    assert frozen.metadata == {"author": "someone else", "onnx_grow.version": "1"}
    assert draft().freeze().metadata == {"author": "someone"}


def test_a_draft_of_a_draft_knows_the_new_weights() -> None:
    edited = draft()
    name = edited.add_weight("extra", Inline.of(np.float32([1, 1])))
    edited.node(2).op_type = "Add"
    edited.node(2).input.append(name)
    again = Draft(edited.freeze())
    assert again.fresh_name("extra") == "extra_1"
    np.testing.assert_array_equal(run(again.freeze(), np.float32([[0, 0]])), [[5, 7]])


def test_ir_version_and_operator_sets_are_carried_over() -> None:
    frozen = draft('<ir_version: 5, opset_import: ["" : 9]> g (float[2] x) => (float[2] y) { y = Relu(x) }')
    skeleton = frozen.freeze().skeleton
    assert skeleton.ir_version == 5
    assert [(entry.domain, entry.version) for entry in skeleton.opset_import] == [("", 9)]


def test_many_edits_stay_linear() -> None:
    count = 5_000
    nodes = [helper.make_node("Relu", [f"t{i}"], [f"t{i + 1}"]) for i in range(count)]
    values = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [1]) for name in ("t0", f"t{count}")]
    weights = [numpy_helper.from_array(np.float32(i), f"w{i}") for i in range(count)]
    edited = Draft(load(helper.make_model(helper.make_graph(nodes, "g", values[:1], values[1:], weights))))
    for i in range(count):
        edited.insert_after(i, helper.make_node("Relu", [f"t{i + 1}"], [edited.fresh_name("t")]))
        edited.weights[f"w{i}"] = Inline.of(np.zeros(2, np.float32))
    assert len(edited.freeze().skeleton.graph.node) == 2 * count

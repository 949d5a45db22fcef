from __future__ import annotations

import numpy as np
import onnx
from onnx import helper, numpy_helper

from onnx_grow.model import walk


def body(name: str, *nodes: onnx.NodeProto) -> onnx.GraphProto:
    out = helper.make_tensor_value_info("z", onnx.TensorProto.FLOAT, [])
    return helper.make_graph(
        list(nodes), name, [], [out], [numpy_helper.from_array(np.float32(1), f"{name}_w")]
    )


def model() -> onnx.ModelProto:
    inner = helper.make_node(
        "If", ["c"], ["z"], then_branch=body("inner_then"), else_branch=body("inner_else")
    )
    outer = helper.make_node("If", ["c"], ["y"], then_branch=body("then", inner), else_branch=body("else"))
    many = helper.make_node("Many", [], ["m"], domain="x", graphs=[body("list_a"), body("list_b")])
    sparse = helper.make_sparse_tensor(
        numpy_helper.from_array(np.float32([1]), "sparse_values"),
        numpy_helper.from_array(np.int64([0]), "sparse_indices"),
        [3],
    )
    constant = helper.make_node("Constant", [], ["s"], sparse_value=sparse)
    tensor = helper.make_node("Constant", [], ["t"], value=numpy_helper.from_array(np.float32(0), "value"))
    function = helper.make_function(
        "x", "F", [], ["q"], [helper.make_node("If", ["c"], ["q"], then_branch=body("in_function"))], []
    )
    graph = helper.make_graph([outer, many, constant, tensor], "main", [], [])
    graph.initializer.append(numpy_helper.from_array(np.float32(1), "weight"))
    proto = helper.make_model(graph, functions=[function])
    proto.training_info.add().algorithm.CopyFrom(body("training"))
    return proto


def test_graphs_are_found_at_any_depth() -> None:
    names = {graph.name for graph in walk.graphs(model())}
    expected = {
        "main",
        "then",
        "else",
        "inner_then",
        "inner_else",
        "list_a",
        "list_b",
        "in_function",
        "training",
    }
    assert names - {""} == expected


def test_nodes_are_found_in_graphs_and_functions() -> None:
    assert sorted(node.op_type for node in walk.all_nodes(model())) == [
        "Constant",
        "Constant",
        "If",
        "If",
        "If",
        "Many",
    ]


def test_tensors_are_all_but_the_initializers_of_the_main_graph() -> None:
    names = {tensor.name for tensor in walk.tensors(model())}
    assert names == {
        *(
            "then_w",
            "else_w",
            "inner_then_w",
            "inner_else_w",
            "list_a_w",
            "list_b_w",
            "in_function_w",
            "training_w",
        ),
        *("sparse_values", "sparse_indices", "value"),
    }

from __future__ import annotations

from typing import Any

import onnx
import pytest
from onnx import helper

import onnx_grow as og
from onnx_grow.errors import InvalidModelError


def model(operator: str, inputs: int = 1, **attributes: Any) -> onnx.ModelProto:
    """One node over tensors of 3 x 4."""
    names = [f"x{k}" for k in range(inputs)]
    node = helper.make_node(operator, names, ["y"], name="n")
    for name, value in attributes.items():
        node.attribute.append(helper.make_attribute(name, value))
    values = [helper.make_tensor_value_info(name, 1, [3, 4]) for name in names]
    graph = helper.make_graph([node], "g", values, [helper.make_tensor_value_info("y", 1, None)])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 23)], ir_version=10)


def refused(model: onnx.ModelProto) -> str:
    with pytest.raises(InvalidModelError) as caught:
        og.inspect(og.load(model))
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize(
    ("operator", "name", "value"),
    [
        ("Attention", "kv_num_heads", 0),  # SIGFPE in ONNX Runtime
        ("Conv", "group", 0),
        ("Conv", "strides", [1, -1]),
        ("DepthToSpace", "blocksize", 0),
        ("MaxPool", "kernel_shape", [0, 2]),
    ],
)
def test_counts_are_positive(operator: str, name: str, value: Any) -> None:
    given = {"kernel_shape": [1, 1]} if operator == "MaxPool" else {}
    assert f"node 'n' ({operator}) has the attribute {name!r} {value}" in refused(
        model(
            operator,
            3 if operator == "Attention" else 2 if operator == "Conv" else 1,
            **{**given, name: value},
        )
    )


@pytest.mark.parametrize("axis", [-3, 2, 1 << 40, -(1 << 63)])
@pytest.mark.parametrize("operator", ["LayerNormalization", "RMSNormalization", "Softmax", "Gather"])
def test_an_axis_is_one_of_the_inputs(operator: str, axis: int) -> None:
    """Inference indexes by it unseen, or takes the lower half of its bits."""
    message = refused(model(operator, 1 if operator == "Softmax" else 2, axis=axis))
    assert message == f"node 'n' ({operator}) has the attribute 'axis' {axis}, and its input has 2 dimensions"


@pytest.mark.parametrize("equation", [b"c>l", b"ij-", b"i..j", b"i\0j", b"\xcd", b"ij->i->j", b"i1"])
def test_an_equation_that_inference_does_not_survive(equation: bytes) -> None:
    assert "(Einsum) has the attribute 'equation'" in refused(model("Einsum", equation=equation))


@pytest.mark.parametrize("equation", ["ij->ji", "i j", "...j -> ...", "ij"])
def test_equations_that_mean_something(equation: str) -> None:
    og.inspect(og.load(model("Einsum", equation=equation)))


def test_types_and_presence_are_those_of_the_operator() -> None:
    assert "the attribute 'equation' of type int, not string" in refused(model("Einsum", equation=0))
    assert "has no attribute 'blocksize', which it needs" in refused(model("SpaceToDepth"))
    untyped = model("Softmax", axis=1)
    untyped.graph.node[0].attribute[0].type = 0
    assert "the attribute 'axis' of type undefined, not int" in refused(untyped)


def test_operators_of_other_sets_are_checked_too() -> None:
    later = model("Einsum", equation=0)
    later.opset_import[0].version = 1
    assert "of type int, not string" in refused(later)
    bare = model("Shape")
    bare.opset_import[0].version = 0
    del bare.graph.node[0].input[:]
    assert "has 0 inputs" in refused(bare)


def test_axes_that_operators_allow() -> None:
    for operator, axis in (("Flatten", 2), ("Flatten", -2), ("Softmax", -2), ("Softmax", 1)):
        og.inspect(og.load(model(operator, axis=axis)))

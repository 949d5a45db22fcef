from __future__ import annotations

import numpy as np
import onnx
import pytest

import onnx_grow as og
from onnx_grow.model import inlined

TEXT = """
<ir_version: 9, opset_import: ["" : 18, "local" : 1]>
agraph (float[N, 4] x) => (float[N, 3] y)
<float[4, 6] w1, float[6] b1, float[6, 3] w2, float[3] b2>
{
    h = local.DenseRelu (x, w1, b1)
    y = local.DenseRelu (h, w2, b2)
}
<domain: "local", opset_import: ["" : 18]>
DenseRelu (a, w, b) => (c)
{
    p = MatMul (a, w)
    s = Add (p, b)
    c = Relu (s)
}
"""


@pytest.fixture
def calling() -> og.Model:
    proto = onnx.parser.parse_model(TEXT)
    rng = np.random.default_rng(0)
    for value in proto.graph.value_info:
        shape = [dim.dim_value for dim in value.type.tensor_type.shape.dim]
        values = rng.standard_normal(shape).astype(np.float32)
        proto.graph.initializer.append(onnx.numpy_helper.from_array(values, value.name))
    del proto.graph.value_info[:]
    return og.load(proto)


def test_calls_become_nodes(calling: og.Model) -> None:
    flat = inlined(calling)
    assert [node.op_type for node in flat.skeleton.graph.node] == ["MatMul", "Add", "Relu"] * 2
    assert not flat.skeleton.functions
    assert flat.weights is calling.weights


def test_a_model_without_functions_is_itself() -> None:
    model = og.load(
        onnx.parser.parse_model(
            '<ir_version: 9, opset_import: ["" : 18]> g (float[2] x) => (float[2] y) { y = Relu (x) }'
        )
    )
    assert inlined(model) is model


@pytest.mark.parametrize("grow", [og.widen, og.deepen])
def test_what_functions_hold_grows(calling: og.Model, grow) -> None:
    grown = grow(calling)
    assert grown.parameters > calling.parameters
    assert og.verify(calling, grown, provider="cpu").ok


@pytest.mark.parametrize("grow", [og.inspect, og.widen, og.deepen, og.plan_widen, og.plan_deepen])
def test_a_path_is_no_model(grow) -> None:
    with pytest.raises(
        og.InvalidRequestError, match=r"an object of type str is not a model.*onnx_grow\.load"
    ):
        grow("model.onnx")

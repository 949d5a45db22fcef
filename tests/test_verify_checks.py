import numpy as np
import onnx
import pytest
from graphs import build

from onnx_grow.errors import InvalidRequestError
from onnx_grow.model import Draft, Inline, Model, load
from onnx_grow.verification import verify
from onnx_grow.verification.checks import growth, interface, same_inputs, validity, versions

LINEAR = "(float[N, 4] x) => (float[N, 3] y) <float[4, 3] w> { y = MatMul(x, w) }"


def edited(model: Model, edit) -> Model:
    proto = onnx.ModelProto()
    proto.CopyFrom(model.skeleton)
    edit(proto)
    return Model(proto, model.weights)


def test_the_same_model_passes():
    model = build(LINEAR)
    assert [
        check.ok for check in (interface(model, model), versions(model, model), validity(model, model))
    ] == [True] * 3


@pytest.mark.parametrize(
    ("text", "detail"),
    [
        ("(float[N, 4] z) => (float[N, 3] y) <float[4, 3] w> { y = MatMul(z, w) }", "inputs x became z"),
        ("(float[N, 4] x) => (float[N, 3] z) <float[4, 3] w> { z = MatMul(x, w) }", "outputs y became z"),
        (
            "(float[N, 4] x) => (float[N, 5] y) <float[4, 5] w> { y = MatMul(x, w) }",
            "output 'y' float [?, 3] became float [?, 5]",
        ),
        (
            "(double[N, 4] x) => (double[N, 3] y) <double[4, 3] w> { y = MatMul(x, w) }",
            "input 'x' float [?, 4] became double",
        ),
        (
            "(float[2, 4] x) => (float[2, 3] y) <float[4, 3] w> { y = MatMul(x, w) }",
            "input 'x' float [?, 4] became float [2, 4]",
        ),
    ],
)
def test_the_interface_stays(text, detail):
    check = interface(build(LINEAR), build(text))
    assert not check.ok
    assert detail in check.detail


def test_names_of_open_sizes_and_sizes_found_later_do_not_matter():
    original = build(LINEAR)
    assert interface(original, build(LINEAR.replace("N", "batch"))).ok
    refined = edited(
        original, lambda proto: setattr(proto.graph.output[0].type.tensor_type.shape.dim[0], "dim_value", 7)
    )
    assert interface(original, refined).ok
    assert not interface(refined, original).ok


def test_weights_that_are_inputs_may_change_their_shape():
    narrow = build(
        """(float[N, 2] x, float[2, 2] v, float[2, 3] w) => (float[N, 3] y)
        <float[2, 2] v = {1, 2, 3, 4}, float[2, 3] w = {1, 2, 3, 4, 5, 6}> { a = MatMul(x, v) y = MatMul(a, w) }""",
        ir=3,
    )
    draft = Draft(narrow)
    draft.weights["v"], draft.weights["w"] = (
        Inline.of(np.ones((2, 5), np.float32)),
        Inline.of(np.ones((5, 3), np.float32)),
    )
    assert interface(narrow, draft.freeze()).ok


def test_other_types_than_tensors_are_compared():
    text = "(seq(float[N]) xs) => (float[M] y) { zero = Constant<value_int = 0>() y = SequenceAt(xs, zero) }"
    assert interface(build(text), build(text)).ok
    check = interface(
        build(text), build(text.replace("seq(float[N])", "seq(double[N])").replace("float[M]", "double[M]"))
    )
    assert "sequence of float [?] became sequence of double [?]" in check.detail


def test_same_inputs_is_about_names_and_types():
    model = build(LINEAR)
    assert same_inputs(model, build(LINEAR.replace("3", "7")))
    assert not same_inputs(model, build(LINEAR.replace("x", "z")))
    assert not same_inputs(model, build(LINEAR.replace("float", "double")))


def test_versions_stay():
    newer = build(LINEAR, opset=18, ir=9)
    assert versions(build(LINEAR, opset=17, ir=8), newer).ok  # another tool's doing
    grown = edited(newer, lambda proto: proto.metadata_props.add(key="onnx_grow.history", value="[]"))
    check = versions(build(LINEAR, opset=17, ir=8), grown)
    assert not check.ok
    assert check.detail == "operator set ai.onnx 17 became 18; IR version 8 became 9"
    more = edited(build(LINEAR), lambda proto: proto.opset_import.add(domain="com.example", version=1))
    assert versions(build(LINEAR), more).ok


def test_an_invalid_model_fails():
    def rename(proto):
        proto.graph.node[0].op_type = "Nonsense"

    check = validity(build(LINEAR), edited(build(LINEAR), rename))
    assert not check.ok
    assert "Nonsense" in check.detail
    assert "\n" not in check.detail


def test_shapes_that_contradict_each_other_fail():
    weights = {"w": Inline.of(np.zeros((5, 3), np.float32))}
    model = build(LINEAR)
    stretched = edited(model, lambda proto: proto.graph.initializer[0].dims.__setitem__(0, 5))
    check = validity(model, Model(stretched.skeleton, weights))
    assert not check.ok
    assert "MatMul" in check.detail


def test_a_flaw_that_the_original_has_too_does_not_count():
    def declare(proto):
        proto.graph.output[0].type.tensor_type.shape.dim[1].dim_value = 9

    flawed = edited(build(LINEAR), declare)
    assert not validity(build(LINEAR), flawed).ok
    check = validity(flawed, flawed)
    assert check.ok
    assert check.detail.startswith("not passed by the original either")


def test_large_and_odd_weights_are_no_obstacle(capfd):
    text = """<ir_version: 8, opset_import: ["" : 17]> g (float[N, 400] x) => (float[N, 400] y, string[2] s)
      <float[400, 400] w, string[2] names = {"a", "b"}> { y = MatMul(x, w) s = Identity(names) }"""
    model = build(text, w=np.zeros((400, 400), np.float32))
    assert validity(model, model).detail == "passed, with strict shape inference"
    old = '<ir_version: 3, opset_import: ["" : 7]> g (float[1, 3, 4, 4] x) => (float[1, 3, 4, 4] y) { y = ImageScaler<scale = 2.0>(x) }'
    validity(load(onnx.parser.parse_model(old)), load(onnx.parser.parse_model(old)))
    assert capfd.readouterr().out == ""  # the checker itself prints a warning there


def test_growth_is_what_was_promised():
    model = build(LINEAR)
    assert growth(model, {"parameters": 12, "nodes": 1, "w": (4, 3)}).ok
    check = growth(model, {"parameters": 13, "w": [4, 4], "v": [1]})
    assert not check.ok
    assert (
        check.detail
        == "parameters: 12 instead of 13; w: [4, 3] instead of [4, 4]; there is no initializer 'v'"
    )
    with pytest.raises(InvalidRequestError, match="unknown fact 'layers'"):
        growth(model, {"layers": 3})


def test_a_conversion_that_changed_the_inputs_is_told_the_remedy() -> None:
    model = build("(float[N, 2] x) => (float[N, 2] y) { y = Relu(x) }")
    half = build("(float16[N, 2] x) => (float16[N, 2] y) { y = Relu(x) }")
    double = build("(double[N, 2] x) => (double[N, 2] y) { y = Relu(x) }")
    assert any("keep_io_types=True" in warning for warning in verify(model, half).warnings)
    assert verify(model, double).warnings == ("nothing was compared, the inputs are not the same",)

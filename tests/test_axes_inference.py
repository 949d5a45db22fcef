from __future__ import annotations

import pytest
from graphs import build
from onnx.backend.test.case.node import collect_testcases

from onnx_grow.axes.algebra import leaves, resolve
from onnx_grow.axes.equations import Rule, unsupported
from onnx_grow.axes.inference import Analysis, infer
from onnx_grow.growth.widening import inspect
from onnx_grow.model import Model, load
from onnx_grow.operators import RULES
from onnx_grow.shapes import infer as infer_shapes

TWO = "(double[N, 4] x) => (double[N, 3] y) <double[4, 6] v, double[6, 3] w> { a = MatMul(x, v) y = MatMul(a, w) }"


def analysed(model: Model, **rules: Rule) -> Analysis:
    return infer(model, infer_shapes(model), {**RULES, **{("", op): rule for op, rule in rules.items()}})


def reasons(analysis: Analysis, name: str, dim: int = -1) -> list[str]:
    return [reason for leaf in leaves(analysis.dims[name][dim]) for reason in leaf.reasons]


def test_inputs_and_outputs_stay() -> None:
    analysis = analysed(build(TWO))
    assert reasons(analysis, "x") == ["it is a dimension of the model's input 'x'"]
    assert reasons(analysis, "y") == ["it is a dimension of the model's output 'y'"]
    assert reasons(analysis, "a", 0) == [
        "it is a dimension of the model's input 'x'",
        "it is a dimension of the model's output 'y'",
    ]
    assert reasons(analysis, "a") == []


def test_weights_have_dimensions_where_they_are_used() -> None:
    analysis = analysed(build(TWO))
    assert (
        resolve(analysis.uses[0, 1][1]) == resolve(analysis.dims["a"][1]) == resolve(analysis.uses[1, 1][0])
    )
    assert analysis.input_dims(1, 1) == analysis.uses[1, 1]
    assert analysis.input_dims(1, 0) == analysis.dims["a"]
    assert analysis.constants == {"v", "w"}
    assert analysis.labels == ("MatMul 'a'", "MatMul 'y'")


def test_an_unknown_operator_freezes_all_it_touches_and_is_named() -> None:
    model = build(
        """<ir_version: 8, opset_import: ["" : 17, "com.example" : 1]>
        g (float[2, 4] x) => (float[2, 3] y) <float[4, 6] v, float[6] s, float[6, 3] w> {
            a = MatMul(x, v) [strange] b = com.example.Twist(a, s) y = MatMul(b, w) }"""
    )
    analysis = analysed(model)
    reason = "Twist 'strange': operator com.example.Twist has no rule"
    assert reasons(analysis, "a") == [reason]
    assert [r for leaf in leaves(analysis.uses[1, 1][0]) for r in leaf.reasons] == [reason]
    assert analysis.refused == (
        reason,
        "MatMul 'y': the shape of its input 'b' is not known",
    )
    assert analysis.rules[1] is None
    assert analysis.rules[0] is not None


def test_a_rule_that_gives_up_freezes_all_it_touches() -> None:
    analysis = analysed(
        build(TWO.replace("y =", "b = Relu(a) y =").replace("(a, w)", "(b, w)")),
        Relu=Rule(unsupported("this is beyond its rule")),
    )
    for name in "ab":
        assert reasons(analysis, name) == ["Relu 'b': this is beyond its rule"]


def test_an_output_that_its_rule_forgets_stays() -> None:
    analysis = analysed(
        build(TWO.replace("y =", "b = Relu(a) y =").replace("(a, w)", "(b, w)")), Relu=Rule(lambda node: None)
    )
    assert reasons(analysis, "b") == ["Relu 'b': its rule says nothing of this output"]
    assert reasons(analysis, "a") == []


def test_bodies_of_control_flow_keep_what_they_read() -> None:
    model = build(
        """(double[N, 4] x, bool c) => (double[N, 3] y) <double[4, 6] v, double[6] s, double[6, 3] w> {
            a = MatMul(x, v)
            [choice] b = If(c) <then_branch = t () => (double[N, 6] p) { p = Mul(a, s) },
                                else_branch = e () => (double[N, 6] q) { q = Relu(a) }>
            y = MatMul(b, w) }"""
    )
    assert "If 'choice': its body uses 'a'" in reasons(analysed(model), "a")
    assert reasons(analysed(model), "b")


def test_a_captured_value_stays_also_when_read_before() -> None:
    model = build(
        """(double[N, 4] x, bool c) => (double[N, 3] y, double[N, 6] z) <double[4, 6] v, double[6, 3] w> {
            a = MatMul(x, v) r = Relu(a) y = MatMul(r, w)
            z = If(c) <then_branch = t () => (double[N, 6] p) { p = Identity(r) },
                       else_branch = e () => (double[N, 6] q) { q = Neg(r) }> }"""
    )
    assert "If 'z': its body uses 'r'" in reasons(analysed(model), "a")


def test_equal_vectors_are_not_shared_on_purpose_matrices_are() -> None:
    model = build(
        """(double[N, 4] x) => (double[N, 4] y) <double[4, 6] v, double[6] zero, double[6, 6] w, double[6, 4] u> {
            a = Gemm(x, v, zero) b = Gemm(a, w, zero) c = MatMul(b, w) y = MatMul(c, u) }"""
    )
    analysis = analysed(model)
    (a, b), (c, d) = analysis.uses[1, 1], analysis.uses[2, 1]
    assert (resolve(a), resolve(b)) == (resolve(c), resolve(d))
    (zero,), (other,) = analysis.uses[0, 2], analysis.uses[1, 2]
    assert zero != other


def test_constants_and_what_is_computed_from_them() -> None:
    model = build(
        """(double[N, 2] x) => (double[N, 2] y) <double[3, 2] w> {
            k = Constant <value = double[2, 2] {1, 2, 3, 4}> () v = Transpose(w) u = Mul(v, v) a = MatMul(x, k)
            b = MatMul(a, u) y = MatMul(b, w) }"""
    )
    analysis = analysed(model)
    assert analysis.constants == {"w", "k"}
    assert analysis.folded == {"v", "u"}


def test_tensors_without_a_known_shape_stop_what_reads_them() -> None:
    model = build(
        """(double[N, 4] x) => (double[M, 3] y) <double[4, 6] v, double[6, 3] w> {
            a = MatMul(x, v) s = SequenceConstruct(a, a) b = ConcatFromSequence <axis=0> (s) y = MatMul(b, w) }"""
    )
    analysis = analysed(model)
    assert any("SequenceConstruct" in reason for reason in reasons(analysis, "a"))


def test_the_long_name_of_the_default_domain() -> None:
    model = build(
        TWO.replace("(double[N", '<ir_version: 8, opset_import: ["ai.onnx" : 17]> g (double[N', 1).replace(
            "= MatMul", "= ai.onnx.MatMul"
        )
    )
    assert reasons(analysed(model), "a") == []


def test_nothing_is_mutated() -> None:
    model = build(TWO)
    before = model.to_proto().SerializeToString(deterministic=True)
    analysed(model)
    assert model.to_proto().SerializeToString(deterministic=True) == before


@pytest.mark.parametrize("length", [1500])
def test_deep_graphs(length: int) -> None:
    chain = " ".join(f"h{k + 1} = Relu(h{k})" for k in range(length))
    text = f"(double[2, 4] x) => (double[2, 3] y) <double[4, 6] v, double[6, 3] w> {{ h0 = MatMul(x, v) {chain} y = MatMul(h{length}, w) }}"
    assert reasons(analysed(build(text)), f"h{length}") == []


@pytest.mark.filterwarnings("ignore::RuntimeWarning")
def test_every_operator_of_onnx_is_analysed_without_surprise() -> None:
    """ONNX's own single-node models, one of each form: rules describe a node, or give up with a reason."""
    forms = {
        tuple(
            (node.op_type, len(node.input), len(node.attribute)) for node in case.model.graph.node
        ): case.model
        for case in collect_testcases(None)
        if case.model is not None and not case.name.endswith("_expanded")
    }
    for model in forms.values():
        inspect(load(model))
    assert len({node.op_type for model in forms.values() for node in model.graph.node}) > 180

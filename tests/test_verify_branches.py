"""Branches that no input takes are compared, too."""

from __future__ import annotations

import numpy as np
import onnx
from graphs import build
from onnx.reference import ReferenceEvaluator
from verifying import with_weights

import onnx_grow as og
from onnx_grow.verification.branches import branches, forced

CHOICE = """(float[N,4] x, int64 rate) => (float[N,3] y) <float[4,3] v, float[4,3] w> {
    wanted = Constant<value = int64 {16000}>()
    c = Equal(rate, wanted)
    y = If(c) <then_branch = t () => (float[N,3] a) { a = MatMul(x, v) },
               else_branch = e () => (float[N,3] b) { b = MatMul(x, w) }>
}"""
NESTED = """(float[N,4] x, bool c, bool d) => (float[N,4] y) {
    y = If(c) <then_branch = t () => (float[N,4] a) { a = Relu(x) },
               else_branch = e () => (float[N,4] b) {
                   b = If(d) <then_branch = tt () => (float[N,4] p) { p = Abs(x) },
                              else_branch = ee () => (float[N,4] q) { q = Neg(x) }> }>
}"""
X = {"x": np.ones((2, 4), np.float32), "rate": np.int64(16000)}


def test_a_fault_in_either_branch_is_found_whatever_the_inputs() -> None:
    model = build(CHOICE)
    assert og.verify(model, model, inputs=X).ok
    for weight in "vw":
        wrong = with_weights(model, **{weight: model.weights[weight].array() * np.float32(1.01)})
        report = og.verify(model, wrong, inputs=X)
        assert not report.ok
        assert any("every If takes its" in output.name for output in report.beyond)


def test_every_branch_of_nested_ifs_is_taken() -> None:
    model = build(NESTED)
    assert len(branches(model)) == 4
    results = set()
    for way in branches(model):
        proto = forced(model, way).to_proto()
        onnx.checker.check_model(proto, full_check=True)
        run = ReferenceEvaluator(proto).run
        (y,) = run(
            None, {"x": np.array([[1, -2, 0, 3]], np.float32), "c": np.array(True), "d": np.array(True)}
        )
        results.add(tuple(y[0].tolist()))
    assert results == {(1, 0, 0, 3), (1, 2, 0, 3), (-1, 2, 0, -3)}


def test_a_branch_that_the_original_does_not_run_is_named() -> None:
    model = build("""(float[N,4] x, bool c) => (float[N,4] y) <int64[2] s = {5, 77}> {
        y = If(c) <then_branch = t () => (float[N,4] a) { a = Relu(x) },
                   else_branch = e () => (float[N,4] b) { b = Reshape(x, s) }>
    }""")
    report = og.verify(model, model, inputs={"x": X["x"], "c": np.array(True)})
    assert report.ok
    assert any("not compared where every If takes its else_branch" in warning for warning in report.warnings)


def test_models_without_a_choice_run_once() -> None:
    assert branches(build("(float[N,4] x) => (float[N,4] y) { y = Relu(x) }")) == []


def test_warnings_of_a_branch_are_told_with_the_branch() -> None:
    model = build("""(float[N,4] x, bool c) => (float[N,4] y) <float[4] w = {1, 2, 3, 4}, float zero = {0}> {
        y = If(c) <then_branch = t () => (float[N,4] a) { a = Mul(x, w) },
                   else_branch = e () => (float[N,4] b) { n = Div(zero, zero) b = Mul(x, n) }>
    }""")
    report = og.verify(model, model, inputs={"x": X["x"], "c": np.array(True)})
    assert report.ok
    (warning,) = [warning for warning in report.warnings if "NaN" in warning]
    assert warning.startswith("where every If takes its else_branch: output 'y' is NaN")

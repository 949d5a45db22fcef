"""Divisions that some input makes 0 / 0 are told from those that a guard keeps away from it."""

from __future__ import annotations

import pytest
from graphs import build

from onnx_grow.growth.dataflow import Dataflow
from onnx_grow.growth.divisors import unguarded_divisions
from onnx_grow.shapes import infer

GRAPH = (
    "(float[N, 6] x) => (float[N, M] y) <float[6] c, float eps = {1e-6}, float zero = {0}, float two = {2}, float half = {-0.5}, "
    "int64[1] last = {-1}>"
)

GUARDED = {
    "a constant": "y = Div(x, c)",
    "an epsilon": "s = Mul(x, x) t = ReduceSum(s, last) d = Add(t, eps) r = Sqrt(d) y = Div(x, r)",
    "an epsilon, on the left": "s = Pow(x, two) d = Add(eps, s) y = Reciprocal(d)",
    "a power below zero": "s = Pow(x, two) d = Add(s, eps) y = Pow(d, half)",
    "the least that is let through": "n = ReduceL2 <axes = [1]> (x) d = Clip(n, eps) y = Div(x, d)",
    "the larger of two": "n = ReduceL2 <axes = [1]> (x) d = Max(n, eps) y = Div(x, d)",
    "softmax in pieces": (
        "m = ReduceMax <axes = [1]> (x) z = Sub(x, m) e = Exp(z) d = ReduceSum(e, last) y = Div(e, d)"
    ),
    "masked softmax": "p = Softmax(x) d = ReduceSum(p, last) y = Div(p, d)",
    "a size": "s = Shape(x) f = Cast <to = 1> (s) d = ReduceMax(f) y = Div(x, d)",
    "terms of which one is positive": "s = Abs(x) p = Softmax(x) d = Add(s, p) y = Div(x, d)",
}

UNGUARDED = {
    "anything": "y = Div(x, x)",
    "a sum of sigmoids": "s = Sigmoid(x) d = ReduceSum(s, last) y = Div(s, d)",
    "a norm": "d = ReduceL2 <axes = [1]> (x) y = Div(x, d)",
    "exponentials that may all be zero": "e = Exp(x) d = ReduceSum(e, last) y = Div(e, d)",
    "the least is zero": "d = Clip(x, zero) y = Reciprocal(d)",
    "zero is added": "d = Add(x, zero) y = Div(x, d)",
    "a power below zero": "y = Pow(x, half)",
    "a product with one that is not": "p = Softmax(x) s = Abs(x) d = Mul(p, s) y = Div(x, d)",
}


@pytest.mark.parametrize("name", GUARDED)
def test_a_guard_keeps_a_divisor_from_being_zero(name: str) -> None:
    assert not divisions(GUARDED[name])


@pytest.mark.parametrize("name", UNGUARDED)
def test_what_nothing_guards_may_be_zero(name: str) -> None:
    assert divisions(UNGUARDED[name]) == {"y"}


def divisions(body: str) -> set[str]:
    flow = Dataflow(model := build(f"{GRAPH} {{ {body} }}", opset=13))
    return {flow.label(index) for index in unguarded_divisions(flow, infer(model))}

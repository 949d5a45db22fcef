"""Sizes that a file leaves open, and its constants do not."""

from __future__ import annotations

import numpy as np
import pytest
from graphs import build
from onnx import numpy_helper, parser

import onnx_grow as og
from onnx_grow.model import Model, load
from onnx_grow.shapes import asked, infer, solving
from onnx_grow.verification.inputs import signature
from onnx_grow.verification.sessions import RunError
from onnx_grow.verification.trials import Trials, made_up


def graph(signature: str, body: str, **weights: tuple[int, ...]) -> Model:
    proto = parser.parse_model(f'<ir_version: 8, opset_import: ["" : 13]> g {signature} {{ {body} }}')
    rng = np.random.default_rng(0)
    for name, shape in weights.items():
        proto.graph.initializer.append(
            numpy_helper.from_array(rng.standard_normal(shape).astype(np.float32), name)
        )
    return load(proto)


FLAT = "Relu(h) f = Flatten(a) d = MatMul(f, U) e = Relu(d) y = MatMul(e, V)"


def flat(kernel: str, inputs: str, rows: int, **weights: tuple[int, ...]) -> Model:
    body = f"h = Conv<{kernel}>(x, W) a = {FLAT}"
    return graph(f"({inputs}) => (float[N, 3] y)", body, U=(rows, 5), V=(5, 3), **weights)


MODELS = {
    "rows of a weight behind pixels": flat(
        "pads = [1, 1, 1, 1]", "float[N, 1, H, W0] x", 2 * 30 * 30, W=(2, 1, 3, 3)
    ),
    "rows of a weight behind a stride": flat(
        "strides = [4, 4], pads = [1, 1, 1, 1]", "float[N, 1, H, W0] x", 75 * 75, W=(1, 1, 3, 3)
    ),
    "one direction only": flat("strides = [2, 2]", "float[N, 1, 9, L] x", 2 * 4 * 49, W=(2, 1, 3, 3)),
    "a mask": graph(
        "(float[N, T, 6] x) => (float[N, T, 6] y)",
        "t = Transpose<perm = [0, 2, 1]>(x) s = MatMul(x, t) m = Add(s, M) p = Softmax<axis = -1>(m) y = MatMul(p, x)",
        M=(1, 30, 30),
    ),
    "the batch of a state": graph(
        "(float[T, N, 8] x) => (float[T, 1, N, 5] y)",
        'y, h, c = LSTM<hidden_size = 5>(x, W, R, "", "", H, H)',
        W=(1, 20, 8),
        R=(1, 20, 5),
        H=(1, 6, 5),
    ),
    "a batch written into a shape": graph(
        "(float[N, 6] x) => (float[M, 2, 3] y)",
        "s = Constant<value = int64[3] {10, 2, 3}>() y = Reshape(x, s)",
    ),
    "steps written into a shape": graph(
        "(float[N, L] x) => (float[N, 4, 1997] y)",
        "s = Constant<value = int64[3] {-1, 1, 3996}>() c = Reshape(x, s) y = Conv<strides = [2]>(c, W)",
        W=(4, 1, 4),
    ),
}


@pytest.mark.parametrize("name", MODELS)
def test_sizes_that_constants_ask_for_are_found(name: str) -> None:
    shapes = infer(MODELS[name])
    assert not shapes.problems
    assert not shapes.unknown


def test_the_roundest_of_the_sizes_that_do_comes_first() -> None:
    sizes = next(asked(MODELS["rows of a weight behind a stride"]))
    assert sizes["x"] == (1, 1, 300, 300)  # 297 to 300 leave 75 x 75


def test_two_nodes_may_ask_one_after_the_other() -> None:
    model = graph(
        "(float[N, T, 6] x) => (float[M, 180] y)",
        "m = Add(x, P) s = Constant<value = int64[2] {5, 180}>() y = Reshape(m, s)",
        P=(1, 30, 6),
    )
    assert infer(model).inputs == {"x": (5, 30, 6)}


def test_a_graph_that_no_sizes_fit_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(solving, "MOST_WALKS", 60)
    model = graph("(float[N, 4] x) => (float[N, 5] y)", "y = MatMul(x, W)", W=(6, 5))
    assert list(asked(model)) == []
    assert infer(model).problems


def test_shapes_that_are_given_stay() -> None:
    model = graph(
        "(float[N, T, 6] x, float[N, T0, 6] z) => (float[N, T, 6] y)",
        "m = Add(x, P) y = Add(m, z)",
        P=(1, 30, 6),
    )
    assert next(asked(model, {"x": (2, 30, 6)})) == {"x": (2, 30, 6), "z": (2, 30, 6)}
    assert not list(asked(model, {"x": (2, 31, 6)}))


def test_the_original_is_run_at_the_sizes_that_it_asks_for() -> None:
    model = graph("(float[N, 1, H, H] x) => (float[N, 3] y)", "f = Flatten(x) y = MatMul(f, U)", U=(36, 3))

    def run(arrays: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        if arrays["x"].shape[2] != 6:
            raise RunError("invalid dimensions")
        return {"y": np.zeros(1, np.float32)}

    trials = Trials(run)
    made_up(trials, model, signature(model), None, 3)
    assert {feed.arrays["x"].shape[2] for feed in trials.feeds} == {6}


def test_such_a_model_grows() -> None:
    model = MODELS["rows of a weight behind pixels"]
    assert og.verify(model, og.widen(model, factor=1.5)).ok


def test_sizes_at_which_a_node_would_be_malformed_are_none() -> None:
    """A Split into as many parts as there are samples, for three of them: no other number does."""
    model = build(
        """(float[N, 6] x) => (float[N, 3] y) <float[6, 6] w, float[2, 3] v> {
            s = Shape<end = 1>(x) c = ConstantOfShape<value = int64[1] {2}>(s)
            h = MatMul(x, w) a, b, d = Split<axis = 1>(h, c) e = Add(a, b) y = MatMul(e, v) }"""
    )
    shapes = infer(model, {"x": (3, 6)})
    assert shapes.shape["a"] == (3, 2)
    assert not shapes.problems

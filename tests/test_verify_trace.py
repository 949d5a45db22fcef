"""The growth map, and the first tensor at which a model leaves another."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from graphs import build
from verifying import with_weights

import onnx_grow as og
from onnx_grow.cli import main
from onnx_grow.growth.correspondence import replayed
from onnx_grow.model import Model
from onnx_grow.verification import Departure, trace

NET = """(float[N,3,8,8] x) => (float[N,5] y)
    <float[4,3,3,3] w1, float[4] b1, float[6,4,3,3] w2, float[6] b2, float[384,7] w3, float[7] b3, float[7,5] w4> {
    c = Conv<pads=[1,1,1,1]>(x, w1, b1)
    r = Relu(c)
    d = Conv<pads=[1,1,1,1]>(r, w2, b2)
    s = Relu(d)
    f = Flatten(s)
    g = Gemm(f, w3, b3)
    t = Tanh(g)
    y = MatMul(t, w4)
}"""
X = {"x": np.random.default_rng(0).standard_normal((2, 3, 8, 8)).astype(np.float32)}


def found(original: Model, grown: Model) -> Departure | None:
    model, maps = replayed(original, grown)
    return trace(model, grown, X) or trace(original, grown, X, maps, allowed=1e-5)


@pytest.mark.parametrize("scheme", ["split", "copy", "fresh"])
def test_a_correct_growth_leaves_nowhere(scheme: str) -> None:
    model = build(NET)
    wide = og.widen(model, factor=1.5, scheme=scheme)  # type: ignore[arg-type]
    twice = og.widen(og.deepen(wide), factor=2, only="d", seed=3)
    assert found(model, wide) is None
    assert found(model, twice) is None
    _, maps = replayed(model, twice)
    channels = maps["d"][1]
    assert channels is not None
    assert len(channels) == 18
    assert set(channels.tolist()) == {*range(6), *([-1] if scheme == "fresh" else [])}


@pytest.mark.parametrize(("weight", "tensor"), [("w1", "c"), ("b2", "d"), ("w3", "g"), ("w4", "y")])
def test_the_node_that_a_fault_is_planted_in_is_named(weight: str, tensor: str) -> None:
    model = build(NET)
    grown = og.widen(model)
    name = next(n for n in grown.weights if n.startswith(weight))
    wrong = grown.weights[name].array().copy()
    wrong[(0,) * wrong.ndim] += np.float32(0.1)
    departure = found(model, with_weights(grown, **{name: wrong}))
    assert departure is not None
    assert departure.tensor == tensor
    assert f"(tensor {tensor!r})" in str(departure)


def test_the_growth_map_alone_finds_a_channel_that_is_no_copy() -> None:
    model = build(NET)
    grown = og.widen(model)
    _, maps = replayed(model, grown)
    bias = grown.weights["b1"].array().copy()
    bias[6] += np.float32(0.1)
    departure = trace(model, with_weights(grown, b1=bias), X, maps, allowed=1e-5)
    assert departure is not None
    assert departure.tensor == "c"  # off by a constant, which no factor per channel explains
    grown_maps = {**maps, "d": (None, np.roll(maps["d"][1], 1), None, None)}  # type: ignore[arg-type]
    assert trace(model, grown, X, grown_maps, allowed=1e-5).tensor == "d"  # type: ignore[union-attr]


def test_copies_that_are_parts_of_a_channel_are_no_fault() -> None:
    model = build("""(float[2,3,4] x) => (float[2,3,3] y) <float[4,6] wq, float[6] s, float[4,6] wk> {
        q0 = MatMul(x, wq) q = Add(q0, s) k = MatMul(x, wk) t = Transpose<perm=[0,2,1]>(k) y = MatMul(q, t) }""")
    grown = og.widen(model, kind="head_dim")
    _, maps = replayed(model, grown)
    feed = {"x": np.random.default_rng(0).standard_normal((2, 3, 4)).astype(np.float32)}
    assert trace(model, grown, feed, maps, allowed=1e-5) is None
    wrong = grown.weights["wq"].array().copy()
    wrong[0, 7] += np.float32(0.1)
    assert trace(model, with_weights(grown, wq=wrong), feed, maps, allowed=1e-5).tensor == "q0"  # type: ignore[union-attr]


def test_models_without_a_record_are_compared_by_name() -> None:
    model = build(NET)
    other = with_weights(model, w2=model.weights["w2"].array() * np.float32(1.01))
    departure = found(model, other)
    assert departure is not None
    assert departure.node == "d"


def test_on_the_command_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    model = build(NET)
    grown = og.widen(model)
    og.save(model, "a.onnx")
    og.save(grown, "wide.onnx")
    og.save(with_weights(grown, w2=grown.weights["w2"].array() * np.float32(1.01)), "bad.onnx")
    run = CliRunner().invoke
    result = run(main, ["verify", "a.onnx", "bad.onnx", "--trace"])
    assert result.exit_code == 1
    assert "trace: Conv 'd' is the first to deviate by " in result.stdout
    assert "trace:" not in run(main, ["verify", "a.onnx", "wide.onnx", "--trace"]).stdout
    foreign = json.loads(run(main, ["verify", "wide.onnx", "a.onnx", "--trace", "--json"]).stdout)
    assert foreign["ok"] is True
    assert foreign["trace"] is None
    assert run(main, ["diff", "a.onnx", "wide.onnx", "--map", "map.json"]).exit_code == 0
    maps = json.loads(Path("map.json").read_text())
    assert maps["c"][0] is None
    assert maps["c"][1][:4] == [0, 1, 2, 3]
    assert run(main, ["diff", "a.onnx", "wide.onnx", "--map", "a.onnx"]).exit_code == 2


def test_a_growth_that_fails_names_the_place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    body = "b = Tanh(x) c = MatMul(b, v) d = Mul(c, steep) e = Exp(d) f = MatMul(e, w) [sum] y = Add(b, f)"
    weights = "float[4, 4] v, float[4, 4] w, float steep = {30}"
    text = f"(float[N, 4] x) => (float[N, 4] y) <{weights}> {{ {body} }}"  # the copy is exp of a large number, not finite
    og.save(build(text), "a.onnx")
    result = CliRunner().invoke(main, ["deepen", "a.onnx"])
    assert result.exit_code == 1
    assert "nothing was written; Add 'sum/deeper_1/sum' is the first to deviate" in result.stderr


def test_without_a_record_only_tensors_of_one_shape_are_compared(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    body = "b = Identity(v) c = MatMul(x, w) d = Add(c, b) e = Tanh(d) [last] y = MatMul(e, u)"
    model = build(
        f"(float[N, 4] x) => (float[N, 3] y) <float[4, 6] w, float[6] v, float[6, 3] u> {{ {body} }}"
    )
    proto = og.widen(model).to_proto()
    del proto.metadata_props[:]
    grown = og.load(proto)
    wrong = grown.weights["w"].array().copy()
    wrong[0, 0] += np.float32(0.5)
    og.save(model, "a.onnx")
    og.save(with_weights(grown, w=wrong), "bad.onnx")
    shown = CliRunner().invoke(main, ["verify", "a.onnx", "bad.onnx", "--trace"]).stdout
    assert "trace: MatMul 'last' is the first to deviate" in shown
    assert "4 before it were not compared: they have another shape" in shown


def test_an_output_that_is_missing_is_not_compared(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    model = build("(float[N, 4] x) => (float[N, 3] y) <float[4, 3] w> { y = MatMul(x, w) }")
    other = build("(float[N, 4] x) => (float[N, 3] z) <float[4, 3] w> { z = MatMul(x, w) }")
    og.save(model, "a.onnx")
    og.save(other, "b.onnx")
    result = CliRunner().invoke(main, ["verify", "a.onnx", "b.onnx", "--trace"])
    assert result.exit_code == 1
    assert "outputs y became z; y is missing and was not compared" in result.stdout
    assert "float64" not in result.stdout.split("trace:")[0]
    assert " inf " not in result.stdout
    assert result.stdout.rstrip().endswith("missing among the outputs: y")

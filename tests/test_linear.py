"""What is done to a network of twice as many nodes takes twice as many steps, and no deeper stack."""

from __future__ import annotations

import cProfile
import inspect
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper

import onnx_grow as og

BENCH = Path(__file__).parents[1] / "bench" / "performance"
NODES = 120


def chain(kind: str, nodes: int) -> og.Model:
    from chains import chain

    return og.load(chain(kind, nodes))


def normed(nodes: int) -> og.Model:
    """Layers with a norm each, so that every axis is under another norm."""
    rng = np.random.default_rng(0)
    made: list[onnx.NodeProto] = []
    weights: dict[str, np.ndarray] = {}
    x = "x"
    for k in range(nodes // 3):
        weights |= {f"w{k}": 0.3 * rng.standard_normal((8, 8)), f"g{k}": np.ones(8), f"b{k}": np.zeros(8)}
        made.append(helper.make_node("MatMul", [x, f"w{k}"], [f"m{k}"]))
        made.append(helper.make_node("LayerNormalization", [f"m{k}", f"g{k}", f"b{k}"], [f"n{k}"]))
        made.append(helper.make_node("Relu", [f"n{k}"], [x := f"r{k}"]))
    weights["out"] = rng.standard_normal((8, 4))
    made.append(helper.make_node("MatMul", [x, "out"], ["y"]))
    graph = helper.make_graph(
        made,
        "normed",
        [helper.make_tensor_value_info("x", 1, [2, 8])],
        [helper.make_tensor_value_info("y", 1, [2, 4])],
        [numpy_helper.from_array(value.astype(np.float32), name) for name, value in weights.items()],
    )
    return og.load(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8))


NETWORKS: dict[str, Callable[[int], og.Model]] = {
    "MLP": lambda nodes: chain("MLP", nodes),
    "residual": lambda nodes: chain("residual", nodes),
    "transformer": lambda nodes: chain("transformer", nodes),
    "normed": normed,
}
ACTIONS: dict[str, Callable[[og.Model], object]] = {
    "load": lambda model: og.load(model.to_proto()),
    "inspect": og.inspect,
    "widen": og.widen,
    "fresh": lambda model: og.widen(model, scheme="fresh", factor=1.5),
    "budget": lambda model: og.widen(model, to_params="4x"),
    "deepen": og.deepen,
    "write": lambda model: og.widen(model).to_proto(),
}


@pytest.fixture(autouse=True)
def bench(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "path", [str(BENCH), *sys.path])


@pytest.mark.parametrize("action", ACTIONS)
@pytest.mark.parametrize("network", NETWORKS)
def test_twice_as_many_nodes_take_twice_as_many_steps(network: str, action: str) -> None:
    ACTIONS[action](NETWORKS[network](NODES // 2))  # loads modules
    single, double = (steps(NETWORKS[network](n), ACTIONS[action]) for n in (NODES, 2 * NODES))
    assert double < 2.1 * single


def steps(model: og.Model, action: Callable[[og.Model], object]) -> int:
    """Calls of functions, built-in ones included."""
    profile = cProfile.Profile()
    profile.runcall(action, model)
    return sum(entry.callcount for entry in profile.getstats())


@pytest.mark.parametrize("action", ACTIONS)
@pytest.mark.parametrize("network", NETWORKS)
def test_no_function_calls_itself_once_per_node(network: str, action: str) -> None:
    ACTIONS[action](NETWORKS[network](NODES // 2))
    model, before = NETWORKS[network](4 * NODES), sys.getrecursionlimit()
    sys.setrecursionlimit(len(inspect.stack(0)) + NODES)
    try:
        ACTIONS[action](model)
    finally:
        sys.setrecursionlimit(before)

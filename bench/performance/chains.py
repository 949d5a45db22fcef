"""Graphs with a given number of nodes: the same block over and over, with small weights, as deep networks are."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx
from onnx import NodeProto, helper, numpy_helper

__all__ = ["CHAINS", "chain"]

WIDTH = 8


def _dense(k: int, x: str) -> tuple[list[NodeProto], str]:
    """Two matrices with an activation: three nodes."""
    return [
        helper.make_node("MatMul", [x, f"v{k}"], [f"a{k}"], f"up{k}"),
        helper.make_node("Relu", [f"a{k}"], [f"b{k}"], f"relu{k}"),
        helper.make_node("MatMul", [f"b{k}", f"w{k}"], [f"y{k}"], f"down{k}"),
    ], f"y{k}"


def _residual(k: int, x: str) -> tuple[list[NodeProto], str]:
    """The same beside a skip connection: four nodes."""
    nodes, y = _dense(k, x)
    return [*nodes, helper.make_node("Add", [x, y], [f"s{k}"], f"add{k}")], f"s{k}"


def _transformer(k: int, x: str) -> tuple[list[NodeProto], str]:
    """Attention of two heads and a feed-forward network, both behind norms and beside skip connections: 19 nodes."""
    nodes = [helper.make_node("LayerNormalization", [x, "gamma", "beta"], [f"n{k}"], f"norm{k}")]
    for name in "qkv":
        nodes += [
            helper.make_node("MatMul", [f"n{k}", f"{name}w{k}"], [f"{name}x{k}"], f"{name}_{k}"),
            helper.make_node("Reshape", [f"{name}x{k}", "heads"], [f"{name}h{k}"], f"{name}_reshape{k}"),
        ]
        perm = [0, 2, 3, 1] if name == "k" else [0, 2, 1, 3]
        nodes.append(
            helper.make_node("Transpose", [f"{name}h{k}"], [f"{name}t{k}"], f"{name}_transpose{k}", perm=perm)
        )
    nodes += [
        helper.make_node("MatMul", [f"qt{k}", f"kt{k}"], [f"scores{k}"], f"scores_{k}"),
        helper.make_node("Softmax", [f"scores{k}"], [f"p{k}"], f"softmax{k}"),
        helper.make_node("MatMul", [f"p{k}", f"vt{k}"], [f"m{k}"], f"mix{k}"),
        helper.make_node("Transpose", [f"m{k}"], [f"mt{k}"], f"back{k}", perm=[0, 2, 1, 3]),
        helper.make_node("Reshape", [f"mt{k}", "flat"], [f"f{k}"], f"flat{k}"),
        helper.make_node("MatMul", [f"f{k}", f"ow{k}"], [f"o{k}"], f"out{k}"),
        helper.make_node("Add", [x, f"o{k}"], [f"r{k}"], f"skip{k}"),
    ]
    inner, y = _residual(k, f"r{k}")
    return [*nodes, *inner], y


CHAINS: dict[str, Callable[[int, str], tuple[list[NodeProto], str]]] = {
    "MLP": _dense,
    "residual": _residual,
    "transformer": _transformer,
}


def chain(kind: str, nodes: int) -> onnx.ModelProto:
    """A chain of about so many nodes."""
    block = CHAINS[kind]
    each = len(block(0, "x")[0])
    made: list[NodeProto] = []
    x = "x"
    for k in range(max(1, round(nodes / each))):
        more, x = block(k, x)
        made += more
    rng = np.random.default_rng(0)
    given: dict[str, np.ndarray] = {
        "gamma": np.ones(WIDTH, np.float32),
        "beta": np.zeros(WIDTH, np.float32),
        "heads": np.array([0, 0, 2, WIDTH // 2]),
        "flat": np.array([0, 0, WIDTH]),
    }
    outputs = {name for node in made for name in node.output}
    names = dict.fromkeys(name for node in made for name in node.input if name not in outputs and name != "x")
    weights = [given[name] if name in given else _drawn(name, rng) for name in names]
    graph = helper.make_graph(
        made,
        kind,
        [helper.make_tensor_value_info("x", 1, [2, 3, WIDTH])],
        [helper.make_tensor_value_info(x, 1, [2, 3, WIDTH])],
        [numpy_helper.from_array(weight, name) for weight, name in zip(weights, names, strict=True)],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def _drawn(name: str, rng: np.random.Generator) -> np.ndarray:
    """A matrix: v and w are of the two layers of a feed-forward network, qw, kw, vw and ow those of attention."""
    shapes = {"v": (WIDTH, 2 * WIDTH), "w": (2 * WIDTH, WIDTH)}
    shape = (WIDTH, WIDTH) if name[1] == "w" else shapes[name[0]]
    return 0.3 * rng.standard_normal(shape).astype(np.float32)

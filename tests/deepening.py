"""What must hold of a deepened model."""

from __future__ import annotations

import numpy as np
import onnx
from graphs import feeds, run

from onnx_grow.model import Draft, Inline, Model
from onnx_grow.model.walk import all_nodes


def assert_identical(model: Model, deep: Model, n: int = 3, *, alive: bool = True) -> None:
    """Both compute the same, to the last bit, on two draws of inputs, and the interface has not changed.

    `alive`: no output is constant, which would prove little.
    """
    onnx.checker.check_model(deep.to_proto(), full_check=True)
    names = [node.name for node in all_nodes(deep.skeleton) if node.name]
    assert len(names) == len(set(names))
    for kind in ("input", "output"):
        assert list(getattr(deep.skeleton.graph, kind)) == list(getattr(model.skeleton.graph, kind))
    for seed in range(2):
        inputs = feeds(model, n, seed)
        for old, new in zip(run(model, inputs), run(deep, inputs), strict=True):
            assert np.ptp(old) > 0 or not alive
            np.testing.assert_array_equal(new, old)


def assert_connected(model: Model, deep: Model) -> None:
    """Every new weight has a say in the output, as it must to be trained: some of each layer at once, the others when these have moved."""
    new = [name for name in deep.weights if name not in model.weights]
    for layer in {name.rpartition("/")[0] for name in new}:
        own = [name for name in new if name.startswith(f"{layer}/")]
        assert any(_has_a_say(deep, name) for name in own), f"no gradient reaches {layer}"
    draft = Draft(deep)
    for name in new:
        values = np.array(draft.weights[name].array())
        if np.ptp(values) == 0:  # zero, or a gate of ones that keeps a layer out
            draft.weights[name] = Inline.of(values + np.asarray(0.25, values.dtype))
    moved = draft.freeze()
    for name in new:
        assert _has_a_say(moved, name), f"{name} changes nothing"


def _has_a_say(model: Model, name: str) -> bool:
    inputs = feeds(model)
    draft = Draft(model)
    values = np.array(draft.weights[name].array())
    draft.weights[name] = Inline.of((values * 1.25 + 0.25).astype(values.dtype))
    pairs = zip(run(model, inputs), run(draft.freeze(), inputs), strict=True)
    return any((old != new).any() for old, new in pairs)

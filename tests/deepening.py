"""What must hold of a deepened model."""

from __future__ import annotations

import numpy as np
import onnx
from graphs import feeds, run

from onnx_grow.model import Draft, Inline, Model


def assert_identical(model: Model, deep: Model, n: int = 3, *, alive: bool = True) -> None:
    """Both compute the same, to the last bit, on two draws of inputs, and the interface has not changed.

    `alive`: no output is constant, which would prove little.
    """
    onnx.checker.check_model(deep.to_proto(), full_check=True)
    for kind in ("input", "output"):
        assert list(getattr(deep.skeleton.graph, kind)) == list(getattr(model.skeleton.graph, kind))
    for seed in range(2):
        inputs = feeds(model, n, seed)
        for old, new in zip(run(model, inputs), run(deep, inputs), strict=True):
            assert np.ptp(old) > 0 or not alive
            np.testing.assert_array_equal(new, old)


def assert_connected(model: Model, deep: Model, zeros: float = 0.25) -> None:
    """Every new weight has a say in the output, as it must to be trained; `zeros` is what zero weights become before that is tried."""
    new = [name for name in deep.weights if name not in model.weights]
    draft = Draft(deep)
    for name in new:
        values = np.array(draft.weights[name].array())
        if not values.any():
            draft.weights[name] = Inline.of(values + np.asarray(zeros, values.dtype))
    moved = draft.freeze()
    inputs = feeds(model)
    before = run(moved, inputs)
    for name in new:
        draft = Draft(moved)
        values = np.array(draft.weights[name].array())
        draft.weights[name] = Inline.of((values * 1.25 + 0.25).astype(values.dtype))
        after = run(draft.freeze(), inputs)
        assert any((a != b).any() for a, b in zip(before, after, strict=True)), f"{name} changes nothing"

"""LRN in float64 is what ONNX Runtime computes in single precision."""

from __future__ import annotations

import numpy as np
import pytest
from graphs import build, feeds, run
from onnx.reference import ReferenceEvaluator

from onnx_grow.verification.neighbours import LRN


@pytest.mark.parametrize("size", [1, 3, 5])
def test_every_channel_is_normalised_by_its_neighbours(size: int) -> None:
    model = build(
        f"(float[2, 6, 3, 2] x) => (float[2, 6, 3, 2] y) {{ y = LRN <size={size}, alpha=0.9, beta=0.6, bias=0.5> (x) }}"
    )
    inputs = feeds(model)
    (found,) = ReferenceEvaluator(model.to_proto(), new_ops=[LRN]).run(None, inputs)
    np.testing.assert_allclose(found, run(model, inputs)[0], rtol=1e-5)

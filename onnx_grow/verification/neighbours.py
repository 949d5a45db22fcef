"""LRN in float64 for `proof`: ONNX's own reference takes as many channels into account as there are samples."""

from __future__ import annotations

from typing import Any

import numpy as np
from onnx.reference.ops.op_lrn import LRN as Sampled

__all__ = ["LRN"]

Array = np.ndarray[Any, Any]


class LRN(Sampled):
    """x / (bias + alpha / size * the sum of the squares of up to `size` channels around) ** beta.

    The evaluator goes by the name of the class.
    """

    op_domain = ""

    def _run(
        self,
        x: Array,
        alpha: float = 1e-4,
        beta: float = 0.75,
        bias: float = 1.0,
        size: int = 1,
    ) -> tuple[Array]:
        before, behind = (size - 1) // 2, size // 2
        squares = np.pad(x**2, [(0, 0), (before, behind), *([(0, 0)] * (x.ndim - 2))])
        around = sum(squares[:, k : k + x.shape[1]] for k in range(size))
        return ((x / (bias + alpha / size * around) ** beta).astype(x.dtype),)

"""Operators in float64 for `proof`, where ONNX's own reference implementation is wrong or takes too long.

The evaluator goes by the names of the classes.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from onnx.reference.ops import op_conv, op_dequantize_linear, op_lrn

__all__ = ["LRN", "Conv", "DequantizeLinear"]

Array = np.ndarray[Any, Any]


class Conv(op_conv.Conv):
    """Convolution whose dilated kernels are applied to every `dilation`-th element of a window.

    ONNX's reference writes the zeros of such a kernel out, and takes minutes where it reaches far.
    """

    op_domain = ""

    def _run(
        self,
        X: Array,
        W: Array,
        B: Array | None = None,
        auto_pad: str | None = None,
        dilations: Sequence[int] | None = None,
        group: int | None = None,
        kernel_shape: Sequence[int] | None = None,
        pads: Sequence[int] | None = None,
        strides: Sequence[int] | None = None,
    ) -> tuple[Array]:
        if auto_pad not in (None, "NOTSET") or max(dilations or [1]) == 1:
            given = (auto_pad, dilations, group, kernel_shape, pads, strides)
            return super()._run(X, W, B, *given)  # type: ignore[no-untyped-call, no-any-return]
        assert dilations is not None
        return (_dilated(X, W, B, dilations, group or 1, pads, strides).astype(X.dtype),)


class DequantizeLinear(op_dequantize_linear.DequantizeLinear_19):
    """(x - zero point) * scale, for operator sets before 19, of which ONNX's reference has none."""

    op_domain = ""

    def _run(  # type: ignore[override]
        self, x: Array, x_scale: Array, x_zero_point: Array | None = None, axis: int = 1, **later: Any
    ) -> tuple[Array]:
        """`later` are attributes of operator sets from 19 on."""
        return super()._run(x, x_scale, x_zero_point, axis)  # type: ignore[no-any-return]


class LRN(op_lrn.LRN):
    """x / (bias + alpha / size * the sum of the squares of up to `size` channels around) ** beta.

    ONNX's reference takes as many channels into account as there are samples.
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


def _dilated(
    x: Array,
    weight: Array,
    bias: Array | None,
    dilations: Sequence[int],
    group: int,
    pads: Sequence[int] | None,
    strides: Sequence[int] | None,
) -> Array:
    """The convolution of x (N C *) with weight (O C/group *), as ONNX's Conv defines it."""
    rank = len(dilations)
    pads, strides = pads or [0] * (2 * rank), strides or [1] * rank
    x = np.pad(x, [(0, 0), (0, 0), *zip(pads[:rank], pads[rank:], strict=True)])
    reach = [(k - 1) * d + 1 for k, d in zip(weight.shape[2:], dilations, strict=True)]
    steps = [slice(None, None, step) for step in (*strides, *dilations)]
    windows: Array = sliding_window_view(x, reach, tuple(range(2, 2 + rank)))[:, :, *steps]
    axes = (1, *range(2 + rank, 2 + 2 * rank)), (1, *range(2, 2 + rank))
    sums: list[Array] = [
        np.tensordot(part, kernels, axes)
        for part, kernels in zip(np.split(windows, group, 1), np.split(weight, group), strict=True)
    ]
    out = np.moveaxis(np.concatenate(sums, -1), -1, 1)
    return out if bias is None else out + bias.reshape(-1, *[1] * rank)

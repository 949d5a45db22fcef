"""Conv in float64 for `proof`: ONNX's own reference writes the zeros of a dilated kernel out, and takes minutes where it reaches far."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from onnx.reference.ops.op_conv import Conv as Dense

__all__ = ["Conv"]

Array = np.ndarray[Any, Any]


class Conv(Dense):
    """ONNX's reference, but dilated kernels are applied to every `dilation`-th element of a window.

    The evaluator goes by the name of the class.
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
        return (dilated(X, W, B, dilations, group or 1, pads, strides).astype(X.dtype),)


def dilated(
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

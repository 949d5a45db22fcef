"""Pooling."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from onnx_grow.torch.operators.unsupported import Unsupported
from onnx_grow.torch.operators.windows import Window, padded
from onnx_grow.torch.values import Host, sizes

__all__ = ["TABLE", "max_pool"]


def max_pool(
    x: Tensor,
    *,
    auto_pad: str = "NOTSET",
    ceil_mode: int = 0,
    dilations: Sequence[int] | None = None,
    kernel_shape: Sequence[int],
    pads: Sequence[int] | None = None,
    storage_order: int = 0,
    strides: Sequence[int] | None = None,
    outputs: int = 1,
) -> Any:
    """The largest element of every window, and on request its place in the tensor."""
    window = Window(x.shape[2:], kernel_shape, strides, dilations, pads, auto_pad, ceil_mode)
    if outputs == 2:
        return _with_places(x, window, storage_order)
    if x.is_floating_point() and len(kernel_shape) <= 3:
        pool = _MAX[len(kernel_shape) - 1]
        behind = [b + e for b, e in zip(window.behind, window.extra, strict=True)]
        y = padded(x, window.before, behind, -torch.inf)
        return pool(y, window.kernel, window.strides, 0, window.dilations)
    return _windows(x, window, _least(x)).amax(-1)


def average_pool(
    x: Tensor,
    *,
    auto_pad: str = "NOTSET",
    ceil_mode: int = 0,
    count_include_pad: int = 0,
    dilations: Sequence[int] | None = None,
    kernel_shape: Sequence[int],
    pads: Sequence[int] | None = None,
    strides: Sequence[int] | None = None,
) -> Tensor:
    """The mean of every window, of what lies in the input, or in the padding as well."""
    window = Window(x.shape[2:], kernel_shape, strides, dilations, pads, auto_pad, ceil_mode)
    none = not any((*window.before, *window.behind, *window.extra))
    if none and len(kernel_shape) <= 3 and max(window.dilations) == 1:
        return _MEAN[len(kernel_shape) - 1](x, window.kernel, window.strides)
    inside = torch.ones((1, 1, *x.shape[2:]), dtype=x.dtype, device=x.device)
    if count_include_pad:
        inside = padded(inside, window.before, window.behind, 1.0)
        counted = Window(inside.shape[2:], kernel_shape, strides, dilations)
        counted.extra = window.extra
    else:
        counted = window
    return _windows(x, window, 0.0).sum(-1) / _windows(inside, counted, 0.0).sum(-1)


def lp_pool(
    x: Tensor,
    *,
    auto_pad: str = "NOTSET",
    ceil_mode: int = 0,
    dilations: Sequence[int] | None = None,
    kernel_shape: Sequence[int],
    p: int = 2,
    pads: Sequence[int] | None = None,
    strides: Sequence[int] | None = None,
) -> Tensor:
    """The p-norm of every window."""
    window = Window(x.shape[2:], kernel_shape, strides, dilations, pads, auto_pad, ceil_mode)
    return torch.linalg.vector_norm(_windows(x, window, 0.0), p, -1)


def max_unpool(
    x: Tensor,
    places: Tensor,
    shape: Host | None = None,
    *,
    kernel_shape: Sequence[int],
    pads: Sequence[int] | None = None,
    strides: Sequence[int] | None = None,
) -> Tensor:
    """Zeros, but for the elements that a MaxPool has chosen, which are back in their places."""
    window = Window(x.shape[2:], kernel_shape, strides, None, pads)
    spatial = [
        (size - 1) * stride + kernel - before - behind
        for size, stride, kernel, before, behind in zip(
            x.shape[2:], window.strides, window.kernel, window.before, window.behind, strict=True
        )
    ]
    whole = sizes(shape) if shape is not None else [*x.shape[:2], *spatial]
    y = x.new_zeros(math.prod(whole))
    return y.scatter(0, places.reshape(-1), x.reshape(-1)).reshape(whole)


def global_average_pool(x: Tensor) -> Tensor:
    """The mean over all spatial dimensions."""
    return x.mean(_spatial(x), keepdim=True)


def global_max_pool(x: Tensor) -> Tensor:
    """The maximum over all spatial dimensions."""
    return x.amax(_spatial(x), keepdim=True)


def global_lp_pool(x: Tensor, *, p: int = 2) -> Tensor:
    """The p-norm over all spatial dimensions."""
    return torch.linalg.vector_norm(x, p, _spatial(x), keepdim=True)


def _spatial(x: Tensor) -> list[int]:
    return list(range(2, x.ndim))


def _windows(x: Tensor, window: Window, value: float) -> Tensor:
    """The elements of every window along a last dimension."""
    behind = [b + e for b, e in zip(window.behind, window.extra, strict=True)]
    y = padded(x, window.before, behind, value)
    for d, (extent, stride) in enumerate(zip(window.extents, window.strides, strict=True), 2):
        y = y.unfold(d, extent, stride)
    for k, dilation in enumerate(window.dilations):
        if dilation > 1:
            y = y[(..., slice(None, None, dilation), *(slice(None),) * (len(window.kernel) - 1 - k))]
    return y.flatten(-len(window.kernel))


def _with_places(x: Tensor, window: Window, storage_order: int) -> tuple[Tensor, Tensor]:
    if storage_order:
        raise Unsupported("it counts places by columns")
    count = torch.arange(x.numel(), device=x.device).reshape(x.shape)
    values, places = _windows(x, window, _least(x)), _windows(count, window, -1)
    highest, where = values.max(-1, keepdim=True)
    return highest.squeeze(-1), places.gather(-1, where).squeeze(-1)


def _least(x: Tensor) -> float:
    return -torch.inf if x.is_floating_point() else torch.iinfo(x.dtype).min


_MAX = (F.max_pool1d, F.max_pool2d, F.max_pool3d)
_MEAN = (F.avg_pool1d, F.avg_pool2d, F.avg_pool3d)

TABLE: dict[tuple[str, str], Callable[..., Any]] = {
    ("", "AveragePool"): average_pool,
    ("", "GlobalAveragePool"): global_average_pool,
    ("", "GlobalLpPool"): global_lp_pool,
    ("", "GlobalMaxPool"): global_max_pool,
    ("", "LpPool"): lp_pool,
    ("", "MaxPool"): max_pool,
    ("", "MaxUnpool"): max_unpool,
}

"""Operators that sum up, or look along, some dimensions."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from onnx_grow.torch.values import Host, sizes

__all__ = ["TABLE"]

Reduction = Callable[[Tensor, list[int], bool], Tensor]


def _sum(x: Tensor, dims: list[int], keepdim: bool) -> Tensor:
    return x.sum(dims, keepdim, dtype=x.dtype)


def _mean(x: Tensor, dims: list[int], keepdim: bool) -> Tensor:
    if x.is_floating_point():
        return x.mean(dims, keepdim)
    count = 1
    for d in dims:
        count *= x.shape[d]
    return torch.div(x.sum(dims, keepdim), count, rounding_mode="trunc").to(x.dtype)


def _max(x: Tensor, dims: list[int], keepdim: bool) -> Tensor:
    if any(x.shape[d] == 0 for d in dims):  # of nothing it is the least
        least = (
            -torch.inf if x.is_floating_point() else torch.iinfo(x.dtype).min if x.dtype != torch.bool else 0
        )
        return x.sum(dims, keepdim).to(x.dtype).fill_(least)
    return x.amax(dims, keepdim)


def _min(x: Tensor, dims: list[int], keepdim: bool) -> Tensor:
    if any(x.shape[d] == 0 for d in dims):
        most = (
            torch.inf if x.is_floating_point() else torch.iinfo(x.dtype).max if x.dtype != torch.bool else 1
        )
        return x.sum(dims, keepdim).to(x.dtype).fill_(most)
    return x.amin(dims, keepdim)


def _product(x: Tensor, dims: list[int], keepdim: bool) -> Tensor:
    for d in sorted(dims, reverse=True):
        x = x.prod(d, keepdim, dtype=x.dtype)
    return x


def _l1(x: Tensor, dims: list[int], keepdim: bool) -> Tensor:
    return _sum(x.abs(), dims, keepdim)


def _l2(x: Tensor, dims: list[int], keepdim: bool) -> Tensor:
    if x.is_floating_point():
        return torch.linalg.vector_norm(x, 2, dims, keepdim)
    return torch.sqrt(x.double().square().sum(dims, keepdim)).to(x.dtype)


def _log_sum(x: Tensor, dims: list[int], keepdim: bool) -> Tensor:
    return torch.log(_sum(x, dims, keepdim))


def _log_sum_exp(x: Tensor, dims: list[int], keepdim: bool) -> Tensor:
    return torch.logsumexp(x, dims, keepdim)


def _sum_square(x: Tensor, dims: list[int], keepdim: bool) -> Tensor:
    return _sum(x.square(), dims, keepdim)


def _reduced(
    function: Reduction,
    x: Tensor,
    at: Host | None,
    axes: Sequence[int] | None,
    keepdims: int,
    noop_with_empty_axes: int,
) -> Tensor:
    dims = sizes(at) if at is not None else list(axes or ())
    if not dims:
        if noop_with_empty_axes:
            return _pointwise(function, x)
        dims = list(range(x.ndim))
    return (
        function(x, [d % max(x.ndim, 1) for d in dims], bool(keepdims)) if x.ndim else function(x, [], False)
    )


def _pointwise(function: Reduction, x: Tensor) -> Tensor:
    """What a reduction over nothing leaves: the function of every element by itself."""
    return x if function in (_sum, _mean, _max, _min, _product) else function(x.unsqueeze(0), [0], False)


def reduce_l1(
    x: Tensor,
    at: Host | None = None,
    *,
    axes: Sequence[int] | None = None,
    keepdims: int = 1,
    noop_with_empty_axes: int = 0,
) -> Tensor:
    """The sum of magnitudes."""
    return _reduced(_l1, x, at, axes, keepdims, noop_with_empty_axes)


def reduce_l2(
    x: Tensor,
    at: Host | None = None,
    *,
    axes: Sequence[int] | None = None,
    keepdims: int = 1,
    noop_with_empty_axes: int = 0,
) -> Tensor:
    """The Euclidean norm."""
    return _reduced(_l2, x, at, axes, keepdims, noop_with_empty_axes)


def reduce_log_sum(
    x: Tensor,
    at: Host | None = None,
    *,
    axes: Sequence[int] | None = None,
    keepdims: int = 1,
    noop_with_empty_axes: int = 0,
) -> Tensor:
    """The logarithm of the sum."""
    return _reduced(_log_sum, x, at, axes, keepdims, noop_with_empty_axes)


def reduce_log_sum_exp(
    x: Tensor,
    at: Host | None = None,
    *,
    axes: Sequence[int] | None = None,
    keepdims: int = 1,
    noop_with_empty_axes: int = 0,
) -> Tensor:
    """The logarithm of the sum of exponentials."""
    return _reduced(_log_sum_exp, x, at, axes, keepdims, noop_with_empty_axes)


def reduce_max(
    x: Tensor,
    at: Host | None = None,
    *,
    axes: Sequence[int] | None = None,
    keepdims: int = 1,
    noop_with_empty_axes: int = 0,
) -> Tensor:
    """The maximum."""
    return _reduced(_max, x, at, axes, keepdims, noop_with_empty_axes)


def reduce_mean(
    x: Tensor,
    at: Host | None = None,
    *,
    axes: Sequence[int] | None = None,
    keepdims: int = 1,
    noop_with_empty_axes: int = 0,
) -> Tensor:
    """The mean."""
    return _reduced(_mean, x, at, axes, keepdims, noop_with_empty_axes)


def reduce_min(
    x: Tensor,
    at: Host | None = None,
    *,
    axes: Sequence[int] | None = None,
    keepdims: int = 1,
    noop_with_empty_axes: int = 0,
) -> Tensor:
    """The minimum."""
    return _reduced(_min, x, at, axes, keepdims, noop_with_empty_axes)


def reduce_product(
    x: Tensor,
    at: Host | None = None,
    *,
    axes: Sequence[int] | None = None,
    keepdims: int = 1,
    noop_with_empty_axes: int = 0,
) -> Tensor:
    """The product."""
    return _reduced(_product, x, at, axes, keepdims, noop_with_empty_axes)


def reduce_sum(
    x: Tensor,
    at: Host | None = None,
    *,
    axes: Sequence[int] | None = None,
    keepdims: int = 1,
    noop_with_empty_axes: int = 0,
) -> Tensor:
    """The sum."""
    return _reduced(_sum, x, at, axes, keepdims, noop_with_empty_axes)


def reduce_sum_square(
    x: Tensor,
    at: Host | None = None,
    *,
    axes: Sequence[int] | None = None,
    keepdims: int = 1,
    noop_with_empty_axes: int = 0,
) -> Tensor:
    """The sum of squares."""
    return _reduced(_sum_square, x, at, axes, keepdims, noop_with_empty_axes)


def argmax(x: Tensor, *, axis: int = 0, keepdims: int = 1, select_last_index: int = 0) -> Tensor:
    """Where the largest element is, the first or the last of equals."""
    if select_last_index:
        return x.shape[axis] - 1 - x.flip(axis).max(axis, bool(keepdims)).indices
    return x.max(axis, bool(keepdims)).indices if x.dtype == torch.bool else x.argmax(axis, bool(keepdims))


def argmin(x: Tensor, *, axis: int = 0, keepdims: int = 1, select_last_index: int = 0) -> Tensor:
    """Where the smallest element is, the first or the last of equals."""
    if select_last_index:
        return x.shape[axis] - 1 - x.flip(axis).argmin(axis, bool(keepdims))
    return x.argmin(axis, bool(keepdims))


def softmax(x: Tensor, *, axis: int | None = None, opset: int) -> Tensor:
    """Exponentials that sum to one along an axis; before opset 13, over all dimensions from there on."""
    return _along(F.softmax, x, axis, opset)


def log_softmax(x: Tensor, *, axis: int | None = None, opset: int) -> Tensor:
    """The logarithm of the softmax."""
    return _along(F.log_softmax, x, axis, opset)


def hardmax(x: Tensor, *, axis: int | None = None, opset: int) -> Tensor:
    """One where the largest element is, the first of equals."""
    return _along(_hardmax, x, axis, opset)


def _hardmax(x: Tensor, dim: int) -> Tensor:
    return torch.zeros_like(x).scatter(dim, x.argmax(dim, keepdim=True), 1.0)


def _along(function: Callable[[Tensor, int], Tensor], x: Tensor, axis: int | None, opset: int) -> Tensor:
    if opset >= 13:
        return function(x, -1 if axis is None else axis)
    axis = (1 if axis is None else axis) % max(x.ndim, 1)
    if axis == x.ndim - 1:
        return function(x, axis)
    return function(x.flatten(axis), -1).reshape(x.shape)


def cumulative_sum(x: Tensor, axis: Host, *, exclusive: int = 0, reverse: int = 0) -> Tensor:
    """The sum of all elements so far, with or without the element itself, from either end."""
    (dim,) = sizes(axis)
    y = x.flip(dim) if reverse else x
    y = y.cumsum(dim, dtype=x.dtype)
    if exclusive:
        y = torch.cat([torch.zeros_like(y.narrow(dim, 0, 1)), y.narrow(dim, 0, y.shape[dim] - 1)], dim)
    return y.flip(dim) if reverse else y


def top_k(
    x: Tensor, count: Host | None = None, *, k: int = 0, axis: int = -1, largest: int = 1, sorted: int = 1
) -> tuple[Tensor, Tensor]:
    """The k largest or smallest elements along an axis, and where they are; of equals, those that come first."""
    number = k if count is None else sizes(count)[0]
    values, places = torch.sort(x, dim=axis, descending=bool(largest), stable=True)
    return values.narrow(axis, 0, number), places.narrow(axis, 0, number)


TABLE: dict[tuple[str, str], Callable[..., Any]] = {
    ("", "ArgMax"): argmax,
    ("", "ArgMin"): argmin,
    ("", "CumSum"): cumulative_sum,
    ("", "Hardmax"): hardmax,
    ("", "LogSoftmax"): log_softmax,
    ("", "ReduceL1"): reduce_l1,
    ("", "ReduceL2"): reduce_l2,
    ("", "ReduceLogSum"): reduce_log_sum,
    ("", "ReduceLogSumExp"): reduce_log_sum_exp,
    ("", "ReduceMax"): reduce_max,
    ("", "ReduceMean"): reduce_mean,
    ("", "ReduceMin"): reduce_min,
    ("", "ReduceProd"): reduce_product,
    ("", "ReduceSum"): reduce_sum,
    ("", "ReduceSumSquare"): reduce_sum_square,
    ("", "Softmax"): softmax,
    ("", "TopK"): top_k,
}

"""Operators that sum up, or look along, some dimensions."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
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


def reduced(
    function: Reduction,
    x: Tensor,
    at: Host | None = None,
    *,
    axes: Sequence[int] | None = None,
    keepdims: int = 1,
    noop_with_empty_axes: int = 0,
) -> Tensor:
    """A function of all elements along some dimensions, which were attributes once; along all of them where none are given."""
    dims = list(axes or ()) if at is None else sizes(at)
    if not dims and noop_with_empty_axes:
        return _pointwise(function, x)
    if not x.ndim:
        return function(x, [], False)
    return function(x, [d % x.ndim for d in dims] or list(range(x.ndim)), bool(keepdims))


def _pointwise(function: Reduction, x: Tensor) -> Tensor:
    """What a reduction over nothing leaves: the function of every element by itself."""
    return x if function in (_sum, _mean, _max, _min, _product) else function(x.unsqueeze(0), [0], False)


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


def _hardmax(x: Tensor, dim: int) -> Tensor:
    return torch.zeros_like(x).scatter(dim, x.argmax(dim, keepdim=True), 1.0)


def along(
    function: Callable[[Tensor, int], Tensor], x: Tensor, *, axis: int | None = None, opset: int
) -> Tensor:
    """A function along an axis; before opset 13, over all dimensions from there on."""
    if opset >= 13:
        return function(x, -1 if axis is None else axis)
    axis = (1 if axis is None else axis) % max(x.ndim, 1)
    if axis == x.ndim - 1:
        return function(x, axis)
    return function(x.flatten(axis), -1).reshape(x.shape)


def cumulated(
    function: Callable[..., Tensor],
    neutral: int,
    x: Tensor,
    axis: Host,
    *,
    exclusive: int = 0,
    reverse: int = 0,
) -> Tensor:
    """The sum or product of all elements so far, with or without the element itself, from either end."""
    (dim,) = sizes(axis)
    y = x.flip(dim) if reverse else x
    y = function(y, dim, dtype=x.dtype)
    if exclusive:
        first = torch.full_like(y.narrow(dim, 0, 1), neutral)
        y = torch.cat([first, y.narrow(dim, 0, y.shape[dim] - 1)], dim)
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
    ("", "CumProd"): partial(cumulated, torch.cumprod, 1),
    ("", "CumSum"): partial(cumulated, torch.cumsum, 0),
    ("", "Hardmax"): partial(along, _hardmax),
    ("", "LogSoftmax"): partial(along, torch.log_softmax),
    ("", "ReduceL1"): partial(reduced, _l1),
    ("", "ReduceL2"): partial(reduced, _l2),
    ("", "ReduceLogSum"): partial(reduced, _log_sum),
    ("", "ReduceLogSumExp"): partial(reduced, _log_sum_exp),
    ("", "ReduceMax"): partial(reduced, _max),
    ("", "ReduceMean"): partial(reduced, _mean),
    ("", "ReduceMin"): partial(reduced, _min),
    ("", "ReduceProd"): partial(reduced, _product),
    ("", "ReduceSum"): partial(reduced, _sum),
    ("", "ReduceSumSquare"): partial(reduced, _sum_square),
    ("", "Softmax"): partial(along, torch.softmax),
    ("", "TopK"): top_k,
}

"""Operators that read or write elements by their places."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor

from onnx_grow.torch.values import Host, sizes

__all__ = ["TABLE"]


def gather(x: Tensor, indices: Tensor, *, axis: int = 0) -> Tensor:
    """Whole slices of x along an axis."""
    axis = axis % x.ndim
    places = _from_the_start(indices, x.shape[axis])
    if indices.ndim == 1:
        return x.index_select(axis, places)
    y = x.index_select(axis, places.reshape(-1))
    return y.reshape((*x.shape[:axis], *indices.shape, *x.shape[axis + 1 :]))


def gather_elements(x: Tensor, indices: Tensor, *, axis: int = 0) -> Tensor:
    """Single elements of x, each from its own place along an axis."""
    return x.gather(axis, _from_the_start(indices, x.shape[axis]))


def gather_nd(x: Tensor, indices: Tensor, *, batch_dims: int = 0) -> Tensor:
    """Slices of x at places given by the last dimension of the indices."""
    places = list(indices.to(torch.int64).unbind(-1))
    for d in range(batch_dims):
        shape = [1] * (indices.ndim - 1)
        shape[d] = -1
        places.insert(d, torch.arange(x.shape[d], device=x.device).reshape(shape))
    return x[tuple(places)]


def scatter_elements(
    x: Tensor, indices: Tensor, updates: Tensor, *, axis: int = 0, reduction: str = "none"
) -> Tensor:
    """x with single elements replaced, or combined with others, each at its own place along an axis."""
    places = _from_the_start(indices, x.shape[axis])
    if reduction == "none":
        return x.scatter(axis, places, updates)
    return x.scatter_reduce(axis, places, updates, _REDUCTIONS[reduction])


def scatter_nd(x: Tensor, indices: Tensor, updates: Tensor, *, reduction: str = "none") -> Tensor:
    """x with slices replaced, or combined with others, at places given by the last dimension of the indices."""
    depth = indices.shape[-1]
    strides = [1] * depth
    for d in reversed(range(depth - 1)):
        strides[d] = strides[d + 1] * x.shape[d + 1]
    places = torch.zeros(indices.shape[:-1], dtype=torch.int64, device=x.device)
    for d in range(depth):
        places = places + _from_the_start(indices[..., d], x.shape[d]) * strides[d]
    rows = x.reshape(-1, *x.shape[depth:])
    places, updates = places.reshape(-1), updates.reshape(-1, *x.shape[depth:])
    if reduction == "none":
        return rows.index_copy(0, places, updates).reshape(x.shape)
    spread = places.reshape(-1, *(1,) * (updates.ndim - 1)).expand(updates.shape)
    return rows.scatter_reduce(0, spread, updates, _REDUCTIONS[reduction]).reshape(x.shape)


_REDUCTIONS = {"add": "sum", "mul": "prod", "max": "amax", "min": "amin"}


def one_hot(indices: Tensor, depth: Host, values: Tensor, *, axis: int = -1) -> Tensor:
    """values[1] where the place along a new axis is the index, values[0] elsewhere."""
    (count,) = sizes(depth)
    places = torch.where(indices < 0, indices + count, indices).to(torch.int64)
    steps = torch.arange(int(count), device=indices.device)
    hot = places.unsqueeze(-1) == steps
    return torch.where(hot, values[1], values[0]).movedim(-1, axis)


def tensor_scatter(
    past: Tensor, update: Tensor, starts: Tensor | None = None, *, axis: int = -2, mode: str = "linear"
) -> Tensor:
    """A cache with some steps along an axis replaced, in every sample from a place of its own on, perhaps round the end."""
    axis = axis % past.ndim
    steps = torch.arange(update.shape[axis], device=past.device)
    places = steps[None] + (0 if starts is None else starts[:, None])
    if mode == "circular":
        places = places % past.shape[axis]
    shape = [1] * past.ndim
    shape[0], shape[axis] = places.shape
    return past.scatter(axis, places.reshape(shape).expand(update.shape), update)


def unique(x: Host, *, axis: int | None = None, sorted: int = 1) -> tuple[Host, ...]:
    """The different elements or slices, where each is first, which each is, and how many there are."""
    values, first, which, counts = np.unique(
        x, return_index=True, return_inverse=True, return_counts=True, axis=axis
    )
    if not sorted:
        order = np.argsort(first)
        which = np.argsort(order)[which]
        values, first, counts = values.take(order, axis or 0), first[order], counts[order]
    return values, first, which.reshape(-1), counts


def compress(x: Tensor, condition: Tensor, *, axis: int | None = None) -> Tensor:
    """The slices along an axis, or the elements, for which a condition holds."""
    (places,) = torch.nonzero(condition, as_tuple=True)
    return x.reshape(-1)[places] if axis is None else x.index_select(axis, places)


def nonzero(x: Tensor) -> Tensor:
    """The places of all elements that are not zero, a column each."""
    return torch.nonzero(x).T


def _from_the_start(indices: Tensor, size: Any) -> Tensor:
    """Indices that count from the end, counted from the start."""
    places = indices.to(torch.int64)
    return torch.where(places < 0, places + size, places)


TABLE: dict[tuple[str, str], Callable[..., Any]] = {
    ("", "Compress"): compress,
    ("", "Gather"): gather,
    ("", "GatherElements"): gather_elements,
    ("", "GatherND"): gather_nd,
    ("", "NonZero"): nonzero,
    ("", "OneHot"): one_hot,
    ("", "Scatter"): scatter_elements,
    ("", "ScatterElements"): scatter_elements,
    ("", "ScatterND"): scatter_nd,
    ("", "TensorScatter"): tensor_scatter,
    ("", "Unique"): unique,
    ("com.microsoft", "GatherND"): gather_nd,
}

"""Operators that make tensors, or tell sizes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from onnx_grow.torch.values import DTYPES, Host, host_of, sizes, tensor_of

__all__ = ["TABLE"]


def shape_(x: Tensor, *, start: int = 0, end: int | None = None) -> Host:
    """The sizes of x, or of some of its dimensions."""
    return host_of(list(x.shape)[start:end])


def size(x: Tensor) -> Host:
    """The number of elements."""
    count: Any = 1
    for length in x.shape:
        count = count * length
    return host_of([count]).reshape(())


def constant_of_shape(
    dims: Host, *, value: np.ndarray[Any, Any] | None = None, device: torch.device
) -> Tensor:
    """One number, zero if none is given, in a shape."""
    filled = torch.zeros(1) if value is None else tensor_of(value)
    return torch.full(sizes(dims), filled.reshape(-1)[0].item(), dtype=filled.dtype, device=device)


def arange(start: Host, limit: Host, delta: Host, *, device: torch.device) -> Tensor:
    """Numbers from `start` on, in steps, before `limit`."""
    (first,), (last,), (step,) = sizes(start), sizes(limit), sizes(delta)
    dtype = torch.int64 if start.dtype == object else tensor_of(start).dtype
    if not dtype.is_floating_point:
        return torch.arange(first, last, step, dtype=dtype, device=device)
    count = max(int(np.ceil((last - first) / step)), 0)
    return first + torch.arange(count, dtype=dtype, device=device) * step


def eye_like(x: Tensor, *, dtype: int | None = None, k: int = 0) -> Tensor:
    """Ones on a diagonal."""
    kind = x.dtype if dtype is None else DTYPES[dtype]
    return torch.ones_like(x, dtype=kind).triu(k).tril(k)


def random_normal(
    *,
    shape: Sequence[int],
    dtype: int = 1,
    mean: float = 0.0,
    scale: float = 1.0,
    seed: float | None = None,
    device: torch.device,
) -> Tensor:
    """Normally distributed numbers; PyTorch's generator, whatever the seed."""
    return torch.randn(list(shape), dtype=DTYPES[dtype], device=device) * scale + mean


def random_normal_like(
    x: Tensor, *, dtype: int | None = None, mean: float = 0.0, scale: float = 1.0, seed: float | None = None
) -> Tensor:
    """Normally distributed numbers in the shape of x; PyTorch's generator, whatever the seed."""
    return torch.randn_like(x, dtype=x.dtype if dtype is None else DTYPES[dtype]) * scale + mean


def random_uniform(
    *,
    shape: Sequence[int],
    dtype: int = 1,
    low: float = 0.0,
    high: float = 1.0,
    seed: float | None = None,
    device: torch.device,
) -> Tensor:
    """Uniformly distributed numbers; PyTorch's generator, whatever the seed."""
    numbers = torch.rand(list(shape), dtype=DTYPES[dtype], device=device)
    return numbers * (high - low) + low


def random_uniform_like(
    x: Tensor, *, dtype: int | None = None, low: float = 0.0, high: float = 1.0, seed: float | None = None
) -> Tensor:
    """Uniformly distributed numbers in the shape of x; PyTorch's generator, whatever the seed."""
    numbers = torch.rand_like(x, dtype=x.dtype if dtype is None else DTYPES[dtype])
    return numbers * (high - low) + low


TABLE: dict[tuple[str, str], Callable[..., Any]] = {
    ("", "ConstantOfShape"): constant_of_shape,
    ("", "EyeLike"): eye_like,
    ("", "RandomNormal"): random_normal,
    ("", "RandomNormalLike"): random_normal_like,
    ("", "RandomUniform"): random_uniform,
    ("", "RandomUniformLike"): random_uniform_like,
    ("", "Range"): arange,
    ("", "Shape"): shape_,
    ("", "Size"): size,
}

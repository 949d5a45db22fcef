"""Normalisations, and Dropout: what behaves differently in training."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from onnx_grow.torch.operators.unsupported import Unsupported
from onnx_grow.torch.operators.windows import padded
from onnx_grow.torch.values import DTYPES, Host

__all__ = ["TABLE", "rms_normalization"]


def batch_normalization(
    x: Tensor,
    scale: Tensor,
    bias: Tensor,
    mean: Tensor,
    variance: Tensor,
    *,
    epsilon: float = 1e-5,
    momentum: float = 0.9,
    training_mode: int = 0,
    is_test: int = 0,
    spatial: int = 1,
    outputs: int,
    training: bool,
) -> Any:
    """Normalised by the running statistics, which in training follow those of the batch: new = momentum old + (1 - momentum) batch.

    A node that the file has in training mode (before operator set 14: one of five outputs) takes the statistics of the batch always, as
    ONNX Runtime does. Statistics that the graph
    computes, of standardised weights say, are no running ones: they are what it normalises by, and have a gradient.
    """
    if mean.ndim > 1:
        raise Unsupported("its statistics are of single elements, not of channels")
    in_training = training_mode or outputs == 5
    is_computed = mean.requires_grad or variance.requires_grad
    if is_computed and not in_training:
        middle, spread, factor, shift = (
            each.reshape(-1, *(1,) * (x.ndim - 2)) for each in (mean, variance, scale, bias)
        )
        return (x - middle) * torch.rsqrt(spread + epsilon) * factor + shift
    if not training and not in_training:
        return F.batch_norm(x, mean, variance, scale, bias, False, 0.0, epsilon)
    if not in_training or (training and outputs == 1 and not is_computed):
        return F.batch_norm(x, mean, variance, scale, bias, True, 1 - momentum, epsilon)
    dims = [d for d in range(x.ndim) if d != 1]
    spread, middle = torch.var_mean(x.detach(), dims, correction=0)
    y = F.batch_norm(x, None, None, scale, bias, True, 0.0, epsilon)
    new_mean = mean * momentum + middle * (1 - momentum)
    new_variance = variance * momentum + spread * (1 - momentum)
    if training and not is_computed:
        with torch.no_grad():
            mean.copy_(new_mean)
            variance.copy_(new_variance)
    return y, new_mean, new_variance


def instance_normalization(x: Tensor, scale: Tensor, bias: Tensor, *, epsilon: float = 1e-5) -> Tensor:
    """Every channel of every sample normalised by itself."""
    shape = (-1, *(1,) * (x.ndim - 2))
    y = _standardised(x, list(range(2, x.ndim)), epsilon)[0]
    return y * scale.reshape(shape) + bias.reshape(shape)


def layer_normalization(
    x: Tensor,
    scale: Tensor,
    bias: Tensor | None = None,
    *,
    axis: int = -1,
    epsilon: float = 1e-5,
    stash_type: int = 1,
    outputs: int,
) -> Any:
    """Normalised over the dimensions from `axis` on."""
    axis = axis % x.ndim
    shape = x.shape[axis:]
    if outputs == 1 and scale.shape == shape and (bias is None or bias.shape == shape):
        return F.layer_norm(x, shape, scale, bias, epsilon)
    y, middle, inverse = _standardised(x.to(_at_least(x, stash_type)), list(range(axis, x.ndim)), epsilon)
    y = y.to(x.dtype) * scale
    return (y if bias is None else y + bias), middle, inverse


def group_normalization(
    x: Tensor,
    scale: Tensor,
    bias: Tensor,
    *,
    epsilon: float = 1e-5,
    num_groups: int,
    stash_type: int = 1,
    opset: int,
) -> Tensor:
    """Groups of channels normalised by themselves; before opset 21, scale and bias are per group."""
    if opset < 21 and scale.numel() != x.shape[1]:
        repeats = x.shape[1] // num_groups
        scale, bias = scale.repeat_interleave(repeats), bias.repeat_interleave(repeats)
    return F.group_norm(x, num_groups, scale, bias, epsilon)


def rms_normalization(
    x: Tensor, scale: Tensor, *, axis: int = -1, epsilon: float = 1e-5, stash_type: int = 1
) -> Tensor:
    """Divided by the root mean square over the dimensions from `axis` on."""
    wide = x.to(_at_least(x, stash_type))
    dims = list(range(axis % x.ndim, x.ndim))
    inverse = torch.rsqrt(wide.square().mean(dims, keepdim=True) + epsilon)
    return (wide * inverse).to(x.dtype) * scale


def lp_normalization(x: Tensor, *, axis: int = -1, p: int = 2) -> Tensor:
    """Divided by its norm along an axis; zeros stay."""
    norm = torch.linalg.vector_norm(x, p, axis, keepdim=True)
    return torch.where(norm == 0, torch.zeros_like(x), x / norm)


def mean_variance_normalization(x: Tensor, *, axes: Sequence[int] = (0, 2, 3)) -> Tensor:
    """Standardised over some dimensions."""
    spread, middle = torch.var_mean(x, list(axes), correction=0, keepdim=True)
    return (x - middle) / (torch.sqrt(spread) + 1e-9)


def local_response_normalization(
    x: Tensor, *, size: int, alpha: float = 1e-4, beta: float = 0.75, bias: float = 1.0
) -> Tensor:
    """Divided by a power of the energy in the channels around."""
    behind = [0] * (x.ndim - 2)
    energy = padded(x.square(), [(size - 1) // 2, *behind], [size // 2, *behind])
    around = energy.unfold(1, size, 1).sum(-1)
    return x / torch.pow(bias + alpha / size * around, beta)


def dropout(
    x: Tensor,
    share: Host | None = None,
    training_mode: Host | None = None,
    *,
    ratio: float = 0.5,
    seed: int = 0,
    is_test: int = 0,
    outputs: int,
    training: bool,
) -> Any:
    """In training some elements are zero and the others larger by as much; x otherwise."""
    y = F.dropout(x, ratio if share is None else float(share.reshape(())), training)
    return y if outputs == 1 else (y, y != 0 if training else torch.ones_like(x, dtype=torch.bool))


def _standardised(x: Tensor, dims: list[int], epsilon: float) -> tuple[Tensor, Tensor, Tensor]:
    """x with mean 0 and variance 1 over some dimensions, the mean, and one over the standard deviation."""
    spread, middle = torch.var_mean(x, dims, correction=0, keepdim=True)
    inverse = torch.rsqrt(spread + epsilon)
    return (x - middle) * inverse, middle, inverse


def _at_least(x: Tensor, stash_type: int) -> torch.dtype:
    """The type in which statistics are taken: the one asked for, but no narrower than that of x."""
    return torch.promote_types(x.dtype, DTYPES[stash_type])


TABLE: dict[tuple[str, str], Callable[..., Any]] = {
    ("", "BatchNormalization"): batch_normalization,
    ("", "Dropout"): dropout,
    ("", "GroupNormalization"): group_normalization,
    ("", "InstanceNormalization"): instance_normalization,
    ("", "LRN"): local_response_normalization,
    ("", "LayerNormalization"): layer_normalization,
    ("", "LpNormalization"): lp_normalization,
    ("", "MeanVarianceNormalization"): mean_variance_normalization,
    ("", "RMSNormalization"): rms_normalization,
}

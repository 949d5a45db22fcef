"""ONNX Runtime's fused operators, as the operators that they stand for."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from onnx_grow.torch.operators.contraction import conv, gemm
from onnx_grow.torch.operators.elementwise import TABLE as ACTIVATIONS
from onnx_grow.torch.operators.normalization import rms_normalization
from onnx_grow.torch.operators.unsupported import Unsupported

__all__ = ["TABLE"]


def fused_matmul(
    a: Tensor,
    b: Tensor,
    *,
    alpha: float = 1.0,
    transA: int = 0,
    transB: int = 0,
    transBatchA: int = 0,
    transBatchB: int = 0,
) -> Tensor:
    """alpha a b, each transposed or not."""
    if transBatchA or transBatchB:
        raise Unsupported("it transposes batches")
    a = a.transpose(-1, -2) if transA and a.ndim > 1 else a
    b = b.transpose(-1, -2) if transB and b.ndim > 1 else b
    return torch.matmul(a, b) * alpha


def fused_gemm(
    a: Tensor,
    b: Tensor,
    c: Tensor | None = None,
    *,
    alpha: float = 1.0,
    beta: float = 1.0,
    transA: int = 0,
    transB: int = 0,
    activation: str = "",
    activation_alpha: float | None = None,
    activation_beta: float | None = None,
    activation_gamma: float | None = None,
) -> Tensor:
    """A Gemm and an activation."""
    y = gemm(a, b, c, alpha=alpha, beta=beta, transA=transA, transB=transB)
    numbers = (activation_alpha, activation_beta, activation_gamma)
    given = [number for number in numbers if number is not None]
    return _activated(y, activation, given)


def fused_conv(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    added: Tensor | None = None,
    *,
    activation: str = "",
    activation_params: Sequence[float] = (),
    **window: Any,
) -> Tensor:
    """A convolution, a sum and an activation."""
    y = conv(x, weight, bias, **window)
    return _activated(y if added is None else y + added, activation, activation_params)


def gelu(x: Tensor) -> Tensor:
    """The exact GELU."""
    return F.gelu(x)


def bias_gelu(x: Tensor, bias: Tensor) -> Tensor:
    """The exact GELU of a sum."""
    return F.gelu(x + bias)


def fast_gelu(x: Tensor, bias: Tensor | None = None) -> Tensor:
    """The GELU by tanh."""
    return F.gelu(x if bias is None else x + bias, approximate="tanh")


def quick_gelu(x: Tensor, *, alpha: float = 1.702) -> Tensor:
    """x sigmoid(alpha x)."""
    return x * torch.sigmoid(alpha * x)


def skip_layer_normalization(
    x: Tensor,
    skip: Tensor,
    scale: Tensor,
    shift: Tensor | None = None,
    bias: Tensor | None = None,
    *,
    epsilon: float = 1e-12,
) -> tuple[Tensor | None, ...]:
    """The normalised sum of two tensors, and the sum itself."""
    total = x + skip if bias is None else x + skip + bias
    return F.layer_norm(total, total.shape[-1:], scale, shift, epsilon), None, None, total


def skip_rms_normalization(
    x: Tensor, skip: Tensor, scale: Tensor, bias: Tensor | None = None, *, epsilon: float = 1e-12
) -> tuple[Tensor | None, ...]:
    """The same with the root mean square."""
    total = x + skip if bias is None else x + skip + bias
    return rms_normalization(total, scale, epsilon=epsilon), None, None, total


def embed_layer_normalization(
    words: Tensor,
    segments: Tensor | None,
    word_table: Tensor,
    position_table: Tensor,
    segment_table: Tensor | None,
    scale: Tensor,
    shift: Tensor,
    mask: Tensor | None = None,
    positions: Tensor | None = None,
    *,
    epsilon: float = 1e-12,
    mask_index_type: int = 1,
) -> tuple[Tensor, ...]:
    """The normalised sum of three embeddings, the lengths that a mask tells, and the sum."""
    steps = torch.arange(words.shape[1], device=words.device) if positions is None else positions
    total = word_table[words.long()] + position_table[steps.long()]
    if segments is not None and segment_table is not None:
        total = total + segment_table[segments.long()]
    counts = torch.zeros_like(words[:, 0]) if mask is None else mask.sum(1).to(torch.int32)
    return F.layer_norm(total, total.shape[-1:], scale, shift, epsilon), counts.to(torch.int32), total


def inverse(x: Tensor) -> Tensor:
    """The inverse of matrices."""
    return torch.linalg.inv(x)


def _activated(y: Tensor, name: str, numbers: Sequence[float]) -> Tensor:
    """An activation with its numbers in the order of its attributes: alpha, beta, gamma, or the bounds of Clip."""
    if not name:
        return y
    if name == "Clip":
        return torch.clamp(y, *numbers)
    function = ACTIVATIONS.get(("", name))
    if function is None:
        raise Unsupported(f"it has the activation {name!r}")
    return function(y, **dict(zip(("alpha", "beta", "gamma"), numbers, strict=False)))


TABLE: dict[tuple[str, str], Callable[..., Any]] = {
    ("", "SimplifiedLayerNormalization"): rms_normalization,
    ("com.microsoft", "BiasGelu"): bias_gelu,
    ("com.microsoft", "EmbedLayerNormalization"): embed_layer_normalization,
    ("com.microsoft", "FastGelu"): fast_gelu,
    ("com.microsoft", "FusedConv"): fused_conv,
    ("com.microsoft", "FusedGemm"): fused_gemm,
    ("com.microsoft", "FusedMatMul"): fused_matmul,
    ("com.microsoft", "Gelu"): gelu,
    ("com.microsoft", "Inverse"): inverse,
    ("com.microsoft", "QuickGelu"): quick_gelu,
    ("com.microsoft", "SkipLayerNormalization"): skip_layer_normalization,
    ("com.microsoft", "SkipSimplifiedLayerNormalization"): skip_rms_normalization,
    ("com.microsoft", "TransposeMatMul"): fused_matmul,
}

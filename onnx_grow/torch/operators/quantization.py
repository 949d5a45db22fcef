"""Quantisation: whole numbers, each with a scale and a zero point.

Rounding has no gradient. What is quantised only to be dequantised, as in a network that is to be trained with the rounding in it, passes
the gradient on as if it had not been rounded, where it has not been cut off either: a straight-through estimator, Bengio et al. 2013.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from onnx_grow.torch.operators.contraction import conv
from onnx_grow.torch.operators.unsupported import Unsupported
from onnx_grow.torch.values import DTYPES

__all__ = ["TABLE"]


def quantize(
    x: Tensor,
    scale: Tensor,
    zero: Tensor | None = None,
    *,
    axis: int = 1,
    block_size: int = 0,
    output_dtype: int = 0,
    precision: int = 0,
    saturate: int = 1,
) -> Tensor:
    """round(x / scale) + zero, within the limits of the type."""
    dtype = zero.dtype if zero is not None else DTYPES[output_dtype] if output_dtype else torch.uint8
    _refuse_narrow(output_dtype, dtype)
    factor, offset = (_spread(each, x, axis, block_size) for each in (scale, zero))
    limits = torch.iinfo(dtype)
    y = torch.round(x / factor)
    y = y if offset is None else y + offset.to(y.dtype)
    return y.clamp(limits.min, limits.max).to(dtype)


def dequantize(
    x: Tensor,
    scale: Tensor,
    zero: Tensor | None = None,
    rounded: Tensor | None = None,
    *,
    axis: int = 1,
    block_size: int = 0,
    output_dtype: int = 0,
) -> Tensor:
    """(x - zero) scale. `rounded` are the numbers that x was made of, if it was: they get the gradient."""
    factor, offset = (_spread(each, x, axis, block_size) for each in (scale, zero))
    dtype = DTYPES[output_dtype] if output_dtype else scale.dtype
    y = x.to(dtype) if x.is_floating_point() else x.to(torch.int32)
    y = y if offset is None else y - offset.to(y.dtype)
    y = y.to(dtype) * factor.to(dtype)
    if rounded is None or not rounded.requires_grad or x.is_floating_point():
        return y
    limits = torch.iinfo(x.dtype)
    low, high = (
        (limit - (0 if offset is None else offset.int())) * factor for limit in (limits.min, limits.max)
    )
    passed = rounded.clamp(low, high).to(dtype)
    return y + (passed - passed.detach())


def quantize_dynamically(x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """x in eight bits, with the scale and zero point that its range asks for."""
    low, high = x.min().clamp(max=0), x.max().clamp(min=0)
    scale = (high - low) / 255
    zero = torch.round((0 - low) / scale).clamp(0, 255) if bool(scale != 0) else torch.zeros_like(scale)
    zero = zero.to(torch.uint8)
    return quantize(x, scale, zero), scale, zero


def matmul_integer(
    a: Tensor, b: Tensor, zero_a: Tensor | None = None, zero_b: Tensor | None = None
) -> Tensor:
    """The product of matrices of whole numbers, in 32 bits."""
    left, right = _shifted(a, zero_a, -1), _shifted(b, zero_b, -2)
    return torch.matmul(left.double(), right.double()).to(torch.int32)


def conv_integer(
    x: Tensor,
    weight: Tensor,
    zero_x: Tensor | None = None,
    zero_w: Tensor | None = None,
    **window: Any,
) -> Tensor:
    """A convolution of whole numbers, in 32 bits."""
    image = _shifted(x, zero_x, -1)
    filters = weight.to(torch.int32) - (0 if zero_w is None else _per_filter(zero_w, weight).to(torch.int32))
    return conv(image.double(), filters.double(), **window).to(torch.int32)


def qlinear_matmul(
    a: Tensor,
    scale_a: Tensor,
    zero_a: Tensor,
    b: Tensor,
    scale_b: Tensor,
    zero_b: Tensor,
    scale_y: Tensor,
    zero_y: Tensor,
) -> Tensor:
    """The product of quantised matrices, quantised."""
    product = _shifted(a, zero_a, -1).double() @ _shifted(b, zero_b, -2).double()
    columns = scale_b.unsqueeze(-2) if scale_b.ndim > 1 else scale_b
    return quantize((product * (scale_a * columns)).float(), scale_y, zero_y)


def qlinear_conv(
    x: Tensor,
    scale_x: Tensor,
    zero_x: Tensor,
    weight: Tensor,
    scale_w: Tensor,
    zero_w: Tensor,
    scale_y: Tensor,
    zero_y: Tensor,
    bias: Tensor | None = None,
    **window: Any,
) -> Tensor:
    """The convolution of a quantised image, quantised."""
    filters = weight.to(torch.int32) - _per_filter(zero_w, weight).to(torch.int32)
    y = conv(
        _shifted(x, zero_x, -1).double(), filters.double(), None if bias is None else bias.double(), **window
    )
    channels = scale_w.reshape(-1, *(1,) * (weight.ndim - 2)) if scale_w.numel() > 1 else scale_w.reshape(())
    return quantize((y * (scale_x * channels)).float(), scale_y.reshape(()), zero_y.reshape(()))


def _shifted(x: Tensor, zero: Tensor | None, axis: int) -> Tensor:
    """x without its zero point, which may be one per row (-1) or per column (-2)."""
    if zero is None:
        return x.to(torch.int32)
    offset = zero.to(torch.int32)
    return x.to(torch.int32) - (
        offset.unsqueeze(axis) if offset.ndim == 1 and offset.numel() > 1 and axis == -1 else offset
    )


def _per_filter(numbers: Tensor, weight: Tensor) -> Tensor:
    return numbers.reshape(-1, *(1,) * (weight.ndim - 1)) if numbers.numel() > 1 else numbers.reshape(())


def _spread(numbers: Any, x: Tensor, axis: int, block_size: int) -> Any:
    """A scale or zero point for every element of x: one for all, one per place along an axis, or one per block."""
    if numbers is None or numbers.numel() == 1:
        return numbers if numbers is None else numbers.reshape(())
    axis = axis % x.ndim
    if block_size:
        return numbers.repeat_interleave(block_size, axis).narrow(axis, 0, x.shape[axis])
    return numbers.reshape(-1, *(1,) * (x.ndim - 1 - axis)) if numbers.ndim == 1 else numbers


def _refuse_narrow(output_dtype: int, dtype: torch.dtype) -> None:
    if dtype not in (torch.int8, torch.uint8, torch.int16, torch.uint16, torch.int32) or output_dtype > 16:
        raise Unsupported("it quantises to less than eight bits, or to floating-point numbers")


TABLE: dict[tuple[str, str], Callable[..., Any]] = {
    ("", "ConvInteger"): conv_integer,
    ("", "DequantizeLinear"): dequantize,
    ("", "DynamicQuantizeLinear"): quantize_dynamically,
    ("", "MatMulInteger"): matmul_integer,
    ("", "QLinearConv"): qlinear_conv,
    ("", "QLinearMatMul"): qlinear_matmul,
    ("", "QuantizeLinear"): quantize,
    ("com.microsoft", "DequantizeLinear"): dequantize,
    ("com.microsoft", "QuantizeLinear"): quantize,
}

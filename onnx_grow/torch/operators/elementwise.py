"""Operators that compute every element by itself, with broadcasting."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial, reduce
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from onnx_grow.model import dtype_name
from onnx_grow.torch.operators.unsupported import Unsupported
from onnx_grow.torch.values import DTYPES, STORED

__all__ = ["TABLE"]


def aligned(
    function: Callable[[Tensor, Tensor], Tensor],
    a: Tensor,
    b: Tensor,
    *,
    broadcast: int = 0,
    axis: int | None = None,
) -> Tensor:
    """A function of two tensors, of which the second begins at dimension `axis` of the first, as before opset 7, or ends with it."""
    return function(a, _placed(a, b, axis))


def _quotient(a: Tensor, b: Tensor) -> Tensor:
    """a / b; of integers, towards zero."""
    return a / b if a.is_floating_point() or a.is_complex() else torch.div(a, b, rounding_mode="trunc")


def _power(a: Tensor, b: Tensor) -> Tensor:
    return torch.pow(a, b).to(a.dtype)


def modulo(a: Tensor, b: Tensor, *, fmod: int = 0) -> Tensor:
    """The remainder, with the sign of b, or with that of a (`fmod`)."""
    return torch.fmod(a, b) if fmod else torch.remainder(a, b)


def maximum(*tensors: Tensor) -> Tensor:
    """The largest."""
    return reduce(torch.maximum, tensors)


def minimum(*tensors: Tensor) -> Tensor:
    """The smallest."""
    return reduce(torch.minimum, tensors)


def total(*tensors: Tensor) -> Tensor:
    """The sum."""
    return reduce(torch.add, tensors)


def mean(*tensors: Tensor) -> Tensor:
    """The mean."""
    return reduce(torch.add, tensors) / len(tensors)


def shift(a: Tensor, b: Tensor, *, direction: str) -> Tensor:
    """Bits moved to the left or to the right."""
    return torch.bitwise_left_shift(a, b) if direction == "LEFT" else torch.bitwise_right_shift(a, b)


def leaky_relu(x: Tensor, *, alpha: float = 0.01) -> Tensor:
    """x, or alpha x where that is negative."""
    return F.leaky_relu(x, alpha)


def prelu(x: Tensor, slope: Tensor, *, opset: int) -> Tensor:
    """x, or slope x where that is negative; a vector of slopes was per channel before opset 7."""
    if opset < 7 and slope.ndim == 1 and slope.numel() > 1:
        slope = _placed(x, slope, 1)
    return torch.where(x < 0, slope * x, x)


def elu(x: Tensor, *, alpha: float = 1.0) -> Tensor:
    """alpha (exp(x) - 1) where x is negative."""
    return F.elu(x, alpha)


def selu(x: Tensor, *, alpha: float = 1.6732631921768188, gamma: float = 1.0507010221481323) -> Tensor:
    """The scaled ELU."""
    return gamma * torch.where(x > 0, x, alpha * torch.expm1(x.clamp(max=0)))


def celu(x: Tensor, *, alpha: float = 1.0) -> Tensor:
    """The continuously differentiable ELU."""
    return F.celu(x, alpha)


def thresholded_relu(x: Tensor, *, alpha: float = 1.0) -> Tensor:
    """x where it is larger than alpha."""
    return torch.where(x > alpha, x, torch.zeros_like(x))


def hard_sigmoid(x: Tensor, *, alpha: float = 0.2, beta: float = 0.5) -> Tensor:
    """alpha x + beta, between 0 and 1."""
    return torch.clamp(alpha * x + beta, 0, 1)


def hard_swish(x: Tensor) -> Tensor:
    """x times a hard sigmoid."""
    return x * torch.clamp(x / 6 + 0.5, 0, 1)


def swish(x: Tensor, *, alpha: float = 1.0) -> Tensor:
    """x sigmoid(alpha x)."""
    return x * torch.sigmoid(alpha * x)


def softplus(x: Tensor) -> Tensor:
    """log(1 + exp(x))."""
    return torch.logaddexp(x, torch.zeros_like(x))


def mish(x: Tensor) -> Tensor:
    """x tanh(softplus(x))."""
    return x * torch.tanh(softplus(x))


def gelu(x: Tensor, *, approximate: str = "none") -> Tensor:
    """The Gaussian error linear unit, exact or by tanh."""
    return F.gelu(x, approximate=approximate)


def shrink(x: Tensor, *, lambd: float = 0.5, bias: float = 0.0) -> Tensor:
    """Zero between -lambd and lambd, and moved there by bias outside."""
    lower, upper = torch.where(x < -lambd, x + bias, torch.zeros_like(x)), x - bias
    return torch.where(x > lambd, upper, lower)


def clip(
    x: Tensor,
    low: Tensor | None = None,
    high: Tensor | None = None,
    *,
    min: float | None = None,
    max: float | None = None,
) -> Tensor:
    """x between two bounds, which were attributes before opset 11."""
    lowest, highest = min if low is None else low, max if high is None else high
    for bound, limit in ((lowest, torch.maximum), (highest, torch.minimum)):
        if bound is not None:
            x = limit(x, torch.as_tensor(bound, dtype=x.dtype, device=x.device))
    return x


def is_infinite(x: Tensor, *, detect_negative: int = 1, detect_positive: int = 1) -> Tensor:
    """Where x is infinite, of the signs asked for."""
    sign = torch.zeros_like(x, dtype=torch.bool)
    return (sign | (torch.isposinf(x) & bool(detect_positive))) | (torch.isneginf(x) & bool(detect_negative))


def cast(x: Tensor, *, to: int | str, saturate: int = 1, round_mode: str = "up") -> Tensor:
    """x of another type."""
    if to in STORED or to not in (*DTYPES, *_OLD_NAMES):
        raise Unsupported(f"its type is {dtype_name(int(to)) if isinstance(to, int) else to}")
    return x.to(_OLD_NAMES[to] if isinstance(to, str) else DTYPES[to])


def cast_like(x: Tensor, like: Tensor, *, saturate: int = 1, round_mode: str = "up") -> Tensor:
    """x of another tensor's type."""
    if like.dtype.itemsize == 1 and like.is_floating_point():
        raise Unsupported(f"its type is {like.dtype}")
    return x.to(like.dtype)


def identity(x: Any) -> Any:
    """x."""
    return x


def where(condition: Tensor, a: Tensor, b: Tensor) -> Tensor:
    """a or b."""
    return torch.where(condition, a, b)


def affine(x: Tensor, *, alpha: float = 1.0, beta: float = 0.0) -> Tensor:
    """alpha x + beta."""
    return alpha * x + beta


def scaled_tanh(x: Tensor, *, alpha: float = 1.0, beta: float = 1.0) -> Tensor:
    """alpha tanh(beta x)."""
    return alpha * torch.tanh(beta * x)


def image_scaler(x: Tensor, *, bias: list[float], scale: float = 1.0) -> Tensor:
    """scale x + bias, the bias per channel."""
    return scale * x + torch.tensor(bias, dtype=x.dtype, device=x.device).reshape(-1, 1, 1)


def _placed(a: Tensor, b: Tensor, axis: int | None) -> Tensor:
    if axis is None:
        return b
    behind = a.ndim - axis % a.ndim - b.ndim
    return b.reshape(*b.shape, *(1,) * behind)


_OLD_NAMES = {
    "FLOAT": torch.float32,
    "DOUBLE": torch.float64,
    "FLOAT16": torch.float16,
    "INT32": torch.int32,
    "INT64": torch.int64,
    "BOOL": torch.bool,
    "UINT8": torch.uint8,
    "INT8": torch.int8,
}

_PLAIN: dict[str, Callable[..., Any]] = {
    "Abs": torch.abs,
    "Acos": torch.acos,
    "Acosh": torch.acosh,
    "Add": partial(aligned, torch.add),
    "Affine": affine,
    "And": partial(aligned, torch.logical_and),
    "Asin": torch.asin,
    "Asinh": torch.asinh,
    "Atan": torch.atan,
    "Atanh": torch.atanh,
    "BitShift": shift,
    "BitwiseAnd": torch.bitwise_and,
    "BitwiseNot": torch.bitwise_not,
    "BitwiseOr": torch.bitwise_or,
    "BitwiseXor": torch.bitwise_xor,
    "Cast": cast,
    "CastLike": cast_like,
    "Ceil": torch.ceil,
    "Celu": celu,
    "Clip": clip,
    "Cos": torch.cos,
    "Cosh": torch.cosh,
    "Div": partial(aligned, _quotient),
    "Elu": elu,
    "Equal": partial(aligned, torch.eq),
    "Erf": torch.erf,
    "Exp": torch.exp,
    "Floor": torch.floor,
    "Gelu": gelu,
    "Greater": partial(aligned, torch.gt),
    "GreaterOrEqual": torch.ge,
    "HardSigmoid": hard_sigmoid,
    "HardSwish": hard_swish,
    "Identity": identity,
    "ImageScaler": image_scaler,
    "IsInf": is_infinite,
    "IsNaN": torch.isnan,
    "LeakyRelu": leaky_relu,
    "Less": partial(aligned, torch.lt),
    "LessOrEqual": torch.le,
    "Log": torch.log,
    "Max": maximum,
    "Mean": mean,
    "Min": minimum,
    "Mish": mish,
    "Mod": modulo,
    "Mul": partial(aligned, torch.mul),
    "Neg": torch.neg,
    "Not": torch.logical_not,
    "Or": partial(aligned, torch.logical_or),
    "PRelu": prelu,
    "Pow": partial(aligned, _power),
    "Reciprocal": torch.reciprocal,
    "Relu": torch.relu,
    "Round": torch.round,
    "ScaledTanh": scaled_tanh,
    "Selu": selu,
    "Shrink": shrink,
    "Sigmoid": torch.sigmoid,
    "Sign": torch.sign,
    "Sin": torch.sin,
    "Sinh": torch.sinh,
    "Softplus": softplus,
    "Softsign": F.softsign,
    "Sqrt": torch.sqrt,
    "Sub": partial(aligned, torch.sub),
    "Sum": total,
    "Swish": swish,
    "Tan": torch.tan,
    "Tanh": torch.tanh,
    "ThresholdedRelu": thresholded_relu,
    "Where": where,
    "Xor": partial(aligned, torch.logical_xor),
}

TABLE: dict[tuple[str, str], Callable[..., Any]] = {("", op): function for op, function in _PLAIN.items()}

"""Operators that sum products: matrices, convolutions."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from onnx_grow.torch.operators.unsupported import Unsupported
from onnx_grow.torch.operators.windows import Window, padded

__all__ = ["TABLE", "conv"]


def gemm(
    a: Tensor,
    b: Tensor,
    c: Tensor | None = None,
    *,
    alpha: float = 1.0,
    beta: float = 1.0,
    transA: int = 0,
    transB: int = 0,
    broadcast: int = 0,
) -> Tensor:
    """alpha a b + beta c."""
    a, b = a.T if transA else a, b.T if transB else b
    if alpha == beta == 1 and c is not None and a.is_floating_point() and c.ndim == 1:
        return torch.addmm(c, a, b)
    product = a @ b
    if alpha != 1:
        product = product * alpha
    if c is None or not beta:
        return product
    return product + (c if beta == 1 else c * beta)


def matmul(a: Tensor, b: Tensor) -> Tensor:
    """The matrix product, batched."""
    return torch.matmul(a, b)


def einsum(*tensors: Tensor, equation: str) -> Tensor:
    """Einstein's summation."""
    return torch.einsum(equation.replace(" ", ""), *tensors)


def conv(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    *,
    auto_pad: str = "NOTSET",
    dilations: Sequence[int] | None = None,
    group: int = 1,
    kernel_shape: Sequence[int] | None = None,
    pads: Sequence[int] | None = None,
    strides: Sequence[int] | None = None,
) -> Tensor:
    """A convolution over one to three spatial dimensions."""
    window = Window(x.shape[2:], weight.shape[2:], strides, dilations, pads, auto_pad)
    padding: Sequence[int] = [0] * len(window.kernel)
    if window.is_symmetric and min(window.before, default=0) >= 0:
        padding = window.before
    else:
        x = padded(x, window.before, window.behind)
    convolve = _of_rank(_CONVOLUTIONS, weight.ndim - 2)
    return convolve(x, weight, bias, window.strides, padding, window.dilations, group)


def conv_transpose(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    *,
    auto_pad: str = "NOTSET",
    dilations: Sequence[int] | None = None,
    group: int = 1,
    kernel_shape: Sequence[int] | None = None,
    output_padding: Sequence[int] | None = None,
    output_shape: Sequence[int] | None = None,
    pads: Sequence[int] | None = None,
    strides: Sequence[int] | None = None,
) -> Tensor:
    """The transpose of a convolution: computed in full, then cut to what the attributes ask for."""
    window = Window(x.shape[2:], weight.shape[2:], strides, dilations, pads)
    rank = len(window.kernel)
    added = list(output_padding or [0] * rank)
    transpose = _of_rank(_TRANSPOSES, rank)
    y = transpose(x, weight, None, window.strides, 0, 0, group, window.dilations)
    sizes = [
        stride * (size - 1) + extent + more
        for stride, size, extent, more in zip(window.strides, x.shape[2:], window.extents, added, strict=True)
    ]
    before, behind = window.before, window.behind
    wanted = list(output_shape or ())[-rank:]
    if not wanted and auto_pad.startswith("SAME"):
        wanted = [size * stride for size, stride in zip(x.shape[2:], window.strides, strict=True)]
    if wanted:
        totals = [size - want for size, want in zip(sizes, wanted, strict=True)]
        halves = [total // 2 for total in totals]
        rest = [total - half for total, half in zip(totals, halves, strict=True)]
        before, behind = (halves, rest) if auto_pad == "SAME_UPPER" else (rest, halves)
    cut = [more - end for more, end in zip(added, behind, strict=True)]
    y = padded(y, [-start for start in before], cut)
    return y if bias is None else y + bias.reshape(-1, *(1,) * rank)


def deformed_conv(
    x: Tensor,
    weight: Tensor,
    offset: Tensor,
    bias: Tensor | None = None,
    mask: Tensor | None = None,
    *,
    dilations: Sequence[int] | None = None,
    group: int = 1,
    kernel_shape: Sequence[int] | None = None,
    offset_group: int = 1,
    pads: Sequence[int] | None = None,
    strides: Sequence[int] | None = None,
) -> Tensor:
    """A convolution whose windows read the image between its pixels, each element moved by an offset of its own."""
    if weight.ndim != 4:
        raise Unsupported(f"it has {weight.ndim - 2} spatial dimensions")
    window = Window(x.shape[2:], weight.shape[2:], strides, dilations, pads)
    batch, parts, elements = x.shape[0], offset_group, weight.shape[2] * weight.shape[3]
    spatial = offset.shape[2:]
    moved = offset.reshape(batch * parts, elements, 2, *spatial)
    grid = []
    for d in (1, 0):  # of width and height, from -1 to 1 over the pixels, as grid_sample has it
        shape = [1, *(window.kernel[d] if k == d else 1 for k in (0, 1)), 1, 1]
        inside = torch.arange(window.kernel[d], device=x.device).reshape(shape) * window.dilations[d]
        inside = inside.expand(1, *window.kernel, 1, 1).reshape(1, elements, 1, 1)
        steps = torch.arange(spatial[d], device=x.device) * window.strides[d] - window.before[d]
        places = moved[:, :, d] + inside + steps.reshape(-1, *(1,) * (1 - d))
        grid.append((2 * places + 1) / x.shape[2 + d] - 1)
    image = x.reshape(batch * parts, -1, *x.shape[2:])
    seen = F.grid_sample(image, torch.stack(grid, -1).flatten(1, 2), align_corners=False)
    seen = seen.reshape(batch, parts, -1, elements, *spatial)
    if mask is not None:
        seen = seen * mask.reshape(batch, parts, 1, elements, *spatial)
    columns = seen.reshape(batch, group, -1, spatial[0] * spatial[1])
    y = (weight.reshape(group, -1, columns.shape[2]) @ columns).reshape(batch, -1, *spatial)
    return y if bias is None else y + bias.reshape(-1, 1, 1)


def _of_rank(functions: Sequence[Callable[..., Tensor]], rank: int) -> Callable[..., Tensor]:
    if not 1 <= rank <= len(functions):
        raise Unsupported(f"it has {rank} spatial dimensions")
    return functions[rank - 1]


_CONVOLUTIONS = (F.conv1d, F.conv2d, F.conv3d)
_TRANSPOSES = (F.conv_transpose1d, F.conv_transpose2d, F.conv_transpose3d)

TABLE: dict[tuple[str, str], Callable[..., Any]] = {
    ("", "Conv"): conv,
    ("", "ConvTranspose"): conv_transpose,
    ("", "DeformConv"): deformed_conv,
    ("", "Det"): torch.det,
    ("", "Einsum"): einsum,
    ("", "Gemm"): gemm,
    ("", "MatMul"): matmul,
}

"""Weights packed in bytes: whole numbers of few bits, in blocks that have a scale and a zero point each. They do not learn."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from onnx_grow.torch.operators.unsupported import Unsupported

__all__ = ["TABLE", "unpacked"]


def product_of_blocks(
    a: Tensor,
    b: Tensor,
    scales: Tensor,
    zeros: Tensor | None = None,
    groups: Tensor | None = None,
    bias: Tensor | None = None,
    *,
    K: int,
    N: int,
    accuracy_level: int = 0,
    bits: int = 4,
    block_size: int,
) -> Tensor:
    """MatMulNBits: the product with a matrix of N packed rows. The accuracy is that of the numbers, whatever the level asks for."""
    if groups is not None:
        raise Unsupported("its columns have an order of their own")
    rows = unpacked(b.reshape(N, -1), scales.reshape(N, -1), _by_row(zeros, N), bits, block_size)[:, :K]
    y = a @ rows.to(a.dtype).T
    return y if bias is None else y + bias


def gathered_blocks(
    table: Tensor,
    indices: Tensor,
    scales: Tensor,
    zeros: Tensor | None = None,
    *,
    bits: int = 4,
    block_size: int = 128,
    gather_axis: int = 0,
    quantize_axis: int = 1,
) -> Tensor:
    """GatherBlockQuantized: rows of a packed table."""
    if table.dtype != torch.uint8 or gather_axis or quantize_axis % table.ndim != table.ndim - 1:
        raise Unsupported("its table does not consist of packed rows")
    places = torch.where(indices < 0, indices + len(table), indices).long()
    points = None if zeros is None else zeros[places]
    return unpacked(table[places], scales[places], points, bits, block_size)


def unpacked(packed: Tensor, scales: Tensor, zeros: Tensor | None, bits: int, block: int) -> Tensor:
    """The numbers along the last dimension of packed bytes, the first in the lowest bits.

    Scales and zero points have one element for each block; points are packed likewise, or numbers as they are. Without them zero is
    the middle of what the bits can tell.
    """
    if bits not in (2, 4, 8):
        raise Unsupported(f"its weights have {bits} bits")
    numbers = _numbers(packed, bits).to(scales.dtype)
    points: Tensor | None = None
    if zeros is not None:
        whole = _numbers(zeros, bits) if zeros.dtype == torch.uint8 else zeros
        points = whole[..., : scales.shape[-1]].to(scales.dtype).repeat_interleave(block, -1)
    factors = scales.repeat_interleave(block, -1)
    length = min(numbers.shape[-1], factors.shape[-1])
    offset = 1 << (bits - 1) if points is None else points[..., :length]
    return (numbers[..., :length] - offset) * factors[..., :length]


def _numbers(packed: Tensor, bits: int) -> Tensor:
    shifts = torch.arange(0, 8, bits, device=packed.device)
    return (packed.unsqueeze(-1).int() >> shifts & (1 << bits) - 1).flatten(-2)


def _by_row(zeros: Tensor | None, rows: int) -> Tensor | None:
    return None if zeros is None else zeros.reshape(rows, -1)


TABLE: dict[tuple[str, str], Callable[..., Any]] = {
    ("com.microsoft", "GatherBlockQuantized"): gathered_blocks,
    ("com.microsoft", "MatMulNBits"): product_of_blocks,
}

"""Sequences of tensors, which are lists, and optional values, which are None where they are empty."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from onnx_grow.torch.values import Host, sizes

__all__ = ["TABLE"]


def construct(*tensors: Tensor) -> list[Tensor]:
    """A sequence of tensors."""
    return list(tensors)


def empty(*, dtype: int = 1) -> list[Tensor]:
    """A sequence of none."""
    return []


def insert(sequence: list[Tensor], tensor: Tensor, position: Host | None = None) -> list[Tensor]:
    """The sequence with one more, at its end or at a place."""
    place = len(sequence) if position is None else sizes(position)[0] % (len(sequence) + 1)
    if position is not None and sizes(position)[0] < 0:
        place = len(sequence) + sizes(position)[0]
    return [*sequence[:place], tensor, *sequence[place:]]


def erase(sequence: list[Tensor], position: Host | None = None) -> list[Tensor]:
    """The sequence without its last, or the one at a place."""
    place = -1 if position is None else sizes(position)[0]
    return [each for k, each in enumerate(sequence) if k != place % len(sequence)]


def at(sequence: list[Tensor], position: Host) -> Tensor:
    """The one at a place."""
    return sequence[sizes(position)[0]]


def length(sequence: list[Tensor], *, device: torch.device) -> Tensor:
    """How many there are."""
    return torch.tensor(len(sequence), device=device)


def split(x: Tensor, lengths: Host | None = None, *, axis: int = 0, keepdims: int = 1) -> list[Tensor]:
    """x cut along an axis, into slices, pieces of a length, or pieces of lengths."""
    if lengths is None:
        return [piece if keepdims else piece.squeeze(axis) for piece in x.split(1, axis)]
    return list(x.split(sizes(lengths)[0] if lengths.ndim == 0 else sizes(lengths), axis))


def concat(sequence: list[Tensor], *, axis: int, new_axis: int = 0) -> Tensor:
    """All joined, along an axis or a new one."""
    return torch.stack(sequence, axis) if new_axis else torch.cat(sequence, axis)


TABLE: dict[tuple[str, str], Callable[..., Any]] = {
    ("", "ConcatFromSequence"): concat,
    ("", "SequenceAt"): at,
    ("", "SequenceConstruct"): construct,
    ("", "SequenceEmpty"): empty,
    ("", "SequenceErase"): erase,
    ("", "SequenceInsert"): insert,
    ("", "SequenceLength"): length,
    ("", "SplitToSequence"): split,
}

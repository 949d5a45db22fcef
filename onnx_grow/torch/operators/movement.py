"""Operators that only move values: reshaping, transposing, joining and cutting."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from onnx_grow.torch.operators.unsupported import Unsupported
from onnx_grow.torch.operators.windows import padded
from onnx_grow.torch.values import Host, sizes

__all__ = ["TABLE", "ranges"]


def reshape(
    x: Tensor, target: Host | None = None, *, allowzero: int = 0, shape: Sequence[int] = ()
) -> Tensor:
    """x in another shape: 0 keeps a size, -1 is what remains. Before opset 5 the shape was an attribute."""
    wanted = list(shape) if target is None else sizes(target)
    return x.reshape(_shape_from(x.shape, wanted, allowzero))


def _shape_from(old: Sequence[Any], wanted: Sequence[Any], allowzero: int) -> list[Any]:
    """The shape that Reshape asks for."""
    if allowzero:
        return list(wanted)
    return [old[d] if isinstance(size, int) and size == 0 else size for d, size in enumerate(wanted)]


def transpose(x: Tensor, *, perm: Sequence[int] | None = None) -> Tensor:
    """Dimensions in another order, the reverse without `perm`."""
    return x.permute(list(reversed(range(x.ndim))) if perm is None else list(perm))


def flatten(x: Tensor, *, axis: int = 1) -> Tensor:
    """A matrix: the dimensions before `axis`, and those from there on."""
    axis = axis + x.ndim if axis < 0 else axis
    if axis == 0:
        return x.reshape(1, -1)
    if axis == x.ndim:
        return x.reshape(-1, 1)
    return (x.flatten(0, axis - 1) if axis > 1 else x).flatten(1)


def squeeze(x: Tensor, at: Host | None = None, *, axes: Sequence[int] | None = None) -> Tensor:
    """Without some dimensions of size 1, or all of them."""
    dims = axes if at is None else sizes(at)
    if dims is None:
        return x.squeeze()
    wrong = [d for d in dims if x.shape[d] != 1]
    if wrong:
        raise ValueError(f"dimension {wrong[0]} has {x.shape[wrong[0]]} elements: it cannot be squeezed")
    return x.squeeze(tuple(dims))


def unsqueeze(x: Tensor, at: Host | None = None, *, axes: Sequence[int] | None = None) -> Tensor:
    """With new dimensions of size 1 at some places of the result."""
    dims = list(axes or ()) if at is None else sizes(at)
    rank = x.ndim + len(dims)
    for d in sorted(d % rank for d in dims):
        x = x.unsqueeze(d)
    return x


def expand(x: Tensor, shape: Host) -> Tensor:
    """x broadcast with a shape."""
    wanted = sizes(shape)
    old = [*(1,) * (len(wanted) - x.ndim), *x.shape]
    wanted = [*(1,) * (len(old) - len(wanted)), *wanted]
    return x.expand(
        [
            size if isinstance(want, int) and want == 1 else want
            for size, want in zip(old, wanted, strict=True)
        ]
    )


def concat(*tensors: Tensor, axis: int = 1) -> Tensor:
    """Joined along an axis."""
    return torch.cat(tensors, axis)


def split_(
    x: Tensor,
    lengths: Host | None = None,
    *,
    axis: int = 0,
    num_outputs: int | None = None,
    split: Sequence[int] = (),
    outputs: int,
) -> tuple[Tensor, ...]:
    """Cut along an axis into pieces of some lengths, or into equal ones."""
    parts = list(split) if lengths is None else sizes(lengths)
    if not parts:
        length = -(-x.shape[axis] // (num_outputs or outputs))
        return tuple(torch.split(x, length, axis))
    return tuple(torch.split(x, parts, axis))


def slice_(
    x: Tensor,
    first: Host | None = None,
    last: Host | None = None,
    at: Host | None = None,
    by: Host | None = None,
    *,
    starts: Sequence[int] | None = None,
    ends: Sequence[int] | None = None,
    axes: Sequence[int] | None = None,
) -> Tensor:
    """A range of every axis; the ranges were attributes before opset 10."""
    for d, low, high, step in ranges(first, last, at, by, starts, ends, axes):
        x = _cut(x, d % x.ndim, low, high, step)
    return x


def ranges(
    first: Host | None,
    last: Host | None,
    at: Host | None,
    by: Host | None,
    starts: Sequence[int] | None,
    ends: Sequence[int] | None,
    axes: Sequence[int] | None,
) -> Iterable[tuple[Any, ...]]:
    """What Slice asks for: dimensions, each with a start, an end and a step."""
    begin = list(starts or ()) if first is None else sizes(first)
    end = list(ends or ()) if last is None else sizes(last)
    dims = list(axes or range(len(begin))) if at is None else sizes(at)
    steps = [1] * len(begin) if by is None else sizes(by)
    return zip(dims, begin, end, steps, strict=True)


def _cut(x: Tensor, dim: int, low: Any, high: Any, step: int) -> Tensor:
    if step > 0:
        return x[(slice(None),) * dim + (slice(low, high, step),)]
    chosen = range(*slice(low, high, step).indices(x.shape[dim]))
    if chosen == range(x.shape[dim] - 1, -1, -1):
        return x.flip(dim)
    return x.index_select(dim, torch.tensor(list(chosen), dtype=torch.int64, device=x.device))


def pad(
    x: Tensor,
    amounts: Host | None = None,
    constant: Tensor | None = None,
    at: Host | None = None,
    *,
    mode: str = "constant",
    pads: Sequence[int] | None = None,
    paddings: Sequence[int] | None = None,
    value: float = 0.0,
) -> Tensor:
    """x with its borders moved outwards, or inwards where numbers are negative."""
    given = list(pads or paddings or ()) if amounts is None else sizes(amounts)
    dims = list(range(x.ndim)) if at is None else [d % x.ndim for d in sizes(at)]
    before, behind = [0] * x.ndim, [0] * x.ndim
    for k, d in enumerate(dims):
        before[d], behind[d] = given[k], given[k + len(dims)]
    if mode == "constant":
        if constant is None:
            return padded(x, before, behind, value)
        inside = padded(torch.ones_like(x, dtype=torch.bool), before, behind, False)
        return torch.where(inside, padded(x, before, behind), constant.reshape(()))
    for d in range(x.ndim):
        if before[d] or behind[d]:
            x = x.index_select(d, _PLACES[mode](x.shape[d], before[d], behind[d]).to(x.device))
    return x


def _edge(size: int, before: int, behind: int) -> Tensor:
    return torch.arange(-before, size + behind).clamp(0, size - 1)


def _reflected(size: int, before: int, behind: int) -> Tensor:
    period = max(2 * (size - 1), 1)
    places = torch.arange(-before, size + behind) % period
    return torch.minimum(places, period - places) if size > 1 else torch.zeros_like(places)


def _wrapped(size: int, before: int, behind: int) -> Tensor:
    return torch.arange(-before, size + behind) % size


_PLACES = {"edge": _edge, "reflect": _reflected, "wrap": _wrapped}


def tile(x: Tensor, repeats: Host, axis: Host | None = None) -> Tensor:
    """x several times along every axis."""
    if axis is None:
        return x.repeat(sizes(repeats))
    times = [1] * x.ndim
    times[sizes(axis)[0]] = sizes(repeats)[0]
    return x.repeat(times)


def depth_to_space(x: Tensor, *, blocksize: int, mode: str = "DCR") -> Tensor:
    """Channels become blocks of pixels."""
    n, channels, height, width = x.shape
    b, c = blocksize, channels // blocksize**2
    if mode == "DCR":
        x = x.reshape(n, b, b, c, height, width).permute(0, 3, 4, 1, 5, 2)
    else:
        x = x.reshape(n, c, b, b, height, width).permute(0, 1, 4, 2, 5, 3)
    return x.reshape(n, c, height * b, width * b)


def space_to_depth(x: Tensor, *, blocksize: int, mode: str = "DCR") -> Tensor:
    """Blocks of pixels become channels."""
    n, channels, height, width = x.shape
    b = blocksize
    if mode != "DCR":
        raise Unsupported(f"its mode is {mode!r}")
    x = x.reshape(n, channels, height // b, b, width // b, b).permute(0, 3, 5, 1, 2, 4)
    return x.reshape(n, channels * b * b, height // b, width // b)


def crop(x: Tensor, *, border: Sequence[int], scale: Sequence[int] | None = None) -> Tensor:
    """A rectangle: without a border of (left, top, right, bottom), or of a size from its upper left corner."""
    left, top, right, bottom = border
    if scale:
        return x[..., top : top + scale[0], left : left + scale[1]]
    return x[..., top : x.shape[-2] - bottom, left : x.shape[-1] - right]


def col2im(
    x: Tensor,
    image: Host,
    block: Host,
    *,
    dilations: Sequence[int] | None = None,
    pads: Sequence[int] | None = None,
    strides: Sequence[int] | None = None,
) -> Tensor:
    """Blocks put back into an image, summed where they overlap."""
    rank = len(block)
    if rank != 2:
        raise Unsupported(f"it has {rank} spatial dimensions")
    pads = list(pads or [0] * 4)
    whole = [size + low + high for size, low, high in zip(sizes(image), pads[:2], pads[2:], strict=True)]
    y = F.fold(x, whole, sizes(block), tuple(dilations or (1, 1)), 0, tuple(strides or (1, 1)))
    return padded(y, [-p for p in pads[:2]], [-p for p in pads[2:]])


def reverse_sequence(x: Tensor, lengths: Tensor, *, batch_axis: int = 1, time_axis: int = 0) -> Tensor:
    """The first elements of every sequence, as many as its length, in reverse order."""
    y = x.movedim((batch_axis, time_axis), (0, 1))
    steps = torch.arange(y.shape[1], device=x.device)
    ends = lengths.to(torch.int64)[:, None]
    places = torch.where(steps < ends, ends - 1 - steps, steps)
    y = y[torch.arange(y.shape[0], device=x.device)[:, None], places]
    return y.movedim((0, 1), (batch_axis, time_axis))


def trilu(x: Tensor, k: Host | None = None, *, upper: int = 1) -> Tensor:
    """The upper or lower triangle, from a diagonal on."""
    diagonal = 0 if k is None else sizes(k)[0]
    return x.triu(diagonal) if upper else x.tril(diagonal)


TABLE: dict[tuple[str, str], Callable[..., Any]] = {
    ("", "Col2Im"): col2im,
    ("", "Concat"): concat,
    ("", "Crop"): crop,
    ("", "DepthToSpace"): depth_to_space,
    ("", "Expand"): expand,
    ("", "Flatten"): flatten,
    ("", "Pad"): pad,
    ("", "Reshape"): reshape,
    ("", "ReverseSequence"): reverse_sequence,
    ("", "Slice"): slice_,
    ("", "SpaceToDepth"): space_to_depth,
    ("", "Split"): split_,
    ("", "Squeeze"): squeeze,
    ("", "Tile"): tile,
    ("", "Transpose"): transpose,
    ("", "Trilu"): trilu,
    ("", "Unsqueeze"): unsqueeze,
}

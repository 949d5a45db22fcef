"""The arithmetic of sizes: operators on arrays of the host, whose elements may be symbolic."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import reduce
from typing import Any

import numpy as np
import torch
from onnx import helper

from onnx_grow.torch.operators.movement import ranges
from onnx_grow.torch.values import Host, sizes

__all__ = ["TABLE"]

LARGE = 1 << 10
"""Elements above which a result belongs on the device."""


def add(a: Host, b: Host, **_: Any) -> Any:
    """a + b."""
    return _same(a, b, lambda: a + b)


def subtract(a: Host, b: Host, **_: Any) -> Any:
    """a - b."""
    return _same(a, b, lambda: a - b)


def multiply(a: Host, b: Host, **_: Any) -> Any:
    """a * b."""
    return _same(a, b, lambda: a * b)


def divide(a: Host, b: Host, **_: Any) -> Any:
    """a / b; of integers, towards zero. Symbolic sizes are never negative."""
    if a.dtype == object or b.dtype == object:
        whole = not any(_is_fraction(number) for number in (*sizes(a), *sizes(b)))
        return np.asarray(a // b if whole else a / b, object)
    if a.dtype.kind == "f":
        return _same(a, b, lambda: a / b)
    if not b.all():
        return NotImplemented
    return _same(a, b, lambda: np.trunc(np.divide(a, b)) if a.dtype.kind == "f" else _towards_zero(a, b))


def modulo(a: Host, b: Host, *, fmod: int = 0) -> Any:
    """The remainder."""
    return NotImplemented if fmod else _same(a, b, lambda: a % b)


def maximum(*arrays: Host) -> Any:
    """The largest."""
    return NotImplemented if _symbolic(*arrays) else np.asarray(reduce(np.maximum, arrays))


def minimum(*arrays: Host) -> Any:
    """The smallest."""
    return NotImplemented if _symbolic(*arrays) else np.asarray(reduce(np.minimum, arrays))


def negative(a: Host) -> Any:
    """-a."""
    return np.asarray(-a)


def floor(a: Host) -> Any:
    """Rounded down."""
    return _each(np.floor, torch.sym_int, a)


def ceil(a: Host) -> Any:
    """Rounded up."""
    return _each(np.ceil, lambda number: -torch.sym_int(-number), a)


def cast(a: Host, *, to: int, saturate: int = 1, round_mode: str = "up") -> Any:
    """Another type."""
    try:
        kind = helper.tensor_dtype_to_np_dtype(to)
    except (KeyError, TypeError):
        return NotImplemented
    if a.dtype != object:
        return a.astype(kind) if kind.kind in "iufb" else NotImplemented
    if kind.kind not in "iuf":
        return NotImplemented
    return _of([(torch.sym_float if kind.kind == "f" else torch.sym_int)(n) for n in sizes(a)], a.shape)


def concat(*arrays: Host, axis: int = 1) -> Any:
    """Joined along an axis."""
    return np.concatenate(arrays, axis)


def gather(a: Host, indices: Host, *, axis: int = 0) -> Any:
    """Whole slices of a."""
    return NotImplemented if indices.dtype == object else np.asarray(np.take(a, indices, axis))


def slice_(
    a: Host,
    first: Host | None = None,
    last: Host | None = None,
    at: Host | None = None,
    by: Host | None = None,
    *,
    starts: Sequence[int] | None = None,
    ends: Sequence[int] | None = None,
    axes: Sequence[int] | None = None,
) -> Any:
    """A range of every axis."""
    cut = [slice(None)] * a.ndim
    for d, low, high, step in ranges(first, last, at, by, starts, ends, axes):
        cut[d] = slice(low, high, step)
    return a[tuple(cut)]


def squeeze(a: Host, at: Host | None = None, *, axes: Sequence[int] | None = None) -> Any:
    """Without dimensions of size 1."""
    dims = axes if at is None else sizes(at)
    return a.squeeze(None if dims is None else tuple(dims))


def unsqueeze(a: Host, at: Host | None = None, *, axes: Sequence[int] | None = None) -> Any:
    """With new dimensions of size 1."""
    return np.expand_dims(a, tuple(axes or ()) if at is None else tuple(sizes(at)))


def reshape(a: Host, target: Host | None = None, *, allowzero: int = 0, shape: Sequence[int] = ()) -> Any:
    """Another shape."""
    wanted = list(shape) if target is None else sizes(target)
    if not allowzero:
        wanted = [a.shape[d] if size == 0 else size for d, size in enumerate(wanted)]
    return a.reshape(wanted)


def identity(a: Host) -> Any:
    """a."""
    return a


def product(
    a: Host,
    at: Host | None = None,
    *,
    axes: Sequence[int] | None = None,
    keepdims: int = 1,
    noop_with_empty_axes: int = 0,
) -> Any:
    """The product over some dimensions, or all of them."""
    dims = axes if at is None else sizes(at)
    if not dims and noop_with_empty_axes:
        return a
    return np.asarray(np.prod(a, tuple(dims) if dims else None, keepdims=bool(keepdims)))


def equal(a: Host, b: Host, **_: Any) -> Any:
    """a == b."""
    return np.asarray(np.asarray(a == b), bool)


def greater(a: Host, b: Host, **_: Any) -> Any:
    """a > b."""
    return np.asarray(np.asarray(a > b), bool)


def less(a: Host, b: Host, **_: Any) -> Any:
    """a < b."""
    return np.asarray(np.asarray(a < b), bool)


def invert(a: Host) -> Any:
    """Not a."""
    return np.logical_not(a)


def both(a: Host, b: Host, **_: Any) -> Any:
    """And."""
    return np.logical_and(a, b)


def either(a: Host, b: Host, **_: Any) -> Any:
    """Or."""
    return np.logical_or(a, b)


def where(condition: Host, a: Host, b: Host) -> Any:
    """a or b."""
    return np.where(condition, a, b)


def constant_of_shape(dims: Host, *, value: Host | None = None, **_: Any) -> Any:
    """One whole number in a shape, where that is small."""
    if value is None or value.dtype.kind not in "iub" or _symbolic(dims) or dims.size > 1:
        return NotImplemented
    count = int(np.prod(dims))
    return np.full(sizes(dims), value.reshape(-1)[0], value.dtype) if count <= LARGE else NotImplemented


def _same(a: Host, b: Host, compute: Callable[[], Any]) -> Any:
    """A result of the operands' type; NotImplemented where that would not be theirs, or it is large."""
    if max(a.size, b.size) > LARGE:
        return NotImplemented
    return np.asarray(compute()) if _symbolic(a, b) else np.asarray(compute(), a.dtype)


def _towards_zero(a: Host, b: Host) -> Any:
    quotient = np.abs(a) // np.abs(b)
    return quotient * np.sign(a) * np.sign(b)


def _each(function: Callable[[Any], Any], symbolic: Callable[[Any], Any], a: Host) -> Any:
    return _of([symbolic(number) for number in sizes(a)], a.shape) if a.dtype == object else function(a)


def _of(numbers: Sequence[Any], shape: tuple[int, ...]) -> Host:
    array = np.empty(len(numbers), object)
    array[:] = list(numbers)
    return array.reshape(shape)


def _symbolic(*arrays: Host) -> bool:
    return any(array.dtype == object for array in arrays)


def _is_fraction(number: Any) -> bool:
    return isinstance(number, float | torch.SymFloat)


TABLE: dict[tuple[str, str], Callable[..., Any]] = {
    ("", "Add"): add,
    ("", "And"): both,
    ("", "Cast"): cast,
    ("", "Ceil"): ceil,
    ("", "Concat"): concat,
    ("", "ConstantOfShape"): constant_of_shape,
    ("", "Div"): divide,
    ("", "Equal"): equal,
    ("", "Floor"): floor,
    ("", "Gather"): gather,
    ("", "Greater"): greater,
    ("", "Identity"): identity,
    ("", "Less"): less,
    ("", "Max"): maximum,
    ("", "Min"): minimum,
    ("", "Mod"): modulo,
    ("", "Mul"): multiply,
    ("", "Neg"): negative,
    ("", "Not"): invert,
    ("", "Or"): either,
    ("", "ReduceProd"): product,
    ("", "Reshape"): reshape,
    ("", "Slice"): slice_,
    ("", "Squeeze"): squeeze,
    ("", "Sub"): subtract,
    ("", "Unsqueeze"): unsqueeze,
    ("", "Where"): where,
}

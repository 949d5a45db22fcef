"""Where does a model leave another? The first tensor, in the order in which they are computed, that is not what it should be.

Both run in float64, node by node, where rounding hides nothing. What a tensor T' of the grown model should be of T of the original:

    T'[..., j, ...] = T[..., g(j), ...]

with the growth map g, for all j that stand for an old channel. What weights took along is no fault: a tensor counts that is wrong beyond
a factor for each of its channels, and whose copies do not sum to the old channels either.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from onnx_grow.model import Model
from onnx_grow.verification.comparison import Deviation, difference, is_exact
from onnx_grow.verification.proof import EXACT, Unprovable, each_in_float64

__all__ = ["Departure", "trace"]

Array = np.ndarray[Any, Any]
Map = tuple[Array | None, ...]


@dataclass(frozen=True)
class Departure:
    """The first tensor that is not what it should be, the node that computes it, and by how much: ||b - a|| / ||a||.

    `resized` tensors before it were not compared: they have another shape, and nothing says what their elements stand for.
    """

    tensor: str
    node: str
    operator: str
    error: float
    expected: str
    resized: int = 0

    def to_json(self) -> dict[str, Any]:
        """The keys of docs/json.md under `trace`."""
        return asdict(self)

    def __str__(self) -> str:
        by = "" if np.isinf(self.error) else f" by {self.error:.0e}"
        told = f"{self.operator} {self.node!r} is the first to deviate{by} (tensor {self.tensor!r}): not what {self.expected}"
        left = f"; {self.resized} before it were not compared: they have another shape, and no growth is recorded that maps them"
        return told + (left if self.resized else "")


def trace(
    reference: Model,
    other: Model,
    feed: Mapping[str, Array],
    maps: Mapping[str, Map] | None = None,
    *,
    expected: str = "the original computes",
    allowed: float = EXACT,
    mapped: bool = True,
) -> Departure | None:
    """The first tensor at which `other` leaves `reference`; None if there is none among those that both have.

    Tensors of floating-point numbers are compared; whole numbers are sizes and positions, which grow. `maps` says which index of a
    tensor of the reference each index of the other's stands for (-1: none); without it tensors have to be equal as they are.
    `allowed` is the relative deviation up to which tensors are the same. Where it is not known how `other` was made (not `mapped`),
    tensors of another shape are left out, not wrong. Raises Unprovable, naming the node, where the reference cannot
    be evaluated in float64.
    """
    wanted: dict[str, Any] = {}
    for _, results in each_in_float64(reference, feed):
        wanted |= results
    last, resized = "the inputs", 0
    try:
        for node, results in each_in_float64(other, feed):
            last = node.name or node.output[0]
            for name, value in results.items():
                if name not in wanted or (maps is not None and name not in maps):
                    continue
                if not mapped and np.shape(value) != np.shape(wanted[name]):
                    resized += 1
                    continue
                error = _deviation(wanted[name], value, (maps or {}).get(name, ()))
                if error > allowed:
                    return Departure(
                        name, node.name or node.output[0], node.op_type, error, expected, resized
                    )
    except Unprovable as reason:
        return Departure("", last, "what follows", float("inf"), f"{expected} ({reason})", resized)
    return None


def _deviation(a: Any, b: Any, maps: Map) -> float:
    if isinstance(a, list) or isinstance(b, list) or is_exact(a):
        return 0.0
    grown = [(d, g) for d, g in enumerate(maps) if g is not None]
    old, summed = a, b
    for d, g in grown:
        if a.ndim != len(maps) or b.ndim != len(maps) or b.shape[d] != len(g):
            return float("inf")
        kept = np.flatnonzero(g >= 0)
        a, b, summed = np.take(a, g[kept], axis=d), np.take(b, kept, axis=d), _summed(summed, d, g, old)
    error = _relative(a, b)
    if error <= EXACT or not grown or a.shape != b.shape or not np.isfinite(a).all():
        return error
    others = tuple(d for d in range(a.ndim) if d not in dict(grown))
    square = np.sum(a * a, axis=others, keepdims=True)
    scale = np.sum(a * b, axis=others, keepdims=True) / np.where(square, square, 1)
    return min(error, _relative(a * scale, b), _relative(old, summed))


def _summed(b: Array, d: int, g: Array, old: Array) -> Array:
    """The sums over the copies of every old channel along dimension `d`."""
    sums = np.zeros((old.shape[d], *np.delete(b.shape, d)), b.dtype)
    np.add.at(sums, g[g >= 0], np.moveaxis(b, d, 0)[g >= 0])
    return np.moveaxis(sums, 0, d)


def _relative(a: Array, b: Array) -> float:
    found = difference(a, b)
    return found.l2 if isinstance(found, Deviation) else float("inf")

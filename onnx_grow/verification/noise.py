"""The smallest change that rounding alone could have made to a model: some values moved by one unit in the last place.

A value that was computed and stored carries a relative error of up to u, half the distance from 1 to the next number.
Here every value moves, with probability 1/2, to the next number above or below that the type can hold: a random relative
error of u (root mean square), whatever the type. What this does to the outputs is the model's own rounding noise.

Left alone are zeros, whole numbers (positions, masks and switches are meant exactly), scalars, and what decides about sizes or
branches instead of being computed with.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from itertools import pairwise
from math import prod
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, numpy_helper

from onnx_grow.model import Model, Weight, flattened, nested, rows_of
from onnx_grow.model.walk import all_nodes
from onnx_grow.verification.derived import Derived

__all__ = ["jittered", "jittered_array", "jittered_feed"]

Array = np.ndarray[Any, Any]

_STEPS = np.array([1, -1, 0, 0], np.int8)
_PIECE = 1 << 20
"""Elements perturbed at a time."""
_WORDS = {2: np.int16, 4: np.int32, 8: np.int64}
_FLOATS = (TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.BFLOAT16, TensorProto.DOUBLE)

_EXACT = {
    ("Resize", 1),
    ("Resize", 2),
    ("Upsample", 1),
    ("Pow", 1),
    ("Clip", 1),
    ("Clip", 2),
    ("Range", 0),
    ("Range", 1),
    ("Range", 2),
    ("OneHot", 2),
    ("NonMaxSuppression", 3),
    ("NonMaxSuppression", 4),
    ("QuantizeLinear", 1),
}
"""Inputs, as (operator, position), that set sizes, bounds and steps."""


def jittered(model: Model, seed: int) -> Model:
    """`model` with its floating-point weights moved by rounding noise; lazily, nothing is copied.

    Weights are the initializers and Constant nodes, in any graph, with more than one element.
    """
    model = flattened(model)
    exact = _exact_tensors(model.skeleton)
    weights: dict[str, Weight] = {
        name: weight
        if name in exact or not _moves(weight.dtype, weight.shape)
        else _Jittered(weight, _seed(seed, name))
        for name, weight in model.weights.items()
    }
    skeleton = onnx.ModelProto()
    skeleton.CopyFrom(model.skeleton)
    for node in all_nodes(skeleton):
        if node.op_type == "Constant" and node.output and node.output[0] not in exact:
            for attribute in node.attribute:
                if attribute.HasField("t") and _moves(attribute.t.data_type, attribute.t.dims):
                    rng = np.random.default_rng(_seed(seed, node.output[0]))
                    moved = jittered_array(numpy_helper.to_array(attribute.t), rng)
                    attribute.t.CopyFrom(numpy_helper.from_array(moved, attribute.t.name))
    return nested(Model(skeleton, weights))


def jittered_feed(feed: Mapping[str, Array], seed: int) -> dict[str, Array]:
    """The floating-point inputs moved by rounding noise; all others as they are."""
    return {
        name: jittered_array(array, np.random.default_rng(_seed(seed, name)))
        if array.dtype.kind == "f"
        else array
        for name, array in feed.items()
    }


def jittered_array(array: Array, rng: np.random.Generator) -> Array:
    """A copy of a float16, bfloat16, float32 or float64 array in which every other element moved by one unit."""
    flat = np.ascontiguousarray(array).reshape(-1)
    return _moved(flat, _steps(rng, flat.size)).reshape(array.shape)


@dataclass(frozen=True, eq=False)
class _Jittered(Derived):
    """A weight with rounding noise, made while it is read: never more than a piece of it beside the original.

    Every piece of the noise has a generator of its own, so that any rows can be read alone.
    """

    seed: int

    def array(self) -> Array:
        flat = self.base.array().reshape(-1)
        out = np.empty_like(flat)
        for start in range(0, flat.size, _PIECE):
            out[start : start + _PIECE] = self._piece(flat, start)
        return out.reshape(self.shape)

    def rows(self) -> Callable[[Array], Array]:
        base, width = rows_of(self.base), prod(self.shape[1:])

        def moved(index: Array) -> Array:
            rows = np.ascontiguousarray(base(index))
            starts = np.flatnonzero(np.diff(index, prepend=-2) != 1).tolist()
            runs = pairwise([*starts, len(index)])
            steps = [self._noise(int(index[i]) * width, (int(index[j - 1]) + 1) * width) for i, j in runs]
            return _moved(rows.reshape(-1), np.concatenate(steps)).reshape(rows.shape) if steps else rows

        return moved

    def chunks(self) -> Iterator[bytes | memoryview]:
        flat = self.base.array().reshape(-1)
        for start in range(0, flat.size, _PIECE):
            yield self._piece(flat, start).tobytes()

    def _piece(self, flat: Array, start: int) -> Array:
        piece = flat[start : start + _PIECE]
        return _moved(piece, self._noise(start, start + piece.size))

    def _noise(self, start: int, stop: int) -> Array:
        """The steps of the elements from one position to another."""
        first = start // _PIECE
        drawn = [
            _steps(np.random.default_rng([self.seed, k]), min(_PIECE, stop - k * _PIECE))
            for k in range(first, -(-stop // _PIECE))
        ]
        return np.concatenate(drawn)[start - first * _PIECE : stop - first * _PIECE]


def _steps(rng: np.random.Generator, count: int) -> Array:
    steps: Array = _STEPS[rng.integers(0, len(_STEPS), count, np.uint8)]
    return steps


def _moved(flat: Array, steps: Array) -> Array:
    """A copy of which every element is so many units further, if it is no whole number and stays finite."""
    whole = flat == np.rint(flat)
    if flat.dtype.itemsize >= 4:  # beyond, every float is whole
        whole &= np.abs(flat) < 2.0**20
    chosen = np.where(whole | ~np.isfinite(flat), np.int8(0), steps)
    out = flat.copy()
    words = out.view(_WORDS[flat.dtype.itemsize])
    words += chosen.astype(words.dtype)
    overflow = np.isfinite(flat) & ~np.isfinite(out)
    out[overflow] = flat[overflow]
    return out


def _moves(dtype: int, shape: Any) -> bool:
    return dtype in _FLOATS and int(np.prod(shape, dtype=np.int64)) > 1


def _exact_tensors(skeleton: onnx.ModelProto) -> set[str]:
    return {
        name
        for node in all_nodes(skeleton)
        for position, name in enumerate(node.input)
        if (node.op_type, position) in _EXACT
    }


def _seed(seed: int, name: str) -> int:
    return zlib.crc32(name.encode(), seed)

"""Inputs to compare two models on: made up, legal, and as telling as random numbers can be."""

from __future__ import annotations

import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from onnx import TensorProto, helper

from onnx_grow.errors import InvalidRequestError
from onnx_grow.model import Model
from onnx_grow.verification.roles import Role, roles

__all__ = ["SCALES", "Feed", "Signature", "signature", "told"]

Array = np.ndarray[Any, Any]

SCALES = (1.0, 1 / 64, 16.0)
"""Standard deviation of floating-point inputs, seed after seed: typical, where an epsilon matters, where things saturate."""

PATCH = 5
"""Side of the patches of equal values in made-up inputs."""

_WORDS = ("the", "a", "network", "grows", "wider", "0", "1", "unknown", "")


@dataclass(frozen=True)
class Feed:
    """One set of inputs, with the line that names it in reports."""

    label: str
    arrays: Mapping[str, Array]


@dataclass(frozen=True)
class Signature:
    """What a model wants to be fed: element type and role of every real input."""

    dtypes: Mapping[str, int]
    roles: Mapping[str, Role]

    def feed(self, shapes: Mapping[str, tuple[int, ...]], seed: int) -> Feed:
        """Random inputs of these shapes; the same seed gives the same values.

        Floating point: normal, with an offset per sample, at the seed's scale. Rows of a table: a permutation of all of them,
        continued from seed to seed, so that as many as possible are visited. Masks: four fifths ones, the first position always
        one. Lengths: between one and the length of the sequences. uint8 and int8: the whole range. Other integers: ones with
        some zeros.
        """
        scale = SCALES[seed % len(SCALES)]
        arrays = {
            name: np.asarray(
                _values(name, dtype, shapes[name], self.roles[name], seed, scale, _steps(shapes))
            )
            for name, dtype in self.dtypes.items()
        }
        sizes = told({name: shapes[name] for name in arrays})
        scaled = f", scale {scale:g}" if any(array.dtype.kind == "f" for array in arrays.values()) else ""
        return Feed(f"seed {seed}{scaled}: {sizes}" if sizes else "no inputs", arrays)


def told(shapes: Mapping[str, tuple[int, ...]]) -> str:
    """Input shapes in words."""
    return ", ".join(f"{name} {'x'.join(map(str, shape)) or 'scalar'}" for name, shape in shapes.items())


def signature(model: Model) -> Signature:
    """The real inputs of a model: those that are not initializers as well, and need a value.

    Raises InvalidRequestError where an input is no tensor (a sequence, an optional, a map).
    """
    dtypes = {}
    for value in model.skeleton.graph.input:
        if value.name in model.weights:
            continue
        if not value.type.HasField("tensor_type"):
            kind = value.type.WhichOneof("value") or "nothing"
            raise InvalidRequestError(
                f"input {value.name!r} is no tensor but {kind.removesuffix('_type')}: there are no inputs to verify with",
                hint="such a model can be grown without verification (--no-verify)",
            )
        dtypes[value.name] = value.type.tensor_type.elem_type
    return Signature(dtypes, roles(model, dtypes))


def _values(
    name: str, dtype: int, shape: tuple[int, ...], role: Role, seed: int, scale: float, steps: int
) -> Array:
    rng = np.random.default_rng((zlib.crc32(name.encode()), seed))
    if dtype == TensorProto.STRING:
        return rng.choice(np.array([*role.choices, *_WORDS] if role.choices else _WORDS, object), shape)
    kind = helper.tensor_dtype_to_np_dtype(dtype)
    if role.rows is not None:
        return _rows(name, shape, role, seed).astype(kind)
    if role.length and kind.kind in "iu":
        return rng.integers(1, steps + 1, shape).astype(kind)
    if kind == np.bool_ or role.mask:
        return _mask(shape, rng).astype(kind)
    if role.choices and kind.kind in "iu":
        return np.full(shape, role.choices[seed % len(role.choices)]).astype(kind)
    if dtype in (TensorProto.UINT8, TensorProto.INT8):
        limits = np.iinfo(kind)
        return rng.integers(limits.min, limits.max + 1, shape).astype(kind)
    if kind.kind in "iu":
        return (_mask(shape, rng) if len(shape) < 3 else rng.integers(0, 256, shape)).astype(kind)
    return _normal(shape, rng, scale).astype(kind)


def _normal(shape: tuple[int, ...], rng: np.random.Generator, scale: float) -> Array:
    """White noise, for a sample also patches of equal values and an offset: a network trained on pictures is half deaf to noise alone."""
    values: Array = rng.standard_normal(shape)
    if len(shape) > 1:
        coarse = tuple(-(-size // PATCH) if axis else size for axis, size in enumerate(shape))
        patches: Array = rng.standard_normal(coarse)
        for axis, size in enumerate(shape[1:], 1):
            patches = np.take(patches, np.arange(size) // PATCH, axis)
        values += patches + rng.standard_normal((shape[0], *(1,) * (len(shape) - 1)))
    return values * scale


def _rows(name: str, shape: tuple[int, ...], role: Role, seed: int) -> Array:
    """Rows in an order drawn once, each seed continuing where the one before stopped."""
    assert role.rows is not None
    order = np.random.default_rng(zlib.crc32(name.encode())).permutation(role.rows - role.low) + role.low
    count = int(np.prod(shape, dtype=np.int64))
    return np.take(order, np.arange(seed * count, (seed + 1) * count), mode="wrap").reshape(shape)


def _mask(shape: tuple[int, ...], rng: np.random.Generator) -> Array:
    mask = rng.random(shape) < 0.8
    if mask.ndim:
        mask[..., :1] = True
    return mask


def _steps(shapes: Mapping[str, tuple[int, ...]]) -> int:
    """A length that is legal for every sequence: the smallest second dim among the inputs that have one."""
    return max(min((shape[1] for shape in shapes.values() if len(shape) > 1), default=1), 1)

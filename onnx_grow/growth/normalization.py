"""BatchNormalization as the identity, exact to the last bit where rounding allows it.

gamma (x - mean) / sqrt(variance + epsilon) + beta = x    with gamma = sqrt(variance + epsilon), beta = mean
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, fields
from typing import Any

import ml_dtypes
import numpy as np
from onnx import helper

from onnx_grow.model import Inline, Weight

__all__ = ["BatchNormalization", "identity_normalization"]

Array = np.ndarray[Any, Any]


@dataclass(frozen=True)
class BatchNormalization:
    """The parameters of a BatchNormalization, one element per channel, in the order of its inputs."""

    scale: Array
    bias: Array
    mean: Array
    variance: Array

    def weights(self) -> Iterator[tuple[str, Weight]]:
        """Name and values of each."""
        for entry in fields(self):
            yield entry.name, Inline.of(getattr(self, entry.name))


def identity_normalization(
    mean: Array, variance: Array, epsilon: float, affine: int, moments: int
) -> BatchNormalization:
    """Parameters that make BatchNormalization the identity at (very nearly) these statistics.

    `affine` is the TensorProto.DataType of gamma and beta, `moments` that of mean and variance. The identity holds for
    any mean and variance, but in general only up to rounding. So the variance may move a little, by at most a
    thousandth or some units in the last place, to where gamma / sqrt(variance + epsilon) rounds to one in the
    orders in which runtimes compute it; then the mean cancels too. A channel that never varies gets a variance
    above zero.
    """
    gamma_type, moment_type = (helper.tensor_dtype_to_np_dtype(dtype) for dtype in (affine, moments))
    working = np.dtype(np.float64 if np.dtype(np.float64) in (gamma_type, moment_type) else np.float32)
    ceiling = min(_largest(gamma_type), _largest(moment_type)) / 4
    enough = 0.0 if gamma_type == working else _resolution(gamma_type) / 64

    offsets = _offsets(_resolution(moment_type))
    variances = (np.clip(variance, _DEAD, ceiling) * (1 + offsets)).astype(moment_type)
    deviation = np.sqrt(variances.astype(working) + np.array(np.float32(epsilon), working))
    gammas = deviation.astype(gamma_type)
    wide = gammas.astype(working)
    error = np.abs(wide * (1 / deviation) - 1) + np.abs(wide / deviation - 1)
    best = _first(error, enough), np.arange(len(mean))

    center = np.clip(mean, -ceiling, ceiling).astype(moment_type)
    return BatchNormalization(gammas[best], center.astype(gamma_type), center, variances[best])


_DEAD = 1e-6
"""Variance given to a channel that does not vary."""


def _offsets(resolution: float) -> Array:
    """Relative changes to try, the smallest first: units in the last place, then parts of a thousandth. A column."""
    steps = np.arange(-24, 25) * resolution, np.arange(-100, 101) * 1e-5
    every = np.concatenate(steps)
    return every[np.argsort(np.abs(every), kind="stable"), None]


def _first(error: Array, enough: float) -> Array:
    """Per channel the first candidate whose error is small enough, else the one with the smallest."""
    good: Array = error <= enough
    chosen: Array = np.where(good.any(axis=0), np.argmax(good, axis=0), np.argmin(error, axis=0))
    return chosen


def _largest(dtype: np.dtype[Any]) -> float:
    return float(ml_dtypes.finfo(dtype).max)  # type: ignore[no-untyped-call]


def _resolution(dtype: np.dtype[Any]) -> float:
    return float(ml_dtypes.finfo(dtype).eps)  # type: ignore[no-untyped-call]

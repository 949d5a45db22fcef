"""Weights of layers that begin as the identity or as zero, computed while they are written."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
from ml_dtypes import finfo
from onnx import TensorProto, helper

from onnx_grow.model import Inline, Weight, raw_length

__all__ = ["BatchNormalization", "IdentityKernel", "Zeros", "identity_normalization"]

Array = np.ndarray[Any, Any]

_CHUNK = 4 << 20


@dataclass(frozen=True)
class Zeros:
    """A weight that is zero everywhere."""

    dtype: int
    shape: tuple[int, ...]

    @property
    def nbytes(self) -> int:
        """Bytes in the `raw_data` layout."""
        return raw_length(self.dtype, self.shape)

    def array(self) -> Array:
        """The zeros; one element in memory, whatever the shape."""
        return np.broadcast_to(np.zeros((), helper.tensor_dtype_to_np_dtype(self.dtype)), self.shape)

    def chunks(self) -> Iterator[bytes]:
        """The zero bytes, in bounded pieces."""
        return (bytes(min(_CHUNK, self.nbytes - start)) for start in range(0, self.nbytes, _CHUNK))


@dataclass(frozen=True)
class IdentityKernel:
    """Net2DeeperNet's kernel: one at the centre of each channel's own filter, zero elsewhere.

    `W[o, i, centre] = 1 if i == o mod (channels / groups) else 0`, of shape (channels, channels / groups, *kernel) with
    an odd kernel. With an empty kernel it is the identity matrix. Chen, Goodfellow and Shlens, arXiv 1511.05641, section 2.3.
    """

    dtype: int
    channels: int
    kernel: tuple[int, ...] = ()
    groups: int = 1

    @property
    def shape(self) -> tuple[int, ...]:
        """(output channels, input channels per group, *kernel)."""
        return (self.channels, self.channels // self.groups, *self.kernel)

    @property
    def nbytes(self) -> int:
        """Bytes in the `raw_data` layout."""
        return raw_length(self.dtype, self.shape)

    def array(self) -> Array:
        """The whole kernel."""
        return self._filters(0, self.channels)

    def chunks(self) -> Iterator[bytes]:
        """The kernel some filters at a time."""
        at_once = max(1, _CHUNK * self.channels // max(self.nbytes, 1))
        for start in range(0, self.channels, at_once):
            yield self._filters(start, min(start + at_once, self.channels)).tobytes()

    def _filters(self, start: int, stop: int) -> Array:
        _, inputs, *kernel = self.shape
        taps = math.prod(kernel)
        native = helper.tensor_dtype_to_np_dtype(self.dtype)
        filters = np.zeros(
            (stop - start, inputs, taps), native if native.kind == "V" else native.newbyteorder("<")
        )
        outputs = np.arange(start, stop)
        filters[outputs - start, outputs % inputs, taps // 2] = 1
        return filters.reshape(stop - start, inputs, *kernel)


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
    """Parameters with which BatchNormalization is the identity: gamma = sqrt(variance + epsilon), beta = mean.

    `affine` is the element type of gamma and beta, `moments` that of mean and variance. The identity holds for any mean
    and variance, but only up to rounding; so mean and variance may move by some units in the last place, to
    where gamma / sqrt(variance + epsilon) rounds to one and the mean cancels. A channel that is always zero gets a
    variance above zero.
    """
    working = np.float64 if TensorProto.DOUBLE in (affine, moments) else np.float32
    gamma_type, moment_type = (helper.tensor_dtype_to_np_dtype(dtype) for dtype in (affine, moments))
    ceiling = min(float(finfo(dtype).max) for dtype in (gamma_type, moment_type)) / 4
    offsets = np.arange(-_REACH, _REACH + 1)
    offsets = offsets[np.argsort(np.abs(offsets), kind="stable"), None] * float(finfo(moment_type).eps)
    enough = 0.0 if gamma_type == working else float(finfo(gamma_type).eps) / 64
    channel = np.arange(len(mean))

    variances = (np.clip(variance, _DEAD, ceiling) * (1 + offsets)).astype(moment_type)
    deviation = np.sqrt(variances.astype(working) + working(np.float32(epsilon)))
    gammas = deviation.astype(gamma_type)
    inverse = 1 / deviation
    scale = inverse * gammas.astype(working)
    chosen = _first(np.abs(scale - 1) + np.abs(gammas.astype(working) / deviation - 1), enough), channel
    gamma, inverse, scale = gammas[chosen], inverse[chosen], scale[chosen]

    if enough:  # narrow parameters: what the mean leaves over is below their resolution already
        offsets = offsets[:1]
    means = (np.clip(mean, -ceiling, ceiling) * (1 + offsets)).astype(moment_type)
    wide, betas = means.astype(working), means.astype(gamma_type)
    shift = betas.astype(working)
    left = np.abs(shift - wide * inverse * gamma.astype(working)) + np.abs(shift - wide * scale)
    nearest = _first(left, 0.0), channel
    return BatchNormalization(gamma, betas[nearest], means[nearest], variances[chosen])


def _first(error: Array, enough: float) -> Array:
    """Per channel the first candidate whose error is small enough, else the one with the smallest."""
    good: Array = error <= enough
    return np.where(good.any(axis=0), np.argmax(good, axis=0), np.argmin(error, axis=0))


_DEAD = 1e-6
"""Variance given to a channel that does not vary."""

_REACH = 24
"""How many units in the last place mean and variance may move."""

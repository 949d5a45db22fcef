"""Weights of new layers: the identity, zero, or drawn at random; computed while they are written."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from onnx import helper

from onnx_grow.model import raw_length

__all__ = ["Drawn", "IdentityKernel", "Zeros"]

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
class Drawn:
    """Normal numbers of mean zero and a standard `deviation`, the same for the same `seed` (non-negative integers)."""

    dtype: int
    shape: tuple[int, ...]
    deviation: float
    seed: tuple[int, ...]

    @property
    def nbytes(self) -> int:
        """Bytes in the `raw_data` layout."""
        return raw_length(self.dtype, self.shape)

    def array(self) -> Array:
        """The whole weight."""
        return np.concatenate([block.reshape(-1) for block in self._blocks()]).reshape(self.shape)

    def chunks(self) -> Iterator[bytes]:
        """The weight in bounded pieces."""
        return (block.tobytes() for block in self._blocks())

    def _blocks(self) -> Iterator[Array]:
        native = helper.tensor_dtype_to_np_dtype(self.dtype)
        stored = native if native.kind == "V" else native.newbyteorder("<")
        generator, rest = np.random.default_rng(self.seed), math.prod(self.shape)
        for size in range(0, rest, _CHUNK):
            block = generator.standard_normal(min(_CHUNK, rest - size)) * self.deviation
            yield block.astype(stored)

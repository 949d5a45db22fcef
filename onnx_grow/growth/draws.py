"""Random numbers that have an address: row i of a stream is the same whichever rows are asked for, in whatever order.

A weight is computed some rows at a time, in several threads, and none of this may show in its bytes. So bytes are a hash of their
position (Wellons' lowbias32, https://nullprogram.com/blog/2018/07/31/, keyed per row by SplitMix64), and normal numbers come in
segments, each from a generator of its own.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["Stream"]

SEGMENT = 1 << 14
"""Normal numbers that come from one generator."""
_GOLDEN_32, _GOLDEN_64 = 0x9E3779B9, 0x9E3779B97F4A7C15


@dataclass(frozen=True)
class Stream:
    """A sequence of random numbers that follows from `seed`."""

    seed: str

    @cached_property
    def _digest(self) -> bytes:
        return hashlib.sha256(self.seed.encode()).digest()

    def bytes(self, rows: NDArray[np.int64], columns: int) -> NDArray[np.uint8]:
        """Uniform bytes of some rows of a matrix that is `columns` wide."""
        words = np.arange(-(-columns // 4), dtype=np.uint32) * np.uint32(_GOLDEN_32)
        drawn = words + self._keys(rows)[:, None]
        shifted = np.empty_like(drawn)
        for shift, factor in ((16, 0x7FEB352D), (15, 0x846CA68B), (16, 1)):
            np.right_shift(drawn, shift, out=shifted)
            np.bitwise_xor(drawn, shifted, out=drawn)
            if factor > 1:
                np.multiply(drawn, np.uint32(factor), out=drawn)
        return drawn.astype("<u4", copy=False).view(np.uint8)[:, :columns]

    def normal(self, start: int, stop: int) -> NDArray[np.float64]:
        """The normal numbers from one position to another."""
        first, last = start // SEGMENT, -(-stop // SEGMENT)
        drawn = [self._segment(k) for k in range(first, last)] or [np.empty(0)]
        return np.concatenate(drawn)[start - first * SEGMENT : stop - first * SEGMENT]

    def _segment(self, k: int) -> NDArray[np.float64]:
        return np.random.Generator(np.random.SFC64([*self._digest, k])).standard_normal(SEGMENT)

    def _keys(self, rows: NDArray[np.int64]) -> NDArray[np.uint32]:
        seed = np.frombuffer(self._digest, "<u8")[0]
        mixed: NDArray[Any] = (rows.astype(np.uint64) + np.uint64(1)) * np.uint64(_GOLDEN_64) + seed
        for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB)):
            mixed = (mixed ^ (mixed >> np.uint64(shift))) * np.uint64(factor)
        return (mixed >> np.uint64(32)).astype(np.uint32)

"""Random numbers that have an address: row i of a stream is the same whichever rows are asked for, in whatever order.

A weight is computed some rows at a time, in several threads, and none of this may show in its bytes. So every row reads a table of
uniform numbers from a spot of its own on, a hash of its index (SplitMix64), and normal numbers come in segments, each from a generator
of its own. The table is a hash of its positions (Wellons' lowbias32, https://nullprogram.com/blog/2018/07/31/).
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from functools import cache, cached_property
from typing import Any

import numpy as np
from numpy.lib.stride_tricks import as_strided
from numpy.typing import NDArray

__all__ = ["Stream", "uniform"]

SEGMENT = 1 << 14
"""Normal numbers that come from one generator."""
SPOTS = 1 << 16
"""Where in the table a row may begin."""
REACH = 1 << 14
"""Entries in a row, behind which comes another spot."""
_GOLDEN_32, _GOLDEN_64 = 0x9E3779B9, 0x9E3779B97F4A7C15


@dataclass(frozen=True)
class Stream:
    """A sequence of random numbers that follows from `seed`."""

    seed: str

    @cached_property
    def _digest(self) -> bytes:
        return hashlib.sha256(self.seed.encode()).digest()

    def rows(self, rows: NDArray[np.int64], table: NDArray[Any], columns: int) -> NDArray[Any]:
        """What some rows, `columns` wide, find in a table that `uniform` gave, or that was computed from it entry by entry."""
        pieces = max(1, -(-columns // REACH))
        width = -(-columns // pieces)
        numbers = (rows[:, None] * pieces + np.arange(pieces)).reshape(-1)
        windows = as_strided(table, (SPOTS, width), 2 * table.strides, writeable=False)
        return windows[self._keys(numbers) % SPOTS].reshape(len(rows), pieces * width)[:, :columns]

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


@cache
def uniform() -> NDArray[np.float32]:
    """A table of numbers from 0 to 1, always the same."""
    drawn = np.arange(SPOTS + REACH, dtype=np.uint32) * np.uint32(_GOLDEN_32)
    for shift, factor in ((16, 0x7FEB352D), (15, 0x846CA68B), (16, 1)):
        drawn = (drawn ^ (drawn >> np.uint32(shift))) * np.uint32(factor)
    return (drawn >> np.uint32(8)).astype(np.float32) * np.float32(2.0**-24)

"""Cutting floating-point numbers in two at random, so that the parts sum to the number exactly.

A value v is cut in `big` and v - big with v/2 <= big <= v: their difference is exact (Sterbenz' lemma) in any binary format. All such
numbers lie next to each other when their bits are read as integers: from those of v down to those of v/2, which are as many less as the
mantissa has values. So cutting is taking a random integer away, and that is what is done: a few operations on integers, which processors
do many at a time, where arithmetic in half precision is emulated.
"""

from __future__ import annotations

import threading
from dataclasses import dataclass
from functools import cached_property
from math import prod
from typing import Any

import numpy as np
from numpy.typing import NDArray
from onnx import TensorProto

__all__ = ["FORMATS", "Cut", "cut"]

Array = np.ndarray[Any, Any]


@dataclass(frozen=True)
class Format:
    """A binary floating-point format: its words, the bits of its mantissa, and how a word becomes one of a format that is computed in.

    A word shifted left by `shift` is a number of the type `wide` that is some power of two times the value.
    """

    word: type[np.signedinteger[Any]]
    mantissa: int
    wide: type[np.floating[Any]]
    shift: int = 0

    @cached_property
    def size(self) -> Any:
        """The mask of all bits but the sign; of the sign alone it is the complement."""
        return self.word(np.iinfo(self.word).max)

    @cached_property
    def finite(self) -> int:
        """The word of the largest number, one more than which is infinite."""
        return int(self.size) - (1 << self.mantissa)

    def amounts(self, left: int) -> tuple[Any, Any]:
        """What is taken off a word at least where so many parts are left, and by how much each of 127 steps is more, in 2^(mantissa - 14).

        In units of 2^mantissa these are rho in [3/4, 5/2] / left, at most 1. A part is then rho/2 to rho/(1 + rho) of the number.
        """
        low, high = 0.75 / left, min(2.5 / left, 1.0)
        return self.word(round(low * (1 << self.mantissa))), self.word(int((high - low) * 128))


FORMATS = {
    TensorProto.FLOAT16: Format(np.int16, 10, np.float32, 13),
    TensorProto.BFLOAT16: Format(np.int16, 7, np.float32, 16),
    TensorProto.FLOAT: Format(np.int32, 23, np.float32),
    TensorProto.DOUBLE: Format(np.int64, 52, np.float64),
}


@dataclass(frozen=True, eq=False)
class Cut:
    """Words of numbers cut in two: `small` and `big`, and which elements have them the other way round (all bits set)."""

    small: Array
    big: Array
    turned: Array

    def part(self, rest: NDArray[np.bool_]) -> Array:
        """The part that goes, or where `rest` says so what stays."""
        chosen = self.turned ^ -rest.astype(self.turned.dtype)
        return _chosen(self.small, self.big, chosen, out=chosen)

    def both(self) -> tuple[Array, Array]:
        """The part that goes, and what stays."""
        moved = self.small ^ self.big
        moved &= self.turned
        return self.small ^ moved, np.bitwise_xor(self.big, moved, out=moved)


def cut(words: Array, kind: int, left: NDArray[np.int64], drawn: NDArray[np.uint8]) -> Cut:
    """Cut a random part, about one in `left`, off every number of a TensorProto.DataType given as words of bits.

    `left`, the number of parts still to come, and `drawn`, random bytes, broadcast against `words`. The last two parts take small and
    big in random order, so that neither is the larger by position. Infinities and NaNs are not cut: one part is zero.
    """
    f = FORMATS[kind]  # type: ignore[index]
    low, steps, last = _of_each(f, left)
    turned = (drawn.view(np.int8) >> 7).astype(f.word)
    turned &= last
    taken = (drawn & 127).astype(f.word)
    taken *= steps
    if f.mantissa >= 14:
        taken <<= f.mantissa - 14
    else:
        taken >>= 14 - f.mantissa
    taken += low
    sign = words & ~f.size
    size = words & f.size
    np.minimum(taken, size, out=taken)
    lost = size > f.finite if size.size and size.max() > f.finite else None
    if lost is not None:
        taken[lost] = 0
    big = np.subtract(size, taken, out=taken)
    with np.errstate(invalid="ignore"):  # infinite less infinite
        small = _difference(size, big, f)
    if lost is not None:
        small[lost] = 0
    small |= sign
    big |= sign
    return Cut(small, big, turned)


def _of_each(f: Format, left: NDArray[np.int64]) -> tuple[Any, Any, Any]:
    """What is taken at least and in steps, and all bits where two parts are left: numbers where `left` is one, else arrays."""
    if left.size == 1:
        count = int(left.reshape(()))
        return *f.amounts(count), f.word(-(count == 2))
    counts, where = np.unique(left, return_inverse=True)
    low, steps = (np.array(column, f.word) for column in zip(*map(f.amounts, counts.tolist()), strict=True))
    where = where.reshape(left.shape)
    return low[where], steps[where], -(left == 2).astype(f.word)


def _difference(size: Array, big: Array, f: Format) -> Array:
    """The words of the differences of two arrays of words of non-negative numbers; the first is overwritten."""
    if not f.shift:
        return np.subtract(size.view(f.wide), big.view(f.wide), out=size.view(f.wide)).view(f.word)
    wide, less = _scratch.take(2, size.shape)
    np.left_shift(size, f.shift, out=wide, dtype=np.int32)
    np.left_shift(big, f.shift, out=less, dtype=np.int32)
    np.subtract(wide.view(f.wide), less.view(f.wide), out=wide.view(f.wide))
    wide >>= f.shift
    size[...] = wide
    return size


class _Scratch(threading.local):
    """Arrays of 32 bits that each thread keeps: memory that the system has to find anew takes longer than what is done in it."""

    def __init__(self) -> None:
        self._arrays: list[NDArray[np.int32]] = []

    def take(self, count: int, shape: tuple[int, ...]) -> list[NDArray[np.int32]]:
        """So many arrays of this shape, with anything in them, up to the next call."""
        size = prod(shape)
        if not self._arrays or self._arrays[0].size < size:
            self._arrays = [np.empty(size, np.int32) for _ in range(count)]
        return [array[:size].reshape(shape) for array in self._arrays]


_scratch = _Scratch()


def _chosen(small: Array, big: Array, chosen: Array, out: Array) -> Array:
    """Small, or big where all bits of `chosen` are set."""
    np.bitwise_and(small ^ big, chosen, out=out)
    return np.bitwise_xor(small, out, out=out)

"""Cutting floating-point numbers in two at random, so that the parts sum to the number exactly.

Of a number v, about r v stays, with 1/4 <= r < 1: the product, with the last two bits of the mantissa cut off. It is then a multiple of the
unit in the last place of v, since its own is a quarter of that at the least; so the difference is one, too, which is smaller than v and
therefore a number of the same format. Half precision is computed in single precision, on words that are shifted to where a float32 has its
exponent, which is some power of two times the value.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property, lru_cache
from math import prod
from typing import Any

import numpy as np
from numpy.typing import NDArray
from onnx import TensorProto

from onnx_grow.growth.draws import uniform

__all__ = ["FORMATS", "cut"]

Array = np.ndarray[Any, Any]
Draw = Callable[[NDArray[np.float32], int], NDArray[np.float32]]
"""Random entries of a table that was computed from `uniform`, so many for each row."""


@dataclass(frozen=True)
class Format:
    """A binary floating-point format: its words, the format that is computed in, and by how many bits words are shifted to become its.

    Where that has more bits of exponent, signs are put aside, and `infinite` is the first word of what is not finite.
    """

    word: type[np.signedinteger[Any]]
    wide: type[np.floating[Any]] = np.float32
    shift: int = 0
    infinite: int = 0

    @cached_property
    def wide_word(self) -> type[np.signedinteger[Any]]:
        """The integers with as many bits as what is computed in."""
        return np.int64 if self.wide is np.float64 else np.int32

    @cached_property
    def size(self) -> Any:
        """The mask of all bits but the sign; of the sign alone it is the complement."""
        return self.word(np.iinfo(self.word).max)


FORMATS = {
    TensorProto.FLOAT16: Format(np.int16, shift=13, infinite=0x7C00),
    TensorProto.BFLOAT16: Format(np.int16, shift=16),
    TensorProto.FLOAT: Format(np.int32),
    TensorProto.DOUBLE: Format(np.int64, np.float64),
}


def cut(
    words: Array, kind: int, left: NDArray[np.int64], draw: Draw, *, goes: bool = True
) -> tuple[Array, Array]:
    """Cut a random part, one in `left` in the mean, off every number of a TensorProto.DataType given as words of bits.

    Gives what goes, for which there is anything if it is not asked for, and what stays. `left`, the number of parts still to come,
    broadcasts against `words`. Where two are left, either may be the larger. Of infinities and NaNs, all stays.
    """
    f = FORMATS[kind]  # type: ignore[index]
    signs = lost = None
    if f.infinite:
        signs, words = words & ~f.size, words & f.size
        lost = words >= f.infinite if words.max(initial=0) >= f.infinite else None
    if f.shift:
        wide, stays = _scratch.take(2, words.shape)
        np.left_shift(words, f.shift, out=wide, dtype=np.int32)
        gone = wide
    else:
        wide, stays, gone = words, np.empty_like(words), np.empty_like(words)
    np.multiply(wide.view(f.wide), _ratios(words.shape, left, draw), out=stays.view(f.wide))
    stays &= f.wide_word(-4 << f.shift)
    if lost is not None:
        stays[lost] = wide[lost]
    if goes:
        _subtract(wide.view(f.wide), stays.view(f.wide), gone.view(f.wide))
    return (_narrow(gone, f, signs) if goes else gone), _narrow(stays, f, signs)


def _ratios(shape: tuple[int, ...], left: NDArray[np.int64], draw: Draw) -> NDArray[np.float32]:
    """How much of each number stays: what goes is half to three halves of one in `left`."""
    columns = prod(shape[1:])
    if left.size == 1:
        return draw(_table(int(left.reshape(()))), columns).reshape(shape)
    return _staying(draw(uniform(), columns).reshape(shape), left)


@lru_cache(maxsize=8)
def _table(left: int) -> NDArray[np.float32]:
    return _staying(uniform(), np.array(left))


def _staying(drawn: NDArray[np.float32], left: NDArray[np.int64]) -> NDArray[np.float32]:
    ratios = drawn + np.float32(0.5)
    ratios /= left.astype(np.float32)
    np.subtract(np.float32(1.0), ratios, out=ratios)
    return ratios


def _subtract(value: Array, stays: Array, out: Array) -> None:
    with np.errstate(invalid="ignore"):  # infinite less infinite
        np.subtract(value, stays, out=out)
    if np.isnan(out.max(initial=0)):
        out[np.isnan(out)] = 0


def _narrow(wide: Array, f: Format, signs: Array | None) -> Array:
    """The words of a format from those of what was computed in."""
    if not f.shift:
        return wide
    words = np.empty(wide.shape, f.word)
    np.right_shift(wide, f.shift, out=words, dtype=np.int32, casting="unsafe")
    if signs is not None:
        words |= signs
    return words


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

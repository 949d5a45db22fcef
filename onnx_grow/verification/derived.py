"""Weights made of other weights while they are read."""

from __future__ import annotations

from dataclasses import dataclass

from onnx_grow.model import Weight

__all__ = ["Derived"]


@dataclass(frozen=True, eq=False)
class Derived:
    """What a weight of the same type and shape as `base` has in common with it; its values are another matter."""

    base: Weight

    @property
    def dtype(self) -> int:
        """The element type."""
        return self.base.dtype

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape."""
        return self.base.shape

    @property
    def nbytes(self) -> int:
        """Bytes of the values in the `raw_data` layout."""
        return self.base.nbytes

"""The geometry of sliding windows: padding, strides, and how many windows there are."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch.nn.functional as F
from torch import Tensor

__all__ = ["Window", "padded"]


class Window:
    """A window over the spatial dimensions of a tensor: its size, stride and dilation, and what is added before and behind.

    The arguments are ONNX's attributes.
    """

    def __init__(
        self,
        sizes: Sequence[Any],
        kernel: Sequence[int],
        strides: Sequence[int] | None = None,
        dilations: Sequence[int] | None = None,
        pads: Sequence[int] | None = None,
        auto_pad: str = "NOTSET",
        ceil_mode: int = 0,
    ) -> None:
        rank = len(kernel)
        self.kernel = list(kernel)
        self.strides = list(strides or [1] * rank)
        self.dilations = list(dilations or [1] * rank)
        pads = list(pads or [0] * 2 * rank)
        self.before, self.behind = pads[:rank], pads[rank:]
        if auto_pad.startswith("SAME"):
            self._same(sizes, auto_pad)
        elif auto_pad == "VALID":
            self.before, self.behind = [0] * rank, [0] * rank
        self.extra = [0] * rank
        if ceil_mode:
            self._round_up(sizes)

    @property
    def extents(self) -> list[int]:
        """What every dimension of the window spans."""
        return [(k - 1) * d + 1 for k, d in zip(self.kernel, self.dilations, strict=True)]

    @property
    def is_symmetric(self) -> bool:
        """Whether as much is added before as behind."""
        return self.before == self.behind and not any(self.extra)

    def _same(self, sizes: Sequence[Any], auto_pad: str) -> None:
        """As many windows as the stride goes into the size; what is odd is added behind (UPPER) or before (LOWER)."""
        totals = [
            max((-(-size // stride) - 1) * stride + extent - size, 0)
            for size, stride, extent in zip(sizes, self.strides, self.extents, strict=True)
        ]
        halves = [total // 2 for total in totals]
        rest = [total - half for total, half in zip(totals, halves, strict=True)]
        self.before, self.behind = (halves, rest) if auto_pad == "SAME_UPPER" else (rest, halves)

    def _round_up(self, sizes: Sequence[Any]) -> None:
        """One more window where the last one is not full, as long as it begins within the input or what is before it."""
        for k, (size, stride, extent) in enumerate(zip(sizes, self.strides, self.extents, strict=True)):
            span = size + self.before[k] + self.behind[k] - extent
            count = -(-span // stride) + 1
            if (count - 1) * stride >= size + self.before[k]:
                count -= 1
            self.extra[k] = max((count - 1) * stride - span, 0)


def padded(x: Tensor, before: Sequence[Any], behind: Sequence[Any], value: float = 0.0) -> Tensor:
    """x with its last dimensions padded; negative numbers cut off."""
    if not any(before) and not any(behind):
        return x
    pairs = [number for pair in zip(reversed(before), reversed(behind), strict=True) for number in pair]
    return F.pad(x, pairs, value=value)

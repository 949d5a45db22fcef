"""Which scheme an axis grows by: the one that was asked for, or copies where nothing else would keep the function.

    split, copy, noise    new channels are copies, which share what they feed: right for every axis
    fresh                 new channels are random and feed nothing yet: right where whoever reads them has a weight to ignore them by

A fresh channel leaves every sum as it is: 0 x = 0 for every finite x. Nobody else may look at it: no statistics, no maximum, no
softmax over the channels, nothing that would make it infinite. What the rules say of an axis decides (`Axis.copied`); whether each
sum over it has a weight shows when the model is rewritten.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from onnx_grow.axes.table import AxisTable
from onnx_grow.growth.plan import AxisGrowth, Scheme

__all__ = ["assigned"]


def assigned(
    growths: Sequence[AxisGrowth], table: AxisTable, scheme: Scheme, copies: Mapping[str, str]
) -> tuple[AxisGrowth, ...]:
    """The same growths, each with its scheme. `copies` are names of axes that need copies for the reasons given."""
    return tuple(_with_scheme(growth, table, scheme, copies) for growth in growths)


def _with_scheme(
    growth: AxisGrowth, table: AxisTable, scheme: Scheme, copies: Mapping[str, str]
) -> AxisGrowth:
    reasons = (*table.axes[growth.name].copied, *filter(None, [copies.get(growth.name)]))
    if scheme != "fresh" or not reasons:
        return replace(growth, scheme=scheme)
    return replace(growth, scheme="split", because=reasons[0])
